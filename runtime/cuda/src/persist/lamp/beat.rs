//! The thread that tells the kernel that the host lives.

use super::words;
use crate::memory::Pinned;
use pilotlight_device::LoadError;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A thread that tells the kernel that the host lives.
pub(super) struct Beat {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Beat {
    pub(super) fn start(mailbox: &Arc<Pinned>, period: Duration) -> Result<Self, LoadError> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (mailbox, stopped) = (Arc::clone(mailbox), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("pilotlight-beat".into())
            .spawn(move || {
                let mut stop = stopped.0.lock().unwrap_or_else(PoisonError::into_inner);
                while !*stop {
                    words(&mailbox).beat();
                    stop = stopped.1.wait_timeout(stop, period).unwrap_or_else(PoisonError::into_inner).0;
                }
            })
            .map_err(|e| LoadError::Thread { problem: e.to_string() })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
