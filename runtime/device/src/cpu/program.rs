//! A plan loaded on the CPU device.

use super::isa::Isa;
use super::kernels::kernels;
use super::lower::{Lowered, lower};
use super::place::Bases;
use super::step::{Context, Scratch};
use super::workers::Workers;
use crate::{LoadError, Memory, Program, RunError, Slot, dense};
use pilotlight_plan::{Plan, Space, Tensor, validate};
use std::sync::Arc;
use std::time::Instant;

/// A plan with packed weights, working memory and threads.
pub(super) struct CpuProgram {
    plan: Plan,
    arena: Memory,
    lowered: Arc<Lowered>,
    context: Context,
    scratch: Scratch,
    workers: Option<Workers>,
}

impl CpuProgram {
    /// Lowers a plan.
    ///
    /// # Errors
    /// [`LoadError::Plan`] for one that breaks a rule, [`LoadError::Memory`], [`LoadError::Thread`].
    pub(super) fn new(plan: &Plan, isa: Isa, threads: usize) -> Result<Self, LoadError> {
        // Every address that a kernel uses follows from what is checked here.
        validate::validate(plan)?;
        let kernels = kernels(isa);
        let lowered = Arc::new(lower(plan, &kernels, threads)?);
        let scratch = |_| Scratch::new(lowered.plane_bytes);
        let others = (1..threads).map(scratch).collect::<Result<Vec<_>, _>>()?;
        let workers = if others.is_empty() { None } else { Some(Workers::start(&lowered, others)?) };
        let bases = Bases(vec![std::ptr::null_mut(); 2 + plan.inputs.len() + plan.outputs.len()]);
        Ok(Self {
            arena: Memory::new("arena", plan.arena_bytes as usize)?,
            scratch: scratch(0)?,
            context: Context { kernels, bases, threads },
            lowered,
            workers,
            plan: plan.clone(),
        })
    }

    /// Points the bases at the memories of this inference.
    fn bind(&mut self, slot: &mut Slot) {
        let bases = &mut self.context.bases.0;
        bases[Bases::ARENA] = self.arena.as_bytes_mut().as_mut_ptr();
        // Weights are never written: no step writes a tensor in them, which validation checks.
        bases[Bases::WEIGHTS] = self.plan.weights.as_ptr().cast_mut();
        for i in 0..self.plan.inputs.len() {
            bases[2 + i] = slot.input_mut(i).as_mut_ptr();
        }
        for i in 0..self.plan.outputs.len() {
            bases[2 + self.plan.inputs.len() + i] = slot.output_mut(i).as_mut_ptr();
        }
    }

    /// Runs all steps; `after` is called when a step is complete.
    fn execute(&mut self, mut after: impl FnMut(usize)) {
        // SAFETY: the bases were bound to the memories of this plan; this thread and the workers alone use them, step
        // after step; validation has checked that tensors lie in their buffers, and buffers live together apart.
        unsafe {
            if let Some(workers) = &mut self.workers {
                workers.run(&self.context, &mut self.scratch, after);
                return;
            }
            for (i, step) in self.lowered.steps.iter().enumerate() {
                step.run(&self.context, 0, &mut self.scratch);
                after(i);
            }
        }
        self.scratch.tiles.release();
    }

    /// The bytes of a tensor's buffer.
    ///
    /// # Safety
    /// The bases are bound, and no step runs.
    unsafe fn buffer(&self, t: &Tensor) -> &[u8] {
        let b = self.plan.buffers[t.buffer.0 as usize];
        let base = self.context.bases.0[Bases::index(&self.plan, b.space)];
        let offset = if matches!(b.space, Space::Arena | Space::Weights) { b.offset as usize } else { 0 };
        // SAFETY: validation has checked that the buffer lies in its memory.
        unsafe { std::slice::from_raw_parts(base.add(offset), b.bytes as usize) }
    }
}

impl Program for CpuProgram {
    fn slot(&self) -> Result<Slot, LoadError> {
        Slot::new(&self.plan)
    }

    fn run(&mut self, slot: &mut Slot) -> Result<(), RunError> {
        slot.check(&self.plan)?;
        self.bind(slot);
        self.execute(|_| ());
        Ok(())
    }

    fn run_timed(&mut self, slot: &mut Slot, nanos: &mut Vec<u64>) -> Result<(), RunError> {
        slot.check(&self.plan)?;
        self.bind(slot);
        nanos.clear();
        nanos.reserve(self.plan.steps.len());
        let mut last = Instant::now();
        self.execute(|_| {
            let now = Instant::now();
            nanos.push((now - last).as_nanos() as u64);
            last = now;
        });
        Ok(())
    }

    fn run_observed(
        &mut self,
        slot: &mut Slot,
        observe: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), RunError> {
        slot.check(&self.plan)?;
        self.bind(slot);
        // One thread does all shares: the workers are elsewhere while memory is looked at.
        let threads = std::mem::replace(&mut self.context.threads, 1);
        for (i, step) in self.lowered.steps.iter().enumerate() {
            // SAFETY: as in `execute`; this thread is the only one.
            unsafe { step.run(&self.context, 0, &mut self.scratch) };
            let t = self.plan.tensor(self.plan.steps[i].op.writes());
            // SAFETY: the bases are bound and the step is complete.
            observe(i, &dense(t, unsafe { self.buffer(t) }));
        }
        self.context.threads = threads;
        self.scratch.tiles.release();
        Ok(())
    }
}
