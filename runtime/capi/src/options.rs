//! How a session is opened.

use crate::energy::{METERS, pl_meter};
use crate::memory::{put_versioned, versioned};
use crate::status::{Fault, entry, fault, pl_status, pl_status::*};
use pilotlight::{DeviceKind, Options, Priority, Runner, Thread, Wait};
use std::ffi::c_char;
use std::mem::offset_of;
use std::num::NonZeroUsize;

/// Device: the processor, with the fastest instructions that it has.
pub const PL_DEVICE_CPU: u32 = 2;
/// Device: plain loops, one thread, very slow; it defines what every other device must give.
pub const PL_DEVICE_REFERENCE: u32 = 1;
/// Device: a CUDA GPU, all kernels of an inference as one CUDA graph; for libraries built with it.
pub const PL_DEVICE_CUDA_GRAPH: u32 = 3;
/// Device: a CUDA GPU, one launch for each kernel; for libraries built with it.
pub const PL_DEVICE_CUDA_LAUNCH: u32 = 4;
/// Device: a CUDA GPU, one kernel that stays resident; for libraries built with it. The thread that runs inferences
/// sleeps once for each, until shortly before the expected end; with `PL_WAIT_SPIN` it does not.
pub const PL_DEVICE_CUDA_PERSISTENT: u32 = 5;

/// Runner: the thread that waits or polls does the work. The library has no thread.
pub const PL_RUN_INLINE: u32 = 0;
/// Runner: one thread of the session does the work, in the order of submission.
pub const PL_RUN_WORKER: u32 = 1;

/// Wait: sleep; at most four system calls for each inference, both threads together.
pub const PL_WAIT_BLOCK: u32 = 0;
/// Wait: one sleep until shortly before the expected end, then spin; at most three system calls.
pub const PL_WAIT_PREDICTIVE: u32 = 1;
/// Wait: spin; no system call, and the worker spins too.
pub const PL_WAIT_SPIN: u32 = 2;

/// Priority of the worker: as the thread that opened the session.
pub const PL_PRIORITY_INHERIT: u32 = 0;
/// Priority of the worker: `priority_level` is a nice level, -20 (most urgent) to 19.
pub const PL_PRIORITY_NICE: u32 = 1;
/// Priority of the worker: real time, first in first out; `priority_level` is 1 to 99 (most urgent).
pub const PL_PRIORITY_FIFO: u32 = 2;

/// How a session is opened. Call `pl_options_init` first, then change what should differ.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct pl_options {
    /// Size of this structure, set by `pl_options_init`: it tells the library which fields there are.
    pub size: usize,
    /// `PL_DEVICE_...`; `PL_DEVICE_CPU`.
    pub device: u32,
    /// How many threads share one inference, the running one included; 1.
    pub threads: u32,
    /// How many inferences can be lent, in flight or being read at the same time, 1 to 64; 2.
    pub slots: u32,
    /// `PL_RUN_...`; `PL_RUN_INLINE`.
    pub runner: u32,
    /// `PL_WAIT_...`; `PL_WAIT_BLOCK`.
    pub wait: u32,
    /// Not 0: lock all memory that the process has mapped once the plan is loaded; 0.
    pub lock_memory: u32,
    /// `PL_PRIORITY_...` of the worker thread; `PL_PRIORITY_INHERIT`.
    pub priority: u32,
    /// Level that belongs to `priority`; 0.
    pub priority_level: i32,
    /// Cores that the worker thread may run on, one bit each from bit 0; 0 means any.
    pub cores: u64,
    /// Name of the worker thread, NUL-terminated; "pilotlight".
    pub thread_name: [c_char; 16],
    /// Tells what inferences cost; null: nobody does.
    pub meter: pl_meter,
}

/// Size of the first version of `pl_options`.
const OLDEST: usize = offset_of!(pl_options, meter);

impl pl_options {
    fn new() -> Self {
        let mut thread_name = [0; 16];
        for (to, from) in thread_name.iter_mut().zip(b"pilotlight") {
            *to = *from as c_char;
        }
        Self {
            size: size_of::<Self>(),
            device: PL_DEVICE_CPU,
            threads: 1,
            slots: 2,
            runner: PL_RUN_INLINE,
            wait: PL_WAIT_BLOCK,
            lock_memory: 0,
            priority: PL_PRIORITY_INHERIT,
            priority_level: 0,
            cores: 0,
            thread_name,
            meter: pl_meter { id: 0 },
        }
    }

    /// What C asked for; NULL asks for the defaults.
    ///
    /// # Safety
    /// 1. `from` is NULL or points to a `pl_options`.
    pub(crate) unsafe fn read(from: *const Self) -> Result<Options, Fault> {
        if from.is_null() {
            return Self::new().options();
        }
        // SAFETY: 1.; all fields are integers, the first is the size.
        unsafe { versioned(from, Self::new(), OLDEST, "options") }?.options()
    }

    fn options(self) -> Result<Options, Fault> {
        let refuse = |option: &str, found: u32, allowed: &str| {
            fault(PL_ERR_OPTION, format!("option {option} is {found}; use {allowed}"))
        };
        let device = match self.device {
            PL_DEVICE_CPU => DeviceKind::Cpu,
            PL_DEVICE_REFERENCE => DeviceKind::Reference,
            PL_DEVICE_CUDA_GRAPH => DeviceKind::CudaGraph,
            PL_DEVICE_CUDA_LAUNCH => DeviceKind::CudaLaunch,
            PL_DEVICE_CUDA_PERSISTENT => DeviceKind::CudaPersistent,
            other => {
                let allowed = "PL_DEVICE_CPU, PL_DEVICE_REFERENCE or one of PL_DEVICE_CUDA_...";
                return Err(refuse("device", other, allowed));
            }
        };
        let threads =
            NonZeroUsize::new(self.threads as usize).ok_or_else(|| refuse("threads", 0, "1 or more"))?;
        let wait = match self.wait {
            PL_WAIT_BLOCK => Wait::Block,
            PL_WAIT_PREDICTIVE => Wait::Predictive,
            PL_WAIT_SPIN => Wait::Spin,
            other => return Err(refuse("wait", other, "PL_WAIT_BLOCK, PL_WAIT_PREDICTIVE or PL_WAIT_SPIN")),
        };
        let runner = match self.runner {
            PL_RUN_INLINE => Runner::Inline,
            PL_RUN_WORKER => Runner::Worker(self.thread()?),
            other => return Err(refuse("runner", other, "PL_RUN_INLINE or PL_RUN_WORKER")),
        };
        let options = match self.meter.id {
            0 => Options::default(),
            id => Options::default().meter(&*METERS.get(id)?),
        };
        Ok(options
            .device(device)
            .threads(threads)
            .slots(self.slots as usize)
            .runner(runner)
            .wait(wait)
            .lock_memory(self.lock_memory != 0))
    }

    fn thread(&self) -> Result<Thread, Fault> {
        let level = || {
            self.priority_level.try_into().map_err(|_| {
                fault(PL_ERR_OPTION, format!("option priority_level is {}", self.priority_level))
            })
        };
        let priority = match self.priority {
            PL_PRIORITY_INHERIT => Priority::Inherit,
            PL_PRIORITY_NICE => Priority::Nice(level()?),
            PL_PRIORITY_FIFO => Priority::Fifo(u8::try_from(level()?).unwrap_or(0)),
            other => {
                return Err(fault(
                    PL_ERR_OPTION,
                    format!(
                        "option priority is {other}; use PL_PRIORITY_INHERIT, PL_PRIORITY_NICE or PL_PRIORITY_FIFO"
                    ),
                ));
            }
        };
        let name: Vec<u8> = self.thread_name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
        let name = String::from_utf8(name)
            .map_err(|_| fault(PL_ERR_OPTION, "option thread_name is not UTF-8; use letters and digits"))?;
        let cores: Vec<usize> = (0..64).filter(|&core| self.cores >> core & 1 == 1).collect();
        Ok(Thread::default().name(name).priority(priority).cores(cores))
    }
}

/// Fills in the defaults: run in the caller's thread, two slots. `size` is `sizeof(pl_options)`. Any thread.
///
/// Fails with `PL_ERR_NULL`, `PL_ERR_SIZE`.
///
/// # Safety
/// 1. `options` is NULL or points to room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_options_init(options: *mut pl_options, size: usize) -> pl_status {
    entry(|| {
        let defaults = pl_options { size, ..pl_options::new() };
        // SAFETY: 1.; all fields are integers.
        unsafe { put_versioned(options, defaults, size, OLDEST, "options") }?;
        Ok(PL_OK)
    })
}
