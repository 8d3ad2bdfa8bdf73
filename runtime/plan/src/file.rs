//! The `.plan` file: a 64-byte preamble, the header (postcard), and the weights at a 64-byte boundary.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `PILOTPLN` |
//! | 8..12 | format version, u32 little-endian |
//! | 12..16 | length of the header, u32 |
//! | 16..24 | length of the weights, u64 |
//! | 24..32 | zero |
//! | 32..48 | XXH3-128 of bytes 0..32 and of all bytes from 64 on, little-endian |
//! | 48..64 | zero |
//! | 64.. | header, zeros up to a multiple of 64, weights |
//!
//! The hash finds damage and is fast; it proves no origin. A file is read whole, not mapped: a mapped file that another
//! process shortens ends in SIGBUS, which a library cannot turn into an error, and reading five megabytes takes
//! a millisecond or two.

use crate::arena::{ALIGN, align};
use crate::validate::{Invalid, validate};
use crate::{Plan, Weights};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The version of the format that [`Plan::to_bytes`] writes; the only one so far that [`Plan::from_bytes`] reads.
pub const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"PILOTPLN";
const PREAMBLE: usize = 64;

/// Why a plan could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file could not be read.
    #[error("plan file {path}: {source}")]
    Io {
        /// The path as given.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The first bytes are not those of a plan.
    #[error(
        "not a plan: the file begins with {found:02x?}, a plan with \"PILOTPLN\"; compile the model with `pilotlight compile`"
    )]
    Magic {
        /// The first bytes (fewer than eight in a shorter file).
        found: Vec<u8>,
    },
    /// Written by a newer (or unknown) version.
    #[error(
        "plan format {found}; this build reads format {FORMAT}: compile the model again, or update Pilotlight"
    )]
    Version {
        /// The version that the file states.
        found: u32,
    },
    /// The file's length does not fit its preamble.
    #[error(
        "plan is {found} bytes long, its preamble says {expected}: the file is truncated or damaged; copy it again"
    )]
    Length {
        /// Bytes present.
        found: u64,
        /// Bytes that the preamble announces.
        expected: u64,
    },
    /// The contents changed after the plan was written.
    #[error("plan is damaged: its hash does not fit its contents; copy or compile it again")]
    Hash,
    /// The header does not decode.
    #[error("plan header does not decode ({0}): compile the model again")]
    Header(postcard::Error),
    /// The header decodes into something that is no valid plan.
    #[error("plan is not valid: {0}")]
    Invalid(#[from] Invalid),
}

impl Plan {
    /// The plan as a file's bytes; the same plan gives the same bytes on every machine.
    ///
    /// # Panics
    /// When the header is over 4 GiB long, which no model comes near.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Writing to a growing Vec cannot fail, and every field has a postcard encoding.
        let header = postcard::to_allocvec(self).expect("a plan always encodes");
        let start = align((PREAMBLE + header.len()) as u64) as usize;
        let mut bytes = Vec::with_capacity(start + self.weights.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(header.len()).expect("header below 4 GiB").to_le_bytes());
        bytes.extend_from_slice(&(self.weights.len() as u64).to_le_bytes());
        bytes.resize(PREAMBLE, 0);
        bytes.extend_from_slice(&header);
        bytes.resize(start, 0);
        bytes.extend_from_slice(&self.weights);
        let hash = hash(&bytes);
        bytes[32..PREAMBLE].copy_from_slice(&hash);
        bytes
    }

    /// A plan from a file's bytes, checked and validated.
    ///
    /// # Errors
    /// [`PlanError`] for anything but an undamaged, valid plan of a known format.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, PlanError> {
        let (mut plan, start) = header(&bytes)?;
        plan.weights = Weights::owned(bytes, start);
        validate(&plan)?;
        Ok(plan)
    }

    /// A plan linked into the program (`include_bytes!`); the weights are used where they lie.
    ///
    /// # Errors
    /// As [`Plan::from_bytes`].
    pub fn from_static(bytes: &'static [u8]) -> Result<Self, PlanError> {
        let (mut plan, start) = header(bytes)?;
        plan.weights = Weights::linked(bytes, start);
        validate(&plan)?;
        Ok(plan)
    }

    /// A plan from a file.
    ///
    /// # Errors
    /// [`PlanError::Io`] when the file cannot be read, else as [`Plan::from_bytes`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PlanError> {
        let path = path.as_ref();
        let io = |source| PlanError::Io { path: path.display().to_string(), source };
        let mut file = File::open(path).map_err(io)?;
        let mut bytes = vec![0; PREAMBLE];
        let first = read_up_to(&mut file, &mut bytes).map_err(io)?;
        bytes.truncate(first);
        // The preamble first, so that a huge file of another kind is refused before it is read.
        let expected = announced(&bytes)?;
        let length = file.metadata().map_err(io)?.len();
        if length < expected.total {
            return Err(PlanError::Length { found: length, expected: expected.total });
        }
        file.take(expected.total + 1 - first as u64).read_to_end(&mut bytes).map_err(io)?;
        Self::from_bytes(bytes)
    }
}

/// A plan file's bytes with the hash that fits them; for tools that change a plan, and for tests. Bytes that are
/// no plan come back as they are.
pub fn rehash(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() >= PREAMBLE {
        let hash = hash(&bytes);
        bytes[32..PREAMBLE].copy_from_slice(&hash);
    }
    bytes
}

/// Reads until the buffer is full or the file ends.
fn read_up_to(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read(&mut buffer[n..])? {
            0 => break,
            k => n += k,
        }
    }
    Ok(n)
}

struct Announced {
    header: usize,
    start: u64,
    total: u64,
}

/// What the preamble announces: length of the header, start of the weights, length of the file.
fn announced(bytes: &[u8]) -> Result<Announced, PlanError> {
    if bytes.len() < 8 || bytes[..8] != MAGIC {
        return Err(PlanError::Magic { found: bytes[..bytes.len().min(8)].to_vec() });
    }
    let Some(preamble) = bytes.first_chunk::<PREAMBLE>() else {
        return Err(PlanError::Length { found: bytes.len() as u64, expected: PREAMBLE as u64 });
    };
    let u32_at =
        |i: usize| u32::from_le_bytes([preamble[i], preamble[i + 1], preamble[i + 2], preamble[i + 3]]);
    let version = u32_at(8);
    if version != FORMAT {
        return Err(PlanError::Version { found: version });
    }
    let header = u32_at(12) as usize;
    let weights = u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32;
    let start = (PREAMBLE as u64 + header as u64).next_multiple_of(ALIGN);
    Ok(Announced { header, start, total: start.saturating_add(weights) })
}

/// The decoded header (without weights) and where the weights start.
fn header(bytes: &[u8]) -> Result<(Plan, usize), PlanError> {
    let a = announced(bytes)?;
    if bytes.len() as u64 != a.total {
        return Err(PlanError::Length { found: bytes.len() as u64, expected: a.total });
    }
    if bytes[32..PREAMBLE] != hash(bytes) {
        return Err(PlanError::Hash);
    }
    let plan = postcard::from_bytes(&bytes[PREAMBLE..PREAMBLE + a.header]).map_err(PlanError::Header)?;
    Ok((plan, a.start as usize))
}

/// The last 32 bytes of the preamble of a plan file.
fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = twox_hash::XxHash3_128::new();
    hasher.write(&bytes[..32]);
    hasher.write(&bytes[PREAMBLE..]);
    let mut field = [0; 32];
    field[..16].copy_from_slice(&hasher.finish_128().to_le_bytes());
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arena, test_plan};

    fn sample() -> Vec<u8> {
        let mut plan = test_plan::chain(&[16, 32, 8]);
        arena::place(&mut plan);
        plan.weights = Weights::from(vec![7; 100]);
        plan.to_bytes()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample();
        let plan = Plan::from_bytes(bytes.clone()).unwrap();
        assert_eq!(plan.to_bytes(), bytes);
        assert_eq!(&*plan.weights, &[7; 100]);
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_an_error() {
        let bytes = sample();
        for n in 0..bytes.len() {
            assert!(Plan::from_bytes(bytes[..n].to_vec()).is_err(), "first {n} bytes");
            let mut bad = bytes.clone();
            bad[n] ^= 0x10;
            assert!(Plan::from_bytes(bad).is_err(), "byte {n} flipped");
        }
    }

    #[test]
    fn a_changed_plan_can_be_hashed_anew() {
        let mut bytes = sample();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert!(matches!(Plan::from_bytes(bytes.clone()), Err(PlanError::Hash)));
        assert!(Plan::from_bytes(rehash(bytes)).is_ok());
        assert!(rehash(vec![1, 2]) == [1, 2]);
    }

    #[test]
    fn a_newer_format_and_a_foreign_file_are_named() {
        let mut newer = sample();
        newer[8] = 2;
        assert!(matches!(Plan::from_bytes(newer), Err(PlanError::Version { found: 2 })));
        assert!(matches!(Plan::from_bytes(b"\x7fELF".to_vec()), Err(PlanError::Magic { .. })));
    }

    #[test]
    fn a_short_file_is_refused_before_its_length_is_believed() {
        let mut bytes = sample();
        bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        let path = std::env::temp_dir().join(format!("pilotlight-short-{}.plan", std::process::id()));
        std::fs::write(&path, &bytes).unwrap();
        let result = Plan::open(&path);
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(result, Err(PlanError::Length { expected: u64::MAX, .. })), "{result:?}");
    }
}
