//! Any operation on any layout, one output element after the other, without allocating: for what has no kernel.

mod linear;
mod view;
mod window;

pub(super) use view::{Value, View};

use super::epilogue::table_bytes;
use super::place::Bases;
use super::softmax::softmax;
use super::step::{Call, Context, Scratch, share};
use linear::{Finish, Weights, combine, conv, finish, float, pick, range, weights};
use pilotlight_plan::{
    Bilinear, BinaryRule, DType, Function, MeanRule, Op, Plan, PoolRule, Quant, Window, math,
};
use view::Index;
use window::{mean, pool};

/// A lowered operation without kernels.
pub(super) struct Plain {
    output: View,
    kind: Kind,
}

enum Kind {
    Conv { x: View, window: Window, group_outputs: usize, per_group: usize, weights: Weights, finish: Finish },
    Gemm { x: View, weights: Weights, finish: Finish },
    MatMul { a: View, b: View, a_zero: Vec<i32>, b_zero: Vec<i32>, finish: Finish },
    Pool { x: View, window: Window, rule: PoolRule },
    Mean { x: View, axes: Vec<usize>, kept: bool, rule: MeanRule },
    Binary { a: View, b: View, rule: BinaryRule },
    Table { x: View, table: Box<[u8; 256]> },
    FloatTable { x: View, table: Vec<f32> },
    Unary { x: View, function: Function },
    Remap { x: View, axes: Vec<Option<Vec<i32>>>, fill: Value, table: Option<Box<[u8; 256]>> },
    Bilinear { x: View, op: Bilinear },
    ArgMax { x: View, axis: usize, kept: bool, last: bool },
    Quantize { x: View, axis: usize, quant: Vec<Quant> },
    Dequantize { x: View, axis: usize, quant: Vec<Quant> },
    Cast { x: View },
}

impl Plain {
    /// The operation, lowered without kernels.
    pub(super) fn lower(plan: &Plan, op: &Op) -> Box<dyn Call> {
        let view = |id| View::new(plan, id);
        let output = view(op.writes());
        let kind = match op {
            Op::Conv(c) => {
                let (per_group, groups) = (c.linear.group_inputs as usize, c.groups as usize);
                let k = per_group * (c.window.kernel[0] * c.window.kernel[1]) as usize;
                Kind::Conv {
                    x: view(c.input),
                    window: c.window,
                    group_outputs: c.linear.outputs as usize / groups,
                    per_group,
                    weights: weights(plan, &c.linear, k),
                    finish: finish(plan, &c.linear.epilogue),
                }
            }
            Op::Gemm(g) => Kind::Gemm {
                x: view(g.input),
                weights: weights(plan, &g.linear, g.linear.group_inputs as usize),
                finish: finish(plan, &g.linear.epilogue),
            },
            Op::MatMul(m) => Kind::MatMul {
                a: view(m.a),
                b: view(m.b),
                a_zero: m.a_zero.clone(),
                b_zero: m.b_zero.clone(),
                finish: finish(plan, &m.epilogue),
            },
            Op::Pool(p) => Kind::Pool { x: view(p.input), window: p.window, rule: p.rule },
            Op::Mean(m) => Kind::Mean {
                x: view(m.input),
                axes: m.axes.iter().map(|&a| a as usize).collect(),
                kept: plan.tensor(m.input).shape.len() == plan.tensor(m.output).shape.len(),
                rule: m.rule,
            },
            Op::Binary(b) => Kind::Binary { a: view(b.a), b: view(b.b), rule: b.rule },
            Op::Table(t) if output.dtype == DType::F32 => {
                Kind::FloatTable { x: view(t.input), table: plan.blob_f32(t.table) }
            }
            Op::Table(t) => Kind::Table { x: view(t.input), table: table_bytes(plan, t.table) },
            Op::Unary(u) => Kind::Unary { x: view(u.input), function: u.function },
            Op::Remap(r) => Kind::Remap {
                x: view(r.input),
                axes: r.axes.clone(),
                fill: fill(r.fill, output.dtype),
                table: r.table.map(|t| table_bytes(plan, t)),
            },
            Op::Bilinear(b) => Kind::Bilinear { x: view(b.input), op: b.clone() },
            Op::Softmax(s) => return Box::new(softmax(plan, s)),
            Op::ArgMax(a) => Kind::ArgMax {
                x: view(a.input),
                axis: a.axis as usize,
                kept: plan.tensor(a.input).shape.len() == plan.tensor(a.output).shape.len(),
                last: a.last,
            },
            Op::Quantize(c) => {
                Kind::Quantize { x: view(c.input), axis: c.axis as usize, quant: c.quant.clone() }
            }
            Op::Dequantize(c) => {
                Kind::Dequantize { x: view(c.input), axis: c.axis as usize, quant: c.quant.clone() }
            }
            Op::Cast(c) => Kind::Cast { x: view(c.input) },
        };
        Box::new(Self { output, kind })
    }

    /// The value of one output element.
    ///
    /// # Safety
    /// As [`Call::run`]; the index is inside the output.
    unsafe fn element(&self, bases: &Bases, i: &Index) -> Value {
        let (lo, hi) = range(self.output.dtype);
        let channel = |axis: usize, quant: &[Quant]| if quant.len() == 1 { quant[0] } else { quant[i[axis]] };
        // SAFETY: every index below is inside the tensor that it is used with, as the plan's validation has checked.
        unsafe {
            match &self.kind {
                Kind::Conv { x, window, group_outputs, per_group, weights, finish } => {
                    let sum =
                        conv(bases, i, x, window, i[1] / group_outputs * per_group, *per_group, weights);
                    finish.apply(bases, i, i[1], sum)
                }
                Kind::Gemm { x, weights, finish } => {
                    let last = self.output.rank - 1;
                    let (mut at, channel) = (*i, i[last]);
                    let mut sum = weights.bias[channel];
                    for k in 0..weights.k {
                        at[last] = k;
                        let v = x.int(bases, &at) - weights.input_zero;
                        sum =
                            sum.wrapping_add(v.wrapping_mul(weights.values[channel * weights.k + k].into()));
                    }
                    finish.apply(bases, i, channel, sum)
                }
                Kind::MatMul { a, b, a_zero, b_zero, finish } => {
                    let rank = self.output.rank;
                    let (row, column) = (i[rank - 2], i[rank - 1]);
                    let (mut p, mut q) = (a.broadcast(i, rank), b.broadcast(i, rank));
                    (p[a.rank - 2], q[b.rank - 1]) = (row, column);
                    let mut sum = 0_i32;
                    for k in 0..a.shape[a.rank - 1] {
                        (p[a.rank - 1], q[b.rank - 2]) = (k, k);
                        let v = a.int(bases, &p) - pick(a_zero, row);
                        let w = b.int(bases, &q) - pick(b_zero, column);
                        sum = sum.wrapping_add(v.wrapping_mul(w));
                    }
                    finish.apply(bases, i, column, sum)
                }
                Kind::Pool { x, window, rule } => pool(bases, i, x, window, *rule, self.output.dtype),
                Kind::Mean { x, axes, kept, rule } => mean(bases, i, x, axes, *kept, *rule, (lo, hi)),
                Kind::Binary { a, b, rule } => {
                    let rank = self.output.rank;
                    let (p, q) = (a.broadcast(i, rank), b.broadcast(i, rank));
                    match rule {
                        BinaryRule::Float(kind) => {
                            Value::Float(float(*kind, a.float(bases, &p), b.float(bases, &q)))
                        }
                        rule => Value::Int(combine(rule, a.int(bases, &p), b.int(bases, &q), (lo, hi))),
                    }
                }
                Kind::Table { x, table } => Value::Int(table[usize::from(x.int(bases, i) as u8)].into()),
                Kind::FloatTable { x, table } => Value::Float(table[usize::from(x.int(bases, i) as u8)]),
                Kind::Unary { x, function } => Value::Float(math::apply(*function, x.float(bases, i))),
                Kind::Remap { x, axes, fill, table } => {
                    let mut at = *i;
                    for (at, list) in at.iter_mut().zip(axes) {
                        if let Some(list) = list {
                            let Ok(from) = usize::try_from(list[*at]) else { return *fill };
                            *at = from;
                        }
                    }
                    match table {
                        Some(t) => Value::Int(t[usize::from(x.int(bases, &at) as u8)].into()),
                        None => x.read(bases, &at),
                    }
                }
                Kind::Bilinear { x, op } => {
                    let (dy, dx) = (self.output.rank - 2, self.output.rank - 1);
                    let (top, bottom, fy) = op.rows[if self.output.rank == 4 { i[dy] } else { 0 }];
                    let (left, right, fx) = op.columns[i[dx]];
                    let value = |y: u32, column: u32| {
                        let mut at = *i;
                        if self.output.rank == 4 {
                            at[dy] = y as usize;
                        }
                        at[dx] = column as usize;
                        x.float(bases, &at)
                    };
                    let (gx, gy) = (1.0 - fx, 1.0 - fy);
                    let mixed = (gx * gy) * value(top, left)
                        + (fx * gy) * value(top, right)
                        + (gx * fy) * value(bottom, left)
                        + (fx * fy) * value(bottom, right);
                    if self.output.dtype == DType::F32 {
                        Value::Float(mixed)
                    } else {
                        Value::Int(math::round_to(mixed.trunc(), 0, lo, hi))
                    }
                }
                Kind::ArgMax { x, axis, kept, last } => {
                    let mut at = *i;
                    if !kept {
                        at[*axis..].rotate_right(1);
                    }
                    let mut line = |k: usize| {
                        at[*axis] = k;
                        x.read(bases, &at)
                    };
                    let (mut winner, mut best) = (0, line(0));
                    for k in 1..x.shape[*axis] {
                        let v = line(k);
                        let wins = match (v, best) {
                            (Value::Int(v), Value::Int(b)) => v > b || (*last && v == b),
                            (Value::Float(v), Value::Float(b)) => v > b || (*last && v == b),
                            _ => false,
                        };
                        if wins {
                            (winner, best) = (k, v);
                        }
                    }
                    Value::Long(winner as i64)
                }
                Kind::Quantize { x, axis, quant } => {
                    let q = channel(*axis, quant);
                    Value::Int(math::quantize(x.float(bases, i), q.scale, q.zero_point, lo, hi))
                }
                Kind::Dequantize { x, axis, quant } => {
                    let q = channel(*axis, quant);
                    Value::Float(x.int(bases, i).wrapping_sub(q.zero_point) as f32 * q.scale)
                }
                Kind::Cast { x } => cast(x.read(bases, i), self.output.dtype),
            }
        }
    }
}

fn fill(bits: u64, dtype: DType) -> Value {
    match dtype {
        DType::U8 => Value::Int(i32::from(bits as u8)),
        DType::I8 => Value::Int(i32::from(bits as u8 as i8)),
        DType::I32 => Value::Int(bits as u32 as i32),
        DType::I64 => Value::Long(bits as i64),
        DType::F32 => Value::Float(f32::from_bits(bits as u32)),
    }
}

fn cast(value: Value, to: DType) -> Value {
    let int = |v: i64| match to {
        DType::U8 => i32::from(v as u8),
        DType::I8 => i32::from(v as i8),
        _ => v as i32,
    };
    match (value, to) {
        (Value::Float(_), DType::F32) | (Value::Long(_), DType::I64) => value,
        (Value::Float(v), DType::I64) => Value::Long(v as i64),
        (Value::Float(v), _) => Value::Int(int(v as i64)),
        (Value::Int(v), DType::F32) => Value::Float(v as f32),
        (Value::Int(v), DType::I64) => Value::Long(v.into()),
        (Value::Int(v), _) => Value::Int(int(v.into())),
        (Value::Long(v), DType::F32) => Value::Float(v as f32),
        (Value::Long(v), _) => Value::Int(int(v)),
    }
}

impl Call for Plain {
    unsafe fn run(&self, context: &Context, thread: usize, _: &mut Scratch) {
        let own = share(self.output.elements(), thread, context.threads);
        let mut index = self.output.index(own.start);
        for _ in own {
            // SAFETY: the index is inside the output, and this thread's alone.
            unsafe {
                let value = self.element(&context.bases, &index);
                self.output.write(&context.bases, &index, value);
            }
            self.output.advance(&mut index);
        }
    }
}
