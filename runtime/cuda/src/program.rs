//! A plan loaded on the GPU, and its slots.

use crate::driver::{Kernels, Mode};
use crate::lower::{Bases, Launch, Lowered, lower};
use crate::memory::{Device, Pinned, refused};
use cudarc::driver::{CudaGraph, CudaStream, DriverError, result, sys};
use pilotlight_device::{LoadError, Program, RunError, Slot, SlotMemory, dense};
use pilotlight_plan::{Buffer, Plan, Space, TensorId};
use std::sync::Arc;

/// What a program and its slots share; the last of them frees it.
struct Loaded {
    stream: Arc<CudaStream>,
    mode: Mode,
    plan: Plan,
    lowered: Lowered,
    arena: Device,
    constants: Device,
    kernels: Arc<Kernels>,
}

/// What a slot keeps: the launches with its own addresses in them.
struct Bound {
    // Dropped first: the graph's stream is the program's.
    graph: Option<CudaGraph>,
    steps: Vec<Vec<Launch>>,
    loaded: Arc<Loaded>,
}

// SAFETY: (1) the graph belongs to this slot alone; (2) its program uses it under `&mut` of slot and program, and
// makes the context current first, so one thread at a time does.
unsafe impl Send for Bound {}

pub(crate) struct Run(Arc<Loaded>);

/// What a step has written, densely; `arena` reads a buffer of the arena back. `None` for weights, which no step
/// of a validated plan writes.
pub(crate) fn written(
    plan: &Plan,
    step: usize,
    slot: &Slot,
    arena: impl FnOnce(Buffer) -> Result<Vec<u8>, RunError>,
) -> Result<Option<Vec<u8>>, RunError> {
    let tensor = plan.tensor(plan.steps[step].op.writes());
    let buffer = plan.buffers[tensor.buffer.0 as usize];
    Ok(match buffer.space {
        Space::Input(n) => Some(dense(tensor, slot.input(n as usize))),
        Space::Output(n) => Some(dense(tensor, slot.output(n as usize))),
        Space::Arena => Some(dense(tensor, &arena(buffer)?)),
        Space::Weights => None,
    })
}

fn failed(call: &'static str) -> impl Fn(DriverError) -> RunError {
    move |e| RunError::Device { call, problem: format!("{e:?}") }
}

impl Run {
    /// Loads a plan, its kernels cut for so many multiprocessors.
    pub(crate) fn new(
        kernels: Arc<Kernels>,
        mode: Mode,
        plan: &Plan,
        multiprocessors: u32,
    ) -> Result<Self, LoadError> {
        pilotlight_plan::validate::validate(plan)?;
        let lowered = lower(plan, multiprocessors)
            .map_err(|u| LoadError::Unsupported { step: u.step, problem: u.problem })?;
        let arena = Device::new(&kernels, "device arena", plan.arena_bytes as usize + lowered.scratch)?;
        let constants = Device::new(&kernels, "device constants", lowered.constants.len())?;
        let stream = kernels.context.new_stream().map_err(refused("making a stream"))?;
        if !lowered.constants.is_empty() {
            // SAFETY: (1) the allocation has at least as many bytes.
            unsafe { result::memcpy_htod_sync(constants.address, &lowered.constants) }
                .map_err(refused("copying constants"))?;
        }
        // They are on the device now.
        let lowered = Lowered { constants: Vec::new(), ..lowered };
        Ok(Self(Arc::new(Loaded { stream, mode, plan: plan.clone(), lowered, arena, constants, kernels })))
    }

    /// Runs something on a slot of this program and waits for the GPU, whatever comes of it: nothing may run on
    /// the slot's memory once its owner has it back.
    fn on(
        &mut self,
        slot: &mut Slot,
        work: impl FnOnce(&mut Bound) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        let bound = slot.kept::<Bound>().filter(|b| Arc::ptr_eq(&b.loaded, &self.0));
        let bound = bound.ok_or(RunError::Foreign)?;
        self.0.kernels.context.bind_to_thread().map_err(failed("entering the context"))?;
        let worked = work(bound);
        let waited = self.0.stream.synchronize().map_err(failed("waiting for the GPU"));
        worked.and(waited)
    }
}

impl Loaded {
    /// The bytes of a buffer in the arena, once the stream is done.
    fn read_arena(&self, buffer: Buffer) -> Result<Vec<u8>, RunError> {
        let mut bytes = vec![0u8; buffer.bytes as usize];
        // SAFETY: (1) the buffer lies in the arena, by the validated plan.
        unsafe { result::memcpy_dtoh_sync(&mut bytes, self.arena.address + buffer.offset) }
            .map_err(failed("reading a tensor back"))?;
        Ok(bytes)
    }
}

impl Bound {
    fn new(loaded: &Arc<Loaded>, inputs: &[Pinned], outputs: &[Pinned]) -> Result<Self, LoadError> {
        let addresses = |list: &[Pinned]| list.iter().map(|p| p.address).collect();
        let bases = Bases {
            arena: loaded.arena.address,
            constants: loaded.constants.address,
            inputs: addresses(inputs),
            outputs: addresses(outputs),
        };
        let bind = |step: &Vec<Launch>| step.iter().map(|l| l.bound(&bases)).collect();
        let steps = loaded.lowered.steps.iter().map(bind).collect();
        let mut bound = Self { graph: None, steps, loaded: Arc::clone(loaded) };
        if loaded.mode == Mode::Graph {
            bound.graph = bound.capture().map_err(refused("capturing the graph"))?;
        }
        Ok(bound)
    }

    fn capture(&self) -> Result<Option<CudaGraph>, DriverError> {
        // Other threads may call the driver meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.loaded.stream.begin_capture(mode)?;
        let sent = self.send();
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.loaded.stream.end_capture(flags)?;
        sent.map(|()| graph)
    }

    fn send(&self) -> Result<(), DriverError> {
        (0..self.steps.len()).try_for_each(|step| self.send_step(step))
    }

    fn send_step(&self, step: usize) -> Result<(), DriverError> {
        let Loaded { kernels, stream, .. } = &*self.loaded;
        self.steps[step].iter().try_for_each(|launch| kernels.launch(stream, launch))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if self.loaded.kernels.context.bind_to_thread().is_ok() {
            self.graph = None;
        }
    }
}

impl Program for Run {
    /// Pinned memory that the kernels read and write in place, with launches (or a graph) of its own.
    fn slot(&self) -> Result<Slot, LoadError> {
        let Loaded { plan, kernels, .. } = &*self.0;
        let size = |&id: &TensorId| plan.tensor(id).elements() as usize * plan.tensor(id).dtype.bytes();
        let pin = |ids: &[TensorId], what| {
            ids.iter().map(|id| Pinned::new(kernels, what, size(id))).collect::<Result<Vec<_>, _>>()
        };
        let inputs = pin(&plan.inputs, "pinned inputs")?;
        let outputs = pin(&plan.outputs, "pinned outputs")?;
        let bound = Bound::new(&self.0, &inputs, &outputs)?;
        let lend = |list: Vec<Pinned>| list.into_iter().map(|p| Box::new(p) as Box<dyn SlotMemory>).collect();
        Ok(Slot::lent(lend(inputs), lend(outputs), bound))
    }

    fn run(&mut self, slot: &mut Slot) -> Result<(), RunError> {
        self.on(slot, |bound| {
            match &bound.graph {
                Some(graph) => graph.launch(),
                None => bound.send(),
            }
            .map_err(failed("launching"))
        })
    }

    /// On a virtual board the times are modelled by its clock, not measured.
    fn run_timed(&mut self, slot: &mut Slot, nanos: &mut Vec<u64>) -> Result<(), RunError> {
        self.on(slot, |bound| {
            nanos.clear();
            let stream = Arc::clone(&bound.loaded.stream);
            let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
            let mut before = stream.record_event(timed).map_err(failed("recording an event"))?;
            for step in 0..bound.steps.len() {
                bound.send_step(step).map_err(failed("launching"))?;
                let after = stream.record_event(timed).map_err(failed("recording an event"))?;
                after.synchronize().map_err(failed("waiting for an event"))?;
                let milliseconds = before.elapsed_ms(&after).map_err(failed("timing"))?;
                nanos.push((f64::from(milliseconds) * 1e6) as u64);
                before = after;
            }
            Ok(())
        })
    }

    fn run_observed(
        &mut self,
        slot: &mut Slot,
        observe: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), RunError> {
        for step in 0..self.0.lowered.steps.len() {
            self.on(slot, |bound| bound.send_step(step).map_err(failed("launching")))?;
            if let Some(bytes) = written(&self.0.plan, step, slot, |buffer| self.0.read_arena(buffer))? {
                observe(step, &bytes);
            }
        }
        Ok(())
    }
}
