//! Memory that inputs, outputs and working values lie in.

use crate::{LoadError, RunError};
use pilotlight_plan::{Plan, TensorId};
use pilotlight_units::Bytes;
use zerocopy::{FromBytes, Immutable, IntoBytes};

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Zeroed bytes at a 64-byte boundary, with at least 64 readable bytes behind the end.
#[derive(Default)]
pub struct Memory {
    lines: Vec<Line>,
    bytes: usize,
}

impl Memory {
    /// `bytes` zeroed bytes for `what`.
    ///
    /// # Errors
    /// [`LoadError::Memory`] when the system has no more.
    pub fn new(what: &'static str, bytes: usize) -> Result<Self, LoadError> {
        let mut lines = Vec::new();
        let count = bytes.div_ceil(64) + 1;
        lines.try_reserve_exact(count).map_err(|_| LoadError::Memory { what, bytes: Bytes(bytes as u64) })?;
        lines.resize(count, Line([0; 64]));
        Ok(Self { lines, bytes })
    }

    /// All bytes, without those behind the end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.lines.as_slice().as_bytes()[..self.bytes]
    }

    /// All bytes, without those behind the end, for writing.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.lines.as_mut_slice().as_mut_bytes()[..self.bytes]
    }
}

/// The inputs and outputs of one inference, each row-major in the model's order of dimensions, little-endian.
pub struct Slot {
    inputs: Vec<Memory>,
    outputs: Vec<Memory>,
}

impl Slot {
    /// Zeroed memory for a plan's inputs and outputs.
    ///
    /// # Errors
    /// [`LoadError::Memory`] when the system has no more.
    pub fn new(plan: &Plan) -> Result<Self, LoadError> {
        let all = |ids: &[TensorId], what| {
            ids.iter().map(|&id| Memory::new(what, size(plan, id))).collect::<Result<_, _>>()
        };
        Ok(Self { inputs: all(&plan.inputs, "input slot")?, outputs: all(&plan.outputs, "output slot")? })
    }

    /// The bytes of input `i`.
    ///
    /// # Panics
    /// When the plan has no such input.
    pub fn input(&self, i: usize) -> &[u8] {
        self.inputs[i].as_bytes()
    }

    /// The bytes of input `i`, to be filled before a run.
    ///
    /// # Panics
    /// When the plan has no such input.
    pub fn input_mut(&mut self, i: usize) -> &mut [u8] {
        self.inputs[i].as_bytes_mut()
    }

    /// The bytes of output `i`, as the last run left them.
    ///
    /// # Panics
    /// When the plan has no such output.
    pub fn output(&self, i: usize) -> &[u8] {
        self.outputs[i].as_bytes()
    }

    /// The bytes of output `i` for a device to write.
    ///
    /// # Panics
    /// When the plan has no such output.
    pub fn output_mut(&mut self, i: usize) -> &mut [u8] {
        self.outputs[i].as_bytes_mut()
    }

    /// Checks that this slot has the sizes that the plan needs.
    ///
    /// # Errors
    /// [`RunError::Slot`] when it has others.
    pub fn check(&self, plan: &Plan) -> Result<(), RunError> {
        let slots = self.inputs.iter().chain(&self.outputs).map(|m| m.bytes);
        let needed = plan.inputs.iter().chain(&plan.outputs).map(|&id| size(plan, id));
        if self.inputs.len() == plan.inputs.len() && slots.clone().eq(needed.clone()) {
            return Ok(());
        }
        Err(RunError::Slot { found: slots.collect(), needed: needed.collect() })
    }
}

fn size(plan: &Plan, id: TensorId) -> usize {
    let t = plan.tensor(id);
    t.elements() as usize * t.dtype.bytes()
}
