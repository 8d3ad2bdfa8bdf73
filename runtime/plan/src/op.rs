//! The operations of a plan, each with the rule that fixes every bit of its result.
//!
//! All float arithmetic is IEEE binary32, one operation at a time: no reciprocals, and a multiply-add is fused only
//! where a rule says `fma`.
//! `rint` rounds half to even; `sat` clamps to the output's range (in float, before the conversion).
//! The rules are those of ONNX Runtime's x86-64 kernels.

use crate::tensor::{Blob, DType, Quant, TensorId};
use serde::{Deserialize, Serialize};

/// One step of the plan, in execution order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The model's nodes that became this step, first to last.
    pub nodes: Vec<String>,
    /// What is computed.
    pub op: Op,
}

/// What a step computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// Convolution over one or two spatial dimensions, fused with what follows it.
    Conv(Conv),
    /// Matrix product with constant weights, fused with what follows it.
    Gemm(Gemm),
    /// Matrix product of two computed tensors.
    MatMul(MatMul),
    /// Maximum or mean over windows.
    Pool(Pool),
    /// Mean over whole dimensions.
    Mean(Mean),
    /// Element by element, of two tensors with broadcasting.
    Binary(Binary),
    /// A 256-entry table applied to each element of an 8-bit tensor.
    Table(Table),
    /// A float function of each element.
    Unary(Unary),
    /// Elements moved to other places: copy, pad, nearest resize, slices with negative steps.
    Remap(Remap),
    /// Bilinear interpolation over height and width.
    Bilinear(Bilinear),
    /// Softmax along one dimension.
    Softmax(Softmax),
    /// Index of the largest element along one dimension.
    ArgMax(ArgMax),
    /// Float to 8-bit integer: `sat(rint(x / scale) + zero_point)`.
    Quantize(Convert),
    /// Integer to float: `f32(q - zero_point) * scale`.
    Dequantize(Convert),
    /// Change of type without quantisation, as C would convert.
    Cast(Cast),
}

/// Weights of a convolution or matrix product, and the way from accumulator to result.
///
/// `acc[c] = bias[c] + sum((x - x_zero) * (w - w_zero[c]))` in i32 (the importer proves that it cannot leave
/// i32, or wraps as ONNX Runtime does), then [`Epilogue`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// 8-bit weights `[output channel][kernel y][kernel x][input channel of the group]`, dense.
    pub weights: Blob,
    /// U8 or I8.
    pub weights_dtype: DType,
    /// Zero point of the weights: one value, or one for each output channel.
    pub weights_zero: Vec<i32>,
    /// i32 for each output channel.
    pub bias: Option<Blob>,
    /// Zero point of the input.
    pub input_zero: i32,
    /// Input channels of a group (K without the kernel window).
    pub group_inputs: u32,
    /// Output channels of all groups.
    pub outputs: u32,
    /// From accumulator to result.
    pub epilogue: Epilogue,
}

/// From an i32 accumulator to the result of a fused operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Epilogue {
    /// The accumulator itself, as i32 (ConvInteger, MatMulInteger).
    Raw,
    /// `f32(acc) * scale[c]`, as f32; `scale` holds one f32, or one for each output channel.
    Float {
        /// f32 multipliers.
        scale: Blob,
    },
    /// `sat(rint(f32(acc) * scale[c]) + zero)` clamped to `lo..=hi`, then each of `post` in turn.
    Requant(Requant),
}

/// Requantisation to 8 bits and what follows it in the same step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Requant {
    /// f32 multipliers, one or one for each output channel: `f32(f32(x_scale * w_scale[c]) / y_scale)`.
    pub scale: Blob,
    /// Zero point of the value before `post`.
    pub zero: i32,
    /// Type of the value before `post`.
    pub dtype: DType,
    /// Smallest result before `post`: the type's, or higher where a Relu or Clip is fused.
    pub lo: i32,
    /// Largest result before `post`.
    pub hi: i32,
    /// Applied in order.
    pub post: Vec<Post>,
}

/// An operation on the 8-bit result of a convolution, fused behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Post {
    /// The value replaced by the table's entry (see [`Table`]).
    Table {
        /// 256 bytes.
        table: Blob,
        /// Type of the entries.
        dtype: DType,
    },
    /// A second tensor of the output's shape combined with the value.
    Binary {
        /// The other operand.
        other: TensorId,
        /// Whether the value is the rule's `a` (else it is `b`).
        value_is_a: bool,
        /// How they combine; one of the integer rules.
        rule: BinaryRule,
        /// Type of the result.
        dtype: DType,
    },
}

/// Convolution. Channels are dimension 1, spatial dimensions follow (rank 3: height is 1).
///
/// Padding stands for the input's zero point.
///
/// Source: ONNX `QLinearConv`, opset 10; `ConvInteger`, opset 10; `Conv`, opset 11, between Q and DQ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv {
    /// `[N, C, H, W]` or `[N, C, W]`, 8 bits.
    pub input: TensorId,
    /// `[N, M, OH, OW]` or `[N, M, OW]`.
    pub output: TensorId,
    /// Kernel, stride, dilation and pads.
    pub window: Window,
    /// Number of groups; equal to the input's channels for a depthwise convolution.
    pub groups: u32,
    /// Weights and epilogue.
    pub linear: Linear,
}

/// A sliding window over height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Height, width.
    pub kernel: [u32; 2],
    /// Height, width.
    pub stride: [u32; 2],
    /// Height, width.
    pub dilation: [u32; 2],
    /// Top, left, bottom, right.
    pub pads: [u32; 4],
}

/// Matrix product with constant weights: the last dimension is the sum's, all others are rows.
///
/// Source: ONNX `QLinearMatMul`, opset 10; `com.microsoft.QGemm`; `Gemm`/`MatMul` between Q and DQ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gemm {
    /// `[..., K]`, 8 bits.
    pub input: TensorId,
    /// `[..., N]`.
    pub output: TensorId,
    /// Weights `[N][K]` and epilogue.
    pub linear: Linear,
}

/// Matrix product of two computed tensors, batched with broadcasting as in numpy.
///
/// Source: ONNX `QLinearMatMul`, `MatMulInteger`, opset 10.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatMul {
    /// `[..., M, K]`, 8 bits.
    pub a: TensorId,
    /// `[..., K, N]`, 8 bits.
    pub b: TensorId,
    /// `[..., M, N]`.
    pub output: TensorId,
    /// Zero point of `a`: one, or one for each row (M).
    pub a_zero: Vec<i32>,
    /// Zero point of `b`: one, or one for each column (N).
    pub b_zero: Vec<i32>,
    /// From accumulator to result; per-channel figures are per column.
    pub epilogue: Epilogue,
}

/// Maximum or mean over windows of an `[N, C, H, W]` or `[N, C, W]` tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// Input.
    pub input: TensorId,
    /// Output.
    pub output: TensorId,
    /// Kernel, stride, dilation and pads.
    pub window: Window,
    /// What is taken of each window.
    pub rule: PoolRule,
}

/// What a pool takes of each window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum PoolRule {
    /// The largest value; padding does not count. The output has the input's quantisation.
    Max,
    /// Float mean in window order; the divisor counts padding where `count_pads`.
    MeanF32 {
        /// Whether padding counts in the divisor.
        count_pads: bool,
    },
    /// Dequantise, float sum in window order, divide by the count, `sat(rint(mean / output.scale + zero))`: the
    /// zero point is added before rounding. Where padding counts, the divisor is the whole window.
    /// Source: ONNX Runtime `qlinear_pool.cc`.
    Mean8 {
        /// Quantisation of the input.
        input: Quant,
        /// Quantisation of the output.
        output: Quant,
        /// Whether padding counts in the divisor.
        count_pads: bool,
    },
}

/// Mean over whole dimensions (kept as extent 1, or dropped, in the output's shape).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// Input.
    pub input: TensorId,
    /// Output.
    pub output: TensorId,
    /// The dimensions, ascending.
    pub axes: Vec<u32>,
    /// How it is computed.
    pub rule: MeanRule,
}

/// How a mean over whole dimensions is computed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum MeanRule {
    /// `sat(rint(f32(sum(x - input_zero)) * scale) + zero)`, the sum in i32.
    /// Source: ONNX Runtime `qlgavgpool.cpp`.
    Integer {
        /// `f32(x_scale / f32(y_scale * f32(count)))`.
        scale: f32,
        /// Zero point of the input.
        input_zero: i32,
        /// Zero point of the output.
        zero: i32,
    },
    /// Dequantise, float mean, `sat(rint(mean / output.scale) + zero)`.
    Dequantised {
        /// Quantisation of the input.
        input: Quant,
        /// Quantisation of the output.
        output: Quant,
    },
    /// Float in, float out: sum in row-major order, divided by the count.
    Float,
}

/// Element by element, with numpy broadcasting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Binary {
    /// First operand.
    pub a: TensorId,
    /// Second operand.
    pub b: TensorId,
    /// Result, of the broadcast shape.
    pub output: TensorId,
    /// How they combine.
    pub rule: BinaryRule,
}

/// How two values combine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum BinaryRule {
    /// `sat(rint(fma(f32(a), ra, fma(f32(b), rb, fix))))`: two fused multiply-adds, `b` first; `fix` holds the
    /// zero points. Where `a` is broadcast along the innermost dimension, ONNX Runtime swaps the operands.
    /// Source: ONNX Runtime `qladd_avx2.cpp`, compiled with contraction; all pairs of 400 random scales agree.
    QLinearAdd {
        /// `a_scale / y_scale`.
        ra: f32,
        /// `b_scale / y_scale`.
        rb: f32,
        /// `y_zero - fma(ra, a_zero, rb * b_zero)`.
        fix: f32,
    },
    /// `sat(rint(f32((a - a_zero) * (b - b_zero)) * r + y_zero))`: the zero point is added before rounding.
    /// Source: ONNX Runtime `qlmul.cpp`.
    QLinearMul {
        /// Zero point of `a`.
        a_zero: i32,
        /// Zero point of `b`.
        b_zero: i32,
        /// `f32(a_scale * b_scale) / y_scale`.
        r: f32,
        /// Zero point of the result.
        y_zero: i32,
    },
    /// Dequantise both, combine in float, quantise by division.
    Dequantised {
        /// The float operation.
        kind: BinaryKind,
        /// Quantisation of `a`.
        a: Quant,
        /// Quantisation of `b`.
        b: Quant,
        /// Quantisation of the result.
        output: Quant,
    },
    /// Float in, float out.
    Float(BinaryKind),
}

/// A float operation on two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BinaryKind {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
}

/// A 256-entry table on an 8-bit tensor: any chain of unary operations behind a quantised value.
///
/// Entry `i` is the result for the value whose bits are `i` (so entry 255 of an i8 input is that of -1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// 8 bits.
    pub input: TensorId,
    /// 8 bits or f32, same shape.
    pub output: TensorId,
    /// 256 entries of the output's type.
    pub table: Blob,
}

/// A float function of each element of an f32 tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unary {
    /// f32.
    pub input: TensorId,
    /// f32, same shape.
    pub output: TensorId,
    /// The function.
    pub function: Function,
}

/// A float function of one variable; [`crate::math`] defines each bit of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Function {
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, lo), hi)`
    Clip {
        /// Lower bound.
        lo: f32,
        /// Upper bound.
        hi: f32,
    },
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `max(0, min(1, alpha * x + beta))`
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Offset.
        beta: f32,
    },
    /// `x * max(0, min(1, x / 6 + 0.5))`
    HardSwish,
    /// `x` where positive, else `alpha * x`
    LeakyRelu {
        /// Slope below zero.
        alpha: f32,
    },
    /// Hyperbolic tangent.
    Tanh,
}

/// Elements moved to other places: `output[i, j, ..] = input[axes[0][i], axes[1][j], ..]`.
///
/// Input and output have the same rank. An index of -1 gives the `fill` value. Where the types or quantisations
/// of the two differ, `table` maps the elements (8 bits only).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Remap {
    /// Any type.
    pub input: TensorId,
    /// Same type, or 8 bits with a table.
    pub output: TensorId,
    /// For each dimension the input index of every output index; `None` is the identity.
    pub axes: Vec<Option<Vec<i32>>>,
    /// The bits of the value that stands where an index is -1, in the output's type (low bytes used).
    pub fill: u64,
    /// 256 bytes: rescale between two quantisations.
    pub table: Option<Blob>,
}

/// Bilinear interpolation over the last two dimensions of an `[N, C, H, W]` tensor.
///
/// For output row `y`: rows `rows[y].0` and `rows[y].1`, weights `1 - rows[y].2` and `rows[y].2`; columns likewise.
/// With weights `u`, `v` of the upper and lower row and `l`, `r` of the left and right column, and the four
/// elements: `(((l*u)*upper_left + (r*u)*upper_right) + (l*v)*lower_left) + (r*v)*lower_right` in f32; an 8-bit
/// result is cut off towards zero.
///
/// Source: ONNX Runtime `upsample.cc`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bilinear {
    /// 8 bits or f32.
    pub input: TensorId,
    /// Same type and quantisation.
    pub output: TensorId,
    /// Upper row, lower row, weight of the lower one; one for each output row.
    pub rows: Vec<(u32, u32, f32)>,
    /// Left column, right column, weight of the right one; one for each output column.
    pub columns: Vec<(u32, u32, f32)>,
}

/// Softmax along one dimension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Softmax {
    /// Input.
    pub input: TensorId,
    /// Output, same shape.
    pub output: TensorId,
    /// The dimension.
    pub axis: u32,
    /// How it is computed.
    pub rule: SoftmaxRule,
}

/// How a softmax is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SoftmaxRule {
    /// Float in, float out: subtract the maximum, [`crate::math::exp`], sum in order, divide.
    Float,
    /// 8 bits in and out. With `d` = 255 (i8: 127) less the largest element, `e[i] = table[bits(x[i] + d)]`
    /// and their f32 sum in order, `sat(rint((e[i] * inverse) / sum) + zero)`.
    /// Where the sum is 0 the result is `zero`.
    /// Source: ONNX Runtime `qlinear_softmax.cc`.
    QLinear {
        /// 256 f32, by the bits of the shifted element.
        table: Blob,
        /// `floor(1 / y_scale)`.
        inverse: f32,
        /// Zero point of the output.
        zero: i32,
    },
}

/// Index of the largest element along one dimension, as i64.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArgMax {
    /// 8 bits or f32.
    pub input: TensorId,
    /// i64; the dimension has extent 1 or is dropped.
    pub output: TensorId,
    /// The dimension.
    pub axis: u32,
    /// Whether the last of equal elements wins, instead of the first.
    pub last: bool,
}

/// Between f32 and a quantised type, per tensor or per channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Convert {
    /// Input.
    pub input: TensorId,
    /// Output, same shape.
    pub output: TensorId,
    /// The dimension that `quant` runs along, where it holds more than one.
    pub axis: u32,
    /// One, or one for each index along `axis`.
    pub quant: Vec<Quant>,
}

/// Change of type without quantisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cast {
    /// Input.
    pub input: TensorId,
    /// Output, same shape.
    pub output: TensorId,
}

impl Op {
    /// The tensors that the step reads, in a fixed order.
    pub fn reads(&self) -> Vec<TensorId> {
        let with_post = |first: &[TensorId], epilogue: &Epilogue| {
            let mut all = first.to_vec();
            if let Epilogue::Requant(r) = epilogue {
                all.extend(r.post.iter().filter_map(|p| match p {
                    Post::Binary { other, .. } => Some(*other),
                    Post::Table { .. } => None,
                }));
            }
            all
        };
        match self {
            Self::Conv(c) => with_post(&[c.input], &c.linear.epilogue),
            Self::Gemm(g) => with_post(&[g.input], &g.linear.epilogue),
            Self::MatMul(m) => with_post(&[m.a, m.b], &m.epilogue),
            Self::Binary(b) => vec![b.a, b.b],
            Self::Pool(Pool { input, .. })
            | Self::Mean(Mean { input, .. })
            | Self::Table(Table { input, .. })
            | Self::Unary(Unary { input, .. })
            | Self::Remap(Remap { input, .. })
            | Self::Bilinear(Bilinear { input, .. })
            | Self::Softmax(Softmax { input, .. })
            | Self::ArgMax(ArgMax { input, .. })
            | Self::Quantize(Convert { input, .. })
            | Self::Dequantize(Convert { input, .. })
            | Self::Cast(Cast { input, .. }) => vec![*input],
        }
    }

    /// The tensor that the step writes.
    pub fn writes(&self) -> TensorId {
        match self {
            Self::Conv(Conv { output, .. })
            | Self::Gemm(Gemm { output, .. })
            | Self::MatMul(MatMul { output, .. })
            | Self::Pool(Pool { output, .. })
            | Self::Mean(Mean { output, .. })
            | Self::Binary(Binary { output, .. })
            | Self::Table(Table { output, .. })
            | Self::Unary(Unary { output, .. })
            | Self::Remap(Remap { output, .. })
            | Self::Bilinear(Bilinear { output, .. })
            | Self::Softmax(Softmax { output, .. })
            | Self::ArgMax(ArgMax { output, .. })
            | Self::Quantize(Convert { output, .. })
            | Self::Dequantize(Convert { output, .. })
            | Self::Cast(Cast { output, .. }) => *output,
        }
    }

    /// The name of the operation, as `explain` shows it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Conv(c) if c.groups > 1 && c.linear.group_inputs == 1 => "depthwise",
            Self::Conv(_) => "conv",
            Self::Gemm(_) => "gemm",
            Self::MatMul(_) => "matmul",
            Self::Pool(p) if p.rule == PoolRule::Max => "maxpool",
            Self::Pool(_) => "avgpool",
            Self::Mean(_) => "mean",
            Self::Binary(_) => "binary",
            Self::Table(_) => "table",
            Self::Unary(_) => "unary",
            Self::Remap(_) => "remap",
            Self::Bilinear(_) => "bilinear",
            Self::Softmax(_) => "softmax",
            Self::ArgMax(_) => "argmax",
            Self::Quantize(_) => "quantize",
            Self::Dequantize(_) => "dequantize",
            Self::Cast(_) => "cast",
        }
    }
}
