//! What can be wrong with bytes from a link, stage by stage.

use thiserror::Error;

/// A message that cannot be put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The body does not fit; shorten its texts or lists.
    #[error("body does not fit: {space} bytes were free; shorten the message's texts or lists")]
    TooLong {
        /// Bytes that were free for the body.
        space: usize,
    },
    /// The caller's buffer is shorter than the frame; `MAX_FRAME` always suffices.
    #[error("buffer of {found} bytes is shorter than the frame; use MAX_FRAME ({allowed}) bytes")]
    Buffer {
        /// Bytes given.
        found: usize,
        /// Bytes that always suffice.
        allowed: usize,
    },
    /// A key id, kind or other header field outside its range.
    #[error("header field {field} is {found}, at most {allowed} is allowed")]
    Header {
        /// The field's name in PROTOCOL.md.
        field: &'static str,
        /// The value given.
        found: u32,
        /// The largest value allowed.
        allowed: u32,
    },
}

/// Bytes that are not a frame, or a frame that its key does not vouch for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The bytes end before the frame does.
    #[error("frame is cut off in its {field} after {found} bytes; drop it")]
    Truncated {
        /// The part that is missing.
        field: &'static str,
        /// Bytes that were there.
        found: usize,
    },
    /// The frame layout is another version's.
    #[error("frame version is {found}, this reader knows {allowed}; update the reader")]
    Version {
        /// The version found.
        found: u8,
        /// The version known.
        allowed: u8,
    },
    /// A header number that no sender makes, such as a device number above 32 bits.
    #[error("header field {field} is malformed; drop the frame")]
    Malformed {
        /// The field's name in PROTOCOL.md.
        field: &'static str,
    },
    /// The tag does not match: corrupted, forged, or sealed with another key.
    #[error("device {device}: tag does not match key {key_id}; corrupted, forged or another fleet's")]
    Tag {
        /// The device the frame claims to be from.
        device: u32,
        /// The key id the frame claims.
        key_id: u8,
    },
}

/// An authentic body that does not read as its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The body ends early, or holds a text that is not UTF-8 or a list that is too long.
    #[error("{message} body of {length} bytes does not read as that message; count and skip it")]
    Malformed {
        /// The message's name.
        message: &'static str,
        /// The body's length in bytes.
        length: usize,
    },
    /// A field outside its range.
    #[error("{message} field {field} is {found}, at most {allowed} is allowed; count and skip it")]
    Range {
        /// The message's name.
        message: &'static str,
        /// The field's name in PROTOCOL.md.
        field: &'static str,
        /// The value found.
        found: u64,
        /// The largest value allowed.
        allowed: u64,
    },
}

/// Bytes between two zeros on a serial line that hold no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SerialError {
    /// More bytes than any frame has came before a zero.
    #[error("{found} bytes without a delimiter, at most {allowed} are allowed; waiting for the next zero")]
    TooLong {
        /// Bytes seen.
        found: usize,
        /// Bytes allowed.
        allowed: usize,
    },
    /// The byte stuffing is broken.
    #[error("byte stuffing of {found} bytes is broken; noise on the line")]
    Stuffing {
        /// Bytes between the zeros.
        found: usize,
    },
    /// The checksum does not match.
    #[error("checksum is {found:#06x}, the bytes give {expected:#06x}; noise on the line")]
    Checksum {
        /// The checksum sent.
        found: u16,
        /// The checksum of the bytes.
        expected: u16,
    },
}

/// Any error of this crate, for callers that do not tell stages apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// While encoding.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// While parsing or verifying a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// While decoding an authentic body.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// While finding frames on a serial line.
    #[error(transparent)]
    Serial(#[from] SerialError),
}
