//! The plan: a compiled INT8 network as data.
//!
//! A [`Plan`] lists typed steps in execution order over tensors whose places in memory are fixed. It holds no
//! code and no board: a device lowers it at load. The same model gives the same plan, byte for byte, on every
//! machine.
#![forbid(unsafe_code)]

pub mod arena;
mod batch;
mod file;
pub mod math;
mod op;
mod tensor;
#[cfg(test)]
mod test_plan;
pub mod validate;
mod weights;

pub use batch::{BatchError, batch};
pub use file::{FORMAT, PlanError, rehash};
pub use op::*;
pub use tensor::*;
pub use weights::Weights;

use serde::{Deserialize, Serialize};

/// A compiled network: steps, tensors, buffers and weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The model's name.
    pub name: String,
    /// The caller's inputs, in the model's order.
    pub inputs: Vec<TensorId>,
    /// The caller's outputs, in the model's order.
    pub outputs: Vec<TensorId>,
    /// All tensors.
    pub tensors: Vec<Tensor>,
    /// All buffers.
    pub buffers: Vec<Buffer>,
    /// What is computed, in order.
    pub steps: Vec<Step>,
    /// Size of the arena in bytes.
    pub arena_bytes: u64,
    /// The most bytes that are live at any one step: no sequential plan can use a smaller arena.
    pub arena_lower_bound: u64,
    /// Constants; blobs and tensors in [`Space::Weights`] point into it.
    #[serde(skip)]
    pub weights: Weights,
}

impl Plan {
    /// The tensor of this id.
    ///
    /// # Panics
    /// When the id is not of this plan; a validated plan holds no such id.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0 as usize]
    }

    /// The bytes of a blob.
    ///
    /// # Panics
    /// When the blob is not of this plan; a validated plan holds no such blob.
    pub fn blob(&self, blob: Blob) -> &[u8] {
        &self.weights[blob.offset as usize..(blob.offset + blob.bytes) as usize]
    }

    /// A blob of little-endian f32.
    ///
    /// # Panics
    /// As [`Plan::blob`].
    pub fn blob_f32(&self, blob: Blob) -> Vec<f32> {
        self.blob(blob).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// A blob of little-endian i32.
    ///
    /// # Panics
    /// As [`Plan::blob`].
    pub fn blob_i32(&self, blob: Blob) -> Vec<i32> {
        self.blob(blob).as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
    }
}
