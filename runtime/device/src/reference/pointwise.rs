//! Operations on one element at a time.

use super::{Bench, Values, each_index, flat};
use pilotlight_plan::{Binary, BinaryKind, BinaryRule, Cast, Convert, DType, Table, Unary, math};

/// The range of an 8-bit type, which a validated plan has wherever this is asked.
pub(super) fn range(dtype: DType) -> (i32, i32) {
    dtype.int8_range().unwrap_or((i32::MIN, i32::MAX))
}

/// The entry of a table for a value.
pub(super) fn look_up(table: &[u8], value: i32, dtype: DType) -> i32 {
    let entry = table[usize::from(value as u8)];
    if dtype == DType::I8 { i32::from(entry as i8) } else { i32::from(entry) }
}

/// An integer rule applied to two values.
pub(super) fn combine(rule: &BinaryRule, a: i32, b: i32, dtype: DType) -> i32 {
    let (lo, hi) = range(dtype);
    match *rule {
        BinaryRule::QLinearAdd { ra, rb, fix } => {
            math::round_to((a as f32).mul_add(ra, (b as f32).mul_add(rb, fix)), 0, lo, hi)
        }
        BinaryRule::QLinearMul { a_zero, b_zero, r, y_zero } => {
            math::round_to(((a - a_zero) * (b - b_zero)) as f32 * r + y_zero as f32, 0, lo, hi)
        }
        BinaryRule::Dequantised { kind, a: qa, b: qb, output } => {
            let x = float(kind, (a - qa.zero_point) as f32 * qa.scale, (b - qb.zero_point) as f32 * qb.scale);
            math::quantize(x, output.scale, output.zero_point, lo, hi)
        }
        BinaryRule::Float(_) => unreachable!("a validated plan has no float rule on integers"),
    }
}

fn float(kind: BinaryKind, a: f32, b: f32) -> f32 {
    match kind {
        BinaryKind::Add => a + b,
        BinaryKind::Sub => a - b,
        BinaryKind::Mul => a * b,
    }
}

pub(super) fn binary(bench: &Bench, op: &Binary) -> Values {
    let (a, b) = (bench.read(op.a), bench.read(op.b));
    let (sa, sb) = (bench.shape(op.a), bench.shape(op.b));
    let dtype = bench.plan.tensor(op.output).dtype;
    let place = |shape: &[usize], index: &[usize]| {
        let own = &index[index.len() - shape.len()..];
        let own: Vec<usize> = shape.iter().zip(own).map(|(&d, &i)| if d == 1 { 0 } else { i }).collect();
        flat(shape, &own)
    };
    let (mut ints, mut floats) = (Vec::new(), Vec::new());
    each_index(&bench.shape(op.output), |index| {
        let (i, j) = (place(&sa, index), place(&sb, index));
        match op.rule {
            BinaryRule::Float(kind) => floats.push(float(kind, a.floats()[i], b.floats()[j])),
            rule => ints.push(combine(&rule, a.ints()[i], b.ints()[j], dtype)),
        }
    });
    if dtype == DType::F32 { Values::Float(floats) } else { Values::Int(ints) }
}

pub(super) fn table(bench: &Bench, t: &Table) -> Values {
    let dtype = bench.plan.tensor(t.output).dtype;
    if dtype == DType::F32 {
        let table = bench.plan.blob_f32(t.table);
        return Values::Float(
            bench.read(t.input).ints().iter().map(|&v| table[usize::from(v as u8)]).collect(),
        );
    }
    let table = bench.plan.blob(t.table);
    Values::Int(bench.read(t.input).ints().iter().map(|&v| look_up(table, v, dtype)).collect())
}

pub(super) fn unary(bench: &Bench, u: &Unary) -> Values {
    Values::Float(bench.read(u.input).floats().iter().map(|&x| math::apply(u.function, x)).collect())
}

/// For each element in row-major order, its index along the axis of a conversion.
fn channels(bench: &Bench, c: &Convert) -> Vec<usize> {
    let mut list = Vec::new();
    each_index(&bench.shape(c.input), |i| list.push(if c.quant.len() == 1 { 0 } else { i[c.axis as usize] }));
    list
}

pub(super) fn quantize(bench: &Bench, c: &Convert) -> Values {
    let (lo, hi) = range(bench.plan.tensor(c.output).dtype);
    let x = bench.read(c.input);
    let each = x.floats().iter().zip(channels(bench, c));
    Values::Int(
        each.map(|(&x, i)| math::quantize(x, c.quant[i].scale, c.quant[i].zero_point, lo, hi)).collect(),
    )
}

pub(super) fn dequantize(bench: &Bench, c: &Convert) -> Values {
    let x = bench.read(c.input);
    let each = x.ints().iter().zip(channels(bench, c));
    Values::Float(
        each.map(|(&q, i)| q.wrapping_sub(c.quant[i].zero_point) as f32 * c.quant[i].scale).collect(),
    )
}

pub(super) fn cast(bench: &Bench, c: &Cast) -> Values {
    let to = bench.plan.tensor(c.output).dtype;
    let int = |v: i64| match to {
        DType::U8 => i32::from(v as u8),
        DType::I8 => i32::from(v as i8),
        _ => v as i32,
    };
    match (bench.read(c.input), to) {
        (Values::Float(v), DType::F32) => Values::Float(v),
        (Values::Float(v), DType::I64) => Values::Long(v.into_iter().map(|x| x as i64).collect()),
        (Values::Float(v), _) => Values::Int(v.into_iter().map(|x| int(x as i64)).collect()),
        (Values::Int(v), DType::F32) => Values::Float(v.into_iter().map(|x| x as f32).collect()),
        (Values::Int(v), DType::I64) => Values::Long(v.into_iter().map(i64::from).collect()),
        (Values::Int(v), _) => Values::Int(v.into_iter().map(|x| int(i64::from(x))).collect()),
        (Values::Long(v), DType::F32) => Values::Float(v.into_iter().map(|x| x as f32).collect()),
        (Values::Long(v), DType::I64) => Values::Long(v),
        (Values::Long(v), _) => Values::Int(v.into_iter().map(int).collect()),
    }
}
