//! Waiting for a request, and looking after the kernel meanwhile.

use super::{Broken, Lamp};
use crate::persist::settings::Wait;
use pilotlight_device::RunError;
use pilotlight_kernels::abi;
use std::time::{Duration, Instant};

/// How long a thread has waited, from when it first asked, and when it looks after the kernel next.
struct Watch {
    since: Option<Instant>,
    next: Duration,
}

impl Lamp {
    /// Returns when request `number` is done or lost.
    pub(super) fn wait(&self, number: u32, expected: Duration) -> Result<(), RunError> {
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
}
