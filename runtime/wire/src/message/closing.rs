//! Closing: the last message of a boot. PROTOCOL.md section 7.5.

use pilotlight_units::Micros;
use serde::{Deserialize, Serialize};

/// The last message of a boot: with its sequence every loss of the boot can be counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// When, on the device's monotonic clock.
    pub at: Micros,
    /// Messages of this boot that the sender dropped; the other missing ones were lost by the link.
    pub dropped: u32,
    /// Messages of earlier boots that the sender dropped.
    pub dropped_earlier: u32,
    /// Inferences that no report counts.
    pub unsampled: u32,
}
