//! Allocations and copies.

use super::context::current;
use super::stream::{enqueue, finished};
use super::{Answer, Code, LEGACY, State, Work, entries, host, put, wait_until, with};
use std::ffi::{c_uchar, c_uint, c_void};

fn queue_and_wait(stream: u64, work: Work) -> Answer {
    let number = with(|s| enqueue(s, stream, work))?;
    wait_until(|s| Ok(finished(s, stream, number)))
}

fn upload(state: &mut State, stream: u64, to: u64, from: *const c_void, len: usize) -> Answer {
    let inside = state.emulator.machine.memory.bytes(to, len).map(|_| ());
    inside.map_err(|e| state.fail(Code::InvalidValue, e.to_string()))?;
    let work = if host::mapped(from as u64, len) {
        Work::UploadMapped { to, from: from as u64, len }
    } else {
        if state.streams.get(&stream).is_some_and(|s| s.capture.is_some()) {
            let text = "a copy from pageable memory cannot be captured".to_owned();
            return Err(state.fail(Code::CaptureUnsupported, text));
        }
        // SAFETY: (1) the caller gives `len` readable bytes. Pageable memory is read before the call returns.
        let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len) }.to_vec();
        Work::Upload { to, bytes }
    };
    enqueue(state, stream, work).map(|_| ())
}

entries! {
    /// Device memory, full of poison.
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        current()?;
        if bytes == 0 {
            return Err(Code::InvalidValue);
        }
        let found = with(|s| s.emulator.machine.memory.alloc(bytes).ok_or(Code::OutOfMemory))?;
        // SAFETY: (1) the caller's pointer.
        unsafe { put(address, found) }
    }

    /// Frees device memory, after all work is done: as the real driver does.
    fn cuMemFree_v2(address: u64) {
        current()?;
        wait_until(|s| Ok(s.streams.values().all(|s| s.oldest().is_none())))?;
        with(|s| if s.emulator.machine.memory.free(address) { Ok(()) } else { Err(Code::InvalidValue) })
    }

    /// Pinned host memory that kernels reach at its own address.
    fn cuMemHostAlloc(address: *mut usize, bytes: usize, flags: c_uint) {
        current()?;
        // Portable, device map, write-combined.
        if flags & !7 != 0 || bytes == 0 {
            return Err(Code::InvalidValue);
        }
        let found = host::allocate(bytes).ok_or(Code::OutOfMemory)?;
        // SAFETY: (1) the caller's pointer.
        unsafe { put(address, found) }
    }

    /// Frees pinned memory, after all work is done.
    fn cuMemFreeHost(address: usize) {
        current()?;
        wait_until(|s| Ok(s.streams.values().all(|s| s.oldest().is_none())))?;
        if host::free(address) { Ok(()) } else { Err(Code::InvalidValue) }
    }

    /// The device address of pinned memory: its own, as addressing is unified.
    fn cuMemHostGetDevicePointer_v2(device: *mut u64, pointer: usize, flags: c_uint) {
        current()?;
        if flags != 0 || !host::mapped(pointer as u64, 1) {
            return Err(Code::InvalidValue);
        }
        // SAFETY: (1) the caller's pointer.
        unsafe { put(device, pointer as u64) }
    }

    /// Host to device, and waits.
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, len: usize) {
        current()?;
        with(|s| upload(s, LEGACY, to, from, len))?;
        wait_until(|s| Ok(s.streams[&LEGACY].oldest().is_none()))
    }

    /// Host to device, in a stream.
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, len: usize, stream: u64) {
        current()?;
        with(|s| upload(s, stream, to, from, len))
    }

    /// Device to host, and waits.
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, len: usize) {
        current()?;
        queue_and_wait(LEGACY, Work::Download { from, to: to as usize, len })
    }

    /// Device to host in a stream; waits if the host memory is not pinned.
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, len: usize, stream: u64) {
        current()?;
        let work = Work::Download { from, to: to as usize, len };
        if host::mapped(to as u64, len) {
            return with(|s| enqueue(s, stream, work)).map(|_| ());
        }
        with(|s| match s.streams.get(&stream) {
            Some(s) if s.capture.is_some() => Err(Code::CaptureUnsupported),
            _ => Ok(()),
        })?;
        queue_and_wait(stream, work)
    }

    /// Device to device, in a stream.
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, len: usize, stream: u64) {
        current()?;
        with(|s| enqueue(s, stream, Work::Copy { from, to, len })).map(|_| ())
    }

    /// Fills bytes, in a stream.
    fn cuMemsetD8Async(to: u64, value: c_uchar, len: usize, stream: u64) {
        current()?;
        with(|s| enqueue(s, stream, Work::Fill { to, value, len })).map(|_| ())
    }

    /// Fills bytes, and waits.
    fn cuMemsetD8_v2(to: u64, value: c_uchar, len: usize) {
        current()?;
        queue_and_wait(LEGACY, Work::Fill { to, value, len })
    }
}
