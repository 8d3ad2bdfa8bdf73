//! Whether this process is a fork of the one that opened the device.

#[cfg(target_os = "linux")]
pub(crate) use linux::Fork;
#[cfg(not(target_os = "linux"))]
pub(crate) use other::Fork;

/// Asks no system call: a page that a forked child finds empty.
#[cfg(target_os = "linux")]
mod linux {
    use pilotlight_device::LoadError;
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
    use std::sync::atomic::{AtomicU32, Ordering};

    const PAGE: usize = 4096;

    pub(crate) struct Fork {
        page: *mut AtomicU32,
    }

    // SAFETY: (1) the page is written once, before this is shared.
    unsafe impl Send for Fork {}
    // SAFETY: (1) as above; reads are atomic.
    unsafe impl Sync for Fork {}

    impl Fork {
        pub(crate) fn new() -> Result<Self, LoadError> {
            let refused =
                |e: rustix::io::Errno| LoadError::Device { call: "mapping a page", problem: e.to_string() };
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: (1) a new private mapping anywhere touches no other memory.
            let page = unsafe { mmap_anonymous(std::ptr::null_mut(), PAGE, access, MapFlags::PRIVATE) };
            let fork = Self { page: page.map_err(refused)?.cast() };
            // SAFETY: (1) the page was just mapped; wiping it in a child is what it is for.
            unsafe { madvise(fork.page.cast(), PAGE, Advice::LinuxWipeOnFork) }.map_err(refused)?;
            fork.word().store(1, Ordering::Relaxed);
            Ok(fork)
        }

        fn word(&self) -> &AtomicU32 {
            // SAFETY: (1) the page is mapped, aligned and zeroed, and lives as long as this value.
            unsafe { &*self.page }
        }

        pub(crate) fn forked(&self) -> bool {
            self.word().load(Ordering::Relaxed) == 0
        }
    }

    impl Drop for Fork {
        fn drop(&mut self) {
            // SAFETY: (1) mapped by `new` with this size, unmapped once.
            let _ = unsafe { munmap(self.page.cast(), PAGE) };
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use pilotlight_device::LoadError;

    pub(crate) struct Fork(u32);

    impl Fork {
        pub(crate) fn new() -> Result<Self, LoadError> {
            Ok(Self(std::process::id()))
        }

        pub(crate) fn forked(&self) -> bool {
            self.0 != std::process::id()
        }
    }
}
