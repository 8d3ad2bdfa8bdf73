//! Result codes of the driver API, and their names.

use super::{Answer, entries, put};
use std::ffi::{CStr, c_char};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        /// A failure, with the driver's number for it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(i32)]
        #[allow(missing_docs, reason = "the driver API reference describes each")]
        pub enum Code { $($name = $value,)* }

        const NAMES: &[(i32, &CStr)] = &[(0, c"CUDA_SUCCESS"), $(($value, $text),)*];
    };
}

codes! {
    InvalidValue = 1, c"CUDA_ERROR_INVALID_VALUE";
    OutOfMemory = 2, c"CUDA_ERROR_OUT_OF_MEMORY";
    NotInitialized = 3, c"CUDA_ERROR_NOT_INITIALIZED";
    InvalidDevice = 101, c"CUDA_ERROR_INVALID_DEVICE";
    InvalidContext = 201, c"CUDA_ERROR_INVALID_CONTEXT";
    NoBinary = 209, c"CUDA_ERROR_NO_BINARY_FOR_GPU";
    InvalidPtx = 218, c"CUDA_ERROR_INVALID_PTX";
    UnsupportedPtxVersion = 222, c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION";
    FileNotFound = 301, c"CUDA_ERROR_FILE_NOT_FOUND";
    InvalidHandle = 400, c"CUDA_ERROR_INVALID_HANDLE";
    NotFound = 500, c"CUDA_ERROR_NOT_FOUND";
    NotReady = 600, c"CUDA_ERROR_NOT_READY";
    IllegalAddress = 700, c"CUDA_ERROR_ILLEGAL_ADDRESS";
    OutOfResources = 701, c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES";
    Timeout = 702, c"CUDA_ERROR_LAUNCH_TIMEOUT";
    IllegalInstruction = 715, c"CUDA_ERROR_ILLEGAL_INSTRUCTION";
    MisalignedAddress = 716, c"CUDA_ERROR_MISALIGNED_ADDRESS";
    LaunchFailed = 719, c"CUDA_ERROR_LAUNCH_FAILED";
    CooperativeTooLarge = 720, c"CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE";
    NotSupported = 801, c"CUDA_ERROR_NOT_SUPPORTED";
    CaptureUnsupported = 900, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
    IllegalState = 401, c"CUDA_ERROR_ILLEGAL_STATE";
    Unknown = 999, c"CUDA_ERROR_UNKNOWN";
}

fn name(code: i32, to: *mut *const c_char) -> Answer {
    let found = NAMES.iter().find(|(value, _)| *value == code).ok_or(Code::InvalidValue)?;
    // SAFETY: (1) the caller's pointer, as the API demands.
    unsafe { put(to, found.1.as_ptr()) }
}

entries! {
    /// The name of a result code.
    fn cuGetErrorName(code: i32, to: *mut *const c_char) { name(code, to) }
    /// The name again: what happened in detail is in `pilotlight_virtual_last_error`.
    fn cuGetErrorString(code: i32, to: *mut *const c_char) { name(code, to) }
}
