//! A model of time and energy: counts of what ran, a board and its clocks in; nanoseconds and joules out.
//!
//! Nothing here is a measurement, and every figure that comes out must be called modelled. The constants stand
//! in [`constants`], each with its source. `cargo xtask timing-model` prints how the model does against what
//! others measured on an Orin Nano Super, and what each unmeasured constant changes.
//!
//! ```
//! use pilotlight_boards::model::{Clocks, Machine, Work};
//! let board = pilotlight_boards::named("orin-nano-8gb-super").ok_or("no such board")?;
//! let machine = Machine::of(&board, Clocks::highest(&board));
//! // 64 blocks that read 8 MB once and multiply a little.
//! let work = Work { mma_macs: 1 << 20, instructions: 1 << 15, l2_bytes: 8 << 20, dram_read: 8 << 20,
//!     blocks: 64, warps_per_block: 8, blocks_per_sm: 1, ..Work::default() };
//! let modelled = machine.kernel(&work);
//! assert_eq!(modelled.bound.name(), "dram");
//! # Ok::<(), &str>(())
//! ```

pub mod constants;
mod energy;
pub mod lit;
pub mod published;
pub mod rate;
pub mod resident;
mod timing;

use crate::BoardData;
pub use constants::{CONSTANTS, Constant, Constants, Known};
pub use timing::{Bound, Modelled, Parts};

/// What commands print beside every modelled figure while [`VALIDATED`] is false.
pub const NOT_VALIDATED: &str = "modelled time not validated; relative only";

/// Whether the model predicted every published TensorRT figure within 30 %. `cargo xtask timing-model` prints
/// the comparison, and a test holds this flag to it.
pub const VALIDATED: bool = false;

/// Words to print beside a modelled figure.
pub fn label() -> &'static str {
    if VALIDATED { "modelled" } else { NOT_VALIDATED }
}

/// What a launch, or one block's piece of a persistent kernel, does. Counts only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Work {
    /// Multiply-accumulates that mma instructions issue, useful or not.
    pub mma_macs: u64,
    /// Warp instructions of all kinds.
    pub instructions: u64,
    /// Of them, 32-bit integer arithmetic, dp4a included.
    pub int: u64,
    /// Of them, conversions.
    pub convert: u64,
    /// Passes over the 32 banks of shared memory.
    pub shared_passes: u64,
    /// Bytes between SMs and L2, in sectors.
    pub l2_bytes: u64,
    /// Bytes that L2 read from DRAM.
    pub dram_read: u64,
    /// Bytes that L2 wrote to DRAM.
    pub dram_written: u64,
    /// Blocks of the launch.
    pub blocks: u64,
    /// Warps of a block.
    pub warps_per_block: u64,
    /// Blocks that fit an SM at a time.
    pub blocks_per_sm: u64,
}

/// Clocks at which a board runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clocks {
    /// GPU, Hz.
    pub gpu: f64,
    /// Memory (EMC), Hz.
    pub emc: f64,
}

impl Clocks {
    /// From megahertz.
    pub fn mhz(gpu: f64, emc: f64) -> Self {
        Clocks { gpu: gpu * 1e6, emc: emc * 1e6 }
    }

    /// The highest of the board's tables.
    pub fn highest(board: &BoardData) -> Self {
        let last = |clocks: &[f64]| clocks.last().copied().unwrap_or(1.0);
        Clocks::mhz(last(&board.gpu.clocks_mhz), last(&board.memory.emc_mhz))
    }
}

/// A board at its clocks, with the model's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// SMs that are on.
    pub sms: u32,
    /// Bytes of L2.
    pub l2_bytes: u64,
    /// Bytes that a memory clock moves at most, both edges.
    pub dram_bytes_per_emc: f64,
    /// Share of that which streaming reaches.
    pub streaming_share: f64,
    /// Bytes that a GPU clock moves from DRAM at most.
    pub dram_bytes_per_gpu_clock: f64,
    /// Clocks.
    pub clocks: Clocks,
    /// Constants.
    pub constants: Constants,
}

impl Machine {
    /// A board of the data files at `clocks`, all its SMs on.
    pub fn of(board: &BoardData, clocks: Clocks) -> Self {
        Machine {
            sms: board.gpu.sms,
            l2_bytes: u64::from(board.gpu.l2_kib) * 1024,
            dram_bytes_per_emc: f64::from(board.memory.bus_bits) / 8.0 * 2.0,
            streaming_share: board.memory.streaming_share,
            dram_bytes_per_gpu_clock: board.memory.bytes_per_gpu_clock,
            clocks,
            constants: Constants::default(),
        }
    }

    /// The same board at other clocks.
    pub fn at(self, clocks: Clocks) -> Self {
        Machine { clocks, ..self }
    }
}
