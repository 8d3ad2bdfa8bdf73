//! Worker threads: each waits for an inference, does its share of every step, and meets the others after each.

use super::lower::Lowered;
use super::step::{Context, Scratch};
use crate::LoadError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::thread::{JoinHandle, Thread};

/// Turns of a spinning wait before a thread gives its core away: some 75 microseconds where a pause takes 140 cycles.
const SPINS: u32 = 2_000;

/// What main thread and workers share.
struct Shared {
    lowered: Arc<Lowered>,
    /// The number of inferences begun.
    epoch: AtomicU64,
    /// The context of the inference; valid while workers are in it.
    context: AtomicUsize,
    stop: AtomicBool,
    /// Threads that have reached a step's end, counted up without end.
    arrived: AtomicU64,
    threads: u64,
}

/// The worker threads of a program, one fewer than its threads.
pub(super) struct Workers {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    parked: Arc<Vec<AtomicBool>>,
    threads: Vec<Thread>,
    /// Ends of steps that all threads have reached.
    met: u64,
}

impl Workers {
    /// Starts a thread for each of `scratch`.
    ///
    /// # Errors
    /// [`LoadError::Thread`] when the system starts no more threads.
    pub(super) fn start(lowered: &Arc<Lowered>, scratch: Vec<Scratch>) -> Result<Self, LoadError> {
        let shared = Arc::new(Shared {
            lowered: lowered.clone(),
            epoch: AtomicU64::new(0),
            context: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            arrived: AtomicU64::new(0),
            threads: scratch.len() as u64 + 1,
        });
        let parked: Arc<Vec<AtomicBool>> = Arc::new(scratch.iter().map(|_| AtomicBool::new(false)).collect());
        let mut workers = Self { shared, handles: vec![], parked, threads: vec![], met: 0 };
        for (i, mut scratch) in scratch.into_iter().enumerate() {
            let (shared, parked) = (workers.shared.clone(), workers.parked.clone());
            let handle = std::thread::Builder::new()
                .name(format!("pilotlight-cpu-{}", i + 1))
                .spawn(move || work(&shared, &parked[i], i + 1, &mut scratch))
                .map_err(|e| LoadError::Thread { problem: e.to_string() })?;
            workers.threads.push(handle.thread().clone());
            workers.handles.push(handle);
        }
        Ok(workers)
    }

    /// Runs all steps on all threads; `after` is called by this thread when a step is complete.
    ///
    /// # Safety
    /// As [`super::step::Call::run`] for each step, over all threads.
    pub(super) unsafe fn run(
        &mut self,
        context: &Context,
        scratch: &mut Scratch,
        mut after: impl FnMut(usize),
    ) {
        let shared = &*self.shared;
        shared.context.store(std::ptr::from_ref(context).expose_provenance(), Ordering::Relaxed);
        // ORDER: partner of the workers' load of `epoch`. The fence here and the one in `wait` stand between a store
        // and a load of the other's word: either the worker sees the new epoch before it parks, or this thread sees
        // it parked. SeqCst accesses alone would do on hardware; qemu's aarch64 lets them pass each other.
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        for (parked, thread) in self.parked.iter().zip(&self.threads) {
            if parked.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
        for (i, step) in shared.lowered.steps.iter().enumerate() {
            // SAFETY: the caller's promise, passed on.
            unsafe { step.run(context, 0, scratch) };
            self.met += 1;
            meet(shared, self.met);
            after(i);
        }
        scratch.tiles.release();
        // The workers leave the context behind after this meeting.
        self.met += 1;
        meet(shared, self.met);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for thread in &self.threads {
            thread.unpark();
        }
        for handle in self.handles.drain(..) {
            // A worker aborts the process rather than panic, so there is no panic to pass on.
            let _ = handle.join();
        }
    }
}

/// Counts this thread in and waits until all threads have arrived at meeting `number`.
fn meet(shared: &Shared, number: u64) {
    let all = number * shared.threads;
    // ORDER: release publishes this thread's results, acquire shows the others'.
    if shared.arrived.fetch_add(1, Ordering::AcqRel) + 1 >= all {
        return;
    }
    let mut turns = 0;
    while shared.arrived.load(Ordering::Acquire) < all {
        turns += 1;
        if turns < SPINS {
            std::hint::spin_loop();
        } else {
            // Fewer cores than threads: let the others run.
            std::thread::yield_now();
        }
    }
}

/// Ends the process when a worker panics: the others would wait for it without end.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn work(shared: &Shared, parked: &AtomicBool, thread: usize, scratch: &mut Scratch) {
    let _abort = AbortOnPanic;
    let (mut epoch, mut met) = (0, 0);
    loop {
        epoch += 1;
        wait(shared, parked, epoch);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let context = std::ptr::with_exposed_provenance::<Context>(shared.context.load(Ordering::Relaxed));
        // SAFETY: the main thread keeps the context alive until all threads have met for the last time.
        let context = unsafe { &*context };
        for step in &shared.lowered.steps {
            // SAFETY: `Workers::run`'s caller promises it for all threads.
            unsafe { step.run(context, thread, scratch) };
            met += 1;
            meet(shared, met);
        }
        scratch.tiles.release();
        met += 1;
        meet(shared, met);
    }
}

/// Waits until inference `epoch` begins: first spinning, then parked.
fn wait(shared: &Shared, parked: &AtomicBool, epoch: u64) {
    for _ in 0..SPINS {
        if shared.epoch.load(Ordering::SeqCst) >= epoch {
            return;
        }
        std::hint::spin_loop();
    }
    parked.store(true, Ordering::SeqCst);
    // ORDER: partner of the fence in `Workers::run`.
    fence(Ordering::SeqCst);
    while shared.epoch.load(Ordering::SeqCst) < epoch {
        std::thread::park();
    }
    parked.store(false, Ordering::SeqCst);
}
