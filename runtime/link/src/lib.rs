//! The device's side of telemetry: what inferences cost goes out over a serial line or UDP, and no inference waits.
//!
//! The inference path pushes a [`Sample`] into a wait-free queue and goes on. A thread of its own ([`Agent`]) makes
//! a report of each window, keeps messages in a bounded [`Outbox`] (optionally in a file that survives a power
//! loss), sends them, and sends them again until they are acknowledged. When the outbox is full the oldest message
//! goes and is counted.
//!
//! [`Sender`] is the protocol without sockets, threads and clocks: tests and the simulated fleet drive it.
#![forbid(unsafe_code)]

mod agent;
mod boot;
pub mod energyrunner;
mod journal;
mod outbox;
mod pace;
mod sender;
#[cfg(feature = "simulate")]
pub mod simulate;
mod target;
mod transport;

pub use agent::{
    Agent, AgentConfig, AgentError, AgentStatus, Notifier, Publisher, Sample, Unobserved, Vitals,
    VitalsReading,
};
pub use boot::{BootError, next_boot};
pub use journal::{Journal, JournalError};
pub use outbox::{Outbox, Record};
pub use sender::{Incoming, Sender, SenderConfig, SenderCounts};
pub use target::{Target, TargetError};
pub use transport::{SerialTransport, Transport, TransportError, UdpTransport};
