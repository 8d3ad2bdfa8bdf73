//! Verified frames on their way from a receiver to the store, without an allocation for each.

use std::net::SocketAddr;

use pilotlight_wire::{Header, Kind, Opened, TAG};

/// Where an acknowledgement goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To this address, through the socket of this number.
    Udp(usize, SocketAddr),
    /// Out of the serial port of this number.
    Serial(usize),
    /// Nowhere: the frame came from a queue that acknowledges by itself.
    None,
}

/// A verified frame; its bytes lie in its [`Batch`].
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// Who, which boot, which sequence.
    pub header: Header,
    /// What kind of message.
    pub kind: Kind,
    /// The key generation that vouched for it.
    pub key_id: u8,
    /// Wall time of arrival, in microseconds since 1970.
    pub arrived: u64,
    /// Where an acknowledgement goes.
    pub reply: Reply,
    start: usize,
    body: usize,
    end: usize,
}

/// Verified frames that are stored and acknowledged together.
#[derive(Default)]
pub struct Batch {
    items: Vec<Item>,
    bytes: Vec<u8>,
    /// Called when all of the batch is durable; dropped when it could not be made so.
    pub when_durable: Option<Box<dyn FnOnce() + Send>>,
}

impl Batch {
    /// Frames in the batch.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True without frames.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds a verified frame and the bytes it was read from.
    pub fn push(&mut self, opened: &Opened, frame: &[u8], arrived: u64, reply: Reply) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(frame);
        let end = self.bytes.len();
        let body = end - TAG - opened.body.len();
        self.items.push(Item {
            header: opened.header,
            kind: opened.kind,
            key_id: opened.key_id,
            arrived,
            reply,
            start,
            body,
            end,
        });
    }

    /// The frames.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// A frame's encoded message.
    pub fn body(&self, item: &Item) -> &[u8] {
        self.bytes.get(item.body..item.end - TAG).unwrap_or_default()
    }

    /// A frame as it came.
    pub fn frame(&self, item: &Item) -> &[u8] {
        self.bytes.get(item.start..item.end).unwrap_or_default()
    }
}
