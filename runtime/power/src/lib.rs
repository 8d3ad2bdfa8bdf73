//! Joules and clocks: an energy meter and a governor that holds a latency budget at the least energy.
//!
//! Both are pure state machines: samples and observations with time stamps go in, windows and clock requests
//! come out. Nothing here reads a clock, a sensor or a file, so the same code runs on a board, on the virtual
//! board, on replayed measurements and in virtual time.
//!
//! Without features it is the meter alone, `no_std`, and never allocates; nor does the governor.
#![cfg_attr(not(any(feature = "std", feature = "module", test)), no_std)]
#![forbid(unsafe_code)]

pub mod advice;
#[cfg(feature = "std")]
pub mod frontier;
#[cfg(feature = "governor")]
pub mod governor;
#[cfg(feature = "std")]
pub mod line;
#[cfg(feature = "live")]
pub mod live;
pub mod meter;
#[cfg(feature = "module")]
pub mod module;
mod point;
#[cfg(feature = "replay")]
pub mod replay;
#[cfg(feature = "std")]
mod svg;

pub use point::Point;
