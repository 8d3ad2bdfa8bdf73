//! Memory that inputs, outputs and working values lie in.

use crate::{LoadError, RunError};
use pilotlight_plan::{Plan, TensorId};
use pilotlight_units::Bytes;
use std::any::Any;
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

/// Bytes of one input or output of a slot.
///
/// A device that reads and writes other memory than plain one implements it, and lends that memory: then
/// nothing is copied between a slot and the device.
pub trait SlotMemory: Send {
    /// All bytes, without what lies behind the end.
    fn bytes(&self) -> &[u8];

    /// As [`SlotMemory::bytes`], for writing.
    fn bytes_mut(&mut self) -> &mut [u8];
}

impl SlotMemory for Memory {
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.as_bytes_mut()
    }
}

/// The inputs and outputs of one inference, each row-major in the model's order of dimensions, little-endian.
///
/// It may outlive the program that made it.
pub struct Slot {
    // Dropped first: it may name the memory below.
    device: Option<Box<dyn Any + Send>>,
    inputs: Vec<Box<dyn SlotMemory>>,
    outputs: Vec<Box<dyn SlotMemory>>,
}

impl Slot {
    /// Zeroed plain memory for a plan's inputs and outputs.
    ///
    /// # Errors
    /// [`LoadError::Memory`] when the system has no more.
    pub fn new(plan: &Plan) -> Result<Self, LoadError> {
        let all = |ids: &[TensorId], what| {
            let memory = |&id| Ok(Box::new(Memory::new(what, size(plan, id))?) as Box<dyn SlotMemory>);
            ids.iter().map(memory).collect::<Result<_, LoadError>>()
        };
        let (inputs, outputs) = (all(&plan.inputs, "input slot")?, all(&plan.outputs, "output slot")?);
        Ok(Self { device: None, inputs, outputs })
    }

    /// Memory that a device lends, one buffer for each input and output, and what the device keeps with it.
    ///
    /// What is kept is dropped before the buffers. Only the device that lent the memory runs such a slot.
    pub fn lent(
        inputs: Vec<Box<dyn SlotMemory>>,
        outputs: Vec<Box<dyn SlotMemory>>,
        kept: impl Any + Send,
    ) -> Self {
        Self { device: Some(Box::new(kept)), inputs, outputs }
    }

    /// What the device that lent the memory keeps with it; `None` where it is of another type, or the memory plain.
    pub fn kept<T: Any>(&mut self) -> Option<&mut T> {
        self.device.as_mut()?.downcast_mut()
    }

    /// The bytes of input `i`.
    ///
    /// # Panics
    /// When the plan has no such input.
    pub fn input(&self, i: usize) -> &[u8] {
        self.inputs[i].bytes()
    }

    /// The bytes of input `i`, to be filled before a run.
    ///
    /// # Panics
    /// When the plan has no such input.
    pub fn input_mut(&mut self, i: usize) -> &mut [u8] {
        self.inputs[i].bytes_mut()
    }

    /// The bytes of output `i`, as the last run left them.
    ///
    /// # Panics
    /// When the plan has no such output.
    pub fn output(&self, i: usize) -> &[u8] {
        self.outputs[i].bytes()
    }

    /// The bytes of output `i` for a device to write.
    ///
    /// # Panics
    /// When the plan has no such output.
    pub fn output_mut(&mut self, i: usize) -> &mut [u8] {
        self.outputs[i].bytes_mut()
    }

    /// Checks that this slot is plain memory and has the sizes that the plan needs.
    ///
    /// # Errors
    /// [`RunError::Foreign`] when its memory is lent by a device, [`RunError::Slot`] when it has other sizes.
    pub fn check(&self, plan: &Plan) -> Result<(), RunError> {
        if self.device.is_some() {
            // Lent memory need not have the alignment and the slack that plain memory has.
            return Err(RunError::Foreign);
        }
        let slots = self.inputs.iter().chain(&self.outputs).map(|m| m.bytes().len());
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
