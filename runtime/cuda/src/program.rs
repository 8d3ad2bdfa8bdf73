//! A plan loaded on the GPU.

use crate::driver::{Kernels, Mode};
use crate::lower::{Bases, Lowered, lower};
use cudarc::driver::{CudaGraph, CudaStream, DriverError, result, sys};
use pilotlight_device::{LoadError, Program, RunError, Slot, dense};
use pilotlight_plan::{Plan, Space, TensorId};
use pilotlight_units::Bytes;
use std::sync::Arc;

/// Kernels read whole pieces of 16 bytes, which may reach behind the last element.
const SLACK: usize = 64;

/// Device memory.
struct Device {
    address: sys::CUdeviceptr,
}

/// Pinned host memory that kernels reach too.
struct Pinned {
    host: *mut u8,
    address: sys::CUdeviceptr,
    bytes: usize,
}

pub(crate) struct Run {
    // Dropped in this order: the graph before the memory that it names, all before the kernels.
    graph: Option<CudaGraph>,
    stream: Arc<CudaStream>,
    plan: Plan,
    lowered: Lowered,
    arena: Device,
    constants: Device,
    inputs: Vec<Pinned>,
    outputs: Vec<Pinned>,
    kernels: Arc<Kernels>,
}

// SAFETY: (1) the pinned memory and the graph belong to this program alone; (2) `&mut self` on every use keeps
// it to one thread at a time, and each use makes the context current first.
unsafe impl Send for Run {}

fn refused(call: &'static str) -> impl Fn(DriverError) -> LoadError {
    move |e| LoadError::Device { call, problem: format!("{e:?}") }
}

fn failed(call: &'static str) -> impl Fn(DriverError) -> RunError {
    move |e| RunError::Device { call, problem: format!("{e:?}") }
}

impl Device {
    fn new(what: &'static str, bytes: usize) -> Result<Self, LoadError> {
        let bytes = bytes + SLACK;
        // SAFETY: (1) the context is current.
        let address = unsafe { result::malloc_sync(bytes) }
            .map_err(|_| LoadError::Memory { what, bytes: Bytes(bytes as u64) })?;
        Ok(Self { address })
    }
}

impl Pinned {
    fn new(what: &'static str, bytes: usize) -> Result<Self, LoadError> {
        let total = bytes + SLACK;
        let memory = |_| LoadError::Memory { what, bytes: Bytes(total as u64) };
        // SAFETY: (1) the context is current.
        let host = unsafe { result::malloc_host(total, sys::CU_MEMHOSTALLOC_DEVICEMAP) }.map_err(memory)?;
        let mut address = 0;
        // SAFETY: (1) `host` was just allocated as mapped memory, and `address` is a place for the answer.
        unsafe { sys::cuMemHostGetDevicePointer_v2(&mut address, host, 0) }
            .result()
            .map_err(refused("mapping pinned memory"))?;
        // SAFETY: (1) `total` bytes were just allocated; zeroed so that no read sees stale bytes.
        unsafe { host.cast::<u8>().write_bytes(0, total) };
        Ok(Self { host: host.cast(), address, bytes })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: (1) allocated with at least so many bytes, zeroed; (2) the GPU does not write now: every run
        // ends by waiting for the stream.
        unsafe { std::slice::from_raw_parts(self.host, self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: (1) as in `bytes`, and `&mut self` is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.host, self.bytes) }
    }
}

impl Run {
    pub(crate) fn new(kernels: Arc<Kernels>, mode: Mode, plan: &Plan) -> Result<Self, LoadError> {
        pilotlight_plan::validate::validate(plan)?;
        kernels.context.bind_to_thread().map_err(refused("entering the context"))?;
        let size = |&id: &TensorId| plan.tensor(id).elements() as usize * plan.tensor(id).dtype.bytes();
        let pin = |ids: &[TensorId], what| {
            ids.iter().map(|id| Pinned::new(what, size(id))).collect::<Result<Vec<_>, _>>()
        };
        let inputs = pin(&plan.inputs, "pinned inputs")?;
        let outputs = pin(&plan.outputs, "pinned outputs")?;
        let addresses = |list: &[Pinned]| list.iter().map(|p| p.address).collect::<Vec<u64>>();
        // Lowered twice: how large the constants are is known only afterwards. Both take milliseconds.
        let mut bases = Bases {
            inputs: addresses(&inputs),
            outputs: addresses(&outputs),
            arena: 1 << 40,
            constants: 1 << 41,
        };
        let unsupported = |u: crate::Unsupported| LoadError::Unsupported { step: u.step, problem: u.problem };
        let first = lower(plan, &bases, kernels.multiprocessors).map_err(unsupported)?;
        let arena = Device::new("device arena", plan.arena_bytes as usize + first.scratch)?;
        let constants = Device::new("device constants", first.constants.len())?;
        (bases.arena, bases.constants) = (arena.address, constants.address);
        let lowered = lower(plan, &bases, kernels.multiprocessors).map_err(unsupported)?;
        let stream = kernels.context.new_stream().map_err(refused("making a stream"))?;
        if !lowered.constants.is_empty() {
            // SAFETY: (1) the allocation has at least as many bytes.
            unsafe { result::memcpy_htod_sync(constants.address, &lowered.constants) }
                .map_err(refused("copying constants"))?;
        }
        let mut run = Self {
            graph: None,
            stream,
            plan: plan.clone(),
            lowered,
            arena,
            constants,
            inputs,
            outputs,
            kernels,
        };
        if mode == Mode::Graph {
            run.capture().map_err(refused("capturing the graph"))?;
        }
        Ok(run)
    }

    fn capture(&mut self) -> Result<(), DriverError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode)?;
        let sent = self.send(0..self.lowered.steps.len());
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags)?;
        sent?;
        self.graph = graph;
        Ok(())
    }

    fn send(&self, steps: std::ops::Range<usize>) -> Result<(), DriverError> {
        for launch in self.lowered.steps[steps].iter().flatten() {
            self.kernels.launch(&self.stream, launch)?;
        }
        Ok(())
    }

    fn enter(&mut self, slot: &Slot) -> Result<(), RunError> {
        slot.check(&self.plan)?;
        self.kernels.context.bind_to_thread().map_err(failed("entering the context"))?;
        for (n, input) in self.inputs.iter_mut().enumerate() {
            input.bytes_mut().copy_from_slice(slot.input(n));
        }
        Ok(())
    }

    fn leave(&self, slot: &mut Slot) -> Result<(), RunError> {
        self.stream.synchronize().map_err(failed("waiting for the GPU"))?;
        for (n, output) in self.outputs.iter().enumerate() {
            slot.output_mut(n).copy_from_slice(output.bytes());
        }
        Ok(())
    }

    /// The bytes of a tensor's buffer, once the stream is done.
    fn buffer(&self, id: TensorId) -> Result<Vec<u8>, RunError> {
        let buffer = self.plan.buffers[self.plan.tensor(id).buffer.0 as usize];
        Ok(match buffer.space {
            Space::Input(n) => self.inputs[n as usize].bytes().to_vec(),
            Space::Output(n) => self.outputs[n as usize].bytes().to_vec(),
            Space::Weights => self.plan.weights[buffer.offset as usize..].to_vec(),
            Space::Arena => {
                let mut bytes = vec![0u8; buffer.bytes as usize];
                // SAFETY: (1) the buffer lies in the arena, by the validated plan.
                unsafe { result::memcpy_dtoh_sync(&mut bytes, self.arena.address + buffer.offset) }
                    .map_err(failed("reading a tensor back"))?;
                bytes
            }
        })
    }
}

impl Program for Run {
    fn slot(&self) -> Result<Slot, LoadError> {
        Slot::new(&self.plan)
    }

    fn run(&mut self, slot: &mut Slot) -> Result<(), RunError> {
        self.enter(slot)?;
        match &self.graph {
            Some(graph) => graph.launch(),
            None => self.send(0..self.lowered.steps.len()),
        }
        .map_err(failed("launching"))?;
        self.leave(slot)
    }

    /// On a virtual board the times are modelled by its coarse clock, not measured.
    fn run_timed(&mut self, slot: &mut Slot, nanos: &mut Vec<u64>) -> Result<(), RunError> {
        self.enter(slot)?;
        nanos.clear();
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let mut before = self.stream.record_event(timed).map_err(failed("recording an event"))?;
        for step in 0..self.lowered.steps.len() {
            self.send(step..step + 1).map_err(failed("launching"))?;
            let after = self.stream.record_event(timed).map_err(failed("recording an event"))?;
            after.synchronize().map_err(failed("waiting for an event"))?;
            let milliseconds = before.elapsed_ms(&after).map_err(failed("timing"))?;
            nanos.push((f64::from(milliseconds) * 1e6) as u64);
            before = after;
        }
        self.leave(slot)
    }

    fn run_observed(
        &mut self,
        slot: &mut Slot,
        observe: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), RunError> {
        self.enter(slot)?;
        for step in 0..self.lowered.steps.len() {
            self.send(step..step + 1).map_err(failed("launching"))?;
            self.stream.synchronize().map_err(failed("waiting for the GPU"))?;
            let id = self.plan.steps[step].op.writes();
            observe(step, &dense(self.plan.tensor(id), &self.buffer(id)?));
        }
        self.leave(slot)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.kernels.context.bind_to_thread().is_err() {
            return;
        }
        self.graph = None;
        let _ = self.stream.synchronize();
        for device in [&self.arena, &self.constants] {
            // SAFETY: (1) allocated once, freed once; the stream is done.
            let _ = unsafe { result::free_sync(device.address) };
        }
        for pinned in self.inputs.iter().chain(&self.outputs) {
            // SAFETY: (1) allocated once, freed once; no reference to it is left.
            let _ = unsafe { result::free_host(pinned.host.cast()) };
        }
    }
}
