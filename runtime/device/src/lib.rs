//! Devices: what runs a plan.
//!
//! A [`Device`] lowers a [`Plan`] to a [`Program`]; a program runs inferences on [`Slot`]s, the memory that
//! inputs and outputs lie in. Every device gives the same bits. [`Reference`] is the plainest possible one: it
//! defines what the others must give.
//!
//! ```
//! use pilotlight_device::{Device, Reference};
//! # fn demo(plan: &pilotlight_plan::Plan) -> Result<(), Box<dyn std::error::Error>> {
//! let mut program = Reference.load(plan)?;
//! let mut slot = program.slot()?;
//! slot.input_mut(0).fill(0);
//! program.run(&mut slot)?;
//! println!("{:?}", &slot.output(0)[..4]);
//! # Ok(())
//! # }
//! ```

mod cpu;
mod lock;
mod places;
mod reference;
mod slot;

pub use cpu::{Cpu, CpuOptions, Isa, MAX_THREADS};
pub use lock::lock;
pub use places::{dense, places};
pub use reference::Reference;
pub use slot::{Memory, Slot, SlotMemory};

use pilotlight_plan::Plan;
use pilotlight_units::Bytes;

/// Runs plans.
pub trait Device: Send + Sync {
    /// What it is, for people: `cpu (avx512-vnni, 2 threads)`.
    fn describe(&self) -> String;

    /// A plan made ready to run: weights packed, memory allocated.
    ///
    /// # Errors
    /// [`LoadError`] when memory is short or the plan asks for what this device cannot do.
    fn load(&self, plan: &Plan) -> Result<Box<dyn Program>, LoadError>;

    /// Whether it only stands for a board: then its times are the emulator's, and no sensor shows its power.
    fn is_virtual(&self) -> bool {
        false
    }

    /// Whether something of it stays resident and waits for work: then it draws power without any. Any thread may
    /// ask at any time; inferences do not wait for the answer.
    fn lit(&self) -> bool {
        false
    }
}

/// A plan loaded on a device.
pub trait Program: Send {
    /// New memory for the inputs and outputs of one inference, zeroed.
    ///
    /// # Errors
    /// [`LoadError::Memory`] when there is none.
    fn slot(&self) -> Result<Slot, LoadError>;

    /// Runs one inference: reads the slot's inputs, writes its outputs, returns when they are written.
    ///
    /// # Errors
    /// [`RunError`] when the slot is of another program, or the device fails.
    fn run(&mut self, slot: &mut Slot) -> Result<(), RunError>;

    /// As [`Program::run`], and the nanoseconds that each step took, in the plan's order.
    ///
    /// Measuring costs time: the sum is more than a plain run takes.
    ///
    /// # Errors
    /// As [`Program::run`].
    fn run_timed(&mut self, slot: &mut Slot, nanos: &mut Vec<u64>) -> Result<(), RunError>;

    /// As [`Program::run`], step by step: `observe` sees each step's index in the plan and the elements that it
    /// wrote, dense in row-major order.
    ///
    /// This is for finding the first step at which two devices differ; it is slow.
    ///
    /// # Errors
    /// As [`Program::run`].
    fn run_observed(
        &mut self,
        slot: &mut Slot,
        observe: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), RunError>;

    /// As [`Program::run`], and what each part of the device did when. Devices without parts give their steps, one
    /// after the other, as [`Program::run_timed`] does.
    ///
    /// # Errors
    /// As [`Program::run`].
    fn run_traced(&mut self, slot: &mut Slot, spans: &mut Vec<Span>) -> Result<(), RunError> {
        let mut nanos = Vec::new();
        self.run_timed(slot, &mut nanos)?;
        let mut at = 0;
        spans.clear();
        spans.extend(nanos.iter().enumerate().map(|(step, &took)| {
            at += took;
            let step = Some(step);
            Span { lane: 0, step, what: String::new(), begin: at - took, ready: at - took, end: at }
        }));
        Ok(())
    }
}

/// A piece of work in a trace; times are nanoseconds from the first one's begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The part of the device that did it: a multiprocessor of a GPU.
    pub lane: u32,
    /// Step of the plan; `None` for a mailbox, whose spans are of the whole inference and may lie inside each other.
    pub step: Option<usize>,
    /// What of the step, for people; empty where it is all.
    pub what: String,
    /// When it was taken up.
    pub begin: u64,
    /// When what it needs was there.
    pub ready: u64,
    /// When it was done.
    pub end: u64,
}

/// Why a plan could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// An allocation failed.
    #[error("{what}: no {bytes} of memory; free some, or compile the model for a smaller batch")]
    Memory {
        /// What it was for.
        what: &'static str,
        /// Its size.
        bytes: Bytes,
    },
    /// The plan breaks a rule that every plan keeps.
    #[error("not a valid plan: {0}; compile the model again")]
    Plan(#[from] pilotlight_plan::validate::Invalid),
    /// A thread could not be started.
    #[error("no further thread can be started: {problem}; ask for fewer threads")]
    Thread {
        /// What the system said.
        problem: String,
    },
    /// A setting is out of range.
    #[error("{setting} is {found}; {allowed}")]
    Setting {
        /// Which setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// The values that it may have.
        allowed: String,
    },
    /// The device cannot do a step.
    #[error("{step}: {problem}; use another device for this model")]
    Unsupported {
        /// The step.
        step: String,
        /// What the device cannot do.
        problem: String,
    },
    /// A driver refused a call.
    #[error("{call}: the driver answered {problem}")]
    Device {
        /// What was asked of it.
        call: &'static str,
        /// Its answer.
        problem: String,
    },
}

/// Why an inference failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The slot was made by another program.
    #[error(
        "the slot has {found:?} bytes of inputs and outputs, this program needs {needed:?}; use a slot of its own"
    )]
    Slot {
        /// Sizes of the slot's inputs, then outputs.
        found: Vec<usize>,
        /// Sizes that the program needs.
        needed: Vec<usize>,
    },
    /// The slot's memory is not this program's.
    #[error("the slot was lent by another program or device; use a slot of this program")]
    Foreign,
    /// The device stopped an inference that did not end; later ones may work.
    #[error("{why} of {limit:?}: {place}; the next inference starts anew; please report it if it repeats")]
    Stalled {
        /// What happened.
        why: &'static str,
        /// The limit.
        limit: std::time::Duration,
        /// Where the device stood.
        place: String,
    },
    /// The device failed; it may have to be opened anew, or the process restarted.
    #[error("{call}: the driver answered {problem}; restart the process, or go on with the CPU device")]
    Device {
        /// What was asked of it.
        call: &'static str,
        /// Its answer.
        problem: String,
    },
}
