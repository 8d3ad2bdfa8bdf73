//! What the driver may be asked while a resident kernel polls host memory.
//!
//! A real driver may answer some calls only once the device is idle, and a kernel that waits for the host never
//! lets it become idle: the program hangs. Which calls do so is known in part and changes between versions, so
//! only calls known to be safe are let through here. Every other one waits until the kernel has left; after
//! [`limit`] it fails with CUDA_ERROR_LAUNCH_TIMEOUT instead of hanging a test. Both are counted by call.
//!
//! # Source
//! CUDA C++ Programming Guide, "Lazy Loading" (loading a kernel may synchronise the context; so load all before
//! kernels that must run side by side), "Implicit Synchronization" (page-locked and device allocation, memset,
//! copies and launches in the legacy stream), "Unified Memory" and the driver API reference on
//! `cuMemFree`, `cuCtxSynchronize`, `cuModuleUnload` (wait for the device).

use super::{Answer, CHANGED, Code, LEGACY, State, lock};
use std::collections::BTreeMap;
use std::ffi::c_char;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Calls that neither allocate, load nor wait for more than their own stream.
const ALLOWED: &[&str] = &[
    // Look-ups that touch no device state.
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetUuid_v2",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxGetStreamPriorityRange",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuMemHostGetDevicePointer_v2",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags",
    // Questions about a stream or an event.
    "cuStreamQuery",
    "cuStreamIsCapturing",
    "cuEventQuery",
    "cuEventElapsedTime",
    // Work for a stream of its own, of kernels that are loaded: `cuModuleGetFunction` has loaded them.
    "cuLaunchKernel",
    "cuLaunchCooperativeKernel",
    "cuGraphLaunch",
    "cuEventRecord",
    "cuStreamWaitEvent",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuLaunchHostFunc",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    // They wait for one stream. For the kernel's own that is until it leaves, as the program must know.
    "cuStreamSynchronize",
    "cuEventSynchronize",
];

/// How often each call that is not allowed came while a kernel was lit.
static CALLS: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// How long a call waits for the kernel to leave: `PILOTLIGHT_VIRTUAL_LIT_SECONDS`, or 20 s.
fn limit() -> Duration {
    let seconds = std::env::var("PILOTLIGHT_VIRTUAL_LIT_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

impl State {
    /// A cooperative kernel that polls host memory is on the device.
    fn lit(&self) -> bool {
        self.running.iter().any(|r| r.lit)
    }
}

fn note(call: &'static str) {
    *CALLS.lock().unwrap_or_else(PoisonError::into_inner).entry(call).or_default() += 1;
}

/// Lets a call through, at once or when no kernel is lit.
pub(super) fn admit(call: &'static str) -> Answer {
    if ALLOWED.contains(&call) { Ok(()) } else { wait_until_dark(call) }
}

/// As [`admit`], for work in a stream: the legacy stream waits for other streams, whatever the call.
pub(super) fn admit_stream(call: &'static str, stream: u64) -> Answer {
    if stream == LEGACY || stream == 1 { wait_until_dark(call) } else { Ok(()) }
}

fn wait_until_dark(call: &'static str) -> Answer {
    let since = Instant::now();
    let mut noted = false;
    let mut guard = lock();
    while guard.as_ref().is_some_and(|state| state.lit() && state.sticky.is_none()) {
        if since.elapsed() > limit() {
            let text = format!("{call} waits for a resident kernel, which waits for the host");
            eprintln!("virtual Orin: {text}");
            let state = guard.as_mut().ok_or(Code::NotInitialized)?;
            return Err(state.fail(Code::Timeout, text));
        }
        if !std::mem::replace(&mut noted, true) {
            note(call);
        }
        let wait = CHANGED.wait_timeout(guard, Duration::from_millis(20));
        guard = wait.unwrap_or_else(PoisonError::into_inner).0;
    }
    Ok(())
}

/// The calls outside the allow-list that came while a kernel was lit, as lines `call count`, since the process
/// began. Returns the bytes needed; with `len` 0 nothing is written.
///
/// # Safety
/// 1. `to` is null or valid for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pilotlight_virtual_lit_calls(to: *mut c_char, len: usize) -> usize {
    let calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    let text: String = calls.iter().map(|(call, n)| format!("{call} {n}\n")).collect();
    super::context::text_out(&text, to, len)
}
