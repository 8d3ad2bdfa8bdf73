//! The reference device: every operation as its rule reads, one element at a time, over dense copies.
//!
//! It is slow on purpose. Each step gathers its operands into row-major arrays, computes with plain loops in i32
//! (wrapping) and f32, and scatters the result. No layout, packing or vector code can hide a mistake here.

mod linear;
mod pointwise;
mod shape;
mod values;
mod window;

use crate::places::{each_index, places};
use crate::{Device, LoadError, Memory, Program, RunError, Slot, dense};
use pilotlight_plan::{Op, Plan, Space, Tensor, TensorId};
use std::time::Instant;
use values::Values;

/// The device that defines every result.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Device for Reference {
    fn describe(&self) -> String {
        "reference (plain loops, 1 thread)".into()
    }

    fn load(&self, plan: &Plan) -> Result<Box<dyn Program>, LoadError> {
        Ok(Box::new(Run { arena: Memory::new("arena", plan.arena_bytes as usize)?, plan: plan.clone() }))
    }
}

struct Run {
    plan: Plan,
    arena: Memory,
}

impl Program for Run {
    fn slot(&self) -> Result<Slot, LoadError> {
        Slot::new(&self.plan)
    }

    fn run(&mut self, slot: &mut Slot) -> Result<(), RunError> {
        self.run_timed(slot, &mut Vec::new())
    }

    fn run_observed(
        &mut self,
        slot: &mut Slot,
        observe: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), RunError> {
        slot.check(&self.plan)?;
        let mut bench = Bench { plan: &self.plan, arena: &mut self.arena, slot };
        for (i, step) in self.plan.steps.iter().enumerate() {
            bench.step(&step.op);
            let t = self.plan.tensor(step.op.writes());
            observe(i, &dense(t, bench.bytes(t)));
        }
        Ok(())
    }

    fn run_timed(&mut self, slot: &mut Slot, nanos: &mut Vec<u64>) -> Result<(), RunError> {
        slot.check(&self.plan)?;
        nanos.clear();
        let mut bench = Bench { plan: &self.plan, arena: &mut self.arena, slot };
        for step in &self.plan.steps {
            let start = Instant::now();
            bench.step(&step.op);
            nanos.push(start.elapsed().as_nanos() as u64);
        }
        Ok(())
    }
}

/// A plan and the memory that it runs in.
struct Bench<'a> {
    plan: &'a Plan,
    arena: &'a mut Memory,
    slot: &'a mut Slot,
}

impl Bench<'_> {
    fn step(&mut self, op: &Op) {
        let out = self.plan.tensor(op.writes());
        let result = match op {
            Op::Conv(c) => linear::conv(self, c),
            Op::Gemm(g) => linear::gemm(self, g),
            Op::MatMul(m) => linear::matmul(self, m),
            Op::Pool(p) => window::pool(self, p),
            Op::Mean(m) => window::mean(self, m),
            Op::Binary(b) => pointwise::binary(self, b),
            Op::Table(t) => pointwise::table(self, t),
            Op::Unary(u) => pointwise::unary(self, u),
            Op::Quantize(c) => pointwise::quantize(self, c),
            Op::Dequantize(c) => pointwise::dequantize(self, c),
            Op::Cast(c) => pointwise::cast(self, c),
            Op::Remap(r) => shape::remap(self, r),
            Op::Bilinear(b) => shape::bilinear(self, b),
            Op::Softmax(s) => shape::softmax(self, s),
            Op::ArgMax(a) => shape::arg_max(self, a),
        };
        let mut at = Vec::with_capacity(result.len());
        places(out, |place| at.push(place));
        assert_eq!(at.len(), result.len(), "{}: a result of another size", out.name);
        let buffer = self.plan.buffers[out.buffer.0 as usize];
        let bytes = match buffer.space {
            Space::Arena => &mut self.arena.as_bytes_mut()[buffer.offset as usize..],
            Space::Output(i) => self.slot.output_mut(i as usize),
            Space::Input(_) | Space::Weights => {
                unreachable!("a validated plan writes no input and no constant")
            }
        };
        for (i, place) in at.into_iter().enumerate() {
            result.write(i, out.dtype, &mut bytes[place..]);
        }
    }

    /// The elements of a tensor in row-major order.
    fn read(&self, id: TensorId) -> Values {
        let t = self.plan.tensor(id);
        let bytes = self.bytes(t);
        let mut values = Values::empty(t.dtype);
        places(t, |place| values.push(t.dtype, &bytes[place..]));
        values
    }

    /// The buffer of a tensor.
    fn bytes(&self, t: &Tensor) -> &[u8] {
        let buffer = self.plan.buffers[t.buffer.0 as usize];
        match buffer.space {
            Space::Arena => &self.arena.as_bytes()[buffer.offset as usize..],
            Space::Input(i) => self.slot.input(i as usize),
            Space::Output(i) => self.slot.output(i as usize),
            Space::Weights => &self.plan.weights[buffer.offset as usize..],
        }
    }

    fn shape(&self, id: TensorId) -> Vec<usize> {
        self.plan.tensor(id).shape.iter().map(|&d| d as usize).collect()
    }
}

/// The position of an index in a dense row-major array.
fn flat(shape: &[usize], index: &[usize]) -> usize {
    shape.iter().zip(index).fold(0, |at, (&d, &i)| at * d + i)
}
