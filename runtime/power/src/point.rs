//! Clocks that a board is at or is asked for.

use pilotlight_units::Hertz;

/// A pair of GPU and memory clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// GPU clock.
    pub gpu: Hertz,
    /// Memory (EMC) clock.
    pub emc: Hertz,
}
