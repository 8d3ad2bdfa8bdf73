//! The device's memory: allocations far apart, with poison inside and nothing between.
//!
//! Every allocation lies in an 8 GiB window of its own, at a seeded offset that gives no more alignment than
//! the driver promises (256 bytes). So an access that leaves its allocation by any distance traps, windows
//! are never given out twice, and use after free traps too. Mapped host memory keeps its host address and is
//! reached through [`HostWindow`], which the driver shim provides.

use crate::rng::Rng;

/// First device address: above every address a Linux process has, so host pointers are never mistaken.
pub const DEVICE_BASE: u64 = 1 << 48;
/// Where the generic window of shared memory starts.
pub const SHARED_WINDOW: u64 = 1 << 56;
const WINDOW_BITS: u32 = 33;
/// What the driver promises of `cuMemAlloc`.
pub const ALLOC_ALIGN: u64 = 256;
/// A byte pattern that no kernel should ever read.
pub const POISON: u8 = 0xA5;

/// Why an access failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not inside any allocation.
    #[error("address {address:#x} ({len} bytes) is not mapped")]
    Unmapped {
        /// First byte.
        address: u64,
        /// Bytes.
        len: usize,
    },
    /// Leaves the allocation that it starts in or lies beside.
    #[error("address {address:#x} ({len} bytes) is outside the allocation {base:#x} of {size} bytes")]
    OutOfBounds {
        /// First byte.
        address: u64,
        /// Bytes.
        len: usize,
        /// The nearest allocation.
        base: u64,
        /// Its size.
        size: usize,
    },
    /// The allocation was freed.
    #[error("address {address:#x} is in an allocation that was freed")]
    Freed {
        /// First byte.
        address: u64,
    },
    /// Not a multiple of the access's size.
    #[error("address {address:#x} is not a multiple of {align}")]
    Misaligned {
        /// First byte.
        address: u64,
        /// Bytes that one access moves.
        align: usize,
    },
    /// Outside the block's shared memory.
    #[error("shared address {address:#x} ({len} bytes) is outside {start:#x}..{end:#x}")]
    Shared {
        /// Offset in the shared window.
        address: u64,
        /// Bytes.
        len: usize,
        /// First byte that the kernel owns.
        start: u64,
        /// One past the last.
        end: u64,
    },
}

/// Host memory that kernels may touch. Accesses are real atomics of the element's size, because the host
/// goes on while a kernel polls.
pub trait HostWindow: Send {
    /// Reads `out.len()` bytes in elements of `size` bytes; `acquire` orders later accesses after it.
    /// `None` if the range is not mapped.
    fn load(&self, address: u64, out: &mut [u8], size: usize, acquire: bool) -> Option<()>;
    /// Writes `data` in elements of `size` bytes; `release` orders earlier accesses before it.
    fn store(&self, address: u64, data: &[u8], size: usize, release: bool) -> Option<()>;
    /// Atomic read-modify-write of one element.
    fn update(&self, address: u64, size: usize, f: &mut dyn FnMut(u64) -> u64) -> Option<u64>;
}

struct Allocation {
    base: u64,
    bytes: Vec<u8>,
}

enum Window {
    Live(Allocation),
    Freed,
}

/// All of device memory.
pub struct Memory {
    windows: Vec<Window>,
    used: u64,
    capacity: u64,
    rng: Rng,
    /// Mapped host memory, if a driver shim is there.
    pub host: Option<Box<dyn HostWindow>>,
}

impl Memory {
    /// Memory of `capacity` bytes; `seed` places allocations.
    pub fn new(capacity: u64, seed: u64) -> Self {
        Memory { windows: Vec::new(), used: 0, capacity, rng: Rng::new(seed), host: None }
    }

    /// Bytes free and in all.
    pub fn info(&self) -> (u64, u64) {
        (self.capacity - self.used, self.capacity)
    }

    /// A new allocation full of poison, or `None` if it does not fit.
    pub fn alloc(&mut self, len: usize) -> Option<u64> {
        let fits = self.used.checked_add(len as u64).is_some_and(|used| used <= self.capacity);
        // 2^15 windows lie below the end of the 16-bit tag; far more than a runtime should ever ask for.
        if len == 0 || !fits || self.windows.len() >= 1 << 15 || len as u64 > 1 << (WINDOW_BITS - 1) {
            return None;
        }
        let pad = ALLOC_ALIGN * (1 + 2 * self.rng.below(64));
        let base = DEVICE_BASE + ((self.windows.len() as u64) << WINDOW_BITS) + pad;
        self.windows.push(Window::Live(Allocation { base, bytes: vec![POISON; len] }));
        self.used += len as u64;
        Some(base)
    }

    /// Frees an allocation by its first address; false if there is none.
    pub fn free(&mut self, base: u64) -> bool {
        let Some(window) = self.window_mut(base) else { return false };
        match window {
            Window::Live(a) if a.base == base => {
                let size = a.bytes.len() as u64;
                *window = Window::Freed;
                self.used -= size;
                true
            }
            _ => false,
        }
    }

    /// Number of live allocations.
    pub fn live(&self) -> usize {
        self.windows.iter().filter(|w| matches!(w, Window::Live(_))).count()
    }

    /// The window that an address lies in.
    pub fn index(address: u64) -> Option<usize> {
        (address >> 48 == 1).then(|| ((address - DEVICE_BASE) >> WINDOW_BITS) as usize)
    }

    fn window_mut(&mut self, address: u64) -> Option<&mut Window> {
        self.windows.get_mut(Self::index(address)?)
    }

    /// The first address of the allocation in a window, if it is live.
    pub fn base(&self, window: usize) -> Option<u64> {
        match self.windows.get(window)? {
            Window::Live(a) => Some(a.base),
            Window::Freed => None,
        }
    }

    fn fault(&self, address: u64, len: usize) -> Fault {
        match Self::index(address).and_then(|n| self.windows.get(n)) {
            Some(Window::Live(a)) => Fault::OutOfBounds { address, len, base: a.base, size: a.bytes.len() },
            Some(Window::Freed) => Fault::Freed { address },
            None => Fault::Unmapped { address, len },
        }
    }

    /// The allocation around `address`: its first address and its bytes.
    pub fn around(&self, address: u64) -> Option<(u64, &[u8])> {
        match self.windows.get(Self::index(address)?)? {
            Window::Live(a) => Some((a.base, &a.bytes)),
            Window::Freed => None,
        }
    }

    /// As [`Memory::around`], to write.
    pub fn around_mut(&mut self, address: u64) -> Option<(u64, &mut [u8])> {
        match self.window_mut(address)? {
            Window::Live(a) => Some((a.base, &mut a.bytes)),
            Window::Freed => None,
        }
    }

    /// Device bytes.
    pub fn bytes(&self, address: u64, len: usize) -> Result<&[u8], Fault> {
        let found = self.around(address).and_then(|(base, bytes)| {
            let start = usize::try_from(address.checked_sub(base)?).ok()?;
            bytes.get(start..start.checked_add(len)?)
        });
        found.ok_or_else(|| self.fault(address, len))
    }

    /// Device bytes, to write.
    pub fn bytes_mut(&mut self, address: u64, len: usize) -> Result<&mut [u8], Fault> {
        let fault = self.fault(address, len);
        let found = self.around_mut(address).and_then(|(base, bytes)| {
            let start = usize::try_from(address.checked_sub(base)?).ok()?;
            bytes.get_mut(start..start.checked_add(len)?)
        });
        found.ok_or(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_and_freed_memory_trap() {
        let mut memory = Memory::new(1 << 20, 1);
        let (a, b) = (memory.alloc(1000).unwrap(), memory.alloc(16).unwrap());
        assert_eq!((a % 256, a % 512), (0, 256));
        assert_eq!(memory.bytes(a, 1000).unwrap(), [POISON; 1000]);
        assert!(matches!(memory.bytes(a + 999, 2), Err(Fault::OutOfBounds { size: 1000, .. })));
        assert!(matches!(memory.bytes(a - 1, 1), Err(Fault::OutOfBounds { .. })));
        assert!(matches!(memory.bytes(0, 4), Err(Fault::Unmapped { .. })));
        memory.bytes_mut(b, 16).unwrap().fill(1);
        assert!(memory.free(b) && !memory.free(b) && !memory.free(a + 1));
        assert_eq!(memory.bytes(b, 4), Err(Fault::Freed { address: b }));
        assert_eq!(memory.info(), ((1 << 20) - 1000, 1 << 20));
        assert_eq!(memory.alloc(1 << 20), None);
    }
}
