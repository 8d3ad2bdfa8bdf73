//! Memory of the GPU, and of the host where the GPU reaches it.

use crate::driver::Kernels;
use cudarc::driver::{DriverError, result, sys};
use pilotlight_device::{LoadError, SlotMemory};
use pilotlight_units::Bytes;
use std::sync::Arc;

/// Kernels read whole pieces of 16 bytes, which may reach behind the last element.
pub(crate) const SLACK: usize = 64;

/// A refusal of the driver while a plan is loaded.
pub(crate) fn refused(call: &'static str) -> impl Fn(DriverError) -> LoadError {
    move |e| LoadError::Device { call, problem: format!("{e:?}") }
}

/// An allocation's failure: memory is short, or the driver has another trouble.
fn no_memory(what: &'static str, bytes: usize) -> impl Fn(DriverError) -> LoadError {
    move |e| match e.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => LoadError::Memory { what, bytes: Bytes(bytes as u64) },
        _ => LoadError::Device { call: what, problem: format!("{e:?}") },
    }
}

/// Device memory.
pub(crate) struct Device {
    pub(crate) address: sys::CUdeviceptr,
    kernels: Arc<Kernels>,
}

impl Device {
    pub(crate) fn new(kernels: &Arc<Kernels>, what: &'static str, bytes: usize) -> Result<Self, LoadError> {
        kernels.context.bind_to_thread().map_err(refused("entering the context"))?;
        let bytes = bytes + SLACK;
        // SAFETY: (1) the context is current.
        let address = unsafe { result::malloc_sync(bytes) }.map_err(no_memory(what, bytes))?;
        Ok(Self { address, kernels: Arc::clone(kernels) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.kernels.context.bind_to_thread().is_ok() {
            // SAFETY: (1) allocated once, freed once; (2) the driver waits for work that may use it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Pinned host memory that kernels read and write in place.
pub(crate) struct Pinned {
    host: *mut u8,
    pub(crate) address: sys::CUdeviceptr,
    bytes: usize,
    kernels: Arc<Kernels>,
}

// SAFETY: (1) the memory belongs to this value alone, and any thread may touch it.
unsafe impl Send for Pinned {}
// SAFETY: (1) a shared borrow reads bytes, or touches them as atomics by `host`.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Zeroed, page-aligned.
    pub(crate) fn new(kernels: &Arc<Kernels>, what: &'static str, bytes: usize) -> Result<Self, LoadError> {
        kernels.context.bind_to_thread().map_err(refused("entering the context"))?;
        let total = bytes + SLACK;
        // Not write-combined: the host reads outputs here.
        // SAFETY: (1) the context is current.
        let host = unsafe { result::malloc_host(total, sys::CU_MEMHOSTALLOC_DEVICEMAP) }
            .map_err(no_memory(what, total))?;
        let mut pinned = Self { host: host.cast(), address: 0, bytes, kernels: Arc::clone(kernels) };
        // SAFETY: (1) `host` was just allocated as mapped memory, and `address` is a place for the answer.
        unsafe { sys::cuMemHostGetDevicePointer_v2(&mut pinned.address, host, 0) }
            .result()
            .map_err(refused("mapping pinned memory"))?;
        // SAFETY: (1) `total` bytes were just allocated; zeroed so that no read sees stale bytes.
        unsafe { pinned.host.write_bytes(0, total) };
        Ok(pinned)
    }
}

impl Pinned {
    /// The first byte, as the host sees it.
    pub(crate) fn host(&self) -> *mut u8 {
        self.host
    }
}

impl SlotMemory for Pinned {
    fn bytes(&self) -> &[u8] {
        // SAFETY: (1) allocated with at least so many bytes, zeroed; (2) the GPU writes it only while a program
        // runs the slot, which borrows the slot and ends by waiting for the GPU.
        unsafe { std::slice::from_raw_parts(self.host, self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: (1), (2) as in `bytes`; (3) `&mut self` is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.host, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.kernels.context.bind_to_thread().is_ok() {
            // SAFETY: (1) allocated once, freed once; (2) no reference to it is left, and no kernel runs on it.
            let _ = unsafe { result::free_host(self.host.cast()) };
        }
    }
}
