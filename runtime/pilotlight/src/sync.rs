//! The synchronisation that the slot ring uses: std's, or loom's when it is model-checked.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU64, fence},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU64, fence},
};

/// As the device's, for loom's mutex: a model has no time, so how one waits makes no difference to it.
#[cfg(loom)]
pub(crate) fn lock<T>(mutex: &Mutex<T>, _awake: bool) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
#[cfg(not(loom))]
pub(crate) use pilotlight_device::lock;
