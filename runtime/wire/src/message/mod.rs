//! The messages: one file each, all of one shape. `report.rs` is the template.
//!
//! Growth is additive. New fields go after a message's last; a reader that does not know them ignores what
//! follows, and a reader that knows them takes their absence for "not said". Unknown kinds, events and
//! commands are handed over as unknown, never refused.

mod ack;
mod closing;
mod command;
mod event;
mod hello;
mod log;
mod report;

pub use ack::Ack;
pub use closing::Closing;
pub use command::Command;
pub use event::{Alert, Event, Occurrence};
pub use hello::{Accuracy, Hello, Measure, PLANS, Plan};
pub use log::{Level, Log};
pub use report::{Backlog, Celsius, Energy, Latency, Operating, Report, Source, Temperature, Trouble};

use serde::{Deserialize, Serialize};

use crate::cursor::{Reader, Writer};
use crate::error::{DecodeError, EncodeError};

/// The number of a message's kind, 0 to 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kind(pub u8);

impl Kind {
    /// [`Hello`]
    pub const HELLO: Self = Self(1);
    /// [`Report`]
    pub const REPORT: Self = Self(2);
    /// [`Event`]
    pub const EVENT: Self = Self(3);
    /// [`Log`]
    pub const LOG: Self = Self(4);
    /// [`Closing`]
    pub const CLOSING: Self = Self(5);
    /// [`Ack`], downwards.
    pub const ACK: Self = Self(16);
    /// [`Command`], downwards.
    pub const COMMAND: Self = Self(17);

    /// The kind's name in PROTOCOL.md.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HELLO => "Hello",
            Self::REPORT => "Report",
            Self::EVENT => "Event",
            Self::LOG => "Log",
            Self::CLOSING => "Closing",
            Self::ACK => "Ack",
            Self::COMMAND => "Command",
            _ => "unknown",
        }
    }
}

/// One message, borrowed from the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub enum Message<'a> {
    /// Who the device is and what it runs.
    Hello(Hello<'a>),
    /// What inferences cost in one window.
    Report(Report),
    /// Something that happened once.
    Event(Event),
    /// A line of text for people.
    Log(Log<'a>),
    /// The last message of a boot.
    Closing(Closing),
    /// Downwards: what is durable.
    Ack(Ack),
    /// Downwards: a request to change a setting.
    Command(Command),
    /// A kind that this reader does not know.
    Unknown {
        /// Its number.
        kind: u8,
        /// Its undecoded body.
        body: &'a [u8],
    },
}

impl<'a> Message<'a> {
    /// The message's kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::HELLO,
            Self::Report(_) => Kind::REPORT,
            Self::Event(_) => Kind::EVENT,
            Self::Log(_) => Kind::LOG,
            Self::Closing(_) => Kind::CLOSING,
            Self::Ack(_) => Kind::ACK,
            Self::Command(_) => Kind::COMMAND,
            Self::Unknown { kind, .. } => Kind(*kind),
        }
    }

    /// Writes the body and returns its length in `out`.
    ///
    /// # Errors
    /// The body does not fit into `out`; [`MAX_BODY`](crate::MAX_BODY) bytes hold all that a frame can carry.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, EncodeError> {
        let space = out.len();
        let mut writer = Writer::new(out);
        match self {
            Self::Hello(hello) => writer.put(hello)?,
            Self::Report(report) => report.encode(&mut writer)?,
            Self::Event(event) => event.encode(&mut writer)?,
            Self::Log(log) => writer.put(log)?,
            Self::Closing(closing) => writer.put(closing)?,
            Self::Ack(ack) => writer.put(ack)?,
            Self::Command(command) => command.encode(&mut writer)?,
            Self::Unknown { body, .. } => {
                let end = body.len();
                out.get_mut(..end).ok_or(EncodeError::TooLong { space })?.copy_from_slice(body);
                return Ok(end);
            }
        }
        Ok(writer.length())
    }

    /// Reads a body as the message of `kind`.
    ///
    /// # Errors
    /// The body ends early or a field is out of range. Bytes after the last known field are not an error.
    pub fn decode(kind: Kind, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body, kind.name());
        Ok(match kind {
            Kind::HELLO => Self::Hello(reader.take()?),
            Kind::REPORT => Self::Report(Report::decode(&mut reader)?),
            Kind::EVENT => Self::Event(Event::decode(&mut reader)?),
            Kind::LOG => Self::Log(reader.take()?),
            Kind::CLOSING => Self::Closing(reader.take()?),
            Kind::ACK => Self::Ack(reader.take()?),
            Kind::COMMAND => Self::Command(Command::decode(&mut reader)?),
            Kind(kind) => Self::Unknown { kind, body },
        })
    }
}
