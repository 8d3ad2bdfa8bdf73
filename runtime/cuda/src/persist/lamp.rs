//! The kernel's life: launched when there is work, lit while there is, dark for the driver's sake.
//!
//! While it is lit the driver is asked for nothing but its launch and whether the stream is idle: other calls may
//! wait for a kernel that waits for us. Whoever needs the driver takes the kernel out first ([`Lamp::dark`]).

use super::fork::Fork;
use super::mailbox::Words;
use super::settings::{LEAST_IDLE, Settings, Wait};
use crate::driver::Kernels;
use crate::memory::{Device, Pinned, refused};
use cudarc::driver::{CudaStream, DriverError, result, sys};
use pilotlight_device::{LoadError, RunError};
use pilotlight_kernels::abi;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// Generations are 29 bits, as a word holds one and a reason.
const GENERATIONS: u32 = 1 << 29;

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

/// How long a thread has waited, from when it first asked, and when it looks after the kernel next.
struct Watch {
    since: Option<Instant>,
    next: Duration,
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

    fn launch(&self, state: &mut State) -> Result<(), Broken> {
        let generation = (state.generation + 1) % GENERATIONS;
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX >> 1);
        let pilot = abi::Pilot {
            mailbox: self.mailbox.address,
            control: self.control.address,
            idle_ns: self.settings.idle.map_or(u64::MAX, nanos),
            heartbeat_ns: self.settings.idle.map_or_else(|| nanos(self.settings.heartbeat), |_| u64::MAX),
            generation,
            unused: 0,
        };
        let launched = self
            .kernels
            .context
            .bind_to_thread()
            .and_then(|()| self.kernels.launch_persistent(&self.stream, &pilot, self.ctas));
        match launched {
            Ok(()) => {
                state.generation = generation;
                self.launched.store(generation, Ordering::Relaxed);
                Ok(())
            }
            Err(e) => Err(self.fail(state, broken("launching the persistent kernel")(e))),
        }
    }

    fn fail(&self, state: &mut State, broken: Broken) -> Broken {
        log::error!("{}: {}; CUDA is lost for this process", broken.call, broken.problem);
        state.broken = Some(broken.clone());
        broken
    }

    /// Returns when request `number` is done or lost.
    fn wait(&self, number: u32, expected: Duration) -> Result<(), RunError> {
        let words = self.words();
        let mut watch = Watch { since: None, next: self.settings.look };
        match self.settings.wait {
            Wait::Spin => {}
            Wait::Predictive => {
                // A wake-up takes the timer slack (50 us) and some; latencies vary by a few percent.
                let early = Duration::from_micros(100).max(expected / 8);
                if let Some(nap) = expected.checked_sub(early).filter(|n| !n.is_zero())
                    && !words.done(number)
                {
                    std::thread::sleep(nap);
                }
            }
            Wait::Block => {
                let nap = (expected / 8).clamp(Duration::from_micros(50), Duration::from_millis(2));
                while !words.done(number) {
                    std::thread::sleep(nap);
                    self.watch(number, &mut watch)?;
                }
            }
        }
        // Some tenths of a second before the clock is looked at: on some machines that is a system call.
        for round in 0u64.. {
            for _ in 0..10_000 {
                if words.done(number) {
                    return Ok(());
                }
                std::hint::spin_loop();
            }
            if round >= 1000 {
                self.watch(number, &mut watch)?;
            }
        }
        Ok(())
    }

    /// Looks after the kernel where it is time.
    fn watch(&self, number: u32, watch: &mut Watch) -> Result<(), RunError> {
        let waited = watch.since.get_or_insert_with(Instant::now).elapsed();
        if waited < watch.next {
            return Ok(());
        }
        watch.next = waited + self.settings.look;
        self.look(number, waited)
    }

    /// A waiting thread has waited long: does the kernel still run?
    fn look(&self, number: u32, waited: Duration) -> Result<(), RunError> {
        let mut state = self.lock();
        if let Some(broken) = &state.broken {
            return Err(broken.clone().into());
        }
        if self.words().done(number) {
            return Ok(());
        }
        if self.aborted(&state) {
            return Ok(self.extinguish(&mut state)?);
        }
        if waited > self.settings.patience {
            self.words().order(abi::ORDER_ABORT);
            return Ok(self.extinguish(&mut state)?);
        }
        match self.idle() {
            Err(broken) => Err(self.fail(&mut state, broken).into()),
            // Looked at again, as it may have been done, or have given up, between the two looks.
            Ok(true) if self.aborted(&state) => Ok(self.extinguish(&mut state)?),
            Ok(true) if !self.words().done(number) => {
                let call = "waiting for the persistent kernel";
                let problem = "it left with a request before it; please report this".into();
                Err(self.fail(&mut state, Broken { call, problem }).into())
            }
            Ok(_) => Ok(()),
        }
    }

    /// Whether the last launch has given up.
    fn aborted(&self, state: &State) -> bool {
        self.words().left(state.generation).is_some_and(|reason| reason >= abi::LEAVE_ABORTED)
    }

    /// Whether the kernel has ended; an error if it ended badly.
    fn idle(&self) -> Result<bool, Broken> {
        let call = "asking for the persistent kernel";
        self.kernels.context.bind_to_thread().map_err(broken(call))?;
        // SAFETY: (1) the stream lives as long as this value.
        match unsafe { sys::cuStreamQuery(self.stream.cu_stream()) } {
            sys::CUresult::CUDA_SUCCESS => Ok(true),
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            other => Err(broken(call)(DriverError(other))),
        }
    }

    /// Has the kernel leave once what is submitted is done, and returns when it has.
    fn extinguish(&self, state: &mut State) -> Result<(), Broken> {
        if let Some(broken) = &state.broken {
            return Err(broken.clone());
        }
        let words = self.words();
        words.order(words.order.load(Ordering::Relaxed).max(abi::ORDER_PARK));
        let since = Instant::now();
        let mut nap = Duration::from_micros(20);
        loop {
            match self.idle() {
                Ok(true) => break,
                Ok(false) => {}
                Err(broken) => return Err(self.fail(state, broken)),
            }
            if since.elapsed() > self.settings.patience * 2 {
                let call = "stopping the persistent kernel";
                let problem = format!("it does not leave; {}", self.places());
                return Err(self.fail(state, Broken { call, problem }));
            }
            if since.elapsed() > self.settings.patience {
                words.order(abi::ORDER_ABORT);
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(1));
        }
        words.order(abi::ORDER_NONE);
        match words.left(state.generation) {
            Some(reason) if reason >= abi::LEAVE_ABORTED => self.recover(state, reason),
            _ => Ok(()),
        }
    }

    /// After an abort: what was under way is lost, and everything begins anew.
    fn recover(&self, state: &mut State, reason: u32) -> Result<(), Broken> {
        let done = self.words().done.load(Ordering::Relaxed);
        let place = self.places();
        let error = RunError::Stalled {
            why: match reason {
                abi::LEAVE_DEADLINE => "an inference took longer than its deadline",
                _ => "the kernel was told to abort",
            },
            limit: self.settings.deadline,
            place,
        };
        log::error!("{error}");
        if done != state.submitted {
            state.losses.push(Loss { from: done.wrapping_add(1), to: state.submitted, error });
            // Nobody waits for losses so old.
            if state.losses.len() > 64 {
                state.losses.remove(0);
            }
        }
        self.lost.fetch_add(1, Ordering::Release);
        self.reset(state)
    }

    /// Sets all counters to the last request. The kernel must have left.
    fn reset(&self, state: &mut State) -> Result<(), Broken> {
        let call = "resetting the persistent kernel";
        let number = state.submitted;
        self.kernels.context.bind_to_thread().map_err(broken(call))?;
        let mut control = [0u8; abi::CONTROL_BYTES as usize];
        let mut put = |at: u32, value: u32| {
            control[at as usize..at as usize + 4].copy_from_slice(&value.to_le_bytes());
        };
        put(abi::CONTROL_GO, number);
        put(abi::CONTROL_JOIN, number.wrapping_mul(self.ctas));
        // SAFETY: (1) the allocation has so many bytes; (2) no kernel uses it.
        let copied = unsafe { result::memcpy_htod_sync(self.control.address, &control) };
        copied.map_err(broken(call)).map_err(|b| self.fail(state, b))?;
        for plan in state.plans.clone() {
            self.reset_plan(plan).map_err(|b| self.fail(state, b))?;
        }
        for cta in 0..self.ctas {
            for word in 0..4 {
                self.word(abi::MAIL_PROGRESS + cta * abi::LINE + word * 4).store(0, Ordering::Relaxed);
            }
        }
        // Last: waiting threads go on when they see it.
        let words = self.words();
        words.submitted.store(number, Ordering::Relaxed);
        words.reason.store(0, Ordering::Relaxed);
        words.done.store(number, Ordering::Release);
        Ok(())
    }

    fn reset_plan(&self, plan: PlanState) -> Result<(), Broken> {
        let bytes = self.settings.first.to_le_bytes().repeat(plan.words);
        // SAFETY: (1) the plan's memory has so many bytes; (2) no kernel uses it.
        unsafe { result::memcpy_htod_sync(plan.address, &bytes) }.map_err(broken("resetting a plan"))
    }

    /// Where each block stands, from its progress line.
    fn places(&self) -> String {
        let word = |cta: u32, n: u32| {
            self.word(abi::MAIL_PROGRESS + cta * abi::LINE + n * 4).load(Ordering::Relaxed)
        };
        let places: Vec<String> = (0..self.ctas)
            .map(|cta| match (word(cta, 0), word(cta, 1)) {
                (0, _) => format!("block {cta} between inferences"),
                (at, 0) => format!("block {cta} at instruction {}", at - 1),
                (at, _) => {
                    format!("block {cta} waiting at instruction {} for flag {}", at - 1, word(cta, 3) as i32)
                }
            })
            .collect();
        places.join(", ")
    }

    /// Takes the kernel out, does something with the driver, and lets the next request light it again.
    ///
    /// Requests wait meanwhile. It works on a broken device too, whose driver calls fail.
    pub(crate) fn dark<T>(&self, work: impl FnOnce(&mut Plans<'_>) -> T) -> T {
        let mut state = self.lock();
        // Its result says whether the device is broken, which the work will find out.
        let _ = self.extinguish(&mut state);
        work(&mut Plans { lamp: self, state: &mut state })
    }

    /// As [`Lamp::dark`] until the guard is dropped.
    pub(crate) fn pause(self: &Arc<Self>) -> Result<Pause, RunError> {
        let mut state = self.lock();
        while let Some(thread) = state.paused {
            if thread == std::thread::current().id() {
                return Err(RunError::Device {
                    call: "pausing the GPU",
                    problem: "this thread has paused it already".into(),
                });
            }
            state = self.resumed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.extinguish(&mut state)?;
        state.paused = Some(std::thread::current().id());
        Ok(Pause { lamp: Arc::clone(self) })
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

/// The plans that are reset after an abort, changed while the kernel is out.
pub(crate) struct Plans<'a> {
    lamp: &'a Lamp,
    state: &'a mut State,
}

impl Plans<'_> {
    /// Adds a plan and sets its flags.
    pub(crate) fn add(&mut self, plan: PlanState) -> Result<(), LoadError> {
        self.lamp.reset_plan(plan).map_err(|b| LoadError::Device { call: b.call, problem: b.problem })?;
        self.state.plans.push(plan);
        Ok(())
    }

    /// Forgets a plan.
    pub(crate) fn remove(&mut self, plan: PlanState) {
        self.state.plans.retain(|p| *p != plan);
    }
}

/// The GPU is the application's own while this lives: the persistent kernel is out, and inferences wait.
pub struct Pause {
    lamp: Arc<Lamp>,
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.lamp.lock().paused = None;
        self.lamp.resumed.notify_all();
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

/// A thread that tells the kernel that the host lives.
struct Beat {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Beat {
    fn start(mailbox: &Arc<Pinned>, period: Duration) -> Result<Self, LoadError> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (mailbox, stopped) = (Arc::clone(mailbox), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("pilotlight-beat".into())
            .spawn(move || {
                let mut stop = stopped.0.lock().unwrap_or_else(PoisonError::into_inner);
                while !*stop {
                    words(&mailbox).beat();
                    stop = stopped.1.wait_timeout(stop, period).unwrap_or_else(PoisonError::into_inner).0;
                }
            })
            .map_err(|e| LoadError::Thread { problem: e.to_string() })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[path = "lamp_tests.rs"]
mod tests;
