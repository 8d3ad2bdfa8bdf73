//! The driver for others, while the kernel is out.

use super::{Lamp, PlanState, State};
use pilotlight_device::{LoadError, RunError};
use std::sync::{Arc, PoisonError};

impl Lamp {
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
