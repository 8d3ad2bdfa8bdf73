//! Locks that are held for a moment.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Looks at a lock before a thread sleeps for it after all: some tenths of a second.
const LOOKS: u32 = 10_000_000;

/// Locks; a panic of another holder does not spoil the data, if no holder runs foreign code.
///
/// Where `awake`, the thread looks without pause and asks the system for nothing: for mutexes that are always locked
/// like that and held for a moment. A holder may have lost its core, to the waiting thread itself if that is the more
/// urgent one, so after some tenths of a second it sleeps.
///
/// ```
/// use std::sync::Mutex;
/// let sum = Mutex::new(1);
/// *pilotlight_device::lock(&sum, true) += 1;
/// assert_eq!(*pilotlight_device::lock(&sum, false), 2);
/// ```
pub fn lock<T>(mutex: &Mutex<T>, awake: bool) -> MutexGuard<'_, T> {
    if awake {
        for _ in 0..LOOKS {
            match mutex.try_lock() {
                Ok(guard) => return guard,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
    }
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::lock;
    use std::sync::{Mutex, mpsc};
    use std::time::{Duration, Instant};

    /// How often a thread has given up its core of its own accord.
    fn sleeps(thread: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{thread}/status")).expect("a thread has a status");
        let line = text.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|n| n.trim().parse().ok()).expect("a count")
    }

    /// How often a thread sleeps for a lock that is held until it has slept, or for as long as said.
    fn slept(awake: bool, patience: Duration) -> u64 {
        let mutex = &Mutex::new(0);
        let held = lock(mutex, awake);
        std::thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let other = scope.spawn(move || {
                let link = std::fs::read_link("/proc/thread-self").expect("a thread has a folder");
                let me = link.to_string_lossy().into_owned();
                let before = sleeps(&me);
                tell.send((me.clone(), before)).expect("the other thread listens");
                *lock(mutex, awake) += 1;
                sleeps(&me) - before
            });
            let (thread, before) = told.recv().expect("the thread comes");
            let end = Instant::now() + patience;
            while sleeps(&thread) == before && Instant::now() < end {
                std::thread::yield_now();
            }
            drop(held);
            other.join().expect("it locked")
        })
    }

    #[test]
    fn an_awake_thread_does_not_sleep_for_a_lock() {
        assert_eq!(slept(true, Duration::from_millis(5)), 0);
        assert!(slept(false, Duration::from_secs(10)) > 0);
    }
}
