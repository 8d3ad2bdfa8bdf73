//! A plan, open on a device.

use crate::energy::{Energy, Metering, NotMeasured};
use crate::job::{Current, Job, Loaded};
use crate::ring::{Abandoned, NoSlot, Ring};
use crate::slots::Lent;
use crate::{CloseError, DeviceKind, LendError, OpenError, Options, Ports, Runner, Thread, Wait, system};
use pilotlight_device::{Cpu, CpuOptions, Device, Reference};
use pilotlight_plan::Plan;
use std::sync::atomic::{AtomicU64, Ordering::Acquire};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

/// A plan open on a device: lends slots and runs them in the order of submission.
///
/// `Send` and `Sync`: threads may share it by reference or in an `Arc`. Slots, requests and outputs are `Send`
/// and outlive it. Dropping it [closes](Self::close) it.
///
/// ```
/// # fn demo(plan: &pilotlight::Plan) -> Result<(), Box<dyn std::error::Error>> {
/// use pilotlight::{Options, Session};
/// let session = Session::open(plan, &Options::default())?;
/// let mut slot = session.lend()?;
/// slot.input_mut::<f32>(0)?.fill(0.5);
/// let output = slot.submit()?.wait()?;
/// println!("{:?} in {:?}", output.output::<f32>(0)?, output.report().ran);
/// # Ok(())
/// # }
/// ```
pub struct Session {
    shared: Arc<Shared>,
    device: Arc<dyn Device>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

/// What the session, its slots and its worker share.
pub(crate) struct Shared {
    pub(crate) ring: Ring<Job>,
    current: Current,
    wait: Wait,
    inline: bool,
    worker: OnceLock<ThreadId>,
    sequence: AtomicU64,
    slots: usize,
    metering: Metering,
}

impl Session {
    /// A session on the device that the options name.
    ///
    /// # Errors
    /// [`OpenError`] when an option is out of range, memory is short, or the system refuses a setting.
    pub fn open(plan: &Plan, options: &Options) -> Result<Self, OpenError> {
        options.check()?;
        let device: Box<dyn Device> = match options.device {
            DeviceKind::Cpu => Box::new(Cpu::new(CpuOptions { threads: options.threads.get(), isa: None })?),
            DeviceKind::Reference => Box::new(Reference),
            #[cfg(feature = "cuda")]
            DeviceKind::CudaGraph => cuda(pilotlight_cuda::Mode::Graph, options)?,
            #[cfg(feature = "cuda")]
            DeviceKind::CudaPersistent => cuda(pilotlight_cuda::Mode::Persistent, options)?,
            #[cfg(feature = "cuda")]
            DeviceKind::CudaLaunch => cuda(pilotlight_cuda::Mode::Launch, options)?,
            #[cfg(not(feature = "cuda"))]
            DeviceKind::CudaGraph | DeviceKind::CudaPersistent | DeviceKind::CudaLaunch => {
                return Err(OpenError::NoCuda);
            }
        };
        Self::open_on(device, plan, options)
    }

    /// A session on a device of the caller's: a tracer, a fault injector, a device of one's own. The options'
    /// device and threads are not looked at.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn open_on(device: Box<dyn Device>, plan: &Plan, options: &Options) -> Result<Self, OpenError> {
        options.check()?;
        let device = Arc::<dyn Device>::from(device);
        let (loaded, jobs) = Loaded::new(&*device, plan, options.slots)?;
        let metering = match &options.meter {
            None => Metering::Not(NotMeasured::NoMeter),
            Some(_) if device.is_virtual() => Metering::Not(NotMeasured::VirtualBoard),
            Some(meter) => meter.attach(&device),
        };
        let awake = options.wait == Wait::Spin;
        let shared = Arc::new(Shared {
            ring: Ring::new(jobs, awake),
            current: Current::new(loaded, awake),
            wait: options.wait,
            inline: options.runner == Runner::Inline,
            worker: OnceLock::new(),
            sequence: AtomicU64::new(0),
            slots: options.slots,
            metering,
        });
        let worker = match &options.runner {
            Runner::Inline => None,
            Runner::Worker(thread) => Some(start(&shared, thread)?),
        };
        let session = Self { shared, device, worker: Mutex::new(worker) };
        system::lock_memory(options)?;
        log::debug!("session open: {} on {}", plan.name, session.device.describe());
        Ok(session)
    }

    /// Inputs and outputs of the plan that new requests run.
    pub fn ports(&self) -> Arc<Ports> {
        self.shared.current.ports()
    }

    /// What runs the plan, for people.
    pub fn device(&self) -> String {
        self.device.describe()
    }

    /// How many slots it has.
    pub fn slots(&self) -> usize {
        self.shared.slots
    }

    /// Lends a free slot, to be filled in place.
    ///
    /// It holds what the last user of the slot left there.
    ///
    /// # Errors
    /// [`LendError`] when all are in use or the session is closed.
    pub fn lend(&self) -> Result<Lent, LendError> {
        match self.shared.ring.lend() {
            Ok((index, job)) => Ok(Lent::new(Arc::clone(&self.shared), index, job)),
            Err(NoSlot::AllInUse) => Err(LendError::AllInUse { slots: self.shared.slots }),
            Err(NoSlot::Closed) => Err(LendError::Closed),
        }
    }

    /// Makes another plan the one that new requests run; no request is lost.
    ///
    /// Slots that are lent or in flight keep the plan that they were lent with (a slot's inputs and outputs say
    /// which); slots lent from now on have the new one. The old plan's memory is freed with its last slot. Both
    /// plans are in memory in between. When the new plan cannot be loaded nothing changes.
    ///
    /// # Errors
    /// [`OpenError::Load`] when the device cannot load the plan, [`OpenError::Closed`] after a close.
    pub fn swap(&self, plan: &Plan) -> Result<(), OpenError> {
        if self.shared.ring.is_drained() {
            return Err(OpenError::Closed);
        }
        let (loaded, spares) = Loaded::new(&*self.device, plan, self.shared.slots)?;
        self.shared.current.swap(loaded, spares, |fresh| self.shared.ring.exchange_free(fresh));
        log::debug!("session now runs {}", plan.name);
        Ok(())
    }

    /// The energy of inference `sequence` ([`Report::sequence`](crate::Report::sequence)): its part of the window in
    /// which it ended, once that has closed. The last 64 windows are kept.
    ///
    /// It takes a lock that the meter's thread holds for a short time a hundred times a second.
    pub fn energy(&self, sequence: u64) -> Energy {
        self.shared.metering.energy(sequence, self.shared.sequence.load(Acquire))
    }

    /// Lends nothing and takes nothing any more, and returns when everything that was submitted is done.
    ///
    /// Requests can still be waited for, outputs still be read. Closing twice does nothing.
    ///
    /// # Errors
    /// [`CloseError::WrongThread`] on the session's own thread (in a log callback, say); the session stays open.
    pub fn close(&self) -> Result<(), CloseError> {
        let shared = &self.shared;
        if shared.is_worker() {
            return Err(CloseError::WrongThread);
        }
        shared.ring.close();
        let worker = self.worker.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(worker) = worker {
            // The worker catches panics of the device, so there is nothing to learn from the result.
            let _ = worker.join();
        }
        loop {
            let seen = shared.ring.completions();
            if shared.inline && shared.run_next() {
                continue;
            }
            if shared.ring.is_idle() {
                return Ok(());
            }
            shared.ring.sleep_until_finished(seen, None);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.close().is_err() {
            // On the worker thread itself: it ends when it has drained the queue.
            self.shared.ring.close();
        }
    }
}

/// The GPU, waited for as the session's threads wait.
#[cfg(feature = "cuda")]
fn cuda(mode: pilotlight_cuda::Mode, options: &Options) -> Result<Box<dyn Device>, OpenError> {
    Ok(Box::new(pilotlight_cuda::Cuda::open(mode)?.with(options.cuda_settings())))
}

/// Starts the worker thread and returns when its settings are applied.
fn start(shared: &Arc<Shared>, thread: &Thread) -> Result<JoinHandle<()>, OpenError> {
    let (tell, told) = sync_channel(1);
    let (name, ..) = thread.parts();
    let (shared, thread) = (Arc::clone(shared), thread.clone());
    let handle = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let settled = system::settle(&thread);
            let fine = settled.is_ok();
            // The id is set before the caller knows that the thread exists.
            let _ = shared.worker.set(std::thread::current().id());
            if tell.send(settled).is_ok() && fine {
                shared.work();
            }
        })
        .map_err(|source| OpenError::System {
            option: "worker thread",
            source,
            advice: "allow the process more threads, or run inline",
        })?;
    match told.recv() {
        Ok(Ok(())) => Ok(handle),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(OpenError::System {
            option: "worker thread",
            source: std::io::Error::other("it ended before it began to work"),
            advice: "please report it",
        }),
    }
}

impl Shared {
    /// The worker: runs what is submitted until the ring is closed and empty.
    fn work(&self) {
        loop {
            let seen = self.ring.submissions();
            if self.run_next() {
                continue;
            }
            if self.ring.is_drained() {
                return;
            }
            match self.wait {
                Wait::Spin => {
                    while self.ring.submissions() == seen {
                        std::hint::spin_loop();
                    }
                }
                Wait::Predictive | Wait::Block => self.ring.sleep_until_submitted(seen),
            }
        }
    }

    /// Runs the oldest submitted job; whether there was one.
    fn run_next(&self) -> bool {
        let Some((index, mut job)) = self.ring.begin() else { return false };
        job.run(&self.sequence, &self.metering);
        match &job.outcome {
            Ok(report) => log::trace!("inference {} ran {:?}", report.sequence, report.ran),
            Err(failure) => log::warn!("inference without output: {failure}"),
        }
        if let Some(job) = self.ring.finish(index, job) {
            self.release(index, job);
        }
        true
    }

    pub(crate) fn release(&self, index: usize, job: Job) {
        self.current.renew(job, |job| self.ring.release(index, job));
    }

    /// Gives a request up; whether it had not begun.
    pub(crate) fn abandon(&self, index: usize) -> bool {
        match self.ring.abandon(index) {
            Abandoned::Before(job) => {
                self.release(index, job);
                true
            }
            Abandoned::After(job) => {
                self.release(index, job);
                false
            }
            Abandoned::Running => false,
        }
    }

    /// The job, if it is done; runs what is in front of it (and itself) where that is the caller's part.
    pub(crate) fn poll(&self, index: usize, waker: Option<&std::task::Waker>) -> Option<Job> {
        loop {
            if let Some(job) = self.ring.take(index, waker) {
                return Some(job);
            }
            if !(self.inline && self.run_next()) {
                return None;
            }
        }
    }

    /// The job, when it is done; `None` when `until` comes first.
    pub(crate) fn wait(&self, index: usize, expected: Instant, until: Option<Instant>) -> Option<Job> {
        let mut slept = false;
        loop {
            let seen = self.ring.completions();
            if let Some(job) = self.poll(index, None) {
                return Some(job);
            }
            if until.is_some_and(|at| at <= Instant::now()) {
                return None;
            }
            match self.wait {
                Wait::Block => self.ring.sleep_until_finished(seen, until),
                Wait::Spin => self.spin(seen, until),
                Wait::Predictive => {
                    if !std::mem::replace(&mut slept, true) {
                        let wake = until.map_or(expected, |at| at.min(expected));
                        let left = wake.saturating_duration_since(Instant::now());
                        if !left.is_zero() {
                            std::thread::sleep(left);
                        }
                    }
                    self.spin(seen, until);
                }
            }
        }
    }

    fn spin(&self, seen: u64, until: Option<Instant>) {
        while self.ring.completions() == seen {
            std::hint::spin_loop();
            if until.is_some_and(|at| at <= Instant::now()) {
                return;
            }
        }
    }

    /// When a waiter should be awake for a job that is submitted now and takes so long.
    pub(crate) fn expected(&self, now: Instant, latency: Duration) -> Instant {
        // A wake-up takes the timer slack (50 us) and some; latencies vary by a few percent.
        now + latency.saturating_sub(Duration::from_micros(100).max(latency / 8))
    }

    pub(crate) fn is_worker(&self) -> bool {
        self.worker.get().is_some_and(|&worker| worker == std::thread::current().id())
    }
}
