//! The persistent kernel: one launch that stays, an inference for a store to its mailbox.
//!
//! A plan's launches become lists of instructions, one for each multiprocessor ([`schedule`]), from what each
//! launch reads and writes ([`footprint`]); [`check`] proves the lists safe before they are used. [`mailbox`] holds
//! the words that host and kernel talk through, [`lamp`] the kernel's life, [`resident`] the plan as a program.
//! PERSISTENT.md beside this crate's manifest describes the protocol.

mod check;
mod footprint;
mod fork;
mod lamp;
mod mailbox;
#[cfg(all(test, loom))]
mod mailbox_model;
mod outline;
mod resident;
mod schedule;
mod settings;

pub(crate) use lamp::Lamp;
pub use lamp::Pause;
pub use outline::{Part, outline};
pub(crate) use resident::Persistent;
pub use settings::{LEAST_IDLE, Settings, Wait};
