//! Plans and devices for the tests of this crate.
#![allow(dead_code, reason = "each test file uses a part of it")]

use pilotlight::Plan;
use pilotlight::device::{Device, LoadError, Program, Reference, RunError, Slot};
use pilotlight_plan::{
    Buffer, BufferId, Convert, DType, Op, Quant, Space, Step, Tensor, TensorId, Weights, arena, row_major,
    validate,
};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// f32 `[batch, 4]` -> u8 in steps of 1 -> f32 in steps of `gain`: `y = gain * rint(x)` for x in 0..=255.
pub fn gain(batch: u32, gain: f32) -> Plan {
    let tensor = |name: &str, dtype, buffer| Tensor {
        name: name.into(),
        dtype,
        shape: vec![batch, 4],
        quant: None,
        buffer: BufferId(buffer),
        offset: 0,
        strides: row_major(&[batch, 4]),
    };
    let buffer = |space, bytes| Buffer { space, offset: 0, bytes };
    let elements = u64::from(batch) * 4;
    let convert = |input, output, scale| Convert {
        input: TensorId(input),
        output: TensorId(output),
        axis: 0,
        quant: vec![Quant { scale, zero_point: 0 }],
    };
    let mut plan = Plan {
        name: format!("gain-{gain}"),
        inputs: vec![TensorId(0)],
        outputs: vec![TensorId(2)],
        tensors: vec![tensor("x", DType::F32, 0), tensor("q", DType::U8, 1), tensor("y", DType::F32, 2)],
        buffers: vec![
            buffer(Space::Input(0), 4 * elements),
            buffer(Space::Arena, elements),
            buffer(Space::Output(0), 4 * elements),
        ],
        steps: vec![
            Step { nodes: vec!["q".into()], op: Op::Quantize(convert(0, 1, 1.0)) },
            Step { nodes: vec!["dq".into()], op: Op::Dequantize(convert(1, 2, gain)) },
        ],
        arena_bytes: 0,
        arena_lower_bound: 0,
        weights: Weights::default(),
    };
    arena::place(&mut plan);
    validate::validate(&plan).unwrap();
    validate::validate_flow(&plan).unwrap();
    plan
}

/// What a [`Gated`] device does with an inference that begins.
pub enum Gate {
    Run,
    Fail,
    Panic,
}

/// The reference device, but each inference says that it has begun and waits to be told what to do.
pub struct Gated {
    began: Sender<()>,
    gate: Arc<Mutex<Receiver<Gate>>>,
}

impl Gated {
    /// The device, what tells that an inference has begun, and what lets it go on.
    pub fn new() -> (Box<Self>, Receiver<()>, Sender<Gate>) {
        let (began, beginnings) = channel();
        let (go, gate) = channel();
        (Box::new(Self { began, gate: Arc::new(Mutex::new(gate)) }), beginnings, go)
    }
}

impl Device for Gated {
    fn describe(&self) -> String {
        "gated reference".into()
    }

    fn load(&self, plan: &Plan) -> Result<Box<dyn Program>, LoadError> {
        Ok(Box::new(GatedProgram {
            inner: Reference.load(plan)?,
            began: self.began.clone(),
            gate: Arc::clone(&self.gate),
        }))
    }
}

struct GatedProgram {
    inner: Box<dyn Program>,
    began: Sender<()>,
    gate: Arc<Mutex<Receiver<Gate>>>,
}

impl Program for GatedProgram {
    fn slot(&self) -> Result<Slot, LoadError> {
        self.inner.slot()
    }

    fn run(&mut self, slot: &mut Slot) -> Result<(), RunError> {
        self.began.send(()).unwrap();
        let gate = self.gate.lock().unwrap().recv().unwrap();
        match gate {
            Gate::Run => self.inner.run(slot),
            Gate::Fail => Err(RunError::Slot { found: vec![1], needed: vec![2] }),
            Gate::Panic => panic!("as told"),
        }
    }

    fn run_timed(&mut self, slot: &mut Slot, nanos: &mut Vec<u64>) -> Result<(), RunError> {
        self.inner.run_timed(slot, nanos)
    }

    fn run_observed(
        &mut self,
        slot: &mut Slot,
        observe: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), RunError> {
        self.inner.run_observed(slot, observe)
    }
}
