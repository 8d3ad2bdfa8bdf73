//! Telemetry in a few dozen authenticated bytes: what inferences cost, over a serial line or UDP.
//!
//! `PROTOCOL.md` beside this crate is normative; this is its first implementation and
//! `python/pilotlight_wire.py` its second. Nothing here allocates, and nothing here reads a clock.
//!
//! **Frames are authenticated, not encrypted: whoever sees the link can read them.**
//!
//! ```
//! use pilotlight_units::Micros;
//! use pilotlight_wire::{Direction, FleetKey, Frame, Header, Message, Report, MAX_FRAME};
//!
//! let key = FleetKey::new([7; 32]).derive(Direction::Up, 0, 1201);
//! let report = Report { end: Micros::from_secs(60), window: Micros::from_secs(1), count: 30, ..Report::default() };
//! let mut buffer = [0u8; MAX_FRAME];
//! let header = Header::new(1201, 3, 61);
//! let length = pilotlight_wire::seal(&header, &Message::Report(report), &key, &mut buffer)?;
//!
//! let (frame, rest) = Frame::parse(&buffer[..length])?;
//! assert!(rest.is_empty());
//! let opened = frame.verify(&key)?;
//! assert_eq!(opened.message()?, Message::Report(report));
//! # Ok::<(), pilotlight_wire::WireError>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod code;
mod cursor;
mod error;
mod frame;
mod histogram;
mod key;
mod keyfile;
mod message;
mod replay;
mod serial;

pub use code::{Band, Bucket, Spread};
pub use error::{DecodeError, EncodeError, FrameError, SerialError, WireError};
pub use frame::{Frame, Header, MAX_BODY, MAX_FRAME, Opened, TAG, VERSION, seal, seal_body};
pub use histogram::Histogram;
pub use key::{Direction, FleetKey, FrameKey, KEY_IDS, KEY_LENGTH};
pub use keyfile::{DeviceKeys, KeyFileError, parse_hex};
pub use message::*;
pub use replay::{Arrival, SPAN, Window};
pub use serial::{Deframer, MAX_SERIAL, frame_serial};
