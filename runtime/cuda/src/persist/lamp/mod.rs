//! The kernel's life: launched when there is work, lit while there is, dark for the driver's sake.
//!
//! While it is lit the driver is asked for nothing but its launch and whether the stream is idle: other calls may
//! wait for a kernel that waits for us. Whoever needs the driver takes the kernel out first ([`Lamp::dark`]).
//!
//! | file | what it holds |
//! |---|---|
//! | `mod` | the lamp itself, and a request's way through it |
//! | `kernel` | launched, stopped, set up anew after an abort |
//! | `wait` | how a thread waits for its request, and looks after the kernel meanwhile |
//! | `pause` | the driver for others: one piece of work, or until a guard is dropped |
//! | `beat` | the thread that tells the kernel that the host lives |

mod beat;
mod kernel;
mod pause;
mod wait;

pub use pause::Pause;

use super::fork::Fork;
use super::mailbox::Words;
use super::settings::{LEAST_IDLE, Settings, Wait};
use crate::driver::Kernels;
use crate::memory::{Device, Pinned, refused};
use beat::Beat;
use cudarc::driver::{CudaStream, DriverError};
use pilotlight_device::{LoadError, RunError};
use pilotlight_kernels::abi;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;
use zerocopy::IntoBytes;

/// What can go wrong that no later request survives.
#[derive(Debug, Clone)]
pub(crate) struct Broken {
    call: &'static str,
    problem: String,
}

impl From<Broken> for RunError {
    fn from(b: Broken) -> Self {
        RunError::Device { call: b.call, problem: b.problem }
    }
}

/// Requests that an abort or a deadline took with it, by number.
struct Loss {
    from: u32,
    to: u32,
    error: RunError,
}

/// Where a plan's epoch and flags lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlanState {
    pub(crate) address: u64,
    pub(crate) words: usize,
}

struct State {
    /// Number of the last request.
    submitted: u32,
    /// Number of the last launch.
    generation: u32,
    paused: Option<ThreadId>,
    broken: Option<Broken>,
    plans: Vec<PlanState>,
    losses: Vec<Loss>,
}

/// One resident kernel and its mailbox, for all plans of a device.
pub(crate) struct Lamp {
    beat: Mutex<Option<Beat>>,
    stream: Arc<CudaStream>,
    mailbox: Arc<Pinned>,
    control: Device,
    kernels: Arc<Kernels>,
    pub(crate) ctas: u32,
    pub(crate) settings: Settings,
    state: Mutex<State>,
    /// Signalled when a pause ends.
    resumed: Condvar,
    /// How often requests were lost.
    lost: AtomicU32,
    /// The last launch, for those who only want to know whether it has left.
    launched: AtomicU32,
    fork: Fork,
}

fn broken(call: &'static str) -> impl Fn(DriverError) -> Broken {
    move |e| Broken { call, problem: format!("{e:?}") }
}

impl Lamp {
    /// Everything allocated, and the kernel launched once to see that the driver takes it.
    pub(crate) fn new(kernels: Arc<Kernels>, settings: Settings) -> Result<Self, LoadError> {
        if settings.idle.is_some_and(|idle| idle < LEAST_IDLE) {
            return Err(LoadError::Setting {
                setting: "idle time",
                found: format!("{:?}", settings.idle.unwrap_or_default()),
                allowed: format!("{LEAST_IDLE:?} or more, or none"),
            });
        }
        let ctas = settings.multiprocessors_of(kernels.multiprocessors)?.min(abi::MOST_CTAS);
        let mailbox = Arc::new(Pinned::new(&kernels, "mailbox", abi::MAIL_BYTES as usize)?);
        let control = Device::new(&kernels, "control memory", abi::CONTROL_BYTES as usize)?;
        let stream = kernels.context.new_stream().map_err(refused("making a stream"))?;
        let fork = Fork::new()?;
        let state = State {
            submitted: settings.first,
            generation: 0,
            paused: None,
            broken: None,
            plans: Vec::new(),
            losses: Vec::new(),
        };
        let lamp = Self {
            beat: Mutex::new(None),
            stream,
            mailbox,
            control,
            kernels,
            ctas,
            settings,
            state: Mutex::new(state),
            resumed: Condvar::new(),
            lost: AtomicU32::new(0),
            launched: AtomicU32::new(0),
            fork,
        };
        if lamp.settings.idle.is_none() {
            let beat = Beat::start(&lamp.mailbox, lamp.settings.heartbeat / 8)?;
            *lamp.beat.lock().unwrap_or_else(PoisonError::into_inner) = Some(beat);
        }
        let failed = |b: Broken| LoadError::Device { call: b.call, problem: b.problem };
        let mut state = lamp.lock();
        lamp.reset(&mut state).map_err(failed)?;
        // It finds the order to leave.
        lamp.words().order(abi::ORDER_PARK);
        lamp.launch(&mut state).map_err(failed)?;
        lamp.extinguish(&mut state).map_err(failed)?;
        drop(state);
        Ok(lamp)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        pilotlight_device::lock(&self.state, self.settings.wait == Wait::Spin)
    }

    fn words(&self) -> Words<'_, AtomicU32> {
        words(&self.mailbox)
    }

    /// Whether the kernel is resident, as far as the host has heard. No lock: inferences must not wait for who asks.
    pub(crate) fn lit(&self) -> bool {
        self.words().left(self.launched.load(Ordering::Relaxed)).is_none()
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        word(&self.mailbox, offset)
    }

    /// Runs a request; when it returns the outputs are written. Gives when the kernel took it up and was done, in
    /// nanoseconds of its clock.
    pub(crate) fn run(&self, request: &abi::Request, expected: Duration) -> Result<Range<u64>, RunError> {
        let (number, losses) = self.submit(request)?;
        self.wait(number, expected)?;
        if self.lost.load(Ordering::Acquire) != losses {
            let state = self.lock();
            let lost = state
                .losses
                .iter()
                .find(|l| number.wrapping_sub(l.from) as i32 >= 0 && l.to.wrapping_sub(number) as i32 >= 0);
            if let Some(loss) = lost {
                return Err(loss.error.clone());
            }
        }
        let time = |n| {
            u64::from(self.word(abi::MAIL_TIMES + n).load(Ordering::Relaxed))
                | u64::from(self.word(abi::MAIL_TIMES + n + 4).load(Ordering::Relaxed)) << 32
        };
        Ok(time(0)..time(8).max(time(0)))
    }

    /// The request's number, and how often requests had been lost before it.
    fn submit(&self, request: &abi::Request) -> Result<(u32, u32), RunError> {
        if self.fork.forked() {
            return Err(RunError::Device {
                call: "running in a forked child",
                problem: "CUDA does not survive fork".into(),
            });
        }
        let mut state = self.lock();
        loop {
            if let Some(broken) = &state.broken {
                return Err(broken.clone().into());
            }
            match state.paused {
                None => {}
                Some(thread) if thread == std::thread::current().id() => {
                    return Err(RunError::Device {
                        call: "running while the GPU is paused",
                        problem: "this thread holds the pause: end it first".into(),
                    });
                }
                Some(_) => {
                    state = self.resumed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            }
            let oldest = state.submitted.wrapping_sub(abi::REQUESTS - 1);
            if self.words().done(oldest) {
                break;
            }
            drop(state);
            self.wait(oldest, Duration::ZERO)?;
            state = self.lock();
        }
        let number = state.submitted.wrapping_add(1);
        let line = abi::MAIL_REQUESTS + number % abi::REQUESTS * abi::LINE;
        for (n, word) in request.as_bytes().chunks_exact(4).enumerate() {
            let word = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
            self.word(line + n as u32 * 4).store(word, Ordering::Relaxed);
        }
        let losses = self.lost.load(Ordering::Acquire);
        state.submitted = number;
        if self.words().submit(number, state.generation) {
            self.launch(&mut state)?;
        }
        Ok((number, losses))
    }
}

impl Drop for Lamp {
    fn drop(&mut self) {
        if !self.fork.forked() {
            let mut state = self.lock();
            let _ = self.extinguish(&mut state);
        }
        *self.beat.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn word(mailbox: &Pinned, offset: u32) -> &AtomicU32 {
    debug_assert!(offset.is_multiple_of(4) && offset < abi::MAIL_BYTES);
    // SAFETY: (1) the offset lies in the mailbox, by the shared table, and is aligned, as its memory is page-aligned;
    // (2) the memory lives as long as the borrow; (3) host and kernel touch these words with atomics only.
    unsafe { AtomicU32::from_ptr(mailbox.host().add(offset as usize).cast()) }
}

fn words(mailbox: &Pinned) -> Words<'_, AtomicU32> {
    Words {
        submitted: word(mailbox, abi::MAIL_SUBMITTED),
        order: word(mailbox, abi::MAIL_ORDER),
        beat: word(mailbox, abi::MAIL_BEAT),
        done: word(mailbox, abi::MAIL_DONE),
        parked: word(mailbox, abi::MAIL_PARKED),
        reason: word(mailbox, abi::MAIL_REASON),
    }
}

#[cfg(test)]
mod tests;
