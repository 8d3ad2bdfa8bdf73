//! Ack: what is durable, and what time it is. PROTOCOL.md section 7.6.

use pilotlight_units::Micros;
use serde::{Deserialize, Serialize};

/// What the collector holds durably of the boot that the header names, and what time it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// All sequences up to this one are settled: stored, or given up by their sender.
    pub up_to: u32,
    /// Bit i: sequence `up_to` + 1 + i is stored.
    pub beyond: u64,
    /// The sequence whose arrival the next two fields tell.
    pub echo: u32,
    /// Wall time since 1970 when `echo` arrived.
    pub wall: Micros,
    /// How long the collector held the answer back after that.
    pub held: Micros,
}
