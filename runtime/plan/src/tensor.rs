//! Tensors: what a value is (type, shape, quantisation) and where its bytes lie (buffer, offset, strides).

use serde::{Deserialize, Serialize};

/// The type of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DType {
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// Signed 32-bit integer: accumulators and biases.
    I32,
    /// Signed 64-bit integer: indices (ArgMax).
    I64,
    /// IEEE 754 binary32.
    F32,
}

impl DType {
    /// The size of one element in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I32 | Self::F32 => 4,
            Self::I64 => 8,
        }
    }

    /// Whether this is one of the two 8-bit types that a quantised value may have.
    pub const fn is_int8(self) -> bool {
        matches!(self, Self::U8 | Self::I8)
    }

    /// The smallest and largest value of an 8-bit type; `None` for the others.
    pub const fn int8_range(self) -> Option<(i32, i32)> {
        match self {
            Self::U8 => Some((0, 255)),
            Self::I8 => Some((-128, 127)),
            _ => None,
        }
    }
}

impl core::fmt::Display for DType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
        })
    }
}

/// Affine quantisation of a whole tensor: `real = scale * (q - zero_point)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quant {
    /// Positive and finite.
    pub scale: f32,
    /// Within the range of the tensor's type.
    pub zero_point: i32,
}

/// Index of a tensor in [`Plan::tensors`](crate::Plan::tensors).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TensorId(pub u32);

/// Index of a buffer in [`Plan::buffers`](crate::Plan::buffers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BufferId(pub u32);

/// A value of the network.
///
/// The shape is the model's own (ONNX order, for example N, C, H, W). The layout is in the strides: a
/// convolution's activations have channel stride 1 and a pixel stride that is a multiple of 16 bytes, a plain
/// tensor is row-major, a transposed or sliced tensor is a view with other strides into the same buffer.
/// Bytes of a buffer that belong to no element are padding: initialised, of any value, never relied on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// The name in the model, or one derived from the node that makes it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extent of each dimension, batch bound to a number; rank 0 is a scalar. No extent is 0.
    pub shape: Vec<u32>,
    /// How integers stand for reals, where they do.
    pub quant: Option<Quant>,
    /// The buffer that holds it.
    pub buffer: BufferId,
    /// Bytes from the start of the buffer to the first element; a multiple of the element size.
    pub offset: u64,
    /// Distance between neighbours along each dimension, in elements; as many as `shape` has.
    pub strides: Vec<u64>,
}

impl Tensor {
    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&d| u64::from(d)).product()
    }

    /// Bytes from the start of the buffer to the end of the last element.
    pub fn end(&self) -> u64 {
        let last: u64 =
            self.shape.iter().zip(&self.strides).map(|(&d, &s)| u64::from(d.max(1) - 1) * s).sum();
        self.offset + (last + 1) * self.dtype.bytes() as u64
    }
}

/// Row-major strides of a shape, in elements.
pub fn row_major(shape: &[u32]) -> Vec<u64> {
    let mut strides = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d] * u64::from(shape[d]);
    }
    strides
}

/// The memory that a buffer is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Space {
    /// The session's working memory, shared by buffers that are not live at the same time.
    Arena,
    /// The caller's input slot of this index in [`Plan::inputs`](crate::Plan::inputs).
    Input(u32),
    /// The caller's output slot of this index in [`Plan::outputs`](crate::Plan::outputs).
    Output(u32),
    /// The plan's weights: constants, read only.
    Weights,
}

/// A range of bytes that one or more tensors lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// Which memory.
    pub space: Space,
    /// Bytes from the start of that memory; a multiple of 64.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// A range of the plan's weights section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Blob {
    /// Bytes from the start of the weights; a multiple of 64.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}
