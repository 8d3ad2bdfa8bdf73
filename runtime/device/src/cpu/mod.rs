//! The exact CPU device: own fused INT8 kernels, chosen at run time for the machine's instruction set.
//!
//! Loading packs the weights and fixes every address but those of the slot; a run is a list of calls. With one
//! thread an inference makes no system call and no allocation. With `n` threads, `n - 1` workers named
//! `pilotlight-cpu-1`, `-2`, ... live as long as the program: they share every step, spin for some 50 microseconds
//! between inferences, then sleep.

mod conv;
mod depthwise;
mod epilogue;
mod isa;
mod kernels;
mod linear;
mod lower;
mod nest;
mod place;
mod plain;
mod planes;
mod pointwise;
mod pool;
mod product;
mod program;
mod softmax;
mod step;
mod workers;

pub use isa::Isa;

use crate::{Device, LoadError, Program};
use pilotlight_plan::Plan;
use program::CpuProgram;

/// The most threads that a program may ask for.
pub const MAX_THREADS: usize = 64;

/// Settings of the CPU device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads that share each inference, 1 to [`MAX_THREADS`], the caller's included.
    pub threads: usize,
    /// Instruction set; `None` takes the fastest that the machine has.
    pub isa: Option<Isa>,
}

impl Default for CpuOptions {
    fn default() -> Self {
        Self { threads: 1, isa: None }
    }
}

/// Runs plans on this machine's processor, bit for bit as [`crate::Reference`] does.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    threads: usize,
    isa: Isa,
}

impl Cpu {
    /// A device with these settings.
    ///
    /// # Errors
    /// [`LoadError::Setting`] when the number of threads is out of range or the machine lacks the instruction set.
    pub fn new(options: CpuOptions) -> Result<Self, LoadError> {
        if !(1..=MAX_THREADS).contains(&options.threads) {
            return Err(LoadError::Setting {
                setting: "threads",
                found: options.threads.to_string(),
                allowed: format!("1 to {MAX_THREADS}"),
            });
        }
        Ok(Self { threads: options.threads, isa: Isa::choose(options.isa)? })
    }
}

impl Device for Cpu {
    fn describe(&self) -> String {
        let s = if self.threads == 1 { "" } else { "s" };
        format!("cpu ({}, {} thread{s})", self.isa.name(), self.threads)
    }

    fn load(&self, plan: &Plan) -> Result<Box<dyn Program>, LoadError> {
        Ok(Box::new(CpuProgram::new(plan, self.isa, self.threads)?))
    }
}
