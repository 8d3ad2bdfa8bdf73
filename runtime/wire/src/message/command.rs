//! Command: a request to change a setting. PROTOCOL.md section 7.7.

use pilotlight_units::Micros;
use serde::Serialize;

use super::event::Alert;
use crate::cursor::{Reader, Writer};
use crate::error::{DecodeError, EncodeError};

/// A request to change a setting of the running boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Command {
    /// Report every so often; the device clamps to what it can.
    Period(Micros),
    /// Hold this latency budget.
    Budget(Micros),
    /// Raise an alert above this limit, in the alert's unit.
    Threshold {
        /// Which figure.
        alert: Alert,
        /// Its new limit.
        limit: i64,
    },
    /// A command that this reader does not know: counted, not carried out.
    Unknown {
        /// Its code.
        code: u8,
    },
}

impl Command {
    pub(crate) fn encode(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        match *self {
            Self::Period(period) => writer.put(&(0u8, period)),
            Self::Budget(budget) => writer.put(&(1u8, budget)),
            Self::Threshold { alert, limit } => writer.put(&(2u8, alert, limit)),
            Self::Unknown { code } => writer.put(&code),
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match reader.take::<u8>()? {
            0 => Self::Period(reader.take()?),
            1 => Self::Budget(reader.take()?),
            2 => {
                let (alert, limit) = reader.take()?;
                Self::Threshold { alert, limit }
            }
            code => Self::Unknown { code },
        })
    }
}
