//! Any operation on any layout, one output element after the other, without allocating: for what has no kernel.

use super::epilogue::table_bytes;
use super::place::{Bases, Place, place, strides};
use super::softmax::softmax;
use super::step::{Call, Context, Scratch, share};
use pilotlight_plan::{
    self as plan, Bilinear, BinaryKind, BinaryRule, DType, Epilogue, Function, MeanRule, Op, Plan, PoolRule,
    Post, Quant, TensorId, Window, math, validate::MAX_RANK,
};

/// A position in a tensor.
pub(super) type Index = [usize; MAX_RANK];

/// A tensor of any rank.
#[derive(Clone, Copy)]
pub(super) struct View {
    place: Place,
    pub dtype: DType,
    rank: usize,
    pub shape: Index,
    /// In bytes.
    strides: Index,
}

/// One element of any type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    Int(i32),
    Long(i64),
    Float(f32),
}

impl View {
    pub(super) fn new(plan: &Plan, id: TensorId) -> Self {
        let t = plan.tensor(id);
        let mut view = Self {
            place: place(plan, t),
            dtype: t.dtype,
            rank: t.shape.len(),
            shape: [1; 8],
            strides: [0; 8],
        };
        for (d, (&extent, stride)) in t.shape.iter().zip(strides(t)).enumerate() {
            (view.shape[d], view.strides[d]) = (extent as usize, stride);
        }
        view
    }

    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// # Safety
    /// The index is inside the shape and the bases are the plan's.
    unsafe fn at(&self, bases: &Bases, index: &Index) -> *mut u8 {
        let at: usize = index.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
        bases.at(self.place).wrapping_add(at)
    }

    /// # Safety
    /// As [`View::at`].
    unsafe fn read(&self, bases: &Bases, index: &Index) -> Value {
        // SAFETY: the caller's promise; validation has checked that the view lies in its buffer.
        unsafe {
            let p = self.at(bases, index);
            match self.dtype {
                DType::U8 => Value::Int(i32::from(*p)),
                DType::I8 => Value::Int(i32::from(*p as i8)),
                DType::I32 => Value::Int(p.cast::<i32>().read_unaligned()),
                DType::I64 => Value::Long(p.cast::<i64>().read_unaligned()),
                DType::F32 => Value::Float(p.cast::<f32>().read_unaligned()),
            }
        }
    }

    /// # Safety
    /// As [`View::at`].
    pub(super) unsafe fn int(&self, bases: &Bases, index: &Index) -> i32 {
        // SAFETY: the caller's promise.
        match unsafe { self.read(bases, index) } {
            Value::Int(v) => v,
            Value::Long(v) => v as i32,
            Value::Float(v) => v as i32,
        }
    }

    /// # Safety
    /// As [`View::at`].
    pub(super) unsafe fn float(&self, bases: &Bases, index: &Index) -> f32 {
        // SAFETY: the caller's promise.
        match unsafe { self.read(bases, index) } {
            Value::Int(v) => v as f32,
            Value::Long(v) => v as f32,
            Value::Float(v) => v,
        }
    }

    /// # Safety
    /// As [`View::at`], and no other thread touches the element.
    pub(super) unsafe fn write(&self, bases: &Bases, index: &Index, value: Value) {
        // SAFETY: the caller's promise.
        unsafe {
            let p = self.at(bases, index);
            match value {
                Value::Int(v) if self.dtype.is_int8() => *p = v as u8,
                Value::Int(v) => p.cast::<i32>().write_unaligned(v),
                Value::Long(v) => p.cast::<i64>().write_unaligned(v),
                Value::Float(v) => p.cast::<f32>().write_unaligned(v),
            }
        }
    }

    /// The index of an element by its number in row-major order.
    pub(super) fn index(&self, mut number: usize) -> Index {
        let mut index = [0; MAX_RANK];
        for d in (0..self.rank).rev() {
            index[d] = number % self.shape[d];
            number /= self.shape[d];
        }
        index
    }

    /// Steps an index to the next element in row-major order.
    pub(super) fn advance(&self, index: &mut Index) {
        for d in (0..self.rank).rev() {
            index[d] += 1;
            if index[d] < self.shape[d] {
                return;
            }
            index[d] = 0;
        }
    }

    /// An index of this tensor as the output of a broadcast, for the operand `self`.
    fn broadcast(&self, index: &Index, rank: usize) -> Index {
        let mut own = [0; MAX_RANK];
        for d in 0..self.rank {
            own[d] = if self.shape[d] == 1 { 0 } else { index[rank - self.rank + d] };
        }
        own
    }
}

/// A lowered operation without kernels.
pub(super) struct Plain {
    output: View,
    kind: Kind,
}

/// Weights as integers less their zero points, and what sums start from.
struct Weights {
    /// `k` for each output channel.
    values: Vec<i16>,
    k: usize,
    bias: Vec<i32>,
    input_zero: i32,
}

/// The way from a sum to the result.
enum Finish {
    Raw,
    Float(Vec<f32>),
    Requant { scale: Vec<f32>, zero: i32, lo: i32, hi: i32, post: Vec<After> },
}

enum After {
    Table { table: Box<[u8; 256]>, dtype: DType },
    Combine { other: View, value_is_a: bool, rule: BinaryRule, range: (i32, i32) },
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

/// Element `i` of a list that holds one for all, or one for each.
fn pick<T: Copy>(list: &[T], i: usize) -> T {
    if list.len() == 1 { list[0] } else { list[i] }
}

fn weights(plan: &Plan, l: &plan::Linear, k: usize) -> Weights {
    let source = super::linear::Source::new(plan, l, k);
    let outputs = l.outputs as usize;
    let each = |c: usize| (0..k).map(move |i| (c, i));
    Weights {
        values: (0..outputs).flat_map(each).map(|(c, i)| source.weight(c, i) as i16).collect(),
        k,
        bias: l.bias.map_or_else(|| vec![0; outputs], |b| plan.blob_i32(b)),
        input_zero: l.input_zero,
    }
}

fn finish(plan: &Plan, e: &Epilogue) -> Finish {
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

fn range(dtype: DType) -> (i32, i32) {
    dtype.int8_range().unwrap_or((i32::MIN, i32::MAX))
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

fn float(kind: BinaryKind, a: f32, b: f32) -> f32 {
    match kind {
        BinaryKind::Add => a + b,
        BinaryKind::Sub => a - b,
        BinaryKind::Mul => a * b,
    }
}

fn combine(rule: &BinaryRule, a: i32, b: i32, (lo, hi): (i32, i32)) -> i32 {
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
    /// As [`Plain::element`].
    unsafe fn apply(&self, bases: &Bases, i: &Index, channel: usize, sum: i32) -> Value {
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

/// Calls `visit` with the kernel row and column and the input index of every place of a window inside the input;
/// returns how many places lie inside the padded input.
fn each_place(x: &View, w: &Window, i: &Index, mut visit: impl FnMut(usize, usize, &Index)) -> usize {
    let (dy, dx) = if x.rank == 4 { (Some(2), 3) } else { (None, 2) };
    let (height, width) = (dy.map_or(1, |d| x.shape[d]), x.shape[dx]);
    let [top, left, bottom, right] = w.pads.map(|v| v as usize);
    let at = |o: usize, t: usize, d: usize| o * w.stride[d] as usize + t * w.dilation[d] as usize;
    let mut padded = 0;
    let mut index = *i;
    for ky in 0..w.kernel[0] as usize {
        let y = at(dy.map_or(0, |d| i[d]), ky, 0);
        for kx in 0..w.kernel[1] as usize {
            let column = at(i[dx], kx, 1);
            padded += usize::from(y < top + height + bottom && column < left + width + right);
            if let (Some(y), Some(column)) = (y.checked_sub(top), column.checked_sub(left))
                && y < height
                && column < width
            {
                if let Some(d) = dy {
                    index[d] = y;
                }
                index[dx] = column;
                visit(ky, kx, &index);
            }
        }
    }
    padded
}

/// # Safety
/// As [`Plain::element`].
unsafe fn conv(
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

/// # Safety
/// As [`Plain::element`].
unsafe fn pool(bases: &Bases, i: &Index, x: &View, w: &Window, rule: PoolRule, dtype: DType) -> Value {
    let (lo, hi) = range(dtype);
    let mut inside = 0;
    let (mut max_int, mut max_float, mut sum) = (lo, f32::NEG_INFINITY, 0.0);
    let padded = each_place(x, w, i, |_, _, at| {
        inside += 1;
        // SAFETY: the place is inside the input.
        unsafe {
            match rule {
                PoolRule::Max if dtype == DType::F32 => {
                    let v = x.float(bases, at);
                    max_float = if v > max_float { v } else { max_float };
                }
                PoolRule::Max => max_int = max_int.max(x.int(bases, at)),
                PoolRule::MeanF32 { .. } => sum += x.float(bases, at),
                PoolRule::Mean8 { input, .. } => {
                    sum += (x.int(bases, at) - input.zero_point) as f32 * input.scale;
                }
            }
        }
    });
    let mean = |count_pads: bool| sum / if count_pads { padded } else { inside }.max(1) as f32;
    match rule {
        PoolRule::Max if dtype == DType::F32 => Value::Float(max_float),
        PoolRule::Max => Value::Int(max_int),
        PoolRule::MeanF32 { count_pads } => Value::Float(mean(count_pads)),
        PoolRule::Mean8 { output, count_pads, .. } => {
            let whole = w.kernel[0] as usize * w.kernel[1] as usize;
            let mean = sum / if count_pads { whole } else { inside }.max(1) as f32;
            Value::Int(math::round_to(mean / output.scale + output.zero_point as f32, 0, lo, hi))
        }
    }
}

/// # Safety
/// As [`Plain::element`].
unsafe fn mean(
    bases: &Bases,
    i: &Index,
    x: &View,
    axes: &[usize],
    kept: bool,
    rule: MeanRule,
    (lo, hi): (i32, i32),
) -> Value {
    // The dimensions that are averaged, as a view of their own whose index counts through them.
    let mut reduced = View { shape: [1; MAX_RANK], ..*x };
    let mut base = [0; MAX_RANK];
    let mut next = 0;
    for (d, base) in base.iter_mut().enumerate().take(x.rank) {
        if axes.contains(&d) {
            reduced.shape[d] = x.shape[d];
            next += usize::from(kept);
        } else {
            *base = i[next];
            next += 1;
        }
    }
    let count = reduced.elements();
    let mut offset = [0; MAX_RANK];
    let (mut int_sum, mut float_sum) = (0_i32, 0.0_f32);
    for _ in 0..count {
        let mut at = base;
        at.iter_mut().zip(&offset).for_each(|(a, o)| *a += o);
        // SAFETY: the index is inside the input.
        unsafe {
            match rule {
                MeanRule::Integer { input_zero, .. } => {
                    int_sum = int_sum.wrapping_add(x.int(bases, &at) - input_zero);
                }
                MeanRule::Dequantised { input, .. } => {
                    float_sum += (x.int(bases, &at) - input.zero_point) as f32 * input.scale;
                }
                MeanRule::Float => float_sum += x.float(bases, &at),
            }
        }
        reduced.advance(&mut offset);
    }
    match rule {
        MeanRule::Integer { scale, zero, .. } => {
            Value::Int(math::round_to(int_sum as f32 * scale, zero, lo, hi))
        }
        MeanRule::Dequantised { output, .. } => {
            let mean = float_sum / count as f32;
            Value::Int(math::quantize(mean, output.scale, output.zero_point, lo, hi))
        }
        MeanRule::Float => Value::Float(float_sum / count as f32),
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
