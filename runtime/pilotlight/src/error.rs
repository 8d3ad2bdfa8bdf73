//! What can go wrong, one type for each stage.

use pilotlight_device::{LoadError, RunError};
use pilotlight_plan::DType;
use std::time::Duration;

/// Why a session could not be opened, or its plan not be swapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The device could not load the plan.
    #[error("loading the plan: {0}")]
    Load(#[from] LoadError),
    /// A setting is out of range.
    #[error("option {option} is {found}; {allowed}")]
    Option {
        /// Which option.
        option: &'static str,
        /// Its value.
        found: String,
        /// The values that it may have.
        allowed: &'static str,
    },
    /// The system refused what an option asks for.
    #[error("option {option}: {source}; {advice}")]
    System {
        /// Which option.
        option: &'static str,
        /// What the system said.
        source: std::io::Error,
        /// What to do about it.
        advice: &'static str,
    },
    /// The CUDA device cannot be used.
    #[cfg(feature = "cuda")]
    #[error("opening the CUDA device: {0}")]
    Cuda(#[from] pilotlight_cuda::OpenError),
    /// This build has no CUDA device.
    #[error("this build has no CUDA device; build it with the feature `cuda`, or use the CPU device")]
    NoCuda,
    /// The session is closed.
    #[error("the session is closed; open a new one")]
    Closed,
}

/// Why no slot was lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LendError {
    /// All slots are in use.
    #[error("all {slots} slots are lent or in flight; drop an output, or open the session with more slots")]
    AllInUse {
        /// How many the session has.
        slots: usize,
    },
    /// The session is closed.
    #[error("the session is closed; open a new one")]
    Closed,
}

/// Why a slot was not taken for an inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The session was closed while the slot was lent.
    #[error("the session is closed; open a new one")]
    Closed,
}

/// Why there is no output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The deadline had passed before the inference could begin; it was not run.
    #[error(
        "the deadline passed {late:?} before the inference could begin; it was not run. Submit earlier, or fewer"
    )]
    Deadline {
        /// How long before.
        late: Duration,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(#[from] RunError),
    /// The device's code panicked: a defect of Pilotlight. The session runs nothing more.
    #[error(
        "the device panicked (a defect of Pilotlight: please report it); close the session and open a new one"
    )]
    Panicked,
    /// The result was already taken from this request.
    #[error("the result of this request was already taken; submit a new one")]
    Taken,
    /// The session's own thread asked: it would wait for itself.
    #[error("the worker thread of the session cannot wait for it; wait on another thread")]
    WrongThread,
}

/// Why an input or output could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// There is no such input or output.
    #[error("no {what} {index}: the plan has {count}")]
    Index {
        /// `input` or `output`.
        what: &'static str,
        /// The number that was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// It holds elements of another type.
    #[error("{what} {index} holds {found}, not {asked}; use the {found} view, or the bytes")]
    DType {
        /// `input` or `output`.
        what: &'static str,
        /// Its number.
        index: usize,
        /// The type that it has.
        found: DType,
        /// The type that was asked for.
        asked: DType,
    },
}

/// Why a session could not be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The session's own thread asked: it would wait for itself.
    #[error("the worker thread of the session cannot close it; close it on another thread")]
    WrongThread,
}
