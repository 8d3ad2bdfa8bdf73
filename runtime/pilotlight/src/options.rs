//! How a session is opened.

use crate::OpenError;
use crate::energy::Meter;
use std::num::NonZeroUsize;

/// Which device runs the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DeviceKind {
    /// The processor, with the fastest instructions that it has.
    #[default]
    Cpu,
    /// Plain loops, one thread, very slow: it defines what every other device must give.
    Reference,
    /// A CUDA GPU, all kernels of an inference as one CUDA graph. Needs the feature `cuda`.
    CudaGraph,
    /// A CUDA GPU, one kernel that stays resident: an inference is a store to its mailbox. Needs the feature `cuda`.
    CudaPersistent,
    /// A CUDA GPU, one launch for each kernel. Needs the feature `cuda`.
    CudaLaunch,
}

/// How a thread waits for a result.
///
/// The counts are system calls for each inference once the session is warm, of the waiting thread and of the
/// [worker](Runner::Worker) together. With [`Runner::Inline`] nobody waits and there are none, unless two threads
/// wait at the same time.
///
/// The thread that runs the inference waits for [`DeviceKind::CudaPersistent`] in the same way: with `Spin` without a
/// call, with the others by one sleep more, until shortly before the expected end, since a resident kernel cannot wake
/// a thread. Other GPU devices make the driver's calls besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Wait {
    /// Both sides read memory until it changes: no system call (unless one has lost its core for some tenths of a
    /// second while the other needs what it holds), the least delay, two busy cores (the worker's even when there is
    /// nothing to do).
    Spin,
    /// The waiter sleeps once, until shortly before the expected end, then spins; the worker sleeps when there is
    /// nothing to do. At most three calls: one sleep, one wake-up of the worker, one sleep of the worker.
    Predictive,
    /// Both sides sleep: at most four calls, and the delay of a wake-up.
    #[default]
    Block,
}

/// Whose thread does the work.
///
/// A device that runs by itself will not need one; the CPU does.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Runner {
    /// The thread that waits (or polls) does the work there and then. The library has no thread of its own
    /// (but for those that a device with more than one thread keeps).
    #[default]
    Inline,
    /// One thread of the session does the work, in the order of submission.
    Worker(Thread),
}

/// How urgent a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Priority {
    /// As the thread that opened the session.
    #[default]
    Inherit,
    /// A nice level, -20 (most urgent) to 19; below 0 needs `CAP_SYS_NICE`.
    Nice(i8),
    /// Real time, first in first out, 1 to 99 (most urgent); needs `CAP_SYS_NICE`.
    Fifo(u8),
}

/// The settings of the worker thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    name: String,
    priority: Priority,
    cores: Vec<usize>,
}

impl Default for Thread {
    fn default() -> Self {
        Self { name: "pilotlight".into(), priority: Priority::Inherit, cores: vec![] }
    }
}

impl Thread {
    /// The name that tools show: 1 to 15 bytes. `pilotlight` unless set.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How urgent it is.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The cores that it may run on, from 0; none means any.
    #[must_use]
    pub fn cores(mut self, cores: impl Into<Vec<usize>>) -> Self {
        self.cores = cores.into();
        self
    }

    pub(crate) fn parts(&self) -> (&str, Priority, &[usize]) {
        (&self.name, self.priority, &self.cores)
    }
}

/// How a session is opened; the default runs in the caller's thread, with two slots.
///
/// ```
/// use pilotlight::{Options, Priority, Runner, Thread, Wait};
/// let options = Options::default()
///     .slots(3)
///     .wait(Wait::Predictive)
///     .runner(Runner::Worker(Thread::default().name("infer").priority(Priority::Nice(5)).cores([1])));
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) device: DeviceKind,
    pub(crate) threads: NonZeroUsize,
    pub(crate) slots: usize,
    pub(crate) runner: Runner,
    pub(crate) wait: Wait,
    pub(crate) lock_memory: bool,
    pub(crate) meter: Option<Meter>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: DeviceKind::default(),
            threads: NonZeroUsize::MIN,
            slots: 2,
            runner: Runner::default(),
            wait: Wait::default(),
            lock_memory: false,
            meter: None,
        }
    }
}

impl Options {
    /// The most slots that a session may have.
    pub const MAX_SLOTS: usize = 64;

    /// Which device runs the plan.
    #[must_use]
    pub fn device(mut self, device: DeviceKind) -> Self {
        self.device = device;
        self
    }

    /// How many threads share one inference, the running one included; 1 unless set. The device keeps the others.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    /// How many inferences can be lent, in flight or being read at the same time, 1 to
    /// [`MAX_SLOTS`](Self::MAX_SLOTS); 2 unless set.
    #[must_use]
    pub fn slots(mut self, slots: usize) -> Self {
        self.slots = slots;
        self
    }

    /// Whose thread does the work.
    #[must_use]
    pub fn runner(mut self, runner: Runner) -> Self {
        self.runner = runner;
        self
    }

    /// How a thread waits for a result.
    #[must_use]
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// Lock all memory that the process has mapped once the plan is loaded (`mlockall(MCL_CURRENT)`: it is the
    /// process that is locked, not the session alone, and closing unlocks nothing).
    #[must_use]
    pub fn lock_memory(mut self, lock: bool) -> Self {
        self.lock_memory = lock;
        self
    }

    /// The meter that tells what inferences cost; none unless set. One for all sessions of a process.
    #[must_use]
    pub fn meter(mut self, meter: &Meter) -> Self {
        self.meter = Some(meter.clone());
        self
    }

    /// How a GPU is run: the thread that runs an inference waits for a resident kernel as the session's threads do.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda_settings(&self) -> pilotlight_cuda::Settings {
        let wait = match self.wait {
            Wait::Spin => pilotlight_cuda::Wait::Spin,
            Wait::Predictive | Wait::Block => pilotlight_cuda::Wait::Predictive,
        };
        pilotlight_cuda::Settings { wait, ..pilotlight_cuda::Settings::default() }
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let refuse = |option, found: String, allowed| Err(OpenError::Option { option, found, allowed });
        if !(1..=Self::MAX_SLOTS).contains(&self.slots) {
            return refuse("slots", self.slots.to_string(), "use 1 to 64");
        }
        if self.device != DeviceKind::Cpu && self.threads.get() != 1 {
            return refuse("threads", self.threads.to_string(), "all devices but the CPU have 1");
        }
        if let Runner::Worker(thread) = &self.runner {
            if thread.name.is_empty() || thread.name.len() > 15 || thread.name.contains('\0') {
                return refuse("thread name", format!("{:?}", thread.name), "use 1 to 15 bytes without NUL");
            }
            match thread.priority {
                Priority::Nice(n) if !(-20..=19).contains(&n) => {
                    return refuse("thread nice level", n.to_string(), "use -20 to 19");
                }
                Priority::Fifo(n) if !(1..=99).contains(&n) => {
                    return refuse("thread real-time priority", n.to_string(), "use 1 to 99");
                }
                _ => {}
            }
            if let Some(core) = thread.cores.iter().find(|&&core| core >= MAX_CORES) {
                return refuse("thread core", core.to_string(), "use 0 to 1023");
            }
        }
        Ok(())
    }
}

/// What a Linux CPU set holds.
const MAX_CORES: usize = 1024;

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::{Options, Wait};
    use pilotlight_cuda::Wait as Resident;

    #[test]
    fn only_who_spins_never_sleeps_for_the_resident_kernel() {
        let waits = [Wait::Spin, Wait::Predictive, Wait::Block];
        let found = waits.map(|wait| Options::default().wait(wait).cuda_settings().wait);
        assert_eq!(found, [Resident::Spin, Resident::Predictive, Resident::Predictive]);
    }
}
