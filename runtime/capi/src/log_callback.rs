//! Messages go to a function of the caller's.

use crate::status::{entry, fault, pl_status, pl_status::*};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::ffi::{c_char, c_void};
use std::fmt::{self, Write};
use std::sync::{Once, RwLock};

/// Log level: nothing.
pub const PL_LOG_OFF: u32 = 0;
/// Log level: what failed.
pub const PL_LOG_ERROR: u32 = 1;
/// Log level: what looks wrong.
pub const PL_LOG_WARN: u32 = 2;
/// Log level: what an operator wants to know.
pub const PL_LOG_INFO: u32 = 3;
/// Log level: opening, closing, swapping.
pub const PL_LOG_DEBUG: u32 = 4;
/// Log level: every inference.
pub const PL_LOG_TRACE: u32 = 5;

/// Takes a message: the caller's `user` pointer, a level, and a NUL-terminated text that is valid during the call.
pub type pl_log_callback = Option<unsafe extern "C" fn(user: *mut c_void, level: u32, text: *const c_char)>;

#[derive(Clone, Copy)]
struct Target {
    callback: pl_log_callback,
    user: *mut c_void,
}

// SAFETY: the pointer is only handed back to the callback; `pl_log_set` demands that this is sound on any thread.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

static TARGET: RwLock<Target> = RwLock::new(Target { callback: None, user: std::ptr::null_mut() });

/// A message of at most 511 bytes; what is longer is cut. No allocation.
struct Text {
    bytes: [u8; 512],
    used: usize,
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        // The last byte stays NUL.
        let n = s.len().min(self.bytes.len() - 1 - self.used);
        self.bytes[self.used..self.used + n].copy_from_slice(&s.as_bytes()[..n]);
        self.used += n;
        Ok(())
    }
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // Copied out, so that the callback may set another one.
        let target = *TARGET.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Some(callback) = target.callback else { return };
        let mut text = Text { bytes: [0; 512], used: 0 };
        // Writing to Text cannot fail; a Display that fails cuts its own message short.
        let _ = write!(text, "{}", record.args());
        let level = match record.level() {
            Level::Error => PL_LOG_ERROR,
            Level::Warn => PL_LOG_WARN,
            Level::Info => PL_LOG_INFO,
            Level::Debug => PL_LOG_DEBUG,
            Level::Trace => PL_LOG_TRACE,
        };
        // SAFETY: `pl_log_set` demands that this call is sound on any thread; the text is NUL-terminated.
        unsafe { callback(target.user, level, text.bytes.as_ptr().cast()) };
    }

    fn flush(&self) {}
}

/// Sends messages up to `level` (`PL_LOG_...`) to `callback`; NULL or `PL_LOG_OFF` stops them. Until this is
/// called there are none. Any thread.
///
/// The callback is called on the thread that has something to say: one that is inside a `pl_` function, or a
/// worker. It must return (no longjmp, no C++ exception), and may call `pl_` functions, but a slot whose call is
/// under way answers `PL_ERR_BUSY`. A call of the previous callback may still be under way on another thread when
/// this returns.
///
/// Fails with `PL_ERR_OPTION`.
///
/// # Safety
/// 1. Until it is replaced, `callback` can be called with `user` on any thread, on several at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_log_set(callback: pl_log_callback, user: *mut c_void, level: u32) -> pl_status {
    static INSTALL: Once = Once::new();
    entry(|| {
        let level = match level {
            PL_LOG_OFF => LevelFilter::Off,
            PL_LOG_ERROR => LevelFilter::Error,
            PL_LOG_WARN => LevelFilter::Warn,
            PL_LOG_INFO => LevelFilter::Info,
            PL_LOG_DEBUG => LevelFilter::Debug,
            PL_LOG_TRACE => LevelFilter::Trace,
            other => {
                return Err(fault(
                    PL_ERR_OPTION,
                    format!("log level is {other}; use PL_LOG_OFF to PL_LOG_TRACE"),
                ));
            }
        };
        // The library has its own copy of the log crate, so nobody else can have set a logger.
        INSTALL.call_once(|| _ = log::set_logger(&Logger));
        *TARGET.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Target { callback, user };
        log::set_max_level(if callback.is_some() { level } else { LevelFilter::Off });
        Ok(PL_OK)
    })
}
