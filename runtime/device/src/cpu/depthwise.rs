//! Depthwise convolution: each output channel has one input channel of its own.

use super::epilogue::{Epilogue, Pixels, natural_order};
use super::kernels::{BLOCK, DEPTHWISE_STEP, Depthwise, DepthwiseKernels, Interleave, Kernels, PANEL, ROWS};
use super::linear::{Block, Source};
use super::place::Spatial;
use super::step::{Call, Context, Scratch, share};
use crate::{LoadError, Memory};
use pilotlight_plan::{self as plan, Conv, DType, Plan, Window};

/// A lowered depthwise convolution.
pub(super) struct DepthwiseConv {
    input: Spatial,
    output: Spatial,
    window: Window,
    blocks: Vec<Block>,
    epilogue: Epilogue,
    signed: bool,
    zero: i32,
    method: Method,
}

enum Method {
    /// Interleaved rows and dot products.
    Interleaved {
        kernels: DepthwiseKernels,
        /// Groups of four input rows.
        groups: usize,
        /// Output rows that one interleaving serves.
        rows: usize,
        /// i8 `[block][row][group][tap][256]`.
        weights: Memory,
        /// i32 starts, [`BLOCK`] for each block, in the kernel's order.
        start: Memory,
        /// An input row of zero points.
        blank: Memory,
        flip: u8,
    },
    /// Tap after tap, `i16` `[block][tap][BLOCK]`.
    Plain { weights: Vec<i16>, bias: Vec<i32> },
}

/// Outputs of a row that are computed before their epilogue: their sums stay in the first-level cache.
const CHUNK: usize = 4 * DEPTHWISE_STEP;
const _: () = assert!(CHUNK <= ROWS);

/// Columns that one interleaving may cover; more come from absurd strides and dilations only.
const MAX_COLUMNS: usize = 1 << 14;

/// The most input rows that one interleaving covers.
const MAX_SLOTS: usize = 16;

/// A depthwise convolution as the kernels see it; `None` where its layout has no kernel.
pub(super) fn depthwise(
    plan: &Plan,
    c: &Conv,
    kernels: &Kernels,
) -> Result<Option<DepthwiseConv>, LoadError> {
    let (Some(input), Some(output)) = (Spatial::new(plan, c.input), Spatial::new(plan, c.output)) else {
        return Ok(None);
    };
    if input.strides.channel != 1 {
        return Ok(None);
    }
    let l = &c.linear;
    let [kh, kw] = c.window.kernel.map(|k| k as usize);
    let channels = l.outputs as usize;
    let block = |channel: usize| {
        let channels = (channels - channel).min(BLOCK);
        Block { channel, channels, panels: channels.div_ceil(PANEL), weights: 0, input: channel }
    };
    let list: Vec<Block> = (0..channels).step_by(BLOCK).map(block).collect();
    let source = Source::new(plan, l, kh * kw);
    let signed = plan.tensor(c.input).dtype == DType::I8;
    let requant = matches!(l.epilogue, plan::Epilogue::Requant(_));
    let method = match kernels.depthwise {
        Some(d)
            if requant
                && kh <= MAX_SLOTS
                && columns(&c.window, &output) <= MAX_COLUMNS
                && source.terms() == 1 =>
        {
            interleaved_method(plan, c, d, &source, &list, &input, signed)?
        }
        _ => plain_method(plan, c, &source, &list),
    };
    let natural = natural_order(&list);
    let (order, is_interleaved) = match &method {
        Method::Plain { .. } => (natural, false),
        Method::Interleaved { kernels, .. } => {
            let channel = |i: usize| natural[i / BLOCK * BLOCK + (kernels.channel)(i % BLOCK)];
            ((0..natural.len()).map(channel).collect(), kernels.interleaved)
        }
    };
    let view = |id| Spatial::new(plan, id);
    let epilogue = Epilogue::new(plan, &l.epilogue, output, view, &order, is_interleaved)?;
    Ok(epilogue.map(|epilogue| DepthwiseConv {
        input,
        output,
        window: c.window,
        blocks: list,
        epilogue,
        signed,
        zero: l.input_zero,
        method,
    }))
}

fn interleaved_method(
    plan: &Plan,
    c: &Conv,
    kernels: DepthwiseKernels,
    source: &Source<'_>,
    list: &[Block],
    input: &Spatial,
    signed: bool,
) -> Result<Method, LoadError> {
    let [kh, kw] = c.window.kernel.map(|k| k as usize);
    let sy = c.window.stride[0] as usize;
    let groups = kh.div_ceil(4);
    let rows = if c.window.dilation[0] == 1 { (4 * groups - kh) / sy + 1 } else { 1 };
    let one = groups * kw * 256;
    let mut packed = Memory::new("packed weights", list.len() * rows * one)?;
    let weights = packed.as_bytes_mut();
    let mut start = Memory::new("starts of sums", list.len() * BLOCK * 4)?;
    let bias = c.linear.bias.map(|b| plan.blob_i32(b));
    // The kernel may take the other 8-bit type, whose values are 128 away.
    let flip = if signed == kernels.signed { 0 } else { 0x80 };
    let zero = match (signed, kernels.signed) {
        (true, false) => c.linear.input_zero + 128,
        (false, true) => c.linear.input_zero - 128,
        _ => c.linear.input_zero,
    };
    for (b, block) in list.iter().enumerate() {
        for place in 0..BLOCK {
            let own = (kernels.channel)(place);
            if own >= block.channels {
                continue;
            }
            let channel = block.channel + own;
            let value =
                bias.as_ref().map_or(0, |b| b[channel]).wrapping_sub(zero.wrapping_mul(source.sum(channel)));
            let at = (b * BLOCK + place) * 4;
            start.as_bytes_mut()[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            let own = &mut weights[b * rows * one..(b + 1) * rows * one];
            for ky in 0..kh {
                for kx in 0..kw {
                    let w = source.weight(channel, ky * kw + kx) as u8;
                    for r in 0..rows {
                        let slot = ky + r * sy;
                        own[r * one + (slot / 4 * kw + kx) * 256 + place * 4 + slot % 4] = w;
                    }
                }
            }
        }
    }
    let mut blank = Memory::new("a row of zero points", input.width * input.strides.x + BLOCK)?;
    blank.as_bytes_mut().fill(c.linear.input_zero as u8);
    Ok(Method::Interleaved { kernels, groups, rows, weights: packed, start, blank, flip })
}

fn plain_method(plan: &Plan, c: &Conv, source: &Source<'_>, list: &[Block]) -> Method {
    let taps = (c.window.kernel[0] * c.window.kernel[1]) as usize;
    let mut weights = vec![0; list.len() * taps * BLOCK];
    let mut bias = vec![0; list.len() * BLOCK];
    let plain = c.linear.bias.map(|b| plan.blob_i32(b));
    for (b, block) in list.iter().enumerate() {
        for j in 0..block.channels {
            let channel = block.channel + j;
            bias[b * BLOCK + j] = plain.as_ref().map_or(0, |p| p[channel]);
            for t in 0..taps {
                weights[(b * taps + t) * BLOCK + j] = source.weight(channel, t) as i16;
            }
        }
    }
    Method::Plain { weights, bias }
}

/// Columns of interleaved input for one output row, those of outputs that are computed for nothing included.
fn columns(w: &Window, output: &Spatial) -> usize {
    let (sx, dx) = (w.stride[1] as usize, w.dilation[1] as usize);
    let outputs = output.width.next_multiple_of(DEPTHWISE_STEP);
    (outputs - 1) * sx + (w.kernel[1] as usize - 1) * dx + 1
}

impl DepthwiseConv {
    /// Output rows that belong together.
    fn group_rows(&self) -> usize {
        match &self.method {
            Method::Interleaved { rows, .. } => *rows,
            Method::Plain { .. } => 1,
        }
    }

    /// The input row that a slot reads for output row `y`, if it is inside the image.
    fn source_row(&self, y: usize, slot: usize) -> Option<usize> {
        let w = &self.window;
        let at = y * w.stride[0] as usize + slot * w.dilation[0] as usize;
        at.checked_sub(w.pads[0] as usize).filter(|&r| r < self.input.height)
    }

    /// Computes output rows from `y` on, as many as one interleaving serves, for one block.
    ///
    /// # Safety
    /// As [`Call::run`]; no other thread computes these rows of this block.
    unsafe fn interleaved_rows(
        &self,
        context: &Context,
        scratch: &mut Scratch,
        image: usize,
        b: usize,
        y: usize,
    ) {
        let Method::Interleaved { kernels, groups, rows, weights, start, blank, flip } = &self.method else {
            return;
        };
        let (input, w) = (&self.input, &self.window);
        let block = &self.blocks[b];
        let base = context.bases.at(input.place).wrapping_add(image * input.strides.image + block.input);
        let kw = w.kernel[1] as usize;
        let (sx, dx, left) = (w.stride[1] as usize, w.dilation[1] as usize, w.pads[1] as usize);
        // Input columns `0..count` lie behind `left` columns of padding; further right is padding again.
        let columns = columns(&self.window, &self.output);
        let before = left.min(columns);
        let count = input.width.min(columns - before);
        let mut slots = [blank.as_bytes().as_ptr(); MAX_SLOTS];
        for (slot, at) in slots.iter_mut().enumerate().take(groups * 4) {
            if let Some(row) = self.source_row(y, slot) {
                *at = base.wrapping_add(row * input.strides.y);
            }
        }
        let column = groups * 256;
        let planes = scratch.planes.as_bytes_mut();
        let zero = self.zero as u8 ^ flip;
        planes[..before * column].fill(zero);
        planes[(before + count) * column..columns * column].fill(zero);
        let planes = planes.as_mut_ptr();
        let acc = scratch.acc.as_bytes_mut().as_mut_ptr().cast::<i32>();
        let one = groups * kw * 256;
        // SAFETY: slots are rows of the input, or the blank row, which is as long; planes hold all columns; `acc` has
        // `ROWS` rows, and `CHUNK` is a multiple of the kernel's step; pixels are inside the output.
        unsafe {
            (kernels.interleave)(&Interleave {
                rows: &slots[..groups * 4],
                stride: input.strides.x,
                columns: count,
                channels: block.channels,
                flip: *flip,
                out: planes.add(before * column),
            });
            for r in 0..(*rows).min(self.output.height - y) {
                let mut x = 0;
                while x < self.output.width {
                    let pixels = Pixels { image, y: y + r, x, count: (self.output.width - x).min(CHUNK) };
                    (kernels.convolve)(&Depthwise {
                        input: planes.add(x * sx * column),
                        groups: *groups,
                        taps: kw,
                        dilation: dx,
                        stride: sx,
                        count: pixels.count,
                        weights: weights.as_bytes().as_ptr().add((b * rows + r) * one),
                        start: start.as_bytes().as_ptr().cast::<i32>().add(b * BLOCK),
                        acc,
                    });
                    let tmp = scratch.bytes.as_bytes_mut().as_mut_ptr();
                    self.epilogue.store(context, acc, b * BLOCK, block, pixels, tmp);
                    x += CHUNK;
                }
            }
        }
    }

    /// Computes one output row for one block, tap after tap.
    ///
    /// # Safety
    /// As [`DepthwiseConv::interleaved_rows`].
    unsafe fn plain_row(&self, context: &Context, scratch: &mut Scratch, image: usize, b: usize, y: usize) {
        let Method::Plain { weights, bias } = &self.method else { return };
        let (input, w) = (&self.input, &self.window);
        let [kh, kw] = w.kernel.map(|k| k as usize);
        let (sx, dx, left) = (w.stride[1] as usize, w.dilation[1] as usize, w.pads[1] as usize);
        let block = &self.blocks[b];
        let base = context.bases.at(input.place).wrapping_add(image * input.strides.image + block.input);
        let weights = &weights[b * kh * kw * BLOCK..][..kh * kw * BLOCK];
        let acc = scratch.acc.as_bytes_mut().as_mut_ptr().cast::<i32>();
        for first in (0..self.output.width).step_by(ROWS) {
            let count = (self.output.width - first).min(ROWS);
            for i in 0..count {
                // SAFETY: `acc` has `ROWS` rows.
                let sums = unsafe { &mut *acc.add(i * BLOCK).cast::<[i32; BLOCK]>() };
                sums.copy_from_slice(&bias[b * BLOCK..(b + 1) * BLOCK]);
                for ky in 0..kh {
                    let Some(row) = self.source_row(y, ky) else { continue };
                    for kx in 0..kw {
                        let at = (first + i) * sx + kx * dx;
                        let Some(x) = at.checked_sub(left).filter(|&x| x < input.width) else { continue };
                        let w = &weights[(ky * kw + kx) * BLOCK..][..block.channels];
                        let pixel = base.wrapping_add(row * input.strides.y + x * input.strides.x);
                        // SAFETY: the pixel is inside the input and has the block's channels.
                        unsafe {
                            (context.kernels.accumulate)(pixel, self.signed, self.zero, w, sums);
                        }
                    }
                }
            }
            let pixels = Pixels { image, y, x: first, count };
            let tmp = scratch.bytes.as_bytes_mut().as_mut_ptr();
            // SAFETY: pixels are inside the output; `acc` holds their sums.
            unsafe {
                self.epilogue.store(context, acc, b * BLOCK, block, pixels, tmp);
            }
        }
    }
}

impl Call for DepthwiseConv {
    unsafe fn run(&self, context: &Context, thread: usize, scratch: &mut Scratch) {
        let each = self.group_rows();
        let groups = self.output.height.div_ceil(each);
        let all = self.output.images * self.blocks.len() * groups;
        for job in share(all, thread, context.threads) {
            let (image, rest) = (job / (self.blocks.len() * groups), job % (self.blocks.len() * groups));
            let (b, y) = (rest / groups, rest % groups * each);
            // SAFETY: each job is one thread's.
            unsafe {
                match self.method {
                    Method::Interleaved { .. } => self.interleaved_rows(context, scratch, image, b, y),
                    Method::Plain { .. } => self.plain_row(context, scratch, image, b, y),
                }
            }
        }
    }

    fn plane_bytes(&self) -> usize {
        match &self.method {
            Method::Interleaved { groups, .. } => columns(&self.window, &self.output) * groups * 256,
            Method::Plain { .. } => 0,
        }
    }
}
