//! Frames on a serial line: checksum, byte stuffing, a zero at the end.

use crc::{CRC_16_IBM_SDLC, Crc, NoTable};

use crate::error::{EncodeError, SerialError};
use crate::frame::MAX_FRAME;

/// The checksum tells line noise from forgery; the tag is what is trusted. No table: 16 bytes of flash, not 512.
const CHECKSUM: Crc<u16, NoTable> = Crc::<u16, NoTable>::new(&CRC_16_IBM_SDLC);

/// The longest frame on a serial line with its checksum, stuffing and delimiter.
pub const MAX_SERIAL: usize = cobs::max_encoding_length(MAX_FRAME + 2) + 1;

/// Writes `frame` as it goes over a serial line, delimiter included, and returns its length in `out`.
///
/// # Errors
/// `frame` is longer than [`MAX_FRAME`], or `out` shorter than what it takes; [`MAX_SERIAL`] suffices.
pub fn frame_serial(frame: &[u8], out: &mut [u8]) -> Result<usize, EncodeError> {
    if frame.len() > MAX_FRAME {
        return Err(EncodeError::TooLong { space: MAX_FRAME });
    }
    let mut plain = [0; MAX_FRAME + 2];
    plain[..frame.len()].copy_from_slice(frame);
    plain[frame.len()..frame.len() + 2].copy_from_slice(&CHECKSUM.checksum(frame).to_le_bytes());
    let plain = &plain[..frame.len() + 2];
    let found = out.len();
    if found < cobs::max_encoding_length(plain.len()) + 1 {
        return Err(EncodeError::Buffer { found, allowed: MAX_SERIAL });
    }
    let length = cobs::encode(plain, out);
    out[length] = 0;
    Ok(length + 1)
}

/// Finds frames in the bytes of a serial line; holds one frame, whatever the line says.
///
/// ```
/// use pilotlight_wire::{Deframer, MAX_SERIAL, frame_serial};
/// let mut line = [0; MAX_SERIAL];
/// let length = frame_serial(b"any frame", &mut line)?;
/// let mut deframer = Deframer::new();
/// let frames = line[..length].iter().filter(|&&byte| matches!(deframer.push(byte), Some(Ok(b"any frame"))));
/// assert_eq!(frames.count(), 1);
/// # Ok::<(), pilotlight_wire::EncodeError>(())
/// ```
#[derive(Clone)]
pub struct Deframer {
    bytes: [u8; MAX_SERIAL],
    length: usize,
}

impl Default for Deframer {
    fn default() -> Self {
        Self::new()
    }
}

impl Deframer {
    /// A deframer before the first byte. A line that is joined in mid-frame loses that frame only.
    pub const fn new() -> Self {
        Self { bytes: [0; MAX_SERIAL], length: 0 }
    }

    /// Takes one byte; at a delimiter gives the frame before it, or what was wrong. Empty stretches give nothing:
    /// a sender may write zeros to wake a line.
    pub fn push(&mut self, byte: u8) -> Option<Result<&[u8], SerialError>> {
        if byte != 0 {
            if self.length < MAX_SERIAL {
                self.bytes[self.length] = byte;
            }
            self.length = self.length.saturating_add(1);
            return None;
        }
        let found = core::mem::take(&mut self.length);
        match found {
            0 => None,
            _ if found >= MAX_SERIAL => Some(Err(SerialError::TooLong { found, allowed: MAX_SERIAL - 1 })),
            _ => Some(self.unstuff(found)),
        }
    }

    fn unstuff(&mut self, found: usize) -> Result<&[u8], SerialError> {
        let plain = cobs::decode_in_place(&mut self.bytes[..found])
            .ok()
            .and_then(|length| self.bytes.get(..length))
            .ok_or(SerialError::Stuffing { found })?;
        let (frame, &checksum) = plain.split_last_chunk::<2>().ok_or(SerialError::Stuffing { found })?;
        let (found, expected) = (u16::from_le_bytes(checksum), CHECKSUM.checksum(frame));
        if found != expected {
            return Err(SerialError::Checksum { found, expected });
        }
        Ok(frame)
    }
}
