//! Types and shapes of what a node makes.

use super::graph::{Graph, Node, Type};
use super::views::{self, axis};
use super::{proto, resize, window};
use crate::error::{Why, why};
use pilotlight_plan::DType;

/// Every operator that can be imported.
const KNOWN: &[&str] = &[
    "Add",
    "ArgMax",
    "AveragePool",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvInteger",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "Gemm",
    "GlobalAveragePool",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "MatMul",
    "MatMulInteger",
    "MaxPool",
    "Mul",
    "Pad",
    "QGemm",
    "QLinearAdd",
    "QLinearAveragePool",
    "QLinearConcat",
    "QLinearConv",
    "QLinearGlobalAveragePool",
    "QLinearLeakyRelu",
    "QLinearMatMul",
    "QLinearMul",
    "QLinearSigmoid",
    "QLinearSoftmax",
    "QuantizeLinear",
    "Range",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Resize",
    "Shape",
    "Sigmoid",
    "Size",
    "Slice",
    "Softmax",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Sub",
    "Tanh",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// Whether an operator can be imported at all.
pub(super) fn known(op: &str) -> bool {
    KNOWN.contains(&op)
}

/// Types of a node's outputs; every input's type must be known.
pub(super) fn infer(g: &Graph, n: &Node) -> Result<Vec<Type>, Why> {
    if let Some(first) = views::views(g, n, 0)? {
        let x = g.ty(n, 0)?;
        let mut all = vec![];
        for o in 0..n.outputs.len().max(1) {
            let list = if o == 0 { first.clone() } else { views::views(g, n, o)?.unwrap_or_default() };
            all.push(Type::new(x.dtype, list.iter().fold(x.shape.clone(), |s, v| v.shape(&s))));
        }
        return Ok(all);
    }
    let one = |dtype, shape: &[u32]| Ok(vec![Type::new(dtype, shape)]);
    let x = |i: usize| g.ty(n, i);
    match n.op.as_str() {
        "Constant" | "ConstantOfShape" | "Range" | "Shape" | "Size" => {
            why!("its result must be known when the model is imported")
        }
        "Relu" | "Clip" | "Sigmoid" | "HardSigmoid" | "HardSwish" | "LeakyRelu" | "Tanh" | "Softmax"
        | "Floor" | "Ceil" | "QLinearSigmoid" | "QLinearLeakyRelu" | "QLinearSoftmax" => {
            Ok(vec![x(0)?.clone()])
        }
        "Cast" => one(proto::dtype(n.int("to", 0)? as i32)?, &x(0)?.shape),
        "DequantizeLinear" => one(DType::F32, &x(0)?.shape),
        "QuantizeLinear" => {
            let dtype = match (n.input(2), n.int("output_dtype", 0)?) {
                (Some(_), _) => x(2)?.dtype,
                (None, 0) => DType::U8,
                (None, code) => proto::dtype(code as i32)?,
            };
            one(dtype, &x(0)?.shape)
        }
        "Add" | "Sub" | "Mul" | "Div" => one(x(0)?.dtype, &broadcast(&x(0)?.shape, &x(1)?.shape)?),
        "QLinearAdd" | "QLinearMul" => one(x(0)?.dtype, &broadcast(&x(0)?.shape, &x(3)?.shape)?),
        "Concat" => concat(g, n, &(0..n.inputs.len()).collect::<Vec<_>>()),
        "QLinearConcat" => concat(g, n, &(2..n.inputs.len()).step_by(3).collect::<Vec<_>>()),
        "Conv" => conv(g, n, 1, DType::F32),
        "ConvInteger" => conv(g, n, 1, DType::I32),
        "QLinearConv" => conv(g, n, 3, x(0)?.dtype),
        "MatMul" => matmul(g, n, 1, DType::F32),
        "MatMulInteger" => matmul(g, n, 1, DType::I32),
        "QLinearMatMul" => matmul(g, n, 3, x(0)?.dtype),
        "Gemm" => gemm(g, n, 1, DType::F32),
        "QGemm" => gemm(g, n, 3, if n.input(7).is_some() { x(0)?.dtype } else { DType::F32 }),
        "MaxPool" | "AveragePool" | "QLinearAveragePool" => {
            let x = x(0)?;
            let slide = window::slide(n, &x.shape, None)?;
            one(x.dtype, &window::output(&x.shape, x.shape[1], &slide))
        }
        "GlobalAveragePool" | "QLinearGlobalAveragePool" => {
            let x = x(0)?;
            let axes: Vec<usize> = global_axes(n, x.shape.len())?.collect();
            one(x.dtype, &reduced(&x.shape, &axes, true))
        }
        "ReduceMean" => {
            let x = x(0)?;
            let axes = mean_axes(g, n, x.shape.len())?;
            one(x.dtype, &reduced(&x.shape, &axes, n.int("keepdims", 1)? != 0))
        }
        "ArgMax" => {
            let x = x(0)?;
            let a = axis(n.int("axis", 0)?, x.shape.len())?;
            one(DType::I64, &reduced(&x.shape, &[a], n.int("keepdims", 1)? != 0))
        }
        "Resize" => one(x(0)?.dtype, &resize::shape(g, n, &x(0)?.shape)?),
        other => why!("operator {other} is not supported"),
    }
}

/// The dimensions that a global pool averages.
pub(crate) fn global_axes(n: &Node, rank: usize) -> Result<std::ops::Range<usize>, Why> {
    if rank < 3 {
        return why!("rank {rank}; [N, C, ...] is needed");
    }
    Ok(if n.int("channels_last", 0)? != 0 { 1..rank - 1 } else { 2..rank })
}

/// The dimensions of a ReduceMean, ascending.
pub(crate) fn mean_axes(g: &Graph, n: &Node, rank: usize) -> Result<Vec<usize>, Why> {
    let given = match n.ints("axes")? {
        Some(a) => Some(a.to_vec()),
        None => g.const_ints(n, 1)?,
    };
    let mut axes = match given {
        Some(list) if !list.is_empty() => {
            list.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?
        }
        _ if n.int("noop_with_empty_axes", 0)? != 0 => return why!("noop_with_empty_axes is not supported"),
        _ => (0..rank).collect(),
    };
    axes.sort_unstable();
    axes.dedup();
    if axes.is_empty() { why!("a mean of a scalar") } else { Ok(axes) }
}

fn reduced(shape: &[u32], axes: &[usize], keep: bool) -> Vec<u32> {
    let each = shape.iter().enumerate().map(|(d, &e)| (axes.contains(&d), e));
    if keep {
        each.map(|(gone, e)| if gone { 1 } else { e }).collect()
    } else {
        each.filter(|&(gone, _)| !gone).map(|(_, e)| e).collect()
    }
}

/// The shape of two broadcast together, as in numpy.
pub(crate) fn broadcast(a: &[u32], b: &[u32]) -> Result<Vec<u32>, Why> {
    let rank = a.len().max(b.len());
    let at = |s: &[u32], d: usize| (d + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    (0..rank)
        .map(|d| match (at(a, d), at(b, d)) {
            (p, q) if p == q || q == 1 => Ok(p),
            (1, q) => Ok(q),
            _ => why!("{a:?} and {b:?} do not broadcast"),
        })
        .collect()
}

fn concat(g: &Graph, n: &Node, inputs: &[usize]) -> Result<Vec<Type>, Why> {
    let Some(&first) = inputs.first() else {
        return why!("nothing to join");
    };
    let mut ty = g.ty(n, first)?.clone();
    let a = axis(n.int("axis", i64::MAX)?, ty.shape.len())?;
    for &i in &inputs[1..] {
        let t = g.ty(n, i)?;
        let fits = t.dtype == ty.dtype
            && t.shape.len() == ty.shape.len()
            && (0..ty.shape.len()).all(|d| d == a || t.shape[d] == ty.shape[d]);
        if !fits {
            return why!("{t} cannot be joined to {ty} along dimension {a}");
        }
        ty.shape[a] = ty.shape[a].checked_add(t.shape[a]).ok_or("the joined extent is too large")?;
    }
    Ok(vec![ty])
}

fn conv(g: &Graph, n: &Node, weights: usize, dtype: DType) -> Result<Vec<Type>, Why> {
    let (x, w) = (g.ty(n, 0)?, g.ty(n, weights)?);
    if w.shape.len() != x.shape.len() || w.shape.len() < 3 {
        return why!("weights {w} for an input {x}");
    }
    let groups = n.int("group", 1)?;
    let fits = u32::try_from(groups).ok().filter(|&k| {
        k > 0 && u64::from(w.shape[1]) * u64::from(k) == u64::from(x.shape[1]) && w.shape[0] % k == 0
    });
    if fits.is_none() || w.shape[0] == 0 {
        return why!("weights {w} in {groups} groups for an input {x}");
    }
    let slide = window::slide(n, &x.shape, Some(&w.shape[2..]))?;
    Ok(vec![Type::new(dtype, window::output(&x.shape, w.shape[0], &slide))])
}

fn matmul(g: &Graph, n: &Node, b: usize, dtype: DType) -> Result<Vec<Type>, Why> {
    let (a, b) = (g.ty(n, 0)?, g.ty(n, b)?);
    let (Some((ab, [m, k])), Some((bb, [k2, w]))) =
        (a.shape.split_last_chunk::<2>(), b.shape.split_last_chunk::<2>())
    else {
        return why!("{a} by {b}; both need at least two dimensions");
    };
    if k != k2 || *k == 0 || *w == 0 {
        return why!("{a} by {b}: the sum's dimensions differ");
    }
    let mut shape = broadcast(ab, bb)?;
    shape.extend([*m, *w]);
    Ok(vec![Type::new(dtype, shape)])
}

fn gemm(g: &Graph, n: &Node, b: usize, dtype: DType) -> Result<Vec<Type>, Why> {
    let (a, b) = (g.ty(n, 0)?, g.ty(n, b)?);
    let (&[a0, a1], &[b0, b1]) = (&a.shape[..], &b.shape[..]) else {
        return why!("{a} by {b}; matrices are needed");
    };
    let (m, k) = if n.int("transA", 0)? != 0 { (a1, a0) } else { (a0, a1) };
    let (k2, w) = if n.int("transB", 0)? != 0 { (b1, b0) } else { (b0, b1) };
    if k != k2 || k == 0 || w == 0 {
        return why!("{a} by {b}: the sum's dimensions differ");
    }
    Ok(vec![Type::new(dtype, [m, w])])
}
