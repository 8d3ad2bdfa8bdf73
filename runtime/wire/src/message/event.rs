//! Event: something that happened once. PROTOCOL.md section 7.3.

use pilotlight_units::Micros;
use serde::{Deserialize, Serialize};

use super::report::Operating;
use crate::cursor::{Reader, Writer};
use crate::error::{DecodeError, EncodeError};

/// Something that happened once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When, on the device's monotonic clock.
    pub at: Micros,
    /// What.
    pub what: Occurrence,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Occurrence {
    /// The governor moved the clocks.
    Governor {
        /// Clocks before.
        from: Operating,
        /// Clocks after.
        to: Operating,
    },
    /// A figure passed its limit.
    Alert {
        /// Which figure.
        alert: Alert,
        /// What it was.
        value: i64,
        /// Its limit.
        limit: i64,
    },
    /// The kernel went to sleep or woke.
    Park {
        /// True when it went to sleep.
        parked: bool,
    },
    /// The device fell back or failed; codes are the runtime's.
    Fault {
        /// Which fault.
        code: u16,
        /// What the fault's description says of this number.
        detail: u32,
    },
    /// The device learned the wall time over a two-way link.
    Clock {
        /// Wall time since 1970 less device time, in microseconds.
        offset: i64,
        /// Half the round trip: the offset is at most this far off.
        uncertainty: Micros,
    },
    /// An occurrence that this reader does not know.
    Unknown {
        /// Its code.
        code: u8,
    },
}

/// Figures that have limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Alert(pub u8);

impl Alert {
    /// 99th percentile of latency, in microseconds.
    pub const LATENCY: Self = Self(0);
    /// Gross energy of one inference, in microjoules.
    pub const ENERGY: Self = Self(1);
    /// The hottest sensor, in thousandths of a degree Celsius.
    pub const TEMPERATURE: Self = Self(2);
    /// Messages waiting in the sender.
    pub const BACKLOG: Self = Self(3);
}

impl Event {
    pub(crate) fn encode(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        writer.put(&self.at)?;
        match self.what {
            Occurrence::Governor { from, to } => writer.put(&(0u8, from, to)),
            Occurrence::Alert { alert, value, limit } => writer.put(&(1u8, alert, value, limit)),
            Occurrence::Park { parked } => writer.put(&(2u8, parked)),
            Occurrence::Fault { code, detail } => writer.put(&(3u8, code, detail)),
            Occurrence::Clock { offset, uncertainty } => writer.put(&(4u8, offset, uncertainty)),
            Occurrence::Unknown { code } => writer.put(&code),
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let (at, code): (Micros, u8) = reader.take()?;
        let what = match code {
            0 => {
                let (from, to) = reader.take()?;
                Occurrence::Governor { from, to }
            }
            1 => {
                let (alert, value, limit) = reader.take()?;
                Occurrence::Alert { alert, value, limit }
            }
            2 => Occurrence::Park { parked: reader.take()? },
            3 => {
                let (code, detail) = reader.take()?;
                Occurrence::Fault { code, detail }
            }
            4 => {
                let (offset, uncertainty) = reader.take()?;
                Occurrence::Clock { offset, uncertainty }
            }
            code => Occurrence::Unknown { code },
        };
        Ok(Self { at, what })
    }
}
