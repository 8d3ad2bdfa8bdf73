//! SQLite: every frame once, durable before it is acknowledged.
//!
//! `frames` is the log. `streams` (what has come of each boot) and `rollups` are a checkpoint of it, written together
//! every few seconds; opening the store adds the frames that came after the checkpoint, so a killed collector
//! neither forgets a frame nor counts one twice.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use pilotlight_units::{Bytes, Micros};
use pilotlight_wire::{Arrival, Hello, Kind, Message, Report, SPAN, Window};
use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, params};
use thiserror::Error;

use crate::batch::{Batch, Item, Reply};
use crate::rollup::{Deltas, LEVELS, Rollup};
use crate::stream::{Stream, is_downward};

const SCHEMA_VERSION: i64 = 1;
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS frames(
    device INTEGER NOT NULL, boot INTEGER NOT NULL, sequence INTEGER NOT NULL,
    kind INTEGER NOT NULL, at_ms INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY(device, boot, sequence)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS streams(
    device INTEGER NOT NULL, boot INTEGER NOT NULL,
    floor INTEGER NOT NULL, highest INTEGER NOT NULL, given_up INTEGER NOT NULL, bits BLOB NOT NULL,
    stored INTEGER NOT NULL, dropped INTEGER NOT NULL, closed INTEGER NOT NULL,
    offset_us INTEGER, uncertainty_us INTEGER,
    PRIMARY KEY(device, boot)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rollups(
    device INTEGER NOT NULL, level INTEGER NOT NULL, start_ms INTEGER NOT NULL,
    reports INTEGER NOT NULL, count INTEGER NOT NULL, energy_count INTEGER NOT NULL,
    gross_uj INTEGER NOT NULL, net_uj INTEGER NOT NULL, sources INTEGER NOT NULL,
    p50_sum INTEGER NOT NULL, latency_count INTEGER NOT NULL, p99_us INTEGER NOT NULL, max_us INTEGER NOT NULL,
    misses INTEGER NOT NULL, throttled INTEGER NOT NULL, over_current INTEGER NOT NULL, hottest INTEGER NOT NULL,
    PRIMARY KEY(device, level, start_ms)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS devices(
    device INTEGER PRIMARY KEY, name TEXT NOT NULL, board TEXT NOT NULL, firmware TEXT NOT NULL,
    rail TEXT NOT NULL, plans TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS commands(
    id INTEGER PRIMARY KEY, device INTEGER NOT NULL, body BLOB NOT NULL,
    boot INTEGER, sequence INTEGER, sent INTEGER NOT NULL DEFAULT 0);
";
const INSERT_FRAME: &str = "INSERT OR IGNORE INTO frames VALUES(?, ?, ?, ?, ?, ?)";

/// A store that cannot be used, or a batch that could not be made durable.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// SQLite refused.
    #[error("store {}: {source}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// No room: nothing of the batch was stored, and nothing of it is acknowledged.
    #[error("store {}: no room; free space or lower the retention", path.display())]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// The database is another program's or a later version's.
    #[error("store {} has schema version {found}, this collector knows {allowed}; use the collector that made it", path.display())]
    Version {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The version known.
        allowed: i64,
    },
}

/// How much is kept.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Frames older than this are deleted.
    pub keep_frames: Micros,
    /// Roll-ups of 1 s and 1 min older than this are deleted; those of 1 h stay until the cap.
    pub keep_rollups: [Micros; 2],
    /// The database's size above which the oldest frames go.
    pub cap: Bytes,
    /// Streams held in memory; the least used go to the database.
    pub streams: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        let day = 86_400;
        Self {
            keep_frames: Micros::from_secs(7 * day),
            keep_rollups: [Micros::from_secs(day), Micros::from_secs(90 * day)],
            cap: Bytes(16 << 30),
            streams: 200_000,
        }
    }
}

/// What storing a batch came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Frames stored.
    pub stored: u64,
    /// Frames that had been stored before.
    pub duplicates: u64,
    /// Frames that had been given up before they came.
    pub late: u64,
    /// Stored frames whose body does not read as its kind.
    pub unreadable: u64,
}

/// The store and what it knows of every stream.
pub struct Store {
    pub(crate) db: Connection,
    path: PathBuf,
    config: StoreConfig,
    pub(crate) streams: HashMap<(u32, u32), Stream>,
    deltas: Deltas,
    commit: u64,
}

/// A fresh frame of a transaction, by its batch and place there.
struct Fresh {
    batch: usize,
    item: usize,
    at_ms: i64,
}

impl Store {
    /// Opens or makes the database, and catches up with frames that came after its last checkpoint.
    ///
    /// # Errors
    /// The file cannot be used, or is another schema's.
    pub fn open(path: &Path, config: StoreConfig) -> Result<Self, StoreError> {
        let wrap = |source| error(path, source);
        let db = Connection::open(path).map_err(wrap)?;
        // Acknowledged means durable: a commit returns when the write-ahead log is on the disk. The log may grow to
        // 64 MiB: a fleet's streams end in the same pages commit after commit, and are copied back once.
        db.execute_batch(
            "PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
             PRAGMA busy_timeout=10000; PRAGMA cache_size=-65536; PRAGMA wal_autocheckpoint=16384;",
        )
        .map_err(wrap)?;
        let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(wrap)?;
        let tables: i64 =
            db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(wrap)?;
        if found != SCHEMA_VERSION && (found != 0 || tables != 0) {
            return Err(StoreError::Version { path: path.to_owned(), found, allowed: SCHEMA_VERSION });
        }
        db.execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"))
            .map_err(wrap)?;
        db.set_prepared_statement_cache_capacity(32);
        let mut store = Self {
            db,
            path: path.to_owned(),
            config,
            streams: HashMap::new(),
            deltas: Deltas::default(),
            commit: 0,
        };
        store.catch_up()?;
        Ok(store)
    }

    /// Stores what is fresh in `batches` in one transaction; when this returns it is durable.
    /// `each` hears of every fresh frame after the commit, with its wall time in milliseconds.
    ///
    /// # Errors
    /// Nothing was stored, and memory is as before: nothing of the batches may be acknowledged.
    pub fn store(
        &mut self,
        batches: &[Batch],
        mut each: impl FnMut(&Item, Option<&Message>, i64),
    ) -> Result<Stored, StoreError> {
        let mut outcome = Stored::default();
        let mut fresh = Vec::new();
        self.commit += 1;
        self.load_streams(batches)?;
        self.insert(batches, &mut fresh, &mut outcome).map_err(|source| error(&self.path, source))?;
        for Fresh { batch, item, at_ms } in fresh {
            let (batch, item) = (&batches[batch], &batches[batch].items()[item]);
            let message = readable(item.kind, batch.body(item));
            outcome.unreadable += u64::from(message.is_none());
            self.settle(item, message.as_ref(), at_ms);
            each(item, message.as_ref(), at_ms);
        }
        for item in batches.iter().flat_map(Batch::items) {
            if let Some(stream) = self.streams.get_mut(&(item.header.device, item.header.boot)) {
                if let Some(held) = item.header.held {
                    stream.window.give_up_below(held);
                    stream.dirty = true;
                }
                if item.reply != Reply::None {
                    (stream.reply, stream.key_id) = (item.reply, item.key_id);
                }
            }
        }
        Ok(outcome)
    }

    /// Writes streams and roll-ups that changed since the last time.
    ///
    /// # Errors
    /// Nothing was written; it will be by the next call that succeeds.
    pub fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.write_checkpoint().map_err(|source| error(&self.path, source))?;
        self.deltas.buckets.clear();
        self.streams.values_mut().for_each(|stream| stream.dirty = false);
        if self.streams.len() > self.config.streams {
            let mut touched: Vec<u64> = self.streams.values().map(|stream| stream.touched).collect();
            let half = touched.len() / 2;
            let (_, &mut middle, _) = touched.select_nth_unstable(half);
            self.streams.retain(|_, stream| stream.touched > middle);
        }
        Ok(())
    }

    /// Deletes what is older than configured, and the oldest frames while the database is above its cap.
    /// Returns the frames deleted.
    ///
    /// # Errors
    /// SQLite refused; what was deleted so far stays deleted.
    pub fn retain(&mut self, now_us: u64) -> Result<u64, StoreError> {
        // A frame that is deleted before its stream's checkpoint could be accepted again after a crash.
        self.checkpoint()?;
        let before = |keep: Micros| (now_us.saturating_sub(keep.0) / 1000) as i64;
        let run = || {
            let mut deleted = self.delete_frames_before(before(self.config.keep_frames))?;
            for (level, keep) in LEVELS.iter().zip(self.config.keep_rollups) {
                self.db.execute(
                    "DELETE FROM rollups WHERE level = ? AND start_ms < ?",
                    params![level, before(keep)],
                )?;
            }
            let mut cut = before(self.config.keep_frames);
            while self.used()? > self.config.cap.0 {
                let oldest: Option<i64> =
                    self.db.query_row("SELECT min(at_ms) FROM frames", [], |row| row.get(0))?;
                let now = (now_us / 1000) as i64;
                let Some(oldest) = oldest.filter(|&oldest| oldest <= now) else { break };
                // An eighth of the time at once, and at least a second, so that this ends.
                cut = cut.max(oldest + ((now - oldest) / 8).max(1000));
                deleted += self.delete_frames_before(cut)?;
            }
            self.db.execute_batch("PRAGMA incremental_vacuum")?;
            Ok(deleted)
        };
        run().map_err(|source| error(&self.path, source))
    }

    /// Deletes what is known of a device: frames, roll-ups and names. Sequence floors stay, so that its old frames
    /// cannot be stored again; they hold no measurement. Returns the frames deleted.
    ///
    /// # Errors
    /// SQLite refused.
    pub fn delete_device(&mut self, device: u32) -> Result<u64, StoreError> {
        self.checkpoint()?;
        let mut run = || {
            let transaction = self.db.transaction()?;
            let deleted = transaction.execute("DELETE FROM frames WHERE device = ?", [device])?;
            transaction.execute("DELETE FROM rollups WHERE device = ?", [device])?;
            transaction.execute("DELETE FROM devices WHERE device = ?", [device])?;
            transaction.execute("DELETE FROM commands WHERE device = ?", [device])?;
            transaction.commit()?;
            self.db.execute_batch("PRAGMA incremental_vacuum")?;
            Ok(deleted as u64)
        };
        run().map_err(|source| error(&self.path, source))
    }

    /// Device numbers with name, board, firmware and rail as their last Hello said.
    ///
    /// # Errors
    /// SQLite refused.
    pub(crate) fn known_devices(&self) -> Result<Vec<(u32, [String; 4])>, StoreError> {
        let read = || {
            let mut select = self.db.prepare("SELECT device, name, board, firmware, rail FROM devices")?;
            let rows = select.query_map([], |row| {
                Ok((row.get(0)?, [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?]))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|source| error(&self.path, source))
    }

    /// Limits the database to `pages` pages: the tests' full disk.
    ///
    /// # Errors
    /// SQLite refused.
    pub fn limit_pages(&mut self, pages: u32) -> Result<(), StoreError> {
        let set = self.db.query_row(&format!("PRAGMA max_page_count={pages}"), [], |_| Ok(()));
        set.map_err(|source| error(&self.path, source))
    }

    /// Frames in the database.
    ///
    /// # Errors
    /// SQLite refused.
    pub fn frames(&self) -> Result<u64, StoreError> {
        let count = self.db.query_row("SELECT count(*) FROM frames", [], |row| row.get::<_, i64>(0));
        count.map(|count| count as u64).map_err(|source| error(&self.path, source))
    }

    fn used(&self) -> rusqlite::Result<u64> {
        let number =
            |name: &str| self.db.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
        Ok(((number("page_count")? - number("freelist_count")?) * number("page_size")?) as u64)
    }

    fn settle(&mut self, item: &Item, message: Option<&Message>, at_ms: i64) {
        let (device, boot) = (item.header.device, item.header.boot);
        let commit = self.commit;
        let stream = self.streams.entry((device, boot)).or_default();
        stream.settle(item.header.sequence, message);
        stream.touched = commit;
        if let Some(Message::Report(report)) = message {
            self.deltas.add(device, at_ms, report);
        }
    }

    fn insert(
        &mut self,
        batches: &[Batch],
        fresh: &mut Vec<Fresh>,
        outcome: &mut Stored,
    ) -> rusqlite::Result<()> {
        // Dropped without a commit, it rolls back.
        let transaction = self.db.unchecked_transaction()?;
        {
            let mut insert = self.db.prepare_cached(INSERT_FRAME)?;
            for (batch_at, batch) in batches.iter().enumerate() {
                for (item_at, item) in batch.items().iter().enumerate() {
                    let header = &item.header;
                    let Some(stream) = self.streams.get_mut(&(header.device, header.boot)) else { continue };
                    match stream.check(header.sequence) {
                        Arrival::Duplicate => outcome.duplicates += 1,
                        Arrival::Late => outcome.late += 1,
                        Arrival::Fresh => {
                            let body = batch.body(item);
                            let message = readable(item.kind, body);
                            let at_ms = stream.place(message.as_ref(), item.arrived);
                            let row = params![
                                header.device,
                                header.boot,
                                header.sequence,
                                item.kind.0,
                                at_ms,
                                body
                            ];
                            if insert.execute(row)? == 1 {
                                outcome.stored += 1;
                                fresh.push(Fresh { batch: batch_at, item: item_at, at_ms });
                            } else {
                                outcome.duplicates += 1;
                            }
                            if let Some(Message::Hello(hello)) = &message {
                                save_hello(&self.db, header.device, hello)?;
                            }
                        }
                    }
                }
            }
        }
        transaction.commit()
    }

    /// Makes sure that every stream of `batches` is in memory.
    fn load_streams(&mut self, batches: &[Batch]) -> Result<(), StoreError> {
        for item in batches.iter().flat_map(Batch::items) {
            let id = (item.header.device, item.header.boot);
            if !self.streams.contains_key(&id) {
                let stream = self.load(id).map_err(|source| error(&self.path, source))?;
                self.streams.insert(id, stream.unwrap_or_default());
            }
        }
        Ok(())
    }

    /// A stream as its checkpoint has it, and what came after it.
    fn load(&mut self, id: (u32, u32)) -> rusqlite::Result<Option<Stream>> {
        let found = self
            .db
            .prepare_cached("SELECT * FROM streams WHERE device = ? AND boot = ?")?
            .query_row([id.0, id.1], read_stream)
            .optional()?;
        Ok(found)
    }

    /// Adds the frames that came after the checkpoint to streams and roll-ups.
    fn catch_up(&mut self) -> Result<(), StoreError> {
        let mut id = Some((0, 0));
        let mut first = true;
        while let Some(after) = id {
            id = self.next_stream(after, first).map_err(|source| error(&self.path, source))?;
            first = false;
            let Some(id) = id else { break };
            self.catch_up_stream(id).map_err(|source| error(&self.path, source))?;
            if self.streams.len() > self.config.streams {
                self.checkpoint()?;
            }
        }
        self.checkpoint()
    }

    fn next_stream(&self, after: (u32, u32), first: bool) -> rusqlite::Result<Option<(u32, u32)>> {
        let than = if first { ">=" } else { ">" };
        self.db
            .prepare_cached(&format!(
                "SELECT device, boot FROM frames WHERE (device, boot) {than} (?, ?) ORDER BY device, boot LIMIT 1"
            ))?
            .query_row([after.0, after.1], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
    }

    fn catch_up_stream(&mut self, id: (u32, u32)) -> rusqlite::Result<()> {
        let mut stream = self.load(id)?.unwrap_or_default();
        {
            let mut select = self.db.prepare_cached(
                "SELECT sequence, kind, at_ms, body FROM frames WHERE device = ? AND boot = ? AND sequence > ?",
            )?;
            let mut rows = select.query([id.0, id.1, stream.window.floor()])?;
            while let Some(row) = rows.next()? {
                let sequence = row.get(0)?;
                // Frames of the span that the checkpoint already counted.
                if stream.check(sequence) != Arrival::Fresh {
                    continue;
                }
                let message = readable(Kind(row.get(1)?), row.get_ref(3)?.as_blob()?);
                stream.settle(sequence, message.as_ref());
                if let Some(Message::Report(report)) = &message {
                    self.deltas.add(id.0, row.get(2)?, report);
                }
            }
        }
        self.streams.insert(id, stream);
        Ok(())
    }

    fn write_checkpoint(&mut self) -> rusqlite::Result<()> {
        let transaction = self.db.unchecked_transaction()?;
        {
            let mut put = self
                .db
                .prepare_cached("INSERT OR REPLACE INTO streams VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
            for ((device, boot), stream) in self.streams.iter().filter(|(_, stream)| stream.dirty) {
                let window = &stream.window;
                let bits: Vec<u8> = window.bits().iter().flat_map(|word| word.to_le_bytes()).collect();
                put.execute(params![
                    device,
                    boot,
                    window.floor(),
                    window.highest(),
                    window.given_up(),
                    bits,
                    stream.stored as i64,
                    stream.dropped,
                    stream.closed,
                    stream.offset.micros,
                    stream.offset.uncertainty.map(|us| us.min(i64::MAX as u64) as i64),
                ])?;
            }
            let mut add = self.db.prepare_cached(
                "INSERT INTO rollups VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                 ON CONFLICT(device, level, start_ms) DO UPDATE SET
                 reports = reports + excluded.reports, count = count + excluded.count,
                 energy_count = energy_count + excluded.energy_count, gross_uj = gross_uj + excluded.gross_uj,
                 net_uj = net_uj + excluded.net_uj, sources = sources | excluded.sources,
                 p50_sum = p50_sum + excluded.p50_sum, latency_count = latency_count + excluded.latency_count,
                 p99_us = max(p99_us, excluded.p99_us), max_us = max(max_us, excluded.max_us),
                 misses = misses + excluded.misses, throttled = throttled + excluded.throttled,
                 over_current = over_current + excluded.over_current, hottest = max(hottest, excluded.hottest)",
            )?;
            for ((device, level, start), sum) in &self.deltas.buckets {
                // SQLite's integers end at 2^63; sums that large are not energies.
                let number = |value: u64| value.min(1 << 53) as i64;
                add.execute(params![
                    device,
                    level,
                    start,
                    number(sum.reports),
                    number(sum.count),
                    number(sum.energy_count),
                    number(sum.gross_uj),
                    number(sum.net_uj),
                    sum.sources,
                    number(sum.p50_sum),
                    number(sum.latency_count),
                    number(sum.p99_us),
                    number(sum.max_us),
                    number(sum.misses),
                    number(sum.throttled),
                    number(sum.over_current),
                    sum.hottest,
                ])?;
            }
        }
        transaction.commit()
    }

    /// Deletes old frames stream by stream from the low end: times in a stream grow with its sequences.
    fn delete_frames_before(&self, at_ms: i64) -> rusqlite::Result<u64> {
        let mut deleted = 0;
        let mut id = self.next_stream((0, 0), true)?;
        while let Some((device, boot)) = id {
            let first_kept: Option<u32> = self
                .db
                .prepare_cached(
                    "SELECT sequence FROM frames WHERE device = ? AND boot = ? AND at_ms >= ? ORDER BY sequence LIMIT 1",
                )?
                .query_row(params![device, boot, at_ms], |row| row.get(0))
                .optional()?;
            deleted += self
                .db
                .prepare_cached("DELETE FROM frames WHERE device = ? AND boot = ? AND sequence < ?")?
                .execute(params![device, boot, first_kept.map_or(i64::MAX, i64::from)])?;
            id = self.next_stream((device, boot), false)?;
        }
        Ok(deleted as u64)
    }
}

fn readable(kind: Kind, body: &[u8]) -> Option<Message<'_>> {
    if is_downward(kind) {
        return Some(Message::Unknown { kind: kind.0, body });
    }
    Message::decode(kind, body).ok()
}

fn save_hello(db: &Connection, device: u32, hello: &Hello) -> rusqlite::Result<()> {
    let plans: Vec<String> =
        hello.plans.iter().map(|plan| plan.hash.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    db.prepare_cached("INSERT OR REPLACE INTO devices VALUES(?, ?, ?, ?, ?, ?)")?.execute(params![
        device,
        hello.name,
        hello.board,
        hello.firmware,
        hello.rail,
        plans.join(" ")
    ])?;
    Ok(())
}

fn read_stream(row: &Row) -> rusqlite::Result<Stream> {
    let blob = row.get_ref(5)?.as_blob()?;
    let mut bits = [0; SPAN as usize / 64];
    if blob.len() != 8 * bits.len() {
        return Err(rusqlite::Error::InvalidColumnType(5, "bits".into(), Type::Blob));
    }
    for (word, bytes) in bits.iter_mut().zip(blob.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    // The clock's offset is measured anew: since then either clock may have been set.
    Ok(Stream {
        window: Window::restore(row.get(2)?, row.get(3)?, row.get(4)?, bits),
        stored: row.get::<_, i64>(6)? as u64,
        dropped: row.get(7)?,
        closed: row.get(8)?,
        ..Stream::default()
    })
}

pub(crate) fn read_rollup(row: &Row, from: usize) -> rusqlite::Result<Rollup> {
    let number = |at: usize| row.get::<_, i64>(from + at).map(|value| value as u64);
    Ok(Rollup {
        reports: number(0)?,
        count: number(1)?,
        energy_count: number(2)?,
        gross_uj: number(3)?,
        net_uj: number(4)?,
        sources: row.get(from + 5)?,
        p50_sum: number(6)?,
        latency_count: number(7)?,
        p99_us: number(8)?,
        max_us: number(9)?,
        misses: number(10)?,
        throttled: number(11)?,
        over_current: number(12)?,
        hottest: row.get(from + 13)?,
    })
}

/// A report from a stored frame; `None` for other kinds and unreadable ones.
pub(crate) fn stored_report(kind: u8, body: &[u8]) -> Option<Report> {
    match readable(Kind(kind), body)? {
        Message::Report(report) => Some(report),
        _ => None,
    }
}

fn error(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        _ => StoreError::Sqlite { path, source },
    }
}
