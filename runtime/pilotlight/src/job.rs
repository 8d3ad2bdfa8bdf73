//! One inference: its memory, the plan that it runs, and what came of it.

use crate::energy::Metering;
use crate::{Failure, Ports, Report};
use pilotlight_device::{Device, LoadError, Program, Slot};
use pilotlight_plan::Plan;
use pilotlight_units::Bytes;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, Release},
};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A plan loaded on a device; jobs share it, and the last of them frees it.
pub(crate) struct Loaded {
    program: Mutex<Box<dyn Program>>,
    pub(crate) ports: Arc<Ports>,
    /// Nanoseconds from submission to end, averaged over the last few inferences; only a hint for sleeping.
    latency: AtomicU64,
}

impl Loaded {
    /// The plan on the device, and memory for so many inferences.
    pub(crate) fn new(
        device: &dyn Device,
        plan: &Plan,
        slots: usize,
    ) -> Result<(Arc<Self>, Vec<Job>), LoadError> {
        headroom()?;
        let program = device.load(plan)?;
        let slots = (0..slots).map(|_| program.slot()).collect::<Result<Vec<_>, _>>()?;
        headroom()?;
        let loaded = Arc::new(Self {
            program: Mutex::new(program),
            ports: Arc::new(Ports::new(plan)),
            latency: AtomicU64::new(0),
        });
        let jobs = slots.into_iter().map(|slot| Job::new(slot, Arc::clone(&loaded))).collect();
        Ok((loaded, jobs))
    }

    pub(crate) fn latency(&self) -> Duration {
        Duration::from_nanos(self.latency.load(Relaxed))
    }

    fn learn(&self, latency: Duration) {
        let new = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let old = self.latency.load(Relaxed);
        // Two threads may both read the old value; then one sample is lost, which an average can bear.
        self.latency.store(if old == 0 { new } else { old - old / 8 + new / 8 }, Relaxed);
    }
}

/// Large allocations tell when they fail; a small one that fails ends the process. So that it does not come to
/// that, there must be room for all the small ones of a session before they are made.
fn headroom() -> Result<(), LoadError> {
    const ROOM: usize = 1 << 20;
    let mut room = Vec::<u8>::new();
    room.try_reserve_exact(ROOM)
        .map_err(|_| LoadError::Memory { what: "names and lists of a session", bytes: Bytes(ROOM as u64) })
}

pub(crate) struct Job {
    pub(crate) slot: Slot,
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) submitted: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) outcome: Result<Report, Failure>,
}

impl Job {
    fn new(slot: Slot, loaded: Arc<Loaded>) -> Self {
        let submitted = Instant::now();
        Self { slot, loaded, submitted, deadline: None, outcome: Err(Failure::Taken) }
    }

    /// Runs the inference, unless its deadline has passed; a panic of the device becomes a failure.
    pub(crate) fn run(&mut self, sequence: &AtomicU64, metering: &Metering) {
        let begin = Instant::now();
        if let Some(late) = self.deadline.and_then(|at| begin.checked_duration_since(at)) {
            self.outcome = Err(Failure::Deadline { late });
            return;
        }
        metering.begin();
        let slot = &mut self.slot;
        let loaded = &self.loaded;
        // The device's state may be broken after a panic: the mutex is poisoned then, and nothing is run again.
        let ran = catch_unwind(AssertUnwindSafe(|| match loaded.program.lock() {
            Ok(mut program) => program.run(slot).map_err(Failure::Device),
            Err(_) => Err(Failure::Panicked),
        }));
        let end = Instant::now();
        let outcome = ran.unwrap_or(Err(Failure::Panicked));
        let energy = metering.end(end, outcome.is_ok().then(|| end - begin));
        self.outcome = outcome.map(|()| {
            self.loaded.learn(end - self.submitted);
            Report {
                // The meter has counted it: who sees the number finds it there.
                sequence: sequence.fetch_add(1, Release) + 1,
                queued: begin - self.submitted,
                ran: end - begin,
                late: self.deadline.and_then(|at| end.checked_duration_since(at)),
                energy,
            }
        });
    }
}

/// The plan that new requests run, and memory for slots that still belong to an older one.
pub(crate) struct Current {
    installed: Mutex<Installed>,
    /// Whether threads stay awake while they wait for the mutex.
    awake: bool,
}

struct Installed {
    loaded: Arc<Loaded>,
    spares: Vec<Job>,
}

impl Current {
    pub(crate) fn new(loaded: Arc<Loaded>, awake: bool) -> Self {
        Self { installed: Mutex::new(Installed { loaded, spares: vec![] }), awake }
    }

    pub(crate) fn ports(&self) -> Arc<Ports> {
        Arc::clone(&self.lock().loaded.ports)
    }

    /// Calls `put` with the job, or with one of the current plan where the job is of an older one. No swap comes
    /// between.
    pub(crate) fn renew(&self, job: Job, put: impl FnOnce(Job)) {
        let mut installed = self.lock();
        put(installed.fresh(job));
    }

    /// Makes another plan the current one; `exchange` gets a function that renews a free slot's job.
    pub(crate) fn swap(
        &self,
        loaded: Arc<Loaded>,
        spares: Vec<Job>,
        exchange: impl FnOnce(&mut dyn FnMut(Job) -> Job),
    ) {
        let mut installed = self.lock();
        // What is left of the old plan is dropped behind the lock.
        let _old = std::mem::replace(&mut *installed, Installed { loaded, spares });
        exchange(&mut |job| installed.fresh(job));
        drop(installed);
    }

    fn lock(&self) -> MutexGuard<'_, Installed> {
        pilotlight_device::lock(&self.installed, self.awake)
    }
}

impl Installed {
    fn fresh(&mut self, job: Job) -> Job {
        if Arc::ptr_eq(&job.loaded, &self.loaded) {
            return job;
        }
        // There is one spare for each slot, and a slot of the current plan takes none.
        self.spares.pop().unwrap_or(job)
    }
}
