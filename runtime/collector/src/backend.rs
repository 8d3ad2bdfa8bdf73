//! What makes frames durable: a database here, a JetStream in `nats.rs`.

use std::error::Error;
use std::path::Path;

use pilotlight_wire::Message;

use crate::batch::{Batch, Item, Reply};
use crate::command::CommandQueue;
use crate::keyring::Keyring;
use crate::store::{Store, StoreConfig, StoreError, Stored};
use crate::stream::Stream;

pub(crate) type BackendError = Box<dyn Error + Send + Sync>;

/// Makes frames durable. Errors are for the log: whatever failed was not stored and is not acknowledged.
pub(crate) trait Backend: Send {
    /// Stores what is fresh; durable when this returns. `each` hears of every fresh frame after that.
    fn store(
        &mut self,
        batches: &[Batch],
        each: &mut dyn FnMut(&Item, Option<&Message>, i64),
    ) -> Result<Stored, BackendError>;

    /// What has come of a boot.
    fn stream(&self, device: u32, boot: u32) -> Option<&Stream>;

    /// Every few seconds, and at the end.
    fn checkpoint(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Every minute: what is too old goes.
    fn retain(&mut self, _now_us: u64) -> Result<(), BackendError> {
        Ok(())
    }

    /// Every second: commands that wait are sent.
    fn send_commands(
        &mut self,
        _keys: &Keyring,
        _send: &dyn Fn(&[u8], Reply) -> bool,
    ) -> Result<(), BackendError> {
        Ok(())
    }
}

pub(crate) struct SqliteBackend {
    store: Store,
    commands: CommandQueue,
}

impl SqliteBackend {
    pub(crate) fn open(path: &Path, config: StoreConfig) -> Result<Self, StoreError> {
        Ok(Self { store: Store::open(path, config)?, commands: CommandQueue::default() })
    }

    /// Names that the database knows, for the time before devices say hello again.
    pub(crate) fn known_devices(&self) -> Vec<(u32, [String; 4])> {
        self.store.known_devices().unwrap_or_else(|error| {
            log::warn!("{error}; devices are nameless until they say hello");
            Vec::new()
        })
    }
}

impl Backend for SqliteBackend {
    fn store(
        &mut self,
        batches: &[Batch],
        each: &mut dyn FnMut(&Item, Option<&Message>, i64),
    ) -> Result<Stored, BackendError> {
        Ok(self.store.store(batches, each)?)
    }

    fn stream(&self, device: u32, boot: u32) -> Option<&Stream> {
        self.store.streams.get(&(device, boot))
    }

    fn checkpoint(&mut self) -> Result<(), BackendError> {
        Ok(self.store.checkpoint()?)
    }

    fn retain(&mut self, now_us: u64) -> Result<(), BackendError> {
        self.store.retain(now_us)?;
        Ok(())
    }

    fn send_commands(
        &mut self,
        keys: &Keyring,
        send: &dyn Fn(&[u8], Reply) -> bool,
    ) -> Result<(), BackendError> {
        Ok(self.commands.turn(&mut self.store, keys, send)?)
    }
}
