//! Joules with every result.
//!
//! A sensor gives a value every 10 ms or more rarely, an inference takes one: energy belongs to windows (of a second,
//! unless set otherwise). A [`Meter`] samples the rail of the module on a thread of its own and divides each window
//! among the sessions by the time that the device worked for them. A result carries its session's part of the last
//! window that has closed, and how old that is; [`Session::energy`](crate::Session::energy) gives that of the
//! inference's own window, once it has closed.
//!
//! | file | what it holds |
//! |---|---|
//! | `place` | what an inference touches: one count to add to, one figure to read; no lock |
//! | `books` | windows, baselines, and whose part is whose: pure, time is an argument |
//! | `meter` | the rail, the thread, the handle |

mod books;
#[cfg(all(test, not(loom)))]
mod books_tests;
mod meter;
mod place;
#[cfg(all(test, loom))]
mod place_model;

pub(crate) use meter::Metering;
pub use meter::{LearnError, Meter, MeterError, MeterOptions, Module};
pub use pilotlight_power::meter::{Condition, Faults};
pub use pilotlight_power::module::Basis;
pub use pilotlight_units::{Microjoules, Milliwatts};

use std::time::Duration;

/// The energy of an inference.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Energy {
    /// Nothing is known of it, and why.
    NotMeasured(NotMeasured),
    /// An inference's part of a window.
    Window(WindowEnergy),
}

impl Energy {
    /// The window, where there is one.
    pub fn window(&self) -> Option<&WindowEnergy> {
        match self {
            Self::NotMeasured(_) => None,
            Self::Window(window) => Some(window),
        }
    }
}

/// An inference's part of the energy of a window: the session's share by device busy time, over its inferences.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct WindowEnergy {
    /// Of all the energy of the rail.
    pub gross: Microjoules,
    /// Standard deviation of it; two of them cover at least 95 %.
    pub deviation: Microjoules,
    /// Of the energy above each baseline.
    pub net: Net,
    /// Inferences of the session in the window.
    pub inferences: u32,
    /// Length of the window.
    pub length: Duration,
    /// Time of it that samples cover.
    pub covered: Duration,
    /// How long the window had been over when the inference ended, or when it was asked for.
    pub age: Duration,
    /// What it rests on.
    pub basis: Basis,
}

/// Energy above what the board draws without the work, at the same clocks. `None`: that baseline was never measured
/// at these clocks, or the clocks moved in the window or cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Net {
    /// Above a board on which nothing of ours is resident.
    pub parked: Option<Microjoules>,
    /// Above one whose resident kernel waits for work.
    pub lit: Option<Microjoules>,
    /// Above one that works back to back at something else ([`Meter::learn`]).
    pub busy: Option<Microjoules>,
}

/// Why an energy is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[repr(u8)]
pub enum NotMeasured {
    /// The session has no meter.
    #[error("the session was opened without a meter")]
    NoMeter = 1,
    /// The meter found no power to read; [`Meter::module`] says why.
    #[error("the machine shows no power that could be read")]
    NoPower,
    /// The session runs on a virtual board, whose power no rail of this machine shows.
    #[error("the session runs on a virtual board, which has no rails")]
    VirtualBoard,
    /// More sessions than a meter tells apart.
    #[error("the meter tells 7 sessions apart, and this is a further one")]
    Crowded,
    /// The window has not closed yet: ask again later.
    #[error("the window has not closed yet")]
    Open,
    /// The window closed too long ago.
    #[error("the window closed too long ago: the last 64 are kept")]
    Forgotten,
    /// No inference of this number has ended.
    #[error("no inference of this number has ended")]
    Unknown,
    /// The sensor has stopped answering.
    #[error("the sensor has stopped answering")]
    SensorLost,
    /// The sensor answers, but its value has not moved for a minute.
    #[error("the sensor has not moved for a minute")]
    SensorStuck,
    /// The meter was closed.
    #[error("the meter is closed")]
    Closed,
}

impl NotMeasured {
    /// The troubles that a meter tells its sessions, by their number.
    fn of_code(code: u64) -> Option<Self> {
        [Self::SensorLost, Self::SensorStuck, Self::Closed].into_iter().find(|why| *why as u64 == code)
    }
}
