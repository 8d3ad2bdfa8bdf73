//! A plan on the persistent kernel, and its slots.

use super::check::{Map, check};
use super::lamp::{Lamp, PlanState};
use super::schedule::Schedule;
use crate::driver::Kernels;
use crate::lower::{Bases, Launch, Lowered, lower};
use crate::memory::{Device, Pinned, SLACK, refused};
use crate::program::written;
use cudarc::driver::result;
use pilotlight_device::{LoadError, Program, RunError, Slot, SlotMemory, Span};
use pilotlight_kernels::abi;
use pilotlight_plan::{Buffer, Plan, TensorId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// Device memory of a plan.
struct Memory {
    arena: Device,
    constants: Device,
    /// All instructions, then where each list begins.
    lists: Device,
    /// Epoch and flags.
    state: Device,
    /// Three times for each instruction.
    trace: Pinned,
}

/// What a program and its slots share; the last of them frees it.
pub(crate) struct Resident {
    lamp: Arc<Lamp>,
    kernels: Arc<Kernels>,
    plan: Plan,
    lowered: Lowered,
    schedule: Schedule,
    /// Taken when it is freed.
    memory: Option<Memory>,
    plan_state: PlanState,
    /// Nanoseconds that an inference took lately, by the kernel's clock.
    latency: AtomicU64,
}

/// What a slot keeps: parameter blocks with its own addresses.
struct Bound {
    blocks: Option<Device>,
    request: abi::Request,
    resident: Arc<Resident>,
}

/// Pinned memory that is freed while the kernel is out.
struct Lent {
    memory: Option<Pinned>,
    lamp: Arc<Lamp>,
}

pub(crate) struct Persistent(Arc<Resident>);

impl Persistent {
    pub(crate) fn new(kernels: Arc<Kernels>, lamp: Arc<Lamp>, plan: &Plan) -> Result<Self, LoadError> {
        pilotlight_plan::validate::validate(plan)?;
        let unsupported = |u: crate::Unsupported| LoadError::Unsupported { step: u.step, problem: u.problem };
        let lowered = lower(plan, lamp.ctas).map_err(unsupported)?;
        let schedule = Schedule::new(&lowered, lamp.ctas as usize).map_err(unsupported)?;
        let since = Instant::now();
        let proof = check(&schedule, &lowered, &map(plan, &lowered)).map_err(|flaw| {
            // The scheduler made what the checker refuses: a fault of ours, caught before it can do harm.
            LoadError::Unsupported { step: "the persistent program".into(), problem: flaw.to_string() }
        })?;
        log::debug!("persistent program of {}: {proof:?} proved in {:?}", plan.name, since.elapsed());
        let words = abi::STATE_FLAGS as usize / 4 + schedule.flags as usize;
        let (memory, plan_state) = lamp.dark(|plans| {
            let lists_bytes = schedule.instructions.len() * 128 + schedule.starts.len() * 4;
            let memory = Memory {
                arena: Device::new(&kernels, "device arena", plan.arena_bytes as usize + lowered.scratch)?,
                constants: Device::new(&kernels, "device constants", lowered.constants.len())?,
                lists: Device::new(&kernels, "instruction lists", lists_bytes)?,
                state: Device::new(&kernels, "plan state", words * 4)?,
                trace: Pinned::new(&kernels, "trace", schedule.instructions.len() * 24)?,
            };
            upload(&memory.constants, &lowered.constants)?;
            let bases = bases(&memory, &[], &[]);
            let mut instructions = schedule.instructions.clone();
            for i in &mut instructions {
                i.weights = bases.resolve(i.weights);
            }
            let mut lists = instructions.as_bytes().to_vec();
            lists.extend_from_slice(schedule.starts.as_bytes());
            upload(&memory.lists, &lists)?;
            let plan_state = PlanState { address: memory.state.address, words };
            plans.add(plan_state)?;
            Ok::<_, LoadError>((memory, plan_state))
        })?;
        // They are on the device now.
        let lowered = Lowered { constants: Vec::new(), ..lowered };
        Ok(Self(Arc::new(Resident {
            lamp,
            kernels,
            plan: plan.clone(),
            lowered,
            schedule,
            memory: Some(memory),
            plan_state,
            latency: AtomicU64::new(0),
        })))
    }

    fn bound<'a>(&self, slot: &'a mut Slot) -> Result<&'a mut Bound, RunError> {
        slot.kept::<Bound>().filter(|b| Arc::ptr_eq(&b.resident, &self.0)).ok_or(RunError::Foreign)
    }

    /// Runs one step, or some launches' worth of one; the steps of an inference are run in order.
    fn run_step(&self, slot: &mut Slot, step: usize) -> Result<u64, RunError> {
        let whole = step + 1 == self.0.lowered.steps.len();
        let request = abi::Request {
            from: step as u32,
            until: step as u32,
            whole: whole.into(),
            ..self.bound(slot)?.request
        };
        let ran = self.0.lamp.run(&request, Duration::ZERO)?;
        Ok(ran.end - ran.start)
    }
}

/// The plan's memory, as places.
pub(super) fn map(plan: &Plan, lowered: &Lowered) -> Map {
    let bases = Bases::places(plan);
    let size = |&id: &TensorId| (plan.tensor(id).elements() as usize * plan.tensor(id).dtype.bytes()) as u64;
    let ports = |bases: &[u64], ids: &[TensorId]| -> Vec<_> {
        bases.iter().zip(ids).map(|(&base, id)| base..base + size(id)).collect()
    };
    let mut writable = ports(&bases.outputs, &plan.outputs);
    writable.push(bases.arena..bases.arena + plan.arena_bytes + lowered.scratch as u64);
    let mut readable = ports(&bases.inputs, &plan.inputs);
    readable.push(bases.constants..bases.constants + lowered.constants.len() as u64);
    readable.extend_from_slice(&writable);
    // Every allocation has that much behind it, for reads of whole pieces.
    readable.iter_mut().for_each(|range| range.end += SLACK as u64);
    Map { readable, writable }
}

fn bases(memory: &Memory, inputs: &[Pinned], outputs: &[Pinned]) -> Bases {
    let addresses = |list: &[Pinned]| list.iter().map(|p| p.address).collect();
    Bases {
        arena: memory.arena.address,
        constants: memory.constants.address,
        inputs: addresses(inputs),
        outputs: addresses(outputs),
    }
}

fn upload(to: &Device, bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.is_empty() {
        return Ok(());
    }
    // SAFETY: (1) the allocation was made for these bytes; (2) no kernel runs.
    unsafe { result::memcpy_htod_sync(to.address, bytes) }.map_err(refused("copying to the device"))
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

impl Resident {
    fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    /// The bytes of a buffer in the arena.
    fn read_arena(&self, buffer: Buffer) -> Result<Vec<u8>, RunError> {
        let mut bytes = vec![0u8; buffer.bytes as usize];
        let Some(memory) = self.memory() else { return Ok(bytes) };
        self.lamp.dark(|_| {
            // SAFETY: (1) the buffer lies in the arena, by the validated plan; (2) no kernel runs.
            unsafe { result::memcpy_dtoh_sync(&mut bytes, memory.arena.address + buffer.offset) }
                .map_err(|e| RunError::Device { call: "reading a tensor back", problem: format!("{e:?}") })
        })?;
        Ok(bytes)
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let memory = self.memory.take();
        self.lamp.dark(|plans| {
            plans.remove(self.plan_state);
            drop(memory);
        });
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let blocks = self.blocks.take();
        self.resident.lamp.dark(|_| drop(blocks));
    }
}

impl SlotMemory for Lent {
    fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |m| m.bytes())
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().map_or(&mut [], |m| m.bytes_mut())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let memory = self.memory.take();
        self.lamp.dark(|_| drop(memory));
    }
}

impl Program for Persistent {
    /// Pinned memory that the kernel reads and writes in place, with parameter blocks of its own.
    fn slot(&self) -> Result<Slot, LoadError> {
        let Resident { lamp, kernels, plan, lowered, schedule, memory, .. } = &*self.0;
        let Some(memory) = memory else {
            return Err(LoadError::Device { call: "lending a slot", problem: "the plan was freed".into() });
        };
        let size = |&id: &TensorId| plan.tensor(id).elements() as usize * plan.tensor(id).dtype.bytes();
        lamp.dark(|_| {
            let pin = |ids: &[TensorId], what| {
                ids.iter().map(|id| Pinned::new(kernels, what, size(id))).collect::<Result<Vec<_>, _>>()
            };
            let inputs = pin(&plan.inputs, "pinned inputs")?;
            let outputs = pin(&plan.outputs, "pinned outputs")?;
            let bases = bases(memory, &inputs, &outputs);
            let mut bytes = vec![0u8; schedule.block_bytes];
            let launches = lowered.steps.iter().flatten().map(|l: &Launch| l.bound(&bases));
            for (launch, &at) in launches.zip(&schedule.blocks) {
                let block = launch.block.as_bytes();
                bytes[at as usize..at as usize + block.len()].copy_from_slice(block);
            }
            let blocks = Device::new(kernels, "parameter blocks", bytes.len())?;
            upload(&blocks, &bytes)?;
            let request = abi::Request {
                instructions: memory.lists.address,
                starts: memory.lists.address + schedule.instructions.len() as u64 * 128,
                state: memory.state.address,
                blocks: blocks.address,
                trace: 0,
                deadline_ns: u64::try_from(lamp.settings.deadline.as_nanos()).unwrap_or(u64::MAX >> 1),
                from: 0,
                until: u32::MAX,
                whole: 1,
                epoch: 0,
            };
            let lend = |list: Vec<Pinned>| {
                let lent =
                    |p| Box::new(Lent { memory: Some(p), lamp: Arc::clone(lamp) }) as Box<dyn SlotMemory>;
                list.into_iter().map(lent).collect()
            };
            let bound = Bound { blocks: Some(blocks), request, resident: Arc::clone(&self.0) };
            Ok(Slot::lent(lend(inputs), lend(outputs), bound))
        })
    }

    fn run(&mut self, slot: &mut Slot) -> Result<(), RunError> {
        let request = self.bound(slot)?.request;
        let expected = Duration::from_nanos(self.0.latency.load(Ordering::Relaxed));
        let ran = self.0.lamp.run(&request, expected)?;
        let took = ran.end - ran.start;
        // Grows slowly, so that one slow inference does not make the next wake-up late.
        let known = self.0.latency.load(Ordering::Relaxed);
        let next = if known == 0 || took < known { took } else { known + (took - known) / 16 };
        self.0.latency.store(next, Ordering::Relaxed);
        Ok(())
    }

    /// Step by step; the kernel's own clock. On a virtual board the times are modelled, not measured.
    fn run_timed(&mut self, slot: &mut Slot, nanos: &mut Vec<u64>) -> Result<(), RunError> {
        nanos.clear();
        for step in 0..self.0.lowered.steps.len() {
            nanos.push(self.run_step(slot, step)?);
        }
        Ok(())
    }

    /// Each block's instructions and the mailbox, by the kernel's own clock. On a virtual board the times are modelled.
    fn run_traced(&mut self, slot: &mut Slot, spans: &mut Vec<Span>) -> Result<(), RunError> {
        let Resident { lamp, schedule, memory, lowered, .. } = &*self.0;
        let Some(memory) = memory else { return Err(RunError::Foreign) };
        let request = abi::Request { trace: memory.trace.address, ..self.bound(slot)?.request };
        let ran = lamp.run(&request, Duration::ZERO)?;
        let times: Vec<u64> = memory.trace.bytes().chunks_exact(8).map(word).collect();
        // Another block may begin before block 0 has looked at the clock.
        let first = times.iter().copied().min().unwrap_or(ran.start).min(ran.start);
        let last = times.iter().copied().max().unwrap_or(ran.end).min(ran.end);
        spans.clear();
        let mailbox = |what: &str, begin: u64, end: u64| {
            let what = what.to_owned();
            Span { lane: schedule.ctas as u32, step: None, what, begin, ready: begin, end }
        };
        spans.push(mailbox("request taken up to done", 0, ran.end - first));
        spans.push(mailbox("all blocks join, done is stored", last - first, ran.end - first));
        for (lane, list) in schedule.starts.windows(2).enumerate() {
            for at in list[0] as usize..list[1] as usize {
                let i = &schedule.instructions[at];
                let of: u32 = lowered.steps[i.step as usize]
                    .iter()
                    .find(|l| abi::OPERATIONS.get(i.operation as usize) == Some(&l.kernel.as_str()))
                    .map_or(0, |l| l.grid.iter().product());
                let what = match abi::OPERATIONS.get(i.operation as usize) {
                    Some(kernel) => {
                        format!("{kernel}, blocks {} to {} of {of}", i.first, i.first + i.count - 1)
                    }
                    None => "only waits".to_owned(),
                };
                let [begin, ready, end] = [0, 1, 2].map(|n| times[at * 3 + n] - first);
                spans.push(Span { lane: lane as u32, step: Some(i.step as usize), what, begin, ready, end });
            }
        }
        Ok(())
    }

    fn run_observed(
        &mut self,
        slot: &mut Slot,
        observe: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), RunError> {
        for step in 0..self.0.lowered.steps.len() {
            self.run_step(slot, step)?;
            if let Some(bytes) = written(&self.0.plan, step, slot, |buffer| self.0.read_arena(buffer))? {
                observe(step, &bytes);
            }
        }
        Ok(())
    }
}
