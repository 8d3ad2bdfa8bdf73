//! A device's key file: what `pilotlight wire keygen` writes and a device reads, or embeds.

use core::fmt;

use crate::key::{Direction, FleetKey, FrameKey, KEY_IDS, KEY_LENGTH};
use thiserror::Error;

/// The keys of one device: its number, its key generation and one key for each direction.
///
/// ```
/// use pilotlight_wire::{DeviceKeys, FleetKey};
/// let keys = FleetKey::new([7; 32]).device_keys(2, 1201);
/// let file = keys.to_file().to_string();
/// let read = DeviceKeys::parse(&file)?;
/// assert_eq!((read.device, read.key_id), (1201, 2));
/// assert_eq!(read.to_file().to_string(), file);
/// # Ok::<(), pilotlight_wire::KeyFileError>(())
/// ```
#[derive(Clone)]
pub struct DeviceKeys {
    /// The device's number in its fleet.
    pub device: u32,
    /// The key generation.
    pub key_id: u8,
    up: [u8; KEY_LENGTH],
    down: [u8; KEY_LENGTH],
}

/// A key file that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// A line that is not `name = value` with a known name.
    #[error("key file line {line}: expected one of device, key_id, up, down as `name = value`")]
    Line {
        /// Counted from 1.
        line: usize,
    },
    /// A value that cannot be read.
    #[error("key file line {line}: {name} must be {allowed}")]
    Value {
        /// Counted from 1.
        line: usize,
        /// Which value.
        name: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// A value that is not there.
    #[error("key file has no `{name} = ...`; make the file anew with `pilotlight wire keygen`")]
    Missing {
        /// Which value.
        name: &'static str,
    },
}

impl FleetKey {
    /// What `device` gets to know of this fleet key.
    pub fn device_keys(&self, key_id: u8, device: u32) -> DeviceKeys {
        let key = |direction| self.derive_bytes(direction, key_id, device);
        DeviceKeys { device, key_id, up: key(Direction::Up), down: key(Direction::Down) }
    }
}

impl DeviceKeys {
    /// Reads a key file's text.
    ///
    /// # Errors
    /// Names the line and what it should hold; never shows a key.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let (mut device, mut key_id, mut up, mut down) = (None, None, None, None);
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let (name, value) = content.split_once('=').ok_or(KeyFileError::Line { line })?;
            let value = value.trim();
            let wrong = |name, allowed| KeyFileError::Value { line, name, allowed };
            match name.trim() {
                "device" => {
                    device = Some(value.parse().map_err(|_| wrong("device", "a number below 2^32"))?);
                }
                "key_id" => {
                    let id = value.parse().ok().filter(|&id| id < KEY_IDS);
                    key_id = Some(id.ok_or(wrong("key_id", "a number below 16"))?);
                }
                "up" => up = Some(parse_hex(value).ok_or(wrong("up", "64 hexadecimal digits in quotes"))?),
                "down" => {
                    down = Some(parse_hex(value).ok_or(wrong("down", "64 hexadecimal digits in quotes"))?);
                }
                _ => return Err(KeyFileError::Line { line }),
            }
        }
        let missing = |name| KeyFileError::Missing { name };
        Ok(Self {
            device: device.ok_or(missing("device"))?,
            key_id: key_id.ok_or(missing("key_id"))?,
            up: up.ok_or(missing("up"))?,
            down: down.ok_or(missing("down"))?,
        })
    }

    /// The key of one direction, ready for frames.
    pub fn key(&self, direction: Direction) -> FrameKey {
        FrameKey::new(
            self.key_id,
            match direction {
                Direction::Up => &self.up,
                Direction::Down => &self.down,
            },
        )
    }

    /// The file's text, secrets included: write it where only its device can read it.
    pub fn to_file(&self) -> impl fmt::Display {
        KeyFile(self.clone())
    }
}

impl fmt::Debug for DeviceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKeys({}, {}, secret)", self.device, self.key_id)
    }
}

struct KeyFile(DeviceKeys);

impl fmt::Display for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DeviceKeys { device, key_id, up, down } = &self.0;
        writeln!(f, "# Telemetry keys of one device. Secret.\ndevice = {device}\nkey_id = {key_id}")?;
        for (name, key) in [("up", up), ("down", down)] {
            write!(f, "{name} = \"")?;
            key.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            f.write_str("\"\n")?;
        }
        Ok(())
    }
}

/// 32 bytes from 64 hexadecimal digits, with or without quotes around them.
pub fn parse_hex(text: &str) -> Option<[u8; KEY_LENGTH]> {
    let digits = text.trim().trim_matches('"').as_bytes();
    if digits.len() != 2 * KEY_LENGTH {
        return None;
    }
    let mut key = [0; KEY_LENGTH];
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_broken_key_file_is_refused_with_its_line() {
        let good = FleetKey::new([1; 32]).device_keys(0, 9).to_file().to_string();
        assert!(DeviceKeys::parse(&good).is_ok());
        let error = |from: &str, to: &str| DeviceKeys::parse(&good.replace(from, to)).unwrap_err();
        assert_eq!(error("device = 9\n", ""), KeyFileError::Missing { name: "device" });
        assert_eq!(error("key_id = 0", "key = 0"), KeyFileError::Line { line: 3 });
        assert!(matches!(
            error("key_id = 0", "key_id = 16"),
            KeyFileError::Value { line: 3, name: "key_id", .. }
        ));
        assert!(matches!(error("up = \"", "up = \"z"), KeyFileError::Value { line: 4, name: "up", .. }));
        assert_eq!(error("device = 9", "device"), KeyFileError::Line { line: 2 });
    }
}
