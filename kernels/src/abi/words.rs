//! Constants of the persistent kernel: offsets of its words in memory, their values, its operations.

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        $($(#[$doc])* pub const $name: u32 = $value;)*
        /// Names and values, for C.
        pub(super) const WORDS: &[(&str, u32)] = &[$((stringify!($name), $value)),*];
    };
}

words! {
    /// Neighbouring elements that a thread of `quantize` takes.
    QUANTIZE_RUN = 8;

    /// Most bytes of a parameter block that the persistent kernel takes.
    MOST_BLOCK_BYTES = 512;
    /// Instructions wait for flags in groups of up to 32; this many groups each.
    WAITS = 8;
    /// Requests that may be under way at a time; a request lies at its number modulo this.
    REQUESTS = 8;
    /// Most blocks of the persistent kernel.
    MOST_CTAS = 64;
    /// Bytes of a line: no two words with different writers share one.
    LINE = 128;

    /// Mailbox, written by the host: number of the last request.
    MAIL_SUBMITTED = 0;
    /// Mailbox, written by the host: one of the `ORDER_` constants.
    MAIL_ORDER = 128;
    /// Mailbox, written by the host: changes while the host lives.
    MAIL_BEAT = 256;
    /// Mailbox, written by the host: the requests, a line each.
    MAIL_REQUESTS = 1024;
    /// Mailbox, written by block 0: number of the last finished request.
    MAIL_DONE = 2048;
    /// Mailbox, written by block 0: generation of the launch that has left last, or is about to.
    MAIL_PARKED = 2176;
    /// Mailbox, written by block 0: why that launch left, one of the `LEAVE_` constants.
    MAIL_REASON = 2304;
    /// Mailbox, written by block 0: `globaltimer` when the last request was seen and when it was done, two u64.
    MAIL_TIMES = 2432;
    /// Mailbox, a line for each block and written by it: instruction of its list, counted from 1 (0: none);
    /// why it gave up; the request; the first flag that it waited for.
    MAIL_PROGRESS = 4096;
    /// Bytes of the mailbox.
    MAIL_BYTES = 12288;

    /// Run what comes.
    ORDER_NONE = 0;
    /// Leave once nothing is submitted.
    ORDER_PARK = 1;
    /// Leave at once.
    ORDER_ABORT = 2;

    /// Nothing to do for long enough.
    LEAVE_IDLE = 1;
    /// The host asked for it.
    LEAVE_ORDERED = 2;
    /// The host's beat stopped.
    LEAVE_HEARTBEAT = 3;
    /// The host's abort: requests under way are lost. From here on counters must be reset.
    LEAVE_ABORTED = 4;
    /// A request took longer than it may.
    LEAVE_DEADLINE = 5;

    /// Control memory, written by block 0: number of the request that all are to run.
    CONTROL_GO = 0;
    /// Control memory: generation * 8 + reason where a block says that all are to leave.
    CONTROL_LEAVE = 128;
    /// Control memory: grows by one for each block that has finished a request.
    CONTROL_JOIN = 256;
    /// Control memory, written by block 0: the request.
    CONTROL_REQUEST = 384;
    /// Bytes of control memory.
    CONTROL_BYTES = 512;

    /// [`super::Instruction::operation`] of one that only waits.
    OPERATION_NONE = 0xFFFF_FFFF;

    /// Bytes of a plan's state before its flags: the first word is the epoch of its last whole inference.
    STATE_FLAGS = 128;
}

/// What an instruction of the persistent kernel can do: the kernels by name. [`super::Instruction::operation`] is an
/// index.
pub const OPERATIONS: [&str; 26] = [
    "conv_s8_128x256",
    "conv_u8_128x256",
    "conv_s8_64x64",
    "conv_u8_64x64",
    "conv_s8_gather",
    "conv_u8_gather",
    "finish",
    "depthwise",
    "depthwise4",
    "direct",
    "window_sums",
    "matmul",
    "table8",
    "table_f32",
    "unary",
    "quantize",
    "dequantize",
    "cast",
    "zip",
    "remap",
    "bilinear",
    "pool",
    "mean",
    "softmax",
    "softmax8",
    "arg_max",
];
