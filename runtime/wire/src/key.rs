//! Keys: one secret per fleet and generation, from which every device and direction gets its own.

use core::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::frame::TAG;

/// Bytes in a fleet key and in a derived key.
pub const KEY_LENGTH: usize = 32;

/// Key generations that a frame can name: ids 0 to 15, reused after 16 rotations.
pub const KEY_IDS: u8 = 16;

const SALT: &[u8] = b"pilotlight telemetry v1";

/// Who seals with a key: a frame cannot be reflected to its sender, because each direction has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Device to collector.
    Up,
    /// Collector to device.
    Down,
}

/// The secret of one fleet and one key generation. It stays with the collector; devices hold derived keys only.
#[derive(Clone)]
pub struct FleetKey([u8; KEY_LENGTH]);

impl FleetKey {
    /// A fleet key from 32 random bytes.
    pub const fn new(secret: [u8; KEY_LENGTH]) -> Self {
        Self(secret)
    }

    /// The 32 bytes that `device` seals or opens frames of `direction` with, under generation `key_id`.
    ///
    /// # Source
    /// RFC 5869 with SHA-256; salt and info as PROTOCOL.md section 5 writes them.
    pub fn derive_bytes(&self, direction: Direction, key_id: u8, device: u32) -> [u8; KEY_LENGTH] {
        let mark = match direction {
            Direction::Up => b'U',
            Direction::Down => b'D',
        };
        let [a, b, c, d] = device.to_le_bytes();
        let mut key = [0; KEY_LENGTH];
        // RFC 5869 refuses outputs above 255 hashes only; this is one.
        let done = Hkdf::<Sha256>::new(Some(SALT), &self.0).expand(&[mark, key_id, a, b, c, d], &mut key);
        debug_assert!(done.is_ok());
        key
    }

    /// The key, ready for frames.
    pub fn derive(&self, direction: Direction, key_id: u8, device: u32) -> FrameKey {
        FrameKey::new(key_id, &self.derive_bytes(direction, key_id, device))
    }
}

impl fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetKey(secret)")
    }
}

/// A derived key with its HMAC state prepared, so that a frame costs two hash blocks fewer.
#[derive(Clone)]
pub struct FrameKey {
    key_id: u8,
    state: Hmac<Sha256>,
}

impl FrameKey {
    /// A frame key from derived bytes, as a device's key file holds them.
    pub fn new(key_id: u8, bytes: &[u8; KEY_LENGTH]) -> Self {
        // RFC 2104 pads a key with zeros to the hash's block.
        let mut block = [0; 64];
        block[..KEY_LENGTH].copy_from_slice(bytes);
        Self { key_id, state: <Hmac<Sha256> as KeyInit>::new(&block.into()) }
    }

    /// The generation that frames sealed with this key name.
    pub const fn key_id(&self) -> u8 {
        self.key_id
    }

    pub(crate) fn tag(&self, bytes: &[u8]) -> [u8; TAG] {
        let mut mac = self.state.clone();
        mac.update(bytes);
        let full = mac.finalize().into_bytes();
        let mut tag = [0; TAG];
        tag.copy_from_slice(&full[..TAG]);
        tag
    }

    /// Compares in constant time.
    pub(crate) fn matches(&self, bytes: &[u8], tag: &[u8]) -> bool {
        let mut mac = self.state.clone();
        mac.update(bytes);
        tag.len() == TAG && mac.verify_truncated_left(tag).is_ok()
    }
}

impl fmt::Debug for FrameKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameKey({}, secret)", self.key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn every_device_direction_and_generation_has_its_own_key() {
        let fleet = FleetKey::new([1; 32]);
        let base = fleet.derive_bytes(Direction::Up, 0, 5);
        assert_ne!(base, fleet.derive_bytes(Direction::Down, 0, 5));
        assert_ne!(base, fleet.derive_bytes(Direction::Up, 1, 5));
        assert_ne!(base, fleet.derive_bytes(Direction::Up, 0, 6));
        assert_ne!(base, FleetKey::new([2; 32]).derive_bytes(Direction::Up, 0, 5));
    }

    #[test]
    fn a_key_is_not_printed() {
        let fleet = FleetKey::new([0xab; 32]);
        let shown = format!("{fleet:?} {:?}", fleet.derive(Direction::Up, 3, 5));
        assert_eq!(shown, "FleetKey(secret) FrameKey(3, secret)");
    }
}
