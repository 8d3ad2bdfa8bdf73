//! Parameter blocks of the kernels: one table for Rust and CUDA.
//!
//! [`c_declarations`] writes the same blocks in C with their sizes asserted; a test keeps the
//! committed `cuda/abi.cuh` equal to it. Pointers are device addresses; strides are in elements.
//!
//! Longer than other files as it is one table, in which each line is a field and its meaning.

#[macro_use]
mod table;
mod words;

pub use table::Addresses;
use table::c_field;
use words::WORDS;
pub use words::*;

/// Dimensions of a view; missing ones come first, with extent 1 and stride 0.
pub const RANK: usize = 6;
/// Operations that may follow a requantisation.
pub const POSTS: usize = 3;

/// [`Rule::kind`]: `(fix + a ra) + b rb`.
pub const RULE_ADD: u32 = 0;
/// [`Rule::kind`]: `(a - za)(b - zb) r + zy`.
pub const RULE_MUL: u32 = 1;
/// [`Rule::kind`]: dequantise, add, quantise; subtract and multiply follow.
pub const RULE_FLOAT_ADD: u32 = 2;
/// [`Rule::kind`]: as [`RULE_FLOAT_ADD`], `a - b`.
pub const RULE_FLOAT_SUB: u32 = 3;
/// [`Rule::kind`]: as [`RULE_FLOAT_ADD`], `a * b`.
pub const RULE_FLOAT_MUL: u32 = 4;

blocks! {
    /// How two 8-bit values combine.
    struct Rule {
        /// One of the `RULE_` constants.
        kind: u32,
        /// Add: `ra`. Mul: `r`. Float: scale of a.
        f0: f32,
        /// Add: `rb`. Mul: the output's zero point. Float: scale of b.
        f1: f32,
        /// Add: `fix`. Float: scale of the output.
        f2: f32,
        /// Zero point of a.
        za: i32,
        /// Zero point of b.
        zb: i32,
        /// Zero point of the output (float kinds).
        zy: i32,
        /// Smallest result.
        lo: i32,
        /// Largest result.
        hi: i32,
        /// Pads to a multiple of 8 bytes.
        unused: u32,
    }

    /// An operation behind a requantisation. Constant: these lie in memory, not in a launch's block.
    struct Post {
        /// Strides of the other operand: batch, channel, row, column.
        strides: [u32; 4],
        /// 1: table. 2: the rule.
        kind: u32,
        /// The table's entries, or the other operand, are signed.
        signed_in: u32,
        /// The value is the rule's a.
        value_is_a: u32,
        /// Pads to a multiple of 8 bytes.
        unused: u32,
        /// How the value and the other operand combine.
        rule: Rule,
    }

    /// From accumulator to stored result.
    struct Epilogue {
        /// First element of the output.
        out: u64,
        /// f32 multipliers.
        scale: u64,
        /// [`Post`] by [`Post`], in order.
        post: u64,
        /// For each post a 256-byte table, or the first element of the other operand.
        other: [u64; 3],
        /// Strides of the output: batch, channel, row, column.
        strides: [u32; 4],
        /// 0: i32. 1: f32. 2: 8 bits.
        mode: u32,
        /// 0 if one multiplier serves all channels, else 1.
        scale_step: u32,
        /// Zero point before `post`.
        zero: i32,
        /// Smallest value before `post`.
        lo: i32,
        /// Largest value before `post`.
        hi: i32,
        /// How many of `post` apply.
        posts: u32,
    }

    /// Implicit-GEMM convolution; weights are in fragment order.
    struct Conv {
        /// First element of the input: 16-byte aligned.
        x: u64,
        /// Weights: for each 16 channels, each 32 of k: 32 lanes of 16 bytes.
        w: u64,
        /// For each 16 bytes of k: byte offset from the window's first pixel, then row and column of the tap
        /// (16 bits each). Gathered: for each 4 bytes of k two such pairs, then a selector of their 8 bytes, and
        /// three words of nothing.
        taps: u64,
        /// i32 by border class and channel.
        bias: u64,
        /// u8 by output row, then u8 by output column: the border class is row class * `column_classes` + column's.
        classes: u64,
        /// i32 by group and padded channel: zero point of the weights. 0 if all are zero.
        w_zero: u64,
        /// i32 by group and output pixel: sum of the input under the window. Only with `w_zero`.
        sums: u64,
        /// i32 by split, group, output pixel and padded channel: where several splits leave their sums. 0: one
        /// split, which finishes.
        partial: u64,
        /// Bytes from one image, row, pixel to the next.
        x_strides: [u32; 3],
        /// Input height.
        h: u32,
        /// Input width.
        width: u32,
        /// Output height.
        oh: u32,
        /// Output width.
        ow: u32,
        /// Rows per step.
        stride_y: u32,
        /// Columns per step.
        stride_x: u32,
        /// Rows of padding above.
        pad_y: u32,
        /// Columns of padding to the left.
        pad_x: u32,
        /// Output pixels of all images.
        pixels: u32,
        /// Output channels of a group.
        channels: u32,
        /// The same, up to a multiple of 16.
        padded: u32,
        /// 16-byte pieces of k.
        pieces: u32,
        /// Bytes from one group's input channels to the next.
        group_x: u32,
        /// Column classes.
        column_classes: u32,
        /// Border classes in all.
        all_classes: u32,
        /// Groups.
        groups: u32,
        /// Channels of a tile: a multiple of 16.
        tile_channels: u32,
        /// Pixels of a tile: a multiple of 8.
        tile_pixels: u32,
        /// Ranges of k that are summed apart.
        splits: u32,
        /// Steps of k in such a range.
        split_steps: u32,
        /// Multiplier and shift that divide by `ow`.
        divide_ow: [u32; 2],
        /// Multiplier and shift that divide by `oh`.
        divide_oh: [u32; 2],
        /// Not 0: 8-bit results by the short way. There is one border class, no split, no zero point of the weights, and a
        /// multiple of four channels; output and operands lie in aligned words of four channels, pixel behind pixel, so
        /// that a pixel's number times the column's stride is its place; a first operand is added.
        plain: u32,
        /// Result.
        epilogue: Epilogue,
    }

    /// Convolution or matrix product with any layout, one element a thread.
    struct Direct {
        /// First element of the input.
        x: u64,
        /// 8-bit weights `[channel][ky][kx][ci]`.
        w: u64,
        /// i32 by channel, or 0.
        bias: u64,
        /// i32 by channel.
        w_zero: u64,
        /// Input strides: batch, channel, row, column.
        x_strides: [u32; 4],
        /// Input height.
        h: u32,
        /// Input width.
        width: u32,
        /// Output height.
        oh: u32,
        /// Output width.
        ow: u32,
        /// Kernel height.
        kh: u32,
        /// Kernel width.
        kw: u32,
        /// Rows per step.
        stride_y: u32,
        /// Columns per step.
        stride_x: u32,
        /// Rows between taps.
        dilation_y: u32,
        /// Columns between taps.
        dilation_x: u32,
        /// Rows of padding above.
        pad_y: u32,
        /// Columns of padding to the left.
        pad_x: u32,
        /// Output pixels of all images.
        pixels: u32,
        /// Output channels of all groups.
        channels: u32,
        /// Output channels of a group.
        group_channels: u32,
        /// Input channels of a group.
        group_inputs: u32,
        /// The input is signed.
        x_signed: u32,
        /// The weights are signed.
        w_signed: u32,
        /// Zero point of the input.
        x_zero: i32,
        /// Pads to a multiple of 8 bytes.
        unused: u32,
        /// Result.
        epilogue: Epilogue,
    }

    /// Sums of the input under each window, for weights with a zero point.
    struct Sums {
        /// First element of the input.
        x: u64,
        /// i32 by group and output pixel.
        out: u64,
        /// Input strides: batch, channel, row, column.
        x_strides: [u32; 4],
        /// Input height.
        h: u32,
        /// Input width.
        width: u32,
        /// Output height.
        oh: u32,
        /// Output width.
        ow: u32,
        /// Kernel height.
        kh: u32,
        /// Kernel width.
        kw: u32,
        /// Rows per step.
        stride_y: u32,
        /// Columns per step.
        stride_x: u32,
        /// Rows between taps.
        dilation_y: u32,
        /// Columns between taps.
        dilation_x: u32,
        /// Rows of padding above.
        pad_y: u32,
        /// Columns of padding to the left.
        pad_x: u32,
        /// Output pixels of all images.
        pixels: u32,
        /// Groups.
        groups: u32,
        /// Input channels of a group.
        group_inputs: u32,
        /// The input is signed.
        x_signed: u32,
    }

    /// Depthwise convolution, four channels a thread.
    struct Depthwise {
        /// First element of the input: 4-byte aligned, channels side by side.
        x: u64,
        /// For each four taps, each channel (up to a multiple of 4): a word of four signed taps.
        w: u64,
        /// For each tap, up to a multiple of 4: byte offset, then row and column (16 bits each).
        taps: u64,
        /// i32 by border class and channel.
        bias: u64,
        /// As in [`Conv`]; 0: one class, and 8-bit results by the short way, as `plain` there says.
        classes: u64,
        /// i32 by channel: zero point of the weights. 0 if all are zero.
        w_zero: u64,
        /// Bytes from one image, row, pixel to the next.
        x_strides: [u32; 3],
        /// Input height.
        h: u32,
        /// Input width.
        width: u32,
        /// Output height.
        oh: u32,
        /// Output width.
        ow: u32,
        /// Rows per step.
        stride_y: u32,
        /// Columns per step.
        stride_x: u32,
        /// Rows of padding above.
        pad_y: u32,
        /// Columns of padding to the left.
        pad_x: u32,
        /// Output pixels of all images.
        pixels: u32,
        /// Channels.
        channels: u32,
        /// The same, up to a multiple of 4.
        padded: u32,
        /// Taps, in fours.
        quads: u32,
        /// The input is signed.
        x_signed: u32,
        /// Column classes.
        column_classes: u32,
        /// Rows and columns (16 bits each) from a window's first tap to its last.
        reach: u32,
        /// Result.
        epilogue: Epilogue,
    }

    /// Product of two computed matrices, batched; one element a thread.
    struct MatMul {
        /// First element of a.
        a: u64,
        /// First element of b.
        b: u64,
        /// i32 by row, or one.
        a_zero: u64,
        /// i32 by column, or one.
        b_zero: u64,
        /// Extents of the output's batch dimensions.
        batch: [u32; 4],
        /// Strides of a over them.
        a_batch: [u32; 4],
        /// Strides of b over them.
        b_batch: [u32; 4],
        /// Strides of the output over them.
        y_batch: [u32; 4],
        /// Strides of a: row, k.
        a_strides: [u32; 2],
        /// Strides of b: k, column.
        b_strides: [u32; 2],
        /// Strides of the output: row, column.
        y_strides: [u32; 2],
        /// Rows of all batches.
        total: u32,
        /// Rows.
        rows: u32,
        /// Columns.
        columns: u32,
        /// Length of the sum.
        k: u32,
        /// 0 for one zero point of a, else 1.
        a_zero_step: u32,
        /// 0 for one zero point of b, else 1.
        b_zero_step: u32,
        /// a is signed.
        a_signed: u32,
        /// b is signed.
        b_signed: u32,
        /// Result; its strides are not used.
        epilogue: Epilogue,
    }

    /// One element in, one out.
    struct Map {
        /// First element of the input.
        x: u64,
        /// First element of the output.
        y: u64,
        /// A table, or pairs of scale and zero point.
        table: u64,
        /// Extents.
        shape: [u32; 6],
        /// Input strides.
        x_strides: [u32; 6],
        /// Output strides.
        y_strides: [u32; 6],
        /// Strides of the pair's index.
        c_strides: [u32; 6],
        /// Elements.
        total: u32,
        /// Function, or type of the input: 0 u8, 1 i8, 2 i32, 3 i64, 4 f32.
        from: u32,
        /// Type of the output.
        to: u32,
        /// First constant of the function.
        alpha: f32,
        /// Second constant of the function.
        beta: f32,
        /// Smallest result.
        lo: i32,
        /// Largest result.
        hi: i32,
        /// Pads to a multiple of 8 bytes.
        unused: u32,
    }

    /// Two elements in, one out.
    struct Zip {
        /// First element of a.
        a: u64,
        /// First element of b.
        b: u64,
        /// First element of the output.
        y: u64,
        /// Extents.
        shape: [u32; 6],
        /// Strides of a.
        a_strides: [u32; 6],
        /// Strides of b.
        b_strides: [u32; 6],
        /// Output strides.
        y_strides: [u32; 6],
        /// Elements.
        total: u32,
        /// a is signed.
        a_signed: u32,
        /// b is signed.
        b_signed: u32,
        /// f32 in and out; the rule's float kinds apply to the values themselves.
        float_in: u32,
        /// How they combine.
        rule: Rule,
    }

    /// Elements moved to other places.
    struct Remap {
        /// First element of the input.
        x: u64,
        /// First element of the output.
        y: u64,
        /// 256 bytes, or 0.
        table: u64,
        /// The bits where an index is -1.
        fill: u64,
        /// For each dimension a list of i32, or 0 for the identity.
        lists: [u64; 6],
        /// Extents of the output.
        shape: [u32; 6],
        /// Input strides.
        x_strides: [u32; 6],
        /// Output strides.
        y_strides: [u32; 6],
        /// Elements.
        total: u32,
        /// Bytes of an element.
        size: u32,
    }

    /// Bilinear interpolation of an `[N, C, H, W]` tensor.
    struct Bilinear {
        /// First element of the input.
        x: u64,
        /// First element of the output.
        y: u64,
        /// For each output row: upper row, lower row, bits of the lower one's weight, 0.
        rows: u64,
        /// For each output column the same.
        columns: u64,
        /// Output extents: batch, channel, row, column.
        shape: [u32; 4],
        /// Input strides.
        x_strides: [u32; 4],
        /// Output strides.
        y_strides: [u32; 4],
        /// Elements.
        total: u32,
        /// 0 u8, 1 i8, 4 f32.
        kind: u32,
    }

    /// Maximum or mean over windows of an `[N, C, H, W]` tensor.
    struct Pool {
        /// First element of the input.
        x: u64,
        /// First element of the output.
        y: u64,
        /// Output extents: batch, channel, row, column.
        shape: [u32; 4],
        /// Input strides.
        x_strides: [u32; 4],
        /// Output strides.
        y_strides: [u32; 4],
        /// Input height.
        h: u32,
        /// Input width.
        width: u32,
        /// Kernel height.
        kh: u32,
        /// Kernel width.
        kw: u32,
        /// Rows per step.
        stride_y: u32,
        /// Columns per step.
        stride_x: u32,
        /// Rows between taps.
        dilation_y: u32,
        /// Columns between taps.
        dilation_x: u32,
        /// Padding: top, left, bottom, right.
        pads: [u32; 4],
        /// Elements.
        total: u32,
        /// Type: 0 u8, 1 i8, 4 f32.
        kind: u32,
        /// 0 maximum, 1 mean.
        mean: u32,
        /// Padding counts in the divisor.
        count_pads: u32,
        /// Scale of the input.
        x_scale: f32,
        /// Scale of the output.
        y_scale: f32,
        /// Zero point of the input.
        x_zero: i32,
        /// Zero point of the output.
        y_zero: i32,
        /// The output is signed.
        y_signed: u32,
        /// Maxima of 8-bit values, four neighbouring channels a thread, in aligned words; `total` counts those.
        words: u32,
    }

    /// Along lines of a tensor: means, softmax, largest element. One line a thread.
    struct Line {
        /// First element of the input.
        x: u64,
        /// First element of the output.
        y: u64,
        /// f32 by the bits of an element (integer softmax).
        table: u64,
        /// Extents of the lines.
        shape: [u32; 6],
        /// Input strides over the lines.
        x_strides: [u32; 6],
        /// Output strides over the lines.
        y_strides: [u32; 6],
        /// Extents inside a line, in row-major order.
        inner: [u32; 6],
        /// Input strides inside a line.
        inner_strides: [u32; 6],
        /// Lines.
        total: u32,
        /// Elements of a line.
        length: u32,
        /// Output stride along the line (softmax).
        y_inner: u32,
        /// Type of the input: 0 u8, 1 i8, 4 f32.
        kind: u32,
        /// Mean: 0 integer, 1 dequantised, 2 float. Largest: the last of equals wins.
        rule: u32,
        /// Integer mean: the multiplier. Dequantised: scale of the input. Integer softmax: the inverse.
        scale: f32,
        /// Scale of the output.
        y_scale: f32,
        /// Zero point of the input.
        x_zero: i32,
        /// Zero point of the output.
        y_zero: i32,
        /// The output is signed.
        y_signed: u32,
    }

    /// What the persistent kernel is launched with.
    struct Pilot {
        /// Mapped host memory, see the `MAIL_` constants.
        mailbox: u64,
        /// Device memory, see the `CONTROL_` constants.
        control: u64,
        /// Nanoseconds without a request after which it leaves.
        idle_ns: u64,
        /// Nanoseconds without a change of the host's beat after which it leaves.
        heartbeat_ns: u64,
        /// Number of this launch, below 2^29.
        generation: u32,
        /// Pads to a multiple of 8 bytes.
        unused: u32,
    }

    /// An inference, or some steps of one.
    struct Request {
        /// Instructions of all blocks, one list after the other.
        instructions: u64,
        /// u32 by block, and one more: where its list begins.
        starts: u64,
        /// The plan's state: epoch and flags.
        state: u64,
        /// The slot's parameter blocks.
        blocks: u64,
        /// Three u64 for each instruction: `globaltimer` at its begin, after its waits, at its end; or 0.
        trace: u64,
        /// Nanoseconds that it may take.
        deadline_ns: u64,
        /// First step to run.
        from: u32,
        /// Last step to run.
        until: u32,
        /// 1 where the plan's last step is among them: the inference is whole then.
        whole: u32,
        /// The inference's epoch; filled in by block 0.
        epoch: u32,
    }

    /// Flags that must have come to the epoch.
    struct Wait {
        /// Number of the first flag.
        first: u32,
        /// Bit n stands for flag `first + n`.
        mask: u32,
    }

    /// What one block of the persistent kernel does at a time: some blocks of a launch.
    struct Instruction {
        /// What must be done before.
        wait: [Wait; 8],
        /// Weights of what comes next, to bring into the L2 cache before waiting.
        weights: u64,
        /// Their size.
        weight_bytes: u32,
        /// Index in [`OPERATIONS`].
        operation: u32,
        /// Byte offset of its parameter block in the slot's.
        block: u32,
        /// Size of the parameter block.
        block_bytes: u32,
        /// First block of the launch; counted along y, then x, then z.
        first: u32,
        /// How many blocks.
        count: u32,
        /// Blocks of the launch along x.
        grid_x: u32,
        /// Blocks of the launch along y.
        grid_y: u32,
        /// The flag that it sets to the epoch when it is done.
        flag: u32,
        /// Step of the plan.
        step: u32,
        /// 1 where it writes memory that the host reads.
        to_host: u32,
        /// Pads to 128 bytes.
        unused: [u32; 3],
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_header_is_this_table() {
        let committed = include_str!("../cuda/abi.cuh");
        assert!(
            committed == super::c_declarations(),
            "run: cargo run -p pilotlight-kernels --example abi > kernels/cuda/abi.cuh"
        );
    }
}
