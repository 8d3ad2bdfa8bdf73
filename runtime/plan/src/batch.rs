//! The same network for several inputs at once.

use crate::{Plan, Space, arena, validate};

/// Why a plan has no batch.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A batch of none.
    #[error("a batch of 0; at least 1 is needed")]
    Zero,
    /// A tensor whose first dimension is no batch of one.
    #[error(
        "tensor {tensor} has shape {shape:?}: only plans whose every tensor begins with a batch of 1 can be made \
         larger; import the ONNX model with its batch bound instead"
    )]
    Shape {
        /// Its name.
        tensor: String,
        /// Its shape.
        shape: Vec<u32>,
    },
    /// The larger plan is not valid.
    #[error("a batch of {batch}: {problem}")]
    Plan {
        /// The batch.
        batch: u32,
        /// What is wrong.
        problem: validate::Invalid,
    },
}

/// Buffers are read and written in pieces of so many bytes.
const PIECE: u64 = 16;

/// The plan for `batch` inputs at once, made of one for a batch of one.
///
/// Each tensor holds its images one behind the other; weights and steps are the same. Whether the network mixes
/// its images (an operation along the first dimension) is not looked at: compare outputs before relying on it.
///
/// # Errors
/// [`BatchError`].
pub fn batch(plan: &Plan, batch: u32) -> Result<Plan, BatchError> {
    if batch == 0 {
        return Err(BatchError::Zero);
    }
    let mut large = plan.clone();
    for buffer in large.buffers.iter_mut().filter(|b| b.space != Space::Weights) {
        let image = match buffer.space {
            Space::Arena => buffer.bytes.next_multiple_of(PIECE),
            // The caller's memory is dense.
            _ => buffer.bytes,
        };
        buffer.bytes = image * u64::from(batch);
    }
    for tensor in &mut large.tensors {
        let buffer = large.buffers.get(tensor.buffer.0 as usize);
        let Some(buffer) = buffer.filter(|b| b.space != Space::Weights) else { continue };
        let (Some(first), Some(stride)) = (tensor.shape.first_mut(), tensor.strides.first_mut()) else {
            return Err(BatchError::Shape { tensor: tensor.name.clone(), shape: tensor.shape.clone() });
        };
        if *first != 1 {
            return Err(BatchError::Shape { tensor: tensor.name.clone(), shape: tensor.shape.clone() });
        }
        *first = batch;
        *stride = buffer.bytes / u64::from(batch) / tensor.dtype.bytes() as u64;
    }
    arena::place(&mut large);
    validate::validate(&large).map_err(|problem| BatchError::Plan { batch, problem })?;
    Ok(large)
}
