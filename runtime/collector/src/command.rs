//! Commands to devices: queued in the database, sent with a sequence that was made durable first.

use std::path::Path;

use pilotlight_wire::{Command, EncodeError, Header, Kind, MAX_BODY, MAX_FRAME, Message, seal_body};
use rusqlite::{Connection, params};
use thiserror::Error;

use crate::batch::Reply;
use crate::keyring::Keyring;
use crate::store::{Store, StoreConfig, StoreError};

/// A command is sent this often, a second apart, as a link may lose it; the device carries it out once.
const SENDINGS: u32 = 5;
/// Commands that wait at once.
const WAITING: i64 = 10_000;

/// A command that cannot be queued.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database refused.
    #[error("command queue: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The command does not fit into a frame.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Too many wait.
    #[error("{found} commands wait, {allowed} are allowed; is the collector running?")]
    Full {
        /// Commands that wait.
        found: i64,
        /// Commands allowed.
        allowed: i64,
    },
}

/// Queues a command for a device; the collector of that database sends it when it next hears of the device.
///
/// # Errors
/// The database cannot be written, or too many commands wait.
pub fn queue_command(database: &Path, device: u32, command: &Command) -> Result<(), CommandError> {
    let mut body = [0; MAX_BODY];
    let length = Message::Command(*command).encode(&mut body)?;
    // Makes the tables where the collector has not run yet.
    if !database.exists() {
        Store::open(database, StoreConfig::default())?;
    }
    let db = Connection::open(database)?;
    db.busy_timeout(std::time::Duration::from_secs(10))?;
    let found: i64 =
        db.query_row("SELECT count(*) FROM commands WHERE sent < ?", [SENDINGS], |row| row.get(0))?;
    if found >= WAITING {
        return Err(CommandError::Full { found, allowed: WAITING });
    }
    db.execute("INSERT INTO commands(device, body) VALUES(?, ?)", params![device, &body[..length]])?;
    Ok(())
}

struct Waiting {
    id: i64,
    device: u32,
    body: Vec<u8>,
    boot: Option<u32>,
    sequence: Option<u32>,
}

/// The sending side of the queue.
#[derive(Debug, Default)]
pub(crate) struct CommandQueue {
    /// The database's change counter when it was last looked at and found empty.
    quiet_at: Option<i64>,
}

impl CommandQueue {
    /// Sends every command that waits and whose device was heard, once.
    pub(crate) fn turn(
        &mut self,
        store: &mut Store,
        keyring: &Keyring,
        send: impl Fn(&[u8], Reply) -> bool,
    ) -> Result<(), CommandError> {
        let version: i64 = store.db.query_row("PRAGMA data_version", [], |row| row.get(0))?;
        if self.quiet_at == Some(version) {
            return Ok(());
        }
        let waiting = read(&store.db)?;
        self.quiet_at = waiting.is_empty().then_some(version);
        for command in waiting {
            let streams = store.streams.iter();
            let heard = streams
                .filter(|((device, _), stream)| *device == command.device && stream.reply != Reply::None);
            let Some((&(device, boot), stream)) = heard.max_by_key(|((_, boot), _)| *boot) else { continue };
            let (reply, key_id) = (stream.reply, stream.key_id);
            let sequence = match (command.boot, command.sequence) {
                (Some(given), Some(sequence)) if given == boot => sequence,
                _ => next_sequence(&store.db, device, boot)?,
            };
            // Durable before it is sent: a killed collector must not use the sequence again for something else.
            store.db.execute(
                "UPDATE commands SET boot = ?, sequence = ?, sent = sent + 1 WHERE id = ?",
                params![boot, sequence, command.id],
            )?;
            let Some(key) = keyring.down_key(device, key_id) else { continue };
            let mut frame = [0; MAX_FRAME];
            let header = Header::new(device, boot, sequence);
            let length = seal_body(&header, Kind::COMMAND, &command.body, &key, &mut frame)?;
            if !send(&frame[..length], reply) {
                log::warn!("device {device}: a command could not be sent; trying again");
            }
        }
        Ok(())
    }
}

fn read(db: &Connection) -> Result<Vec<Waiting>, rusqlite::Error> {
    let mut select = db
        .prepare_cached("SELECT id, device, body, boot, sequence FROM commands WHERE sent < ? ORDER BY id")?;
    let rows = select.query_map([SENDINGS], |row| {
        Ok(Waiting {
            id: row.get(0)?,
            device: row.get(1)?,
            body: row.get(2)?,
            boot: row.get(3)?,
            sequence: row.get(4)?,
        })
    })?;
    rows.collect()
}

fn next_sequence(db: &Connection, device: u32, boot: u32) -> Result<u32, rusqlite::Error> {
    // Sent commands stay in the table: they say which sequences were used.
    db.query_row(
        "SELECT coalesce(max(sequence), 0) + 1 FROM commands WHERE device = ? AND boot = ?",
        [device, boot],
        |row| row.get(0),
    )
}
