//! The CUDA driver API that cudarc calls, on the emulator.
//!
//! Every entry point locks one state. A device thread works the streams; it gives the lock up between slices,
//! so the host goes on while a kernel runs. Errors are sticky: after a trap every call answers with it, as on
//! a real device. The device has no pools of memory and one primary context.
//!
//! Environment: `PILOTLIGHT_VIRTUAL_BOARD` (a name of [`crate::board::BOARDS`]), `_SEED` (a number), `_RACE=1`,
//! `_WEAK=1`, `_LOG=FILE` (each call as a line). Others of that prefix are refused.
#![allow(
    unsafe_code,
    reason = "a C interface: pointers come from the caller, as the driver API's contract says"
)]

mod config;
mod context;
mod error;
mod graph;
mod host;
mod launch;
mod lit;
mod memory;
mod module;
mod stream;
mod worker;

pub use error::Code;
pub use worker::report;

use crate::emulator::{Emulator, Kernel};
use crate::grid::Grid;
use std::collections::{HashMap, VecDeque};
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What an entry point gives back.
type Answer = Result<(), Code>;

/// Work in a stream.
#[derive(Clone)]
enum Work {
    Kernel {
        kernel: Kernel,
        config: crate::emulator::Config,
        params: Vec<u8>,
    },
    Upload {
        to: u64,
        bytes: Vec<u8>,
    },
    /// From mapped host memory, read when its turn comes.
    UploadMapped {
        to: u64,
        from: u64,
        len: usize,
    },
    /// To host memory: mapped, or pageable with the caller waiting.
    Download {
        from: u64,
        to: usize,
        len: usize,
    },
    Copy {
        from: u64,
        to: u64,
        len: usize,
    },
    Fill {
        to: u64,
        value: u8,
        len: usize,
    },
    Record {
        event: u64,
        generation: u64,
    },
    Wait {
        event: u64,
        generation: u64,
    },
    Call {
        function: usize,
        data: usize,
    },
}

struct Queued {
    /// Order over all streams, for the legacy stream.
    number: u64,
    work: Work,
}

#[derive(Default)]
struct Stream {
    queue: VecDeque<Queued>,
    /// A kernel of this stream is on the device; its number.
    running: Option<u64>,
    /// Waits for, and makes wait, the legacy stream.
    blocking: bool,
    /// Work recorded instead of run.
    capture: Option<Vec<Work>>,
}

impl Stream {
    fn oldest(&self) -> Option<u64> {
        self.running.or(self.queue.front().map(|q| q.number))
    }
}

#[derive(Default)]
struct Event {
    recorded: u64,
    done: u64,
    /// Modelled time of the last record that was reached, in picoseconds.
    clock: u64,
}

struct Running {
    stream: u64,
    grid: Grid,
    counters: crate::counters::Counters,
    name: String,
    start: u64,
    /// Warps of a block, and blocks that fit a multiprocessor.
    warps_per_block: u64,
    blocks_per_sm: u64,
    /// Thousandths of the device that its resident blocks take.
    share: u64,
    cooperative: bool,
    /// Cooperative, and has looked at host memory: it may stay for as long as the host likes.
    lit: bool,
}

struct Function {
    module: u64,
    kernel: Kernel,
    ptx_version: u32,
    shared_limit: usize,
}

/// Handle of the legacy default stream.
const LEGACY: u64 = 0;
/// The one context.
const CONTEXT: u64 = 0xC0;

/// Everything behind the API.
struct State {
    emulator: Emulator,
    streams: HashMap<u64, Stream>,
    events: HashMap<u64, Event>,
    modules: HashMap<u64, module::Loaded>,
    functions: HashMap<u64, Function>,
    graphs: HashMap<u64, Vec<Work>>,
    executables: HashMap<u64, Vec<Work>>,
    running: Vec<Running>,
    launches: VecDeque<worker::Launch>,
    last_error: String,
    sticky: Option<Code>,
    retained: u32,
    next: u64,
    worker: bool,
    /// Grids all wait for the host; the worker sleeps longer and longer.
    idle: u32,
}

impl State {
    fn handle(&mut self) -> u64 {
        self.next += 1;
        // Distinct kinds of objects never share a number, so a mixed-up handle is found.
        0x1_0000 + self.next
    }

    fn fail(&mut self, code: Code, text: String) -> Code {
        self.last_error = text;
        code
    }
}

static STATE: Mutex<Option<State>> = Mutex::new(None);
/// Signalled when work is queued, and when work is done.
static CHANGED: Condvar = Condvar::new();
/// Callers that want the lock: the device thread lets them pass.
static CALLERS: AtomicUsize = AtomicUsize::new(0);

fn lock() -> MutexGuard<'static, Option<State>> {
    CALLERS.fetch_add(1, Ordering::SeqCst);
    let guard = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    CALLERS.fetch_sub(1, Ordering::SeqCst);
    guard
}

/// Locks, and answers for a device that is not initialised or has failed.
fn with<T>(f: impl FnOnce(&mut State) -> Result<T, Code>) -> Result<T, Code> {
    let mut guard = lock();
    let state = guard.as_mut().ok_or(Code::NotInitialized)?;
    if let Some(code) = state.sticky {
        return Err(code);
    }
    let result = f(state);
    drop(guard);
    CHANGED.notify_all();
    result
}

/// Blocks until `done` holds or the device fails.
fn wait_until(mut done: impl FnMut(&mut State) -> Result<bool, Code>) -> Answer {
    let mut guard = lock();
    loop {
        let state = guard.as_mut().ok_or(Code::NotInitialized)?;
        if let Some(code) = state.sticky {
            return Err(code);
        }
        if done(state)? {
            return Ok(());
        }
        guard = CHANGED.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
}

fn log(call: &str, answer: Answer) {
    static FILE: std::sync::OnceLock<Option<Mutex<std::fs::File>>> = std::sync::OnceLock::new();
    let file = FILE.get_or_init(|| {
        let path = std::env::var_os("PILOTLIGHT_VIRTUAL_LOG")?;
        std::fs::File::create(path).ok().map(Mutex::new)
    });
    if let Some(file) = file {
        let code = answer.err().map_or(0, |c| c as i32);
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written must not change what the program does.
        let _ = writeln!(file, "{call} {code}");
    }
}

/// Runs the body of an entry point: logs it, and turns a panic into an error instead of crossing into C.
fn enter(call: &'static str, body: impl FnOnce() -> Answer) -> i32 {
    let body = || lit::admit(call).and_then(|()| body());
    let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(Err(Code::Unknown));
    log(call, answer);
    answer.err().map_or(0, |code| code as i32)
}

/// Writes through a caller's pointer.
///
/// # Safety
/// 1. `to` is null (an error) or valid for a write of `T`, as the driver API demands of its callers.
unsafe fn put<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return Err(Code::InvalidValue);
    }
    // SAFETY: (1) not null, and the caller vouches for the rest.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// Declares entry points of the C interface.
macro_rules! entries {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {
        $($(#[$doc])*
        ///
        /// # Safety
        /// 1. Pointers are as the CUDA driver API reference says of this call.
        #[unsafe(no_mangle)]
        #[allow(clippy::too_many_arguments, reason = "the driver API's signature")]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> i32 {
            $crate::driver::enter(stringify!($name), || $body)
        })*
    };
}
use entries;
