//! Mapped host memory: what cuMemHostAlloc gave out, touched by kernels through real atomics.

use crate::memory::{HostWindow, POISON};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// First byte to size of every allocation.
static RANGES: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

const PAGE: usize = 4096;

fn ranges() -> std::sync::MutexGuard<'static, BTreeMap<usize, usize>> {
    RANGES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size, PAGE).ok()
}

/// Page-aligned memory full of poison; `None` if there is none of this size.
pub fn allocate(size: usize) -> Option<usize> {
    let layout = layout(size).filter(|l| l.size() > 0)?;
    // SAFETY: (1) the layout's size is not 0.
    let memory = unsafe { alloc(layout) };
    if memory.is_null() {
        return None;
    }
    // SAFETY: (1) `size` bytes at `memory` were just allocated.
    unsafe { memory.write_bytes(POISON, size) };
    ranges().insert(memory as usize, size);
    Some(memory as usize)
}

/// Frees what [`allocate`] gave; false if it did not give it.
pub fn free(address: usize) -> bool {
    let Some(size) = ranges().remove(&address) else { return false };
    if let Some(layout) = layout(size) {
        // SAFETY: (1) allocated by `allocate` with this layout, and removed from the table just now.
        unsafe { dealloc(address as *mut u8, layout) };
    }
    true
}

/// Whether `len` bytes at `address` lie in one mapped allocation.
pub fn mapped(address: u64, len: usize) -> bool {
    let Ok(address) = usize::try_from(address) else { return false };
    let ranges = ranges();
    let Some((start, size)) = ranges.range(..=address).next_back() else { return false };
    address.checked_add(len).is_some_and(|end| end <= start + size)
}

/// The window that kernels see.
pub struct Window;

macro_rules! atomic_of {
    ($ty:ty, $address:expr) => {
        // SAFETY: (1) the range was checked to be mapped and the address is aligned to the element; (2) the
        // program shares this memory with a device and must itself use atomics where both touch it at a time.
        unsafe { <$ty>::from_ptr($address as *mut _) }
    };
}

impl HostWindow for Window {
    fn load(&self, address: u64, out: &mut [u8], size: usize, acquire: bool) -> Option<()> {
        if !mapped(address, out.len()) || !address.is_multiple_of(size as u64) {
            return None;
        }
        let order = if acquire { Ordering::Acquire } else { Ordering::Relaxed };
        for (n, bytes) in out.chunks_exact_mut(size).enumerate() {
            let at = address as usize + n * size;
            match size {
                1 => bytes.copy_from_slice(&atomic_of!(AtomicU8, at).load(order).to_le_bytes()),
                2 => bytes.copy_from_slice(&atomic_of!(AtomicU16, at).load(order).to_le_bytes()),
                4 => bytes.copy_from_slice(&atomic_of!(AtomicU32, at).load(order).to_le_bytes()),
                _ => bytes.copy_from_slice(&atomic_of!(AtomicU64, at).load(order).to_le_bytes()),
            }
        }
        Some(())
    }

    fn store(&self, address: u64, data: &[u8], size: usize, release: bool) -> Option<()> {
        if !mapped(address, data.len()) || !address.is_multiple_of(size as u64) {
            return None;
        }
        let order = if release { Ordering::Release } else { Ordering::Relaxed };
        for (n, bytes) in data.chunks_exact(size).enumerate() {
            let at = address as usize + n * size;
            let mut raw = [0u8; 8];
            raw[..size].copy_from_slice(bytes);
            let value = u64::from_le_bytes(raw);
            match size {
                1 => atomic_of!(AtomicU8, at).store(value as u8, order),
                2 => atomic_of!(AtomicU16, at).store(value as u16, order),
                4 => atomic_of!(AtomicU32, at).store(value as u32, order),
                _ => atomic_of!(AtomicU64, at).store(value, order),
            }
        }
        Some(())
    }

    fn update(&self, address: u64, size: usize, f: &mut dyn FnMut(u64) -> u64) -> Option<u64> {
        if !mapped(address, size) || !address.is_multiple_of(size as u64) {
            return None;
        }
        let (set, fetch) = (Ordering::SeqCst, Ordering::SeqCst);
        match size {
            4 => {
                let word = atomic_of!(AtomicU32, address as usize);
                word.fetch_update(set, fetch, |v| Some(f(u64::from(v)) as u32)).ok().map(u64::from)
            }
            8 => atomic_of!(AtomicU64, address as usize).fetch_update(set, fetch, |v| Some(f(v))).ok(),
            _ => None,
        }
    }
}

/// Copies out of mapped host memory.
pub fn read(address: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    Window.load(address, &mut bytes, 1, false)?;
    Some(bytes)
}
