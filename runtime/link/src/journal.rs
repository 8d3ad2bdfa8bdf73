//! The outbox's file: entries are appended, a torn last entry is found by its checksum and cut off.
//!
//! An entry is: mark (1 record, 2 settled), boot (4 bytes), sequence (4), kind (1), length (1), body, CRC-32 (4) of
//! all before; numbers least significant byte first. When settled entries outweigh live ones the file is written
//! anew beside itself and renamed.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crc::{CRC_32_ISO_HDLC, Crc};
use pilotlight_wire::Kind;
use thiserror::Error;

use crate::boot::replace;
use crate::outbox::Record;

const MAGIC: &[u8; 8] = b"PLOUTB\x00\x01";
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
const RECORD: u8 = 1;
const SETTLED: u8 = 2;
const HEAD: usize = 11;
const TAIL: usize = 4;
/// A file below this size is not worth writing anew.
const SMALL: u64 = 64 << 10;
/// No outbox writes a file above this size, so none is read.
const LARGEST: u64 = 256 << 20;

/// The outbox's file cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The system refused.
    #[error("outbox file {}: {source}; messages stay in memory only", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not an outbox file of version 1; move it away or name another", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// The file behind an outbox.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    length: u64,
    live: u64,
    torn: u64,
}

impl Journal {
    /// Opens or makes the file, and gives the records in it that were not settled, in the order of their making.
    ///
    /// # Errors
    /// The file cannot be read or written, or is not an outbox file. A torn end is not an error:
    /// [`Journal::torn_bytes`] tells how much was cut off.
    pub fn open(path: &Path) -> Result<(Self, Vec<Record>), JournalError> {
        let io_error = |source| JournalError::Io { path: path.to_owned(), source };
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io_error)?;
        let metadata = file.metadata().map_err(io_error)?;
        if !metadata.is_file() || metadata.len() > LARGEST {
            return Err(JournalError::Foreign { path: path.to_owned() });
        }
        let mut bytes = Vec::new();
        (&file).take(LARGEST).read_to_end(&mut bytes).map_err(io_error)?;
        if bytes.len() < MAGIC.len() && MAGIC.starts_with(&bytes) {
            // New, or its making was cut short: nothing was in it.
            file = replace(path, MAGIC).map_err(io_error)?;
            bytes = MAGIC.to_vec();
        }
        let Some(entries) = bytes.strip_prefix(MAGIC) else {
            return Err(JournalError::Foreign { path: path.to_owned() });
        };
        let (records, used) = read(entries);
        let length = (MAGIC.len() + used) as u64;
        let torn = (entries.len() - used) as u64;
        if torn > 0 {
            file.set_len(length).map_err(io_error)?;
            file.sync_all().map_err(io_error)?;
        }
        file.seek(SeekFrom::Start(length)).map_err(io_error)?;
        let live = records.iter().map(size).sum();
        Ok((Self { path: path.to_owned(), file, length, live, torn }, records))
    }

    /// Bytes of a torn end that opening cut off.
    pub fn torn_bytes(&self) -> u64 {
        self.torn
    }

    /// Appends a record; durable after the next [`Journal::sync`].
    ///
    /// # Errors
    /// The system refused, for example on a full disk; the file is as it was before.
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        self.write(&entry(RECORD, record))?;
        self.live += size(record);
        Ok(())
    }

    /// Notes that a record is done with.
    ///
    /// # Errors
    /// The system refused; at worst the record is sent again after a restart.
    pub fn settle(&mut self, record: &Record) -> Result<(), JournalError> {
        self.live = self.live.saturating_sub(size(record));
        let mark = Record { body: Box::default(), ..*record };
        self.write(&entry(SETTLED, &mark))
    }

    /// Makes durable what was appended.
    ///
    /// # Errors
    /// The system refused.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(|source| self.io_error(source))
    }

    /// True when the file is mostly of settled records.
    pub fn is_stale(&self) -> bool {
        self.length > SMALL && self.length > 2 * self.live
    }

    /// Writes the file anew with `records` alone.
    ///
    /// # Errors
    /// The system refused; the old file stays in use.
    pub fn rewrite<'a>(&mut self, records: impl Iterator<Item = &'a Record>) -> Result<(), JournalError> {
        let mut bytes = MAGIC.to_vec();
        records.for_each(|record| bytes.extend_from_slice(&entry(RECORD, record)));
        self.file = replace(&self.path, &bytes).map_err(|source| self.io_error(source))?;
        self.length = bytes.len() as u64;
        self.live = self.length - MAGIC.len() as u64;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        if let Err(source) = self.file.write_all(bytes) {
            // A half-written entry would hide every later one.
            let undone =
                self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
            return Err(self.io_error(undone.err().unwrap_or(source)));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn io_error(&self, source: io::Error) -> JournalError {
        JournalError::Io { path: self.path.clone(), source }
    }
}

fn size(record: &Record) -> u64 {
    (HEAD + record.body.len() + TAIL) as u64
}

fn entry(mark: u8, record: &Record) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + record.body.len() + TAIL);
    bytes.push(mark);
    bytes.extend_from_slice(&record.boot.to_le_bytes());
    bytes.extend_from_slice(&record.sequence.to_le_bytes());
    bytes.push(record.kind.0);
    bytes.push(record.body.len() as u8);
    bytes.extend_from_slice(&record.body);
    bytes.extend_from_slice(&CHECKSUM.checksum(&bytes).to_le_bytes());
    bytes
}

/// The live records, and how many bytes are whole entries.
fn read(bytes: &[u8]) -> (Vec<Record>, usize) {
    let mut live = std::collections::BTreeMap::new();
    let mut order = 0u64;
    let mut used = 0;
    while let Some((mark, record, length)) = first(&bytes[used..]) {
        if mark == RECORD {
            live.insert((record.boot, record.sequence), (order, record));
            order += 1;
        } else {
            live.remove(&(record.boot, record.sequence));
        }
        used += length;
    }
    let mut records: Vec<_> = live.into_values().collect();
    records.sort_by_key(|(order, _)| *order);
    (records.into_iter().map(|(_, record)| record).collect(), used)
}

fn first(bytes: &[u8]) -> Option<(u8, Record, usize)> {
    let head = bytes.first_chunk::<HEAD>()?;
    let end = HEAD + usize::from(head[10]);
    let checksum = bytes.get(end..)?.first_chunk::<TAIL>()?;
    if !matches!(head[0], RECORD | SETTLED)
        || CHECKSUM.checksum(&bytes[..end]) != u32::from_le_bytes(*checksum)
    {
        return None;
    }
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let body = bytes[HEAD..end].into();
    Some((head[0], Record { boot: number(1), sequence: number(5), kind: Kind(head[9]), body }, end + TAIL))
}
