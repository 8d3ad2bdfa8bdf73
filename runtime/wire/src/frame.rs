//! The frame: who says what, vouched for by a tag.

use crate::cursor::{Reader, Writer};
use crate::error::{DecodeError, EncodeError, FrameError};
use crate::key::{FrameKey, KEY_IDS};
use crate::message::{Kind, Message};

/// The frame layout's version, in the high half of the first byte.
pub const VERSION: u8 = 1;
/// Bytes of the authentication tag: the first of an HMAC-SHA-256.
pub const TAG: usize = 8;
/// The longest body.
pub const MAX_BODY: usize = 255;
/// The longest frame: first byte, three 32-bit numbers, kind, held, length, body, tag.
pub const MAX_FRAME: usize = 1 + 3 * 5 + 1 + 5 + 1 + MAX_BODY + TAG;

const KIND_MASK: u8 = 0x1f;
const WANTS_ACK: u8 = 0x20;
const HAS_HELD: u8 = 0x40;
const RESERVED: u8 = 0x80;

/// Everything in front of a frame's body but the kind and the key id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The device's number in its fleet; the sender's upwards, the receiver's downwards.
    pub device: u32,
    /// The device's boot counter.
    pub boot: u32,
    /// Counts the device's messages of this boot from 1; commands count apart.
    pub sequence: u32,
    /// The sender keeps the message until it is acknowledged.
    pub wants_ack: bool,
    /// The oldest sequence that the sender still holds: what is older and missing will never come.
    pub held: Option<u32>,
}

impl Header {
    /// A header of a one-way link.
    pub const fn new(device: u32, boot: u32, sequence: u32) -> Self {
        Self { device, boot, sequence, wants_ack: false, held: None }
    }
}

/// Encodes `message`, seals it with `key` and returns the frame's length in `out`.
///
/// # Errors
/// The message is too long for a frame, or `out` too short; [`MAX_FRAME`] bytes suffice for every message.
pub fn seal(
    header: &Header,
    message: &Message,
    key: &FrameKey,
    out: &mut [u8],
) -> Result<usize, EncodeError> {
    let mut body = [0; MAX_BODY];
    let length = message.encode(&mut body)?;
    seal_body(header, message.kind(), &body[..length], key, out)
}

/// Seals an encoded body with `key` and returns the frame's length in `out`; an outbox keeps bodies, so that
/// what waited for hours is sealed with today's key.
///
/// # Errors
/// As [`seal`]; also a kind or key id that a header cannot hold.
pub fn seal_body(
    header: &Header,
    kind: Kind,
    body: &[u8],
    key: &FrameKey,
    out: &mut [u8],
) -> Result<usize, EncodeError> {
    if body.len() > MAX_BODY {
        return Err(EncodeError::TooLong { space: MAX_BODY });
    }
    if kind.0 > KIND_MASK {
        return Err(EncodeError::Header { field: "kind", found: kind.0.into(), allowed: KIND_MASK.into() });
    }
    if key.key_id() >= KEY_IDS {
        let (found, allowed) = (key.key_id().into(), u32::from(KEY_IDS) - 1);
        return Err(EncodeError::Header { field: "key", found, allowed });
    }
    let found = out.len();
    let short = |_| EncodeError::Buffer { found, allowed: MAX_FRAME };
    let mut flags = kind.0;
    if header.wants_ack {
        flags |= WANTS_ACK;
    }
    if header.held.is_some() {
        flags |= HAS_HELD;
    }
    let mut writer = Writer::new(out);
    writer.put(&(VERSION << 4 | key.key_id())).map_err(short)?;
    writer.put(&(header.device, header.boot, header.sequence, flags)).map_err(short)?;
    if let Some(held) = header.held {
        writer.put(&held).map_err(short)?;
    }
    writer.put(&(body.len() as u8)).map_err(short)?;
    let start = writer.length();
    let end = start + body.len();
    if found < end + TAG {
        return Err(EncodeError::Buffer { found, allowed: MAX_FRAME });
    }
    out[start..end].copy_from_slice(body);
    let tag = key.tag(&out[..end]);
    out[end..end + TAG].copy_from_slice(&tag);
    Ok(end + TAG)
}

/// A frame that has been found but not trusted: its body cannot be read before [`Frame::verify`].
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    header: Header,
    key_id: u8,
    kind: Kind,
    body: &'a [u8],
    signed: &'a [u8],
    tag: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame in `bytes`, and what follows it: a datagram holds whole frames.
    ///
    /// # Errors
    /// The bytes are not a frame of this version. Nothing after them can be found: drop the datagram.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), FrameError> {
        let first = *bytes.first().ok_or(FrameError::Truncated { field: "version", found: 0 })?;
        if first >> 4 != VERSION {
            return Err(FrameError::Version { found: first >> 4, allowed: VERSION });
        }
        let mut rest = &bytes[1..];
        let device = number(&mut rest, "device", bytes.len())?;
        let boot = number(&mut rest, "boot", bytes.len())?;
        let sequence = number(&mut rest, "sequence", bytes.len())?;
        let flags = byte(&mut rest, "kind", bytes.len())?;
        if flags & RESERVED != 0 {
            return Err(FrameError::Malformed { field: "kind" });
        }
        let held = match flags & HAS_HELD {
            0 => None,
            _ => Some(number(&mut rest, "held", bytes.len())?),
        };
        let length = usize::from(byte(&mut rest, "length", bytes.len())?);
        if rest.len() < length {
            return Err(FrameError::Truncated { field: "body", found: bytes.len() });
        }
        let (body, after) = rest.split_at(length);
        if after.len() < TAG {
            return Err(FrameError::Truncated { field: "tag", found: bytes.len() });
        }
        let (tag, rest) = after.split_at(TAG);
        let signed = &bytes[..bytes.len() - after.len()];
        let header = Header { device, boot, sequence, wants_ack: flags & WANTS_ACK != 0, held };
        Ok((Self { header, key_id: first & 0x0f, kind: Kind(flags & KIND_MASK), body, signed, tag }, rest))
    }

    /// The device that the frame claims to concern: which key to try, and no more than that.
    pub const fn claimed_device(&self) -> u32 {
        self.header.device
    }

    /// The key generation that the frame claims.
    pub const fn claimed_key(&self) -> u8 {
        self.key_id
    }

    /// The frame's content without a check, to be shown to people as such: nothing in it can be relied on.
    pub const fn unverified(self) -> Opened<'a> {
        Opened { header: self.header, key_id: self.key_id, kind: self.kind, body: self.body }
    }

    /// The authentic frame.
    ///
    /// # Errors
    /// The tag is not `key`'s: corrupted, forged, or sealed with another key. Count it and drop it.
    pub fn verify(self, key: &FrameKey) -> Result<Opened<'a>, FrameError> {
        if self.key_id != key.key_id() || !key.matches(self.signed, self.tag) {
            return Err(FrameError::Tag { device: self.header.device, key_id: self.key_id });
        }
        Ok(Opened { header: self.header, key_id: self.key_id, kind: self.kind, body: self.body })
    }
}

/// A frame whose tag matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// Who, which boot, which sequence.
    pub header: Header,
    /// The key generation that vouches for it.
    pub key_id: u8,
    /// What kind of message the body is.
    pub kind: Kind,
    /// The encoded message.
    pub body: &'a [u8],
}

impl<'a> Opened<'a> {
    /// The message in the body; a kind that this reader does not know is [`Message::Unknown`], not an error.
    ///
    /// # Errors
    /// An authentic sender wrote a body that does not read as its kind: count it, keep the link.
    pub fn message(&self) -> Result<Message<'a>, DecodeError> {
        Message::decode(self.kind, self.body)
    }
}

fn byte(rest: &mut &[u8], field: &'static str, found: usize) -> Result<u8, FrameError> {
    let (&first, after) = rest.split_first().ok_or(FrameError::Truncated { field, found })?;
    *rest = after;
    Ok(first)
}

fn number(rest: &mut &[u8], field: &'static str, found: usize) -> Result<u32, FrameError> {
    // A varint's last byte has its top bit clear; five bytes hold 32 bits.
    let Some(end) = rest.iter().take(5).position(|byte| byte & 0x80 == 0) else {
        return Err(match rest.len() {
            0..5 => FrameError::Truncated { field, found },
            _ => FrameError::Malformed { field },
        });
    };
    let (digits, after) = rest.split_at(end + 1);
    *rest = after;
    Reader::new(digits, field).take().map_err(|_| FrameError::Malformed { field })
}
