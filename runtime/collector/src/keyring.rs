//! The fleet's keys: several generations at once, revoked devices, and the file that holds them.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use pilotlight_wire::{DeviceKeys, Direction, FleetKey, FrameKey, KEY_IDS, KEY_LENGTH, parse_hex};
use serde::Deserialize;
use thiserror::Error;

/// A fleet key file that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// The file cannot be read or written.
    #[error("fleet key file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not written as it must be. Its text is not shown: it holds secrets.
    #[error("fleet key file: {0}; `pilotlight wire keygen --fleet FILE` writes one")]
    Syntax(String),
    /// A key id out of range or given twice.
    #[error("fleet key file: key id {id} is {why}; ids are 0 to 15, each once")]
    Id {
        /// The id.
        id: u8,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A secret that is not 32 bytes.
    #[error("fleet key file: the secret of key {id} is not 64 hexadecimal digits")]
    Secret {
        /// The key's id.
        id: u8,
    },
    /// No key to give to devices.
    #[error("fleet key file: current = {id} names no accepted key; add it or name another")]
    Current {
        /// The id named.
        id: u8,
    },
    /// The system gave no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
}

/// The text of a fleet key file (TOML).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetFile {
    current: u8,
    #[serde(default)]
    revoked_devices: Vec<u32>,
    #[serde(default)]
    key: Vec<FileKey>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKey {
    id: u8,
    secret: String,
    #[serde(default)]
    revoked: bool,
}

impl std::fmt::Debug for FileKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileKey({}, secret)", self.id)
    }
}

/// Fleet keys by generation, and who is refused.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    current: u8,
    keys: [Option<FleetKey>; KEY_IDS as usize],
    revoked_keys: [bool; KEY_IDS as usize],
    revoked_devices: HashSet<u32>,
}

/// What a keyring says of a device and key id.
pub(crate) enum Lookup<'a> {
    Key(&'a FleetKey),
    Unknown,
    Revoked,
}

impl Keyring {
    /// A keyring of one key.
    pub fn single(key_id: u8, key: FleetKey) -> Self {
        let mut ring = Self { current: key_id, ..Self::default() };
        if let Some(place) = ring.keys.get_mut(usize::from(key_id)) {
            *place = Some(key);
        }
        ring
    }

    /// Adds an accepted generation, as rotation does.
    pub fn with_key(mut self, key_id: u8, key: FleetKey) -> Self {
        if let Some(place) = self.keys.get_mut(usize::from(key_id)) {
            *place = Some(key);
        }
        self
    }

    /// Refuses a device from now on.
    pub fn revoke_device(&mut self, device: u32) {
        self.revoked_devices.insert(device);
    }

    /// Refuses a generation from now on.
    pub fn revoke_key(&mut self, key_id: u8) {
        if let Some(revoked) = self.revoked_keys.get_mut(usize::from(key_id)) {
            *revoked = true;
        }
    }

    /// Reads a fleet key file.
    ///
    /// # Errors
    /// Says what is wrong without showing a secret.
    pub fn load(path: &Path) -> Result<Self, KeyringError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| KeyringError::Io { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Reads a fleet key file's text.
    ///
    /// # Errors
    /// As [`Keyring::load`].
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        // toml's full message quotes the line, and the line may be a secret.
        let file: FleetFile =
            toml::from_str(text).map_err(|error| KeyringError::Syntax(error.message().to_owned()))?;
        let mut ring = Self { current: file.current, ..Self::default() };
        for FileKey { id, secret, revoked } in &file.key {
            let place = ring.keys.get_mut(usize::from(*id));
            let place = place.ok_or(KeyringError::Id { id: *id, why: "above 15" })?;
            if place.is_some() {
                return Err(KeyringError::Id { id: *id, why: "given twice" });
            }
            *place = Some(FleetKey::new(parse_hex(secret).ok_or(KeyringError::Secret { id: *id })?));
            ring.revoked_keys[usize::from(*id)] = *revoked;
        }
        ring.revoked_devices = file.revoked_devices.into_iter().collect();
        if !matches!(ring.look_up(0, ring.current), Lookup::Key(_)) && !ring.revoked_devices.contains(&0) {
            return Err(KeyringError::Current { id: ring.current });
        }
        Ok(ring)
    }

    pub(crate) fn look_up(&self, device: u32, key_id: u8) -> Lookup<'_> {
        let at = usize::from(key_id);
        match self.keys.get(at).and_then(Option::as_ref) {
            _ if self.revoked_devices.contains(&device) => Lookup::Revoked,
            None => Lookup::Unknown,
            Some(_) if self.revoked_keys[at] => Lookup::Revoked,
            Some(key) => Lookup::Key(key),
        }
    }

    /// The current generation and its secret, for simulated devices; `None` without one.
    pub fn current_key(&self) -> Option<(u8, FleetKey)> {
        Some((self.current, self.keys.get(usize::from(self.current))?.clone()?))
    }

    /// What goes into a device's key file, under the current generation; `None` without a current key.
    pub fn device_keys(&self, device: u32) -> Option<DeviceKeys> {
        Some(self.keys.get(usize::from(self.current))?.as_ref()?.device_keys(self.current, device))
    }

    /// The key that frames to `device` are sealed with: the generation that it used last, or `None` where refused.
    pub(crate) fn down_key(&self, device: u32, key_id: u8) -> Option<FrameKey> {
        match self.look_up(device, key_id) {
            Lookup::Key(key) => Some(key.derive(Direction::Down, key_id, device)),
            _ => None,
        }
    }
}

/// The text of a new fleet key file, or of an old one with one more generation, which becomes the current one.
///
/// # Errors
/// The old text cannot be read, all 16 ids are taken, or the system gave no random bytes.
pub fn new_fleet_key(old: Option<&str>) -> Result<String, KeyringError> {
    let mut secret = [0; KEY_LENGTH];
    getrandom::fill(&mut secret).map_err(|error| KeyringError::Random(error.to_string()))?;
    let mut file = match old {
        None => FleetFile::default(),
        Some(text) => {
            Keyring::parse(text)?;
            toml::from_str(text).map_err(|error| KeyringError::Syntax(error.message().to_owned()))?
        }
    };
    let free = (0..KEY_IDS).map(|ahead| (file.current + ahead) % KEY_IDS);
    let id = free.into_iter().find(|id| file.key.iter().all(|key| key.id != *id));
    let id =
        id.ok_or(KeyringError::Id { id: file.current, why: "one of 16 in use: remove a retired key" })?;
    let secret = secret.iter().fold(String::new(), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    file.key.push(FileKey { id, secret, revoked: false });
    file.current = id;
    let mut text = format!(
        "# Telemetry keys of a fleet. Secret: whoever has this can speak for every device.\n\
         # New devices get the current key; all keys that are not revoked are accepted.\n\
         current = {}\nrevoked_devices = {:?}\n",
        file.current, file.revoked_devices
    );
    for FileKey { id, secret, revoked } in &file.key {
        let _ = write!(text, "\n[[key]]\nid = {id}\nsecret = \"{secret}\"\nrevoked = {revoked}\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_added_and_revoked() {
        let first = new_fleet_key(None).unwrap();
        let ring = Keyring::parse(&first).unwrap();
        assert_eq!(ring.device_keys(9).unwrap().key_id, 0);
        let second = new_fleet_key(Some(&first)).unwrap();
        let ring = Keyring::parse(&second).unwrap();
        assert_eq!(ring.device_keys(9).unwrap().key_id, 1);
        assert!(
            matches!(ring.look_up(9, 0), Lookup::Key(_)) && matches!(ring.look_up(9, 2), Lookup::Unknown)
        );
        let revoked =
            second.replacen("revoked = false", "revoked = true", 1).replace("devices = []", "devices = [9]");
        let ring = Keyring::parse(&revoked).unwrap();
        assert!(
            matches!(ring.look_up(8, 0), Lookup::Revoked) && matches!(ring.look_up(8, 1), Lookup::Key(_))
        );
        assert!(matches!(ring.look_up(9, 1), Lookup::Revoked));
        let mut text = first;
        for _ in 1..16 {
            text = new_fleet_key(Some(&text)).unwrap();
        }
        assert!(matches!(new_fleet_key(Some(&text)), Err(KeyringError::Id { .. })));
    }

    #[test]
    fn a_broken_fleet_file_is_refused_without_showing_a_secret() {
        let good = new_fleet_key(None).unwrap();
        let secret = good.split("secret = \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        for (from, to) in [
            ("current = 0", "current = 3"),
            ("current = 0", "curent = 0"),
            ("id = 0", "id = 16"),
            ("secret = \"", "secret = \"x"),
            ("secret = ", "secret "),
            ("revoked = false", "revoked = 1"),
        ] {
            let error = Keyring::parse(&good.replace(from, to)).unwrap_err();
            assert!(!format!("{error} {error:?}").contains(&secret), "{from} -> {to}: {error}");
        }
    }
}
