//! The kernel launched, stopped, and set up anew.

use super::{Broken, Lamp, Loss, PlanState, State, broken};
use cudarc::driver::{DriverError, result, sys};
use pilotlight_device::RunError;
use pilotlight_kernels::abi;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Generations are 29 bits, as a word holds one and a reason.
const GENERATIONS: u32 = 1 << 29;

impl Lamp {
    pub(super) fn launch(&self, state: &mut State) -> Result<(), Broken> {
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

    pub(super) fn fail(&self, state: &mut State, broken: Broken) -> Broken {
        log::error!("{}: {}; CUDA is lost for this process", broken.call, broken.problem);
        state.broken = Some(broken.clone());
        broken
    }

    /// Whether the last launch has given up.
    pub(super) fn aborted(&self, state: &State) -> bool {
        self.words().left(state.generation).is_some_and(|reason| reason >= abi::LEAVE_ABORTED)
    }

    /// Whether the kernel has ended; an error if it ended badly.
    pub(super) fn idle(&self) -> Result<bool, Broken> {
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
    pub(super) fn extinguish(&self, state: &mut State) -> Result<(), Broken> {
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
    pub(super) fn reset(&self, state: &mut State) -> Result<(), Broken> {
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

    pub(super) fn reset_plan(&self, plan: PlanState) -> Result<(), Broken> {
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
}
