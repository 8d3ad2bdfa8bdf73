//! Log: a line of text for people. PROTOCOL.md section 7.4.

use pilotlight_units::Micros;
use serde::{Deserialize, Serialize};

/// A line of text for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log<'a> {
    /// When, on the device's monotonic clock.
    pub at: Micros,
    /// How bad.
    pub level: Level,
    /// The text.
    pub text: &'a str,
}

/// How bad a logged thing is; numbers above 4 read as trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something may soon not work.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl From<u8> for Level {
    fn from(number: u8) -> Self {
        match number {
            0 => Self::Error,
            1 => Self::Warn,
            2 => Self::Info,
            3 => Self::Debug,
            _ => Self::Trace,
        }
    }
}

impl From<Level> for u8 {
    fn from(level: Level) -> u8 {
        level as u8
    }
}
