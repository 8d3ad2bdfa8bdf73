//! The state of one boot of one device: what came, what is missing, and when it was.

use pilotlight_wire::{Arrival, Closing, Event, Kind, Message, Occurrence, Window};

use crate::batch::Reply;
use crate::clock::Offset;

/// One boot of one device.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) window: Window,
    pub(crate) stored: u64,
    /// What the device says its queue dropped.
    pub(crate) dropped: u32,
    pub(crate) closed: bool,
    pub(crate) offset: Offset,
    /// Where the last frame came from, and the key that vouched for it.
    pub(crate) reply: Reply,
    pub(crate) key_id: u8,
    /// Changed since the last checkpoint.
    pub(crate) dirty: bool,
    /// The commit that touched it last.
    pub(crate) touched: u64,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            window: Window::new(),
            stored: 0,
            dropped: 0,
            closed: false,
            offset: Offset::default(),
            reply: Reply::None,
            key_id: 0,
            dirty: false,
            touched: 0,
        }
    }
}

/// A stream's losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// Dropped by the device's queue.
    pub(crate) queue: u64,
    /// Lost by the link.
    pub(crate) link: u64,
    /// May still come.
    pub(crate) awaited: u64,
}

impl Stream {
    pub(crate) fn check(&self, sequence: u32) -> Arrival {
        self.window.check(sequence)
    }

    /// Takes note of a stored message.
    pub(crate) fn settle(&mut self, sequence: u32, message: Option<&Message>) {
        self.window.settle(sequence);
        self.stored += 1;
        self.dirty = true;
        match message {
            Some(Message::Report(report)) => self.dropped = self.dropped.max(report.backlog.dropped),
            Some(Message::Closing(Closing { dropped, .. })) => {
                self.dropped = self.dropped.max(*dropped);
                self.closed = true;
            }
            _ => {}
        }
    }

    /// Learns from a message's time what the device's clock shows, and gives the message's wall time in milliseconds.
    pub(crate) fn place(&mut self, message: Option<&Message>, arrived: u64) -> i64 {
        if let Some(Message::Event(Event { what: Occurrence::Clock { offset, uncertainty }, .. })) = message {
            self.offset.told(*offset, uncertainty.0);
        }
        match message.and_then(made_at) {
            None => (arrived / 1000) as i64,
            Some(made) => {
                self.offset.observe(made, arrived);
                self.offset.wall_ms(made, arrived)
            }
        }
    }

    pub(crate) fn losses(&self) -> Losses {
        let missing = u64::from(self.window.missing());
        // After a closing, or when given up, what is missing will not come.
        let lost = if self.closed { missing } else { self.window.given_up().into() };
        let queue = lost.min(self.dropped.into());
        Losses { queue, link: lost - queue, awaited: missing - lost }
    }
}

/// Device time at which a message was made, in microseconds.
pub(crate) fn made_at(message: &Message) -> Option<u64> {
    match message {
        Message::Report(report) => Some(report.end.0),
        Message::Event(event) => Some(event.at.0),
        Message::Log(log) => Some(log.at.0),
        Message::Closing(closing) => Some(closing.at.0),
        _ => None,
    }
}

/// Kinds that only a collector sends: from a device they are stored as they are and mean nothing.
pub(crate) fn is_downward(kind: Kind) -> bool {
    matches!(kind, Kind::ACK | Kind::COMMAND)
}
