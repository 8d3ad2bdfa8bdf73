//! The field side of telemetry: receives frames over UDP and serial lines, verifies them, stores each once, and
//! shows what the fleet's inferences cost.
//!
//! [`Collector::start`] runs it; the rest are its parts. What is acknowledged is durable: committed to SQLite with
//! `synchronous=FULL`, or accepted by JetStream (what that means is said at `Forward`, with the feature `nats`).
#![forbid(unsafe_code)]

mod backend;
mod batch;
mod clock;
mod command;
mod counters;
mod export;
mod fleet;
mod http;
mod keyring;
mod metrics;
#[cfg(feature = "nats")]
mod nats;
mod receive;
mod rollup;
mod serve;
mod store;
mod stream;
mod text;
mod top;

pub use batch::{Batch, Item, Reply};
pub use command::{CommandError, queue_command};
pub use counters::{Counters, Refusal};
pub use export::{ExportError, export_csv, merged_frames};
pub use fleet::{AlertRules, DeviceView, Fleet, FleetAlert};
pub use keyring::{FleetFile, Keyring, KeyringError, new_fleet_key};
#[cfg(feature = "nats")]
pub use nats::{Forward, NatsError, NatsSource};
pub use receive::{ReceiveError, Verifier};
pub use rollup::Rollup;
pub use serve::{Collector, CollectorConfig, CollectorError, Destination, Source, unix_micros};
pub use store::{Store, StoreConfig, StoreError, Stored};
pub use text::{DecodeInput, decode_text, describe};
pub use top::{TopError, render_top, top_once};
