//! The C ABI: what `pilotlight.h` declares.
//!
//! A thin skin over the `pilotlight` crate. Handles are numbers, looked up in tables and tagged with a
//! generation: a null, stale, closed or invented handle is an error code, never a dereference. Nothing unwinds
//! into C: each entry catches panics (with `panic = "abort"`, as in the firmware profile, a panic ends the
//! process instead). After warm-up an inference allocates nothing here.
//!
//! `unsafe` stands here for three things only: reading and writing through pointers that C passed, calling C's
//! log callback, and exporting unmangled names.
#![allow(non_camel_case_types, reason = "the types have their C names")]

mod energy;
mod handle;
mod log_callback;
mod memory;
mod options;
mod plan;
mod session;
mod slot;
mod status;

pub use energy::*;
pub use log_callback::*;
pub use options::*;
pub use plan::*;
pub use session::*;
pub use slot::*;
pub use status::*;
