//! Status codes, their texts, and the detailed text of a thread's last failure.

use pilotlight::{
    CloseError, Failure, LendError, OpenError, PlanError, PortError, SubmitError, device::LoadError,
    energy::MeterError,
};
use std::cell::RefCell;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// What a call came to. Numbers never change their meaning; new ones may be added.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum pl_status {
    /// Done.
    PL_OK = 0,
    /// Not done yet: the request is queued or runs. Not a failure.
    PL_PENDING = 1,
    /// A pointer argument is NULL.
    PL_ERR_NULL = 10,
    /// The handle is null, was closed or released, or never existed.
    PL_ERR_HANDLE = 11,
    /// The slot is in another state: not lent, not submitted, or without output.
    PL_ERR_STATE = 12,
    /// Another thread, or a callback's caller, is inside a call with the same slot.
    PL_ERR_BUSY = 13,
    /// The session's own worker thread cannot wait for itself.
    PL_ERR_THREAD = 14,
    /// There is no input or output of this number.
    PL_ERR_INDEX = 15,
    /// The size differs from the input's, output's or structure's.
    PL_ERR_SIZE = 16,
    /// An option is out of range.
    PL_ERR_OPTION = 17,
    /// All slots are in use.
    PL_ERR_NO_SLOT = 20,
    /// The session is closed.
    PL_ERR_CLOSED = 21,
    /// Slots are still lent or being read.
    PL_ERR_IN_USE = 22,
    /// The plan file cannot be read.
    PL_ERR_PLAN_FILE = 30,
    /// Not a plan, or one of a format that this library does not read.
    PL_ERR_PLAN_FORMAT = 31,
    /// The plan is truncated, damaged or not valid.
    PL_ERR_PLAN_DAMAGED = 32,
    /// No memory.
    PL_ERR_MEMORY = 40,
    /// The operating system refused what an option asks for.
    PL_ERR_SYSTEM = 41,
    /// More open plans or sessions than handles.
    PL_ERR_LIMIT = 42,
    /// The deadline passed before the inference could begin.
    PL_ERR_DEADLINE = 50,
    /// The device failed.
    PL_ERR_DEVICE = 51,
    /// A defect of Pilotlight: please report it.
    PL_ERR_INTERNAL = 52,
}

use pl_status::*;

impl pl_status {
    fn text(self) -> &'static CStr {
        match self {
            PL_OK => c"done",
            PL_PENDING => c"not done yet",
            PL_ERR_NULL => c"a pointer argument is NULL",
            PL_ERR_HANDLE => c"the handle is null, closed, released or invented",
            PL_ERR_STATE => c"the slot is in another state",
            PL_ERR_BUSY => c"another call with the same slot is under way",
            PL_ERR_THREAD => c"the session's worker thread cannot wait for itself",
            PL_ERR_INDEX => c"there is no input or output of this number",
            PL_ERR_SIZE => c"the size differs from what is needed",
            PL_ERR_OPTION => c"an option is out of range",
            PL_ERR_NO_SLOT => c"all slots are in use",
            PL_ERR_CLOSED => c"the session is closed",
            PL_ERR_IN_USE => c"slots are still lent or being read",
            PL_ERR_PLAN_FILE => c"the plan file cannot be read",
            PL_ERR_PLAN_FORMAT => c"not a plan of a known format",
            PL_ERR_PLAN_DAMAGED => c"the plan is truncated, damaged or not valid",
            PL_ERR_MEMORY => c"no memory",
            PL_ERR_SYSTEM => c"the operating system refused",
            PL_ERR_LIMIT => c"too many open handles",
            PL_ERR_DEADLINE => c"the deadline passed before the inference could begin",
            PL_ERR_DEVICE => c"the device failed",
            PL_ERR_INTERNAL => c"a defect of Pilotlight, please report it",
        }
    }

    const ALL: [Self; 22] = [
        PL_OK,
        PL_PENDING,
        PL_ERR_NULL,
        PL_ERR_HANDLE,
        PL_ERR_STATE,
        PL_ERR_BUSY,
        PL_ERR_THREAD,
        PL_ERR_INDEX,
        PL_ERR_SIZE,
        PL_ERR_OPTION,
        PL_ERR_NO_SLOT,
        PL_ERR_CLOSED,
        PL_ERR_IN_USE,
        PL_ERR_PLAN_FILE,
        PL_ERR_PLAN_FORMAT,
        PL_ERR_PLAN_DAMAGED,
        PL_ERR_MEMORY,
        PL_ERR_SYSTEM,
        PL_ERR_LIMIT,
        PL_ERR_DEADLINE,
        PL_ERR_DEVICE,
        PL_ERR_INTERNAL,
    ];
}

/// A failed call: its code, and what exactly was wrong.
pub(crate) struct Fault {
    pub(crate) status: pl_status,
    text: String,
}

pub(crate) fn fault(status: pl_status, text: impl Into<String>) -> Fault {
    Fault { status, text: text.into() }
}

macro_rules! faults {
    ($($error:ty, $e:ident => $status:expr;)*) => {
        $(impl From<$error> for Fault {
            fn from($e: $error) -> Self {
                fault($status, $e.to_string())
            }
        })*
    };
}

faults! {
    MeterError, e => match e {
        MeterError::Option { .. } => PL_ERR_OPTION,
        MeterError::Thread(_) => PL_ERR_SYSTEM,
        _ => PL_ERR_INTERNAL,
    };
    PlanError, e => match &e {
        PlanError::Io { source, .. } if source.kind() == std::io::ErrorKind::OutOfMemory => PL_ERR_MEMORY,
        PlanError::Io { .. } => PL_ERR_PLAN_FILE,
        PlanError::Magic { .. } | PlanError::Version { .. } => PL_ERR_PLAN_FORMAT,
        _ => PL_ERR_PLAN_DAMAGED,
    };
    OpenError, e => match &e {
        OpenError::Load(LoadError::Memory { .. }) => PL_ERR_MEMORY,
        OpenError::Load(LoadError::Thread { .. }) => PL_ERR_SYSTEM,
        OpenError::Load(_) | OpenError::Option { .. } => PL_ERR_OPTION,
        OpenError::System { source, .. } if source.kind() == std::io::ErrorKind::OutOfMemory => PL_ERR_MEMORY,
        OpenError::System { .. } => PL_ERR_SYSTEM,
        OpenError::Closed => PL_ERR_CLOSED,
        OpenError::NoCuda => PL_ERR_OPTION,
        #[cfg(feature = "cuda")]
        OpenError::Cuda(pilotlight::cuda::OpenError::Memory { .. }) => PL_ERR_MEMORY,
        #[cfg(feature = "cuda")]
        OpenError::Cuda(_) => PL_ERR_DEVICE,
        _ => PL_ERR_INTERNAL,
    };
    LendError, e => match e {
        LendError::AllInUse { .. } => PL_ERR_NO_SLOT,
        LendError::Closed => PL_ERR_CLOSED,
        _ => PL_ERR_INTERNAL,
    };
    SubmitError, e => match e {
        SubmitError::Closed => PL_ERR_CLOSED,
        _ => PL_ERR_INTERNAL,
    };
    CloseError, e => match e {
        CloseError::WrongThread => PL_ERR_THREAD,
        _ => PL_ERR_INTERNAL,
    };
    PortError, e => match e {
        PortError::Index { .. } => PL_ERR_INDEX,
        _ => PL_ERR_INTERNAL,
    };
    Failure, e => match e {
        Failure::Deadline { .. } => PL_ERR_DEADLINE,
        Failure::Device(_) => PL_ERR_DEVICE,
        Failure::WrongThread => PL_ERR_THREAD,
        _ => PL_ERR_INTERNAL,
    };
}

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs the body of an entry point: keeps the text of a failure, and lets no panic out.
pub(crate) fn entry(body: impl FnOnce() -> Result<pl_status, Fault>) -> pl_status {
    static SILENCE: Once = Once::new();
    // std prints panics to stderr; a library prints nothing, so they go to the log.
    SILENCE.call_once(|| std::panic::set_hook(Box::new(|info| log::error!("{info}"))));
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(status)) => status,
        Ok(Err(Fault { status, text })) => {
            LAST.with_borrow_mut(|last| *last = text);
            status
        }
        Err(_) => {
            LAST.with_borrow_mut(|last| "a panic was caught; the log has its text".clone_into(last));
            PL_ERR_INTERNAL
        }
    }
}

/// The text of a status, in English, without details. Never NULL; valid for ever. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn pl_status_text(status: i32) -> *const c_char {
    let known = pl_status::ALL.into_iter().find(|&s| s as i32 == status);
    known.map_or(c"unknown status", pl_status::text).as_ptr()
}

/// What exactly was wrong in the last call on this thread that failed.
///
/// Copies up to `size - 1` bytes and a NUL to `buffer`, which may be NULL when `size` is 0. Returns the length of
/// the whole text without NUL: 0 when no call has failed yet. Any thread.
///
/// # Safety
/// 1. `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_last_error(buffer: *mut c_char, size: usize) -> usize {
    LAST.with_borrow(|last| {
        if !buffer.is_null() && size > 0 {
            let n = last.len().min(size - 1);
            // SAFETY: 1. the caller gives `size` bytes, of which n + 1 <= size are written.
            unsafe {
                buffer.cast::<u8>().copy_from_nonoverlapping(last.as_ptr(), n);
                buffer.add(n).write(0);
            }
        }
        last.len()
    })
}

/// The version of the library, `MAJOR.MINOR.PATCH`. Never NULL; valid for ever. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn pl_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// The ABI that this header describes; compare it with `pl_abi_version()`.
pub const PL_ABI_VERSION: u32 = 1;

/// The ABI of the library that is linked: equal to `PL_ABI_VERSION` where header and library fit. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn pl_abi_version() -> u32 {
    PL_ABI_VERSION
}
