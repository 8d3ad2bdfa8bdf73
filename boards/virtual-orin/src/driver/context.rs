//! Initialisation, the device, its primary context.

use super::{
    Answer, CONTEXT, Code, State, Stream, config, entries, host, lock, put, wait_until, with, worker,
};
use crate::board::limits;
use crate::emulator::Emulator;
use pilotlight_boards::model::Clocks;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint};

thread_local! {
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// Fails unless the calling thread has a current context.
pub fn current() -> Answer {
    if CURRENT.get() == CONTEXT { Ok(()) } else { Err(Code::InvalidContext) }
}

fn init() -> Answer {
    let mut guard = lock();
    if guard.is_some() {
        return Ok(());
    }
    // Variables that are no text cannot be ours.
    let variables =
        std::env::vars_os().filter_map(|(a, b)| Some((a.into_string().ok()?, b.into_string().ok()?)));
    let options = config::options(variables.chain(config::given())).map_err(|text| {
        eprintln!("virtual Orin: {text}");
        Code::InvalidValue
    })?;
    let mut emulator = Emulator::new(options);
    emulator.machine.memory.host = Some(Box::new(host::Window));
    for figures in pilotlight_kernels::figures() {
        emulator.figure(figures.name, figures.registers);
    }
    let mut streams = HashMap::new();
    streams.insert(super::LEGACY, Stream { blocking: true, ..Stream::default() });
    let state = State {
        emulator,
        streams,
        events: HashMap::new(),
        modules: HashMap::new(),
        functions: HashMap::new(),
        graphs: HashMap::new(),
        executables: HashMap::new(),
        running: Vec::new(),
        launches: std::collections::VecDeque::new(),
        last_error: String::new(),
        sticky: None,
        retained: 0,
        next: 0,
        worker: false,
        idle: 0,
    };
    worker::start(guard.insert(state));
    Ok(())
}

/// Device attributes by the driver's numbers. One that is not listed is refused, not guessed.
fn attribute(state: &State, number: c_int) -> Option<i64> {
    let board = &state.emulator.options.board;
    Some(match number {
        1 => i64::from(limits::THREADS_PER_BLOCK),
        2..=4 => i64::from(limits::BLOCK[number as usize - 2]),
        5..=7 => i64::from(limits::GRID[number as usize - 5]),
        8 => limits::SHARED_PER_BLOCK as i64,
        9 => 65_536,
        10 => 32,
        12 | 82 => i64::from(limits::REGISTERS),
        13 => board.clock_khz as i64,
        16 => i64::from(board.sms),
        // No run-time limit on kernels.
        17 => 0,
        // Integrated, can map host memory, concurrent kernels, unified addressing.
        18 | 19 | 31 | 41 => 1,
        // Copy engines.
        40 => 2,
        39 => i64::from(limits::THREADS_PER_SM),
        75 => 8,
        76 => 7,
        78 | 90 | 95 => 1,
        81 => limits::SHARED_PER_SM as i64,
        83 => 1,
        // Host-native atomics, pageable access, concurrent managed access, memory pools: not on Orin, or
        // not relied on.
        86 | 88 | 89 | 115 => 0,
        97 => limits::SHARED_PER_BLOCK_OPTIN as i64,
        106 => i64::from(limits::BLOCKS_PER_SM),
        111 => limits::SHARED_RESERVED as i64,
        _ => return None,
    })
}

fn only_device(ordinal: c_int) -> Answer {
    if ordinal == 0 { Ok(()) } else { Err(Code::InvalidDevice) }
}

entries! {
    /// Reads the settings and makes the device.
    fn cuInit(flags: c_uint) {
        if flags != 0 {
            return Err(Code::InvalidValue);
        }
        init()
    }

    /// The CUDA version of the emulated driver.
    fn cuDriverGetVersion(version: *mut c_int) {
        // SAFETY: (1) the caller's pointer.
        unsafe { put(version, 12_060) }
    }

    /// One device.
    fn cuDeviceGetCount(count: *mut c_int) {
        // SAFETY: (1) the caller's pointer.
        with(|_| unsafe { put(count, 1) })
    }

    /// The device of an ordinal.
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        only_device(ordinal)?;
        // SAFETY: (1) the caller's pointer.
        with(|_| unsafe { put(device, ordinal) })
    }

    /// The device's name, cut to `len`.
    fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) {
        only_device(device)?;
        let (text, len) = (with(|s| Ok(s.emulator.options.board.device_name))?, usize::try_from(len).unwrap_or(0));
        if name.is_null() || len == 0 {
            return Err(Code::InvalidValue);
        }
        let cut = text.len().min(len - 1);
        // SAFETY: (1) the caller gives `len` bytes, of which at most `len` are written.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), name.cast(), cut);
            name.add(cut).write(0);
        }
        Ok(())
    }

    /// A number that says it is this emulator.
    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) {
        only_device(device)?;
        // SAFETY: (1) the caller's pointer.
        unsafe { put(uuid, *b"pilotlight-vorin") }
    }

    /// Bytes of memory.
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) {
        only_device(device)?;
        // SAFETY: (1) the caller's pointer.
        with(|s| unsafe { put(bytes, s.emulator.options.board.memory as usize) })
    }

    /// A property of the device.
    fn cuDeviceGetAttribute(value: *mut c_int, number: c_int, device: c_int) {
        only_device(device)?;
        let found = with(|s| attribute(s, number).ok_or(Code::InvalidValue))?;
        // SAFETY: (1) the caller's pointer.
        unsafe { put(value, found as c_int) }
    }

    /// The primary context.
    fn cuDevicePrimaryCtxRetain(context: *mut u64, device: c_int) {
        only_device(device)?;
        with(|s| {
            s.retained += 1;
            Ok(())
        })?;
        // SAFETY: (1) the caller's pointer.
        unsafe { put(context, CONTEXT) }
    }

    /// Gives the primary context back. What it holds stays until the process ends.
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        only_device(device)?;
        let mut guard = lock();
        let state = guard.as_mut().ok_or(Code::NotInitialized)?;
        state.retained = state.retained.checked_sub(1).ok_or(Code::InvalidContext)?;
        Ok(())
    }

    /// The thread's context.
    fn cuCtxGetCurrent(context: *mut u64) {
        // SAFETY: (1) the caller's pointer.
        unsafe { put(context, CURRENT.get()) }
    }

    /// Makes a context the thread's.
    fn cuCtxSetCurrent(context: u64) {
        if context != 0 && context != CONTEXT {
            return Err(Code::InvalidContext);
        }
        CURRENT.set(context);
        Ok(())
    }

    /// Waits for all streams.
    fn cuCtxSynchronize() {
        current()?;
        wait_until(|s| {
            if s.streams.values().any(|s| s.capture.is_some()) {
                return Err(Code::CaptureUnsupported);
            }
            Ok(s.streams.values().all(|s| s.oldest().is_none()))
        })
    }

    /// Bytes free and in all.
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        current()?;
        let (have, all) = with(|s| Ok(s.emulator.machine.memory.info()))?;
        // SAFETY: (1) the caller's pointers.
        unsafe {
            put(free, have as usize)?;
            put(total, all as usize)
        }
    }

    /// All streams have one priority.
    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) {
        current()?;
        // SAFETY: (1) the caller's pointers.
        unsafe {
            put(least, 0)?;
            put(greatest, 0)
        }
    }
}

/// Copies a text and its terminator to a caller's buffer; returns the bytes that the whole needs.
pub(super) fn text_out(text: &str, to: *mut c_char, len: usize) -> usize {
    if !to.is_null() && len > 0 {
        let cut = text.len().min(len - 1);
        // SAFETY: (1) the caller gives `len` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), cut);
            to.add(cut).write(0);
        }
    }
    text.len() + 1
}

/// Sets what the environment variable `PILOTLIGHT_VIRTUAL_<name>` would (all but `LOG`), and wins over it. Returns
/// the bytes that the reason of a refusal needs, 1 where there is none.
///
/// # Safety
/// 1. `name` and `value` are terminated texts.
/// 2. `to` is null or valid for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pilotlight_virtual_set(
    name: *const c_char,
    value: *const c_char,
    to: *mut c_char,
    len: usize,
) -> usize {
    // SAFETY: (1) the caller's texts.
    let (name, value) = unsafe { (CStr::from_ptr(name), CStr::from_ptr(value)) };
    let set = config::give(&name.to_string_lossy(), &value.to_string_lossy(), lock().is_some());
    text_out(&set.err().unwrap_or_default(), to, len)
}

/// Why the last call or kernel failed, in words. Returns the bytes needed; with `len` 0 nothing is written.
///
/// # Safety
/// 1. `to` is null or valid for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pilotlight_virtual_last_error(to: *mut c_char, len: usize) -> usize {
    let text = lock().as_ref().map_or_else(String::new, |s| s.last_error.clone());
    text_out(&text, to, len)
}

/// Sets the clocks at which launches from now on are modelled, in Hz. Returns 0, or 1 when the device is not
/// initialised or a clock is outside 1 MHz to 10 GHz.
#[unsafe(no_mangle)]
pub extern "C" fn pilotlight_virtual_clocks(gpu_hz: u64, emc_hz: u64) -> c_int {
    let allowed = 1_000_000..=10_000_000_000;
    match lock().as_mut() {
        Some(state) if allowed.contains(&gpu_hz) && allowed.contains(&emc_hz) => {
            state.emulator.machine.model.clocks = Clocks { gpu: gpu_hz as f64, emc: emc_hz as f64 };
            0
        }
        _ => 1,
    }
}

/// Finished launches with their counters, see [`super::report`]. Call once with `len` 0 for the size: the
/// launches are kept until a call has room for them.
///
/// # Safety
/// 1. `to` is null or valid for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pilotlight_virtual_report(to: *mut c_char, len: usize) -> usize {
    static TEXT: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
    let mut text = TEXT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    text.push_str(&super::report());
    let needed = text_out(&text, to, len);
    if needed <= len {
        text.clear();
    }
    needed
}
