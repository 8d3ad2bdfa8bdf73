//! Nodes whose result is known when the model is imported: constants and arithmetic on shapes.

use super::graph::{Attr, Constant, Graph, Node, Type};
use super::infer::broadcast;
use super::views::{self, axis, product64};
use super::{infer, proto};
use crate::error::{Why, why};
use pilotlight_plan::{DType, math};
use std::sync::Arc;

/// The most elements that a node may make out of nothing (ConstantOfShape, Range).
const MAX_MADE: u64 = 1 << 20;

/// The contents of a node's first output, where they are known.
pub(super) fn fold(g: &Graph, n: &Node, limit: u64) -> Result<Option<Constant>, Why> {
    match n.op.as_str() {
        "Constant" => return constant(n).map(Some),
        "Shape" => return shape(g, n).map(Some),
        "Size" => return Ok(Some(scalar(product64(&g.ty(n, 0)?.shape) as i64))),
        _ => {}
    }
    let given: Option<Vec<&Arc<Constant>>> =
        n.inputs.iter().flatten().map(|v| g.value(*v).constant.as_ref()).collect();
    let Some(c) = given.filter(|c| !c.is_empty()) else {
        return Ok(None);
    };
    let x = c[0];
    // A split has many results and a dequantised weight must keep its integers.
    if n.op == "Split" || n.op == "DequantizeLinear" || n.op == "Resize" {
        return Ok(None);
    }
    if let Some(list) = views::views(g, n, 0)? {
        let size = list.iter().fold(x.ty.shape.clone(), |s, v| v.shape(&s));
        within(product64(&size) * x.ty.dtype.bytes() as u64, limit)?;
        let fill = vec![0; x.ty.dtype.bytes()];
        if n.op == "Pad" && c.len() > 2 {
            return Ok(None);
        }
        return Ok(Some(list.iter().fold((**x).clone(), |c, v| views::apply(&c, v, &fill))));
    }
    match n.op.as_str() {
        "Concat" => {
            let ty = infer::infer(g, n)?.remove(0);
            within(ty.bytes(), limit)?;
            let a = axis(n.int("axis", 0)?, ty.shape.len())?;
            let runs = product64(&ty.shape[..a]) as usize;
            let mut bytes = vec![];
            for r in 0..runs {
                for part in &c {
                    let run = part.bytes.len() / runs;
                    bytes.extend(&part.bytes[r * run..(r + 1) * run]);
                }
            }
            Ok(Some(Constant { ty, bytes }))
        }
        "Cast" => cast(x, proto::dtype(n.int("to", 0)? as i32)?).map(Some),
        "ConstantOfShape" => {
            let dims = x.to_ints()?;
            let shape = dims
                .iter()
                .map(|&d| u32::try_from(d).map_err(|_| format!("extent {d}")))
                .collect::<Result<Vec<_>, _>>()?;
            let count = product64(&shape);
            if count > MAX_MADE {
                return why!("{count} elements of one value; up to {MAX_MADE} are supported");
            }
            let one = match n.attrs.get("value") {
                Some(Attr::Tensor(t)) => (**t.as_ref().map_err(Clone::clone)?).clone(),
                _ => Constant::floats(&[1], &[0.0]),
            };
            if one.len() != 1 {
                return why!("value has {} elements, 1 is needed", one.len());
            }
            Ok(Some(Constant { ty: Type::new(one.ty.dtype, shape), bytes: one.bytes.repeat(count as usize) }))
        }
        "Range" => {
            let v = c.iter().map(|c| c.to_ints()).collect::<Result<Vec<_>, _>>()?;
            let [start, end, step] = match v.iter().map(|v| v.first().copied()).collect::<Option<Vec<_>>>() {
                Some(v) if v.len() == 3 && v[2] != 0 => [v[0], v[1], v[2]],
                _ => return why!("start, limit and a step other than 0 are needed"),
            };
            let span = i128::from(end) - i128::from(start);
            let count = (span / i128::from(step) + i128::from(span % i128::from(step) != 0)).max(0);
            if count > i128::from(MAX_MADE) {
                return why!("{count} elements; up to {MAX_MADE} are supported");
            }
            cast(
                &Constant::ints(&(0..count as i64).map(|i| start + i * step).collect::<Vec<_>>()),
                x.ty.dtype,
            )
            .map(Some)
        }
        "Floor" | "Ceil" => {
            let up = n.op == "Ceil";
            let v: Vec<f32> = x.to_floats()?.iter().map(|v| if up { v.ceil() } else { v.floor() }).collect();
            Ok(Some(Constant::floats(&x.ty.shape, &v)))
        }
        "Add" | "Sub" | "Mul" | "Div" if c.len() == 2 => arithmetic(&n.op, c[0], c[1], limit).map(Some),
        "QuantizeLinear" => quantize(n, &c).map(Some),
        _ => Ok(None),
    }
}

fn within(bytes: u64, limit: u64) -> Result<(), Why> {
    if bytes > limit { why!("a constant of {bytes} bytes, {limit} are left for this file") } else { Ok(()) }
}

fn scalar(v: i64) -> Constant {
    Constant { ty: Type::new(DType::I64, []), bytes: v.to_le_bytes().to_vec() }
}

fn constant(n: &Node) -> Result<Constant, Why> {
    match n.attrs.iter().next() {
        Some((_, Attr::Tensor(t))) => t.as_ref().map(|t| (**t).clone()).map_err(Clone::clone),
        Some((_, Attr::Int(i))) => Ok(scalar(*i)),
        Some((_, Attr::Ints(i))) => Ok(Constant::ints(i)),
        Some((_, Attr::Float(f))) => Ok(Constant::floats(&[], &[*f])),
        Some((_, Attr::Floats(f))) => Ok(Constant::floats(&[f.len() as u32], f)),
        _ => why!("a constant that is neither a tensor nor a number"),
    }
}

fn shape(g: &Graph, n: &Node) -> Result<Constant, Why> {
    let dims: Vec<i64> = g.ty(n, 0)?.shape.iter().map(|&d| i64::from(d)).collect();
    let rank = dims.len() as i64;
    let at = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (start, end) = (at(n.int("start", 0)?), at(n.int("end", rank)?));
    Ok(Constant::ints(dims.get(start..end).unwrap_or_default()))
}

fn cast(x: &Constant, to: DType) -> Result<Constant, Why> {
    let bytes = match (x.ty.dtype, to) {
        (a, b) if a == b => x.bytes.clone(),
        (DType::F32, _) => {
            let v = x.to_floats()?;
            pack(v.iter().map(|&v| v as i64), to)
        }
        (_, DType::F32) => x.to_ints()?.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
        _ => pack(x.to_ints()?.into_iter(), to),
    };
    Ok(Constant { ty: Type::new(to, x.ty.shape.clone()), bytes })
}

fn pack(values: impl Iterator<Item = i64>, to: DType) -> Vec<u8> {
    values.flat_map(|v| v.to_le_bytes()[..to.bytes()].to_vec()).collect()
}

fn arithmetic(op: &str, a: &Constant, b: &Constant, limit: u64) -> Result<Constant, Why> {
    if a.ty.dtype != b.ty.dtype {
        return why!("{} and {}", a.ty, b.ty);
    }
    let ty = Type::new(a.ty.dtype, broadcast(&a.ty.shape, &b.ty.shape)?);
    within(ty.bytes(), limit)?;
    let spread = |c: &Constant| -> Vec<usize> {
        let strides = pilotlight_plan::row_major(&c.ty.shape);
        let lead = ty.shape.len() - c.ty.shape.len();
        let own = pilotlight_plan::row_major(&ty.shape);
        (0..product64(&ty.shape))
            .map(|i| {
                let place = |d: usize| i / own[d + lead] % u64::from(ty.shape[d + lead]);
                (0..c.ty.shape.len())
                    .map(|d| if c.ty.shape[d] == 1 { 0 } else { place(d) * strides[d] })
                    .sum::<u64>() as usize
            })
            .collect()
    };
    let (ia, ib) = (spread(a), spread(b));
    let bytes = if a.ty.dtype == DType::F32 {
        let (a, b) = (a.to_floats()?, b.to_floats()?);
        let f = |x: f32, y: f32| match op {
            "Add" => x + y,
            "Sub" => x - y,
            "Mul" => x * y,
            _ => x / y,
        };
        ia.iter().zip(&ib).flat_map(|(&i, &j)| f(a[i], b[j]).to_le_bytes()).collect()
    } else {
        let (a, b) = (a.to_ints()?, b.to_ints()?);
        let f = |x: i64, y: i64| match op {
            "Add" => Some(x.wrapping_add(y)),
            "Sub" => Some(x.wrapping_sub(y)),
            "Mul" => Some(x.wrapping_mul(y)),
            _ => x.checked_div(y),
        };
        let v = ia.iter().zip(&ib).map(|(&i, &j)| f(a[i], b[j])).collect::<Option<Vec<_>>>();
        pack(v.ok_or("a division by zero")?.into_iter(), a_dtype(&ty))
    };
    Ok(Constant { ty, bytes })
}

fn a_dtype(ty: &Type) -> DType {
    ty.dtype
}

/// Weights that the model stores as floats and quantises itself.
fn quantize(n: &Node, c: &[&Arc<Constant>]) -> Result<Constant, Why> {
    let (x, scale) = (c[0].to_floats()?, c.get(1).ok_or("the scale is missing")?.to_floats()?);
    let zero = c.get(2).map(|z| z.to_ints()).transpose()?.unwrap_or_else(|| vec![0; scale.len()]);
    let dtype = match (c.get(2), n.int("output_dtype", 0)?) {
        (Some(z), _) => z.ty.dtype,
        (None, 0) => DType::U8,
        (None, code) => proto::dtype(code as i32)?,
    };
    let Some((lo, hi)) = dtype.int8_range() else {
        return why!("quantised to {dtype}; u8 and i8 are supported");
    };
    let (shape, many) = (&c[0].ty.shape, scale.len() != 1);
    let a = if many { axis(n.int("axis", 1)?, shape.len())? } else { 0 };
    if zero.len() != scale.len() || (many && shape[a] as usize != scale.len()) {
        return why!("{} scales and {} zero points for shape {shape:?}", scale.len(), zero.len());
    }
    let inner = if many { product64(&shape[a + 1..]) as usize } else { 1 };
    let bytes = x.iter().enumerate().map(|(i, &v)| {
        let k = if many { i / inner % scale.len() } else { 0 };
        math::quantize(v, scale[k], zero[k] as i32, lo, hi) as u8
    });
    Ok(Constant { ty: Type::new(dtype, shape.clone()), bytes: bytes.collect() })
}
