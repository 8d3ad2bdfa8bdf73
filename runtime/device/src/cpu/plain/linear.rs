//! Sums of products, and the way from a sum to the result.

use super::view::{Index, Value, View};
use super::window::each_place;
use crate::cpu::epilogue::table_bytes;
use crate::cpu::linear::Source;
use crate::cpu::place::Bases;
use pilotlight_plan::{self as plan, BinaryKind, BinaryRule, DType, Epilogue, Plan, Post, Window, math};

/// Weights as integers less their zero points, and what sums start from.
pub(super) struct Weights {
    /// `k` for each output channel.
    pub values: Vec<i16>,
    pub k: usize,
    pub bias: Vec<i32>,
    pub input_zero: i32,
}

/// The way from a sum to the result.
pub(super) enum Finish {
    Raw,
    Float(Vec<f32>),
    Requant { scale: Vec<f32>, zero: i32, lo: i32, hi: i32, post: Vec<After> },
}

pub(super) enum After {
    Table { table: Box<[u8; 256]>, dtype: DType },
    Combine { other: View, value_is_a: bool, rule: BinaryRule, range: (i32, i32) },
}

/// Element `i` of a list that holds one for all, or one for each.
pub(super) fn pick<T: Copy>(list: &[T], i: usize) -> T {
    if list.len() == 1 { list[0] } else { list[i] }
}

pub(super) fn weights(plan: &Plan, l: &plan::Linear, k: usize) -> Weights {
    let source = Source::new(plan, l, k);
    let outputs = l.outputs as usize;
    let each = |c: usize| (0..k).map(move |i| (c, i));
    Weights {
        values: (0..outputs).flat_map(each).map(|(c, i)| source.weight(c, i) as i16).collect(),
        k,
        bias: l.bias.map_or_else(|| vec![0; outputs], |b| plan.blob_i32(b)),
        input_zero: l.input_zero,
    }
}

pub(super) fn finish(plan: &Plan, e: &Epilogue) -> Finish {
    match e {
        Epilogue::Raw => Finish::Raw,
        Epilogue::Float { scale } => Finish::Float(plan.blob_f32(*scale)),
        Epilogue::Requant(r) => {
            let after = |p: &Post| match p {
                Post::Table { table, dtype } => {
                    After::Table { table: table_bytes(plan, *table), dtype: *dtype }
                }
                Post::Binary { other, value_is_a, rule, dtype } => After::Combine {
                    other: View::new(plan, *other),
                    value_is_a: *value_is_a,
                    rule: *rule,
                    range: range(*dtype),
                },
            };
            let post = r.post.iter().map(after).collect();
            Finish::Requant { scale: plan.blob_f32(r.scale), zero: r.zero, lo: r.lo, hi: r.hi, post }
        }
    }
}

pub(super) fn range(dtype: DType) -> (i32, i32) {
    dtype.int8_range().unwrap_or((i32::MIN, i32::MAX))
}

pub(super) fn float(kind: BinaryKind, a: f32, b: f32) -> f32 {
    match kind {
        BinaryKind::Add => a + b,
        BinaryKind::Sub => a - b,
        BinaryKind::Mul => a * b,
    }
}

pub(super) fn combine(rule: &BinaryRule, a: i32, b: i32, (lo, hi): (i32, i32)) -> i32 {
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
        // A validated plan has no float rule on integers.
        BinaryRule::Float(_) => 0,
    }
}

impl Finish {
    /// # Safety
    /// As [`super::Plain::element`].
    pub(super) unsafe fn apply(&self, bases: &Bases, i: &Index, channel: usize, sum: i32) -> Value {
        match self {
            Self::Raw => Value::Int(sum),
            Self::Float(scale) => Value::Float(sum as f32 * pick(scale, channel)),
            Self::Requant { scale, zero, lo, hi, post } => {
                let mut value = math::round_to(sum as f32 * pick(scale, channel), *zero, *lo, *hi);
                for p in post {
                    value = match p {
                        After::Table { table, dtype } => {
                            let entry = table[usize::from(value as u8)];
                            if *dtype == DType::I8 { i32::from(entry as i8) } else { i32::from(entry) }
                        }
                        After::Combine { other, value_is_a, rule, range } => {
                            // SAFETY: the operand has the output's shape.
                            let other = unsafe { other.int(bases, i) };
                            let (a, b) = if *value_is_a { (value, other) } else { (other, value) };
                            combine(rule, a, b, *range)
                        }
                    };
                }
                Value::Int(value)
            }
        }
    }
}

/// # Safety
/// As [`super::Plain::element`].
pub(super) unsafe fn conv(
    bases: &Bases,
    i: &Index,
    x: &View,
    window: &Window,
    first: usize,
    per_group: usize,
    w: &Weights,
) -> i32 {
    let mut sum = w.bias[i[1]];
    let row = &w.values[i[1] * w.k..(i[1] + 1) * w.k];
    each_place(x, window, i, |ky, kx, at| {
        let mut at = *at;
        let tap = (ky * window.kernel[1] as usize + kx) * per_group;
        for c in 0..per_group {
            at[1] = first + c;
            // SAFETY: the place is inside the input.
            let v = unsafe { x.int(bases, &at) } - w.input_zero;
            sum = sum.wrapping_add(v.wrapping_mul(row[tap + c].into()));
        }
    });
    sum
}
