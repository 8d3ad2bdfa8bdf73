//! The rules of each operation: types, shapes, blobs, quantisation.

use super::{blob, quant};
use crate::*;

/// Checks one operation whose tensors exist.
pub(super) fn check(plan: &Plan, op: &Op) -> Result<(), String> {
    match op {
        Op::Conv(c) => conv(plan, c),
        Op::Gemm(g) => gemm(plan, g),
        Op::MatMul(m) => matmul(plan, m),
        Op::Pool(p) => pool(plan, p),
        Op::Mean(m) => mean(plan, m),
        Op::Binary(b) => {
            let (a, y) = (plan.tensor(b.a), plan.tensor(b.output));
            let other = plan.tensor(b.b);
            broadcast(&a.shape, &other.shape, &y.shape)?;
            binary_rule(&b.rule, [a.dtype, other.dtype, y.dtype])
        }
        Op::Table(t) => {
            same_shape(plan, t.input, t.output)?;
            int8(plan, t.input)?;
            let y = plan.tensor(t.output).dtype;
            if !y.is_int8() && y != DType::F32 {
                return Err(format!("a table of {y}; u8, i8 or f32 is needed"));
            }
            blob(plan, t.table, 256 * y.bytes() as u64, "table")
        }
        Op::Unary(u) => {
            same_shape(plan, u.input, u.output)?;
            types(plan, u.input, u.output, DType::F32, DType::F32)
        }
        Op::Remap(r) => remap(plan, r),
        Op::Bilinear(b) => bilinear(plan, b),
        Op::Softmax(s) => {
            same_shape(plan, s.input, s.output)?;
            axis(plan, s.input, s.axis)?;
            match s.rule {
                SoftmaxRule::Float => types(plan, s.input, s.output, DType::F32, DType::F32),
                SoftmaxRule::QLinear { table, inverse, zero } => {
                    int8(plan, s.input)?;
                    let x = plan.tensor(s.input).dtype;
                    types(plan, s.input, s.output, x, x)?;
                    zeros(x, &[zero], 1, "output")?;
                    if !(inverse.is_finite() && inverse >= 0.0) {
                        return Err(format!("an inverse scale of {inverse}; a number from 0 is needed"));
                    }
                    blob(plan, table, 1024, "table")
                }
            }
        }
        Op::ArgMax(a) => arg_max(plan, a),
        Op::Quantize(c) => convert(plan, c, c.input, c.output),
        Op::Dequantize(c) => convert(plan, c, c.output, c.input),
        Op::Cast(c) => same_shape(plan, c.input, c.output),
    }
}

fn same_shape(plan: &Plan, a: TensorId, b: TensorId) -> Result<(), String> {
    let (a, b) = (plan.tensor(a), plan.tensor(b));
    if a.shape != b.shape {
        return Err(format!("{} {:?} and {} {:?} must have one shape", a.name, a.shape, b.name, b.shape));
    }
    Ok(())
}

fn int8(plan: &Plan, id: TensorId) -> Result<(), String> {
    let t = plan.tensor(id);
    if t.dtype.is_int8() { Ok(()) } else { Err(format!("{} is {}, u8 or i8 is needed", t.name, t.dtype)) }
}

fn types(plan: &Plan, a: TensorId, b: TensorId, want_a: DType, want_b: DType) -> Result<(), String> {
    for (id, want) in [(a, want_a), (b, want_b)] {
        let t = plan.tensor(id);
        if t.dtype != want {
            return Err(format!("{} is {}, {want} is needed", t.name, t.dtype));
        }
    }
    Ok(())
}

fn axis(plan: &Plan, id: TensorId, axis: u32) -> Result<(), String> {
    let t = plan.tensor(id);
    if (axis as usize) < t.shape.len() {
        Ok(())
    } else {
        Err(format!("axis {axis} of {}, which has rank {}", t.name, t.shape.len()))
    }
}

/// Batch, channels, height, width of a rank-3 or rank-4 tensor.
fn nchw(plan: &Plan, id: TensorId) -> Result<[u32; 4], String> {
    let t = plan.tensor(id);
    match t.shape[..] {
        [n, c, h, w] => Ok([n, c, h, w]),
        [n, c, w] => Ok([n, c, 1, w]),
        _ => Err(format!("{} has shape {:?}; [N, C, H, W] or [N, C, W] is needed", t.name, t.shape)),
    }
}

/// The extent of the output along one dimension (0: height), or why there is none.
fn window_extent(w: &Window, d: usize, input: u32) -> Result<u64, String> {
    let (k, s, dil) = (u64::from(w.kernel[d]), u64::from(w.stride[d]), u64::from(w.dilation[d]));
    let (before, after) = (u64::from(w.pads[d]), u64::from(w.pads[d + 2]));
    if k == 0 || s == 0 || dil == 0 || before >= 1 << 20 || after >= 1 << 20 || k >= 1 << 20 || dil >= 1 << 20
    {
        return Err(format!("window {w:?}: kernel, stride and dilation from 1 to 2^20, pads below 2^20"));
    }
    let reach = dil * (k - 1) + 1;
    match (u64::from(input) + before + after).checked_sub(reach) {
        Some(room) => Ok(room / s + 1),
        None => Err(format!("window {w:?} is larger than the padded input of {input}")),
    }
}

fn conv(plan: &Plan, c: &Conv) -> Result<(), String> {
    int8(plan, c.input)?;
    let [n, channels, h, w] = nchw(plan, c.input)?;
    let out = nchw(plan, c.output)?;
    if plan.tensor(c.input).shape.len() != plan.tensor(c.output).shape.len() {
        return Err("input and output have different ranks".into());
    }
    let l = &c.linear;
    let (g, per_group) = (c.groups, l.group_inputs);
    if g == 0 || !channels.is_multiple_of(g) || channels / g != per_group || !l.outputs.is_multiple_of(g) {
        return Err(format!(
            "{channels} input and {} output channels in {g} groups of {per_group}",
            l.outputs
        ));
    }
    let want = [
        u64::from(n),
        u64::from(l.outputs),
        window_extent(&c.window, 0, h)?,
        window_extent(&c.window, 1, w)?,
    ];
    if out.map(u64::from) != want {
        return Err(format!("output is {out:?}, the window gives {want:?}"));
    }
    let k = u64::from(per_group) * u64::from(c.window.kernel[0]) * u64::from(c.window.kernel[1]);
    linear(plan, l, k, plan.tensor(c.input).dtype, c.output)
}

fn gemm(plan: &Plan, g: &Gemm) -> Result<(), String> {
    int8(plan, g.input)?;
    let (x, y) = (plan.tensor(g.input), plan.tensor(g.output));
    let (Some((&k, rows)), Some((&n, out_rows))) = (x.shape.split_last(), y.shape.split_last()) else {
        return Err("a scalar cannot be multiplied".into());
    };
    if rows != out_rows || k != g.linear.group_inputs || n != g.linear.outputs {
        return Err(format!(
            "{:?} by {} x {} weights cannot give {:?}",
            x.shape, g.linear.outputs, g.linear.group_inputs, y.shape
        ));
    }
    linear(plan, &g.linear, u64::from(k), x.dtype, g.output)
}

fn linear(plan: &Plan, l: &Linear, k: u64, input: DType, output: TensorId) -> Result<(), String> {
    let outputs = u64::from(l.outputs);
    let Some(bytes) = outputs.checked_mul(k) else {
        return Err(format!("{outputs} x {k} weights"));
    };
    blob(plan, l.weights, bytes, "weights")?;
    zeros(l.weights_dtype, &l.weights_zero, outputs, "weights")?;
    zeros(input, &[l.input_zero], 1, "input")?;
    if let Some(b) = l.bias {
        blob(plan, b, outputs * 4, "bias")?;
    }
    epilogue(plan, &l.epilogue, outputs, output)
}

fn zeros(dtype: DType, zero: &[i32], channels: u64, what: &str) -> Result<(), String> {
    let Some((lo, hi)) = dtype.int8_range() else {
        return Err(format!("{what} of {dtype}; u8 or i8 is needed"));
    };
    if zero.len() != 1 && zero.len() as u64 != channels || zero.iter().any(|z| !(lo..=hi).contains(z)) {
        return Err(format!("{what}: zero points must be one or {channels}, each from {lo} to {hi}"));
    }
    Ok(())
}

fn epilogue(plan: &Plan, e: &Epilogue, channels: u64, output: TensorId) -> Result<(), String> {
    let y = plan.tensor(output);
    let per_channel = |b: Blob| {
        let n = if b.bytes == 4 { 1 } else { channels };
        blob(plan, b, n * 4, "scale")?;
        finite(&plan.blob_f32(b), "scale")
    };
    let last = match e {
        Epilogue::Raw => DType::I32,
        Epilogue::Float { scale } => {
            per_channel(*scale)?;
            DType::F32
        }
        Epilogue::Requant(r) => {
            per_channel(r.scale)?;
            zeros(r.dtype, &[r.zero, r.lo, r.hi], 3, "requantisation")?;
            if r.lo > r.hi {
                return Err(format!("clamp to {}..={}", r.lo, r.hi));
            }
            let mut value = r.dtype;
            for post in &r.post {
                value = match post {
                    Post::Table { table, dtype } => {
                        blob(plan, *table, 256, "table")?;
                        *dtype
                    }
                    Post::Binary { other, value_is_a, rule, dtype } => {
                        let o = plan.tensor(*other);
                        if o.shape != y.shape || other == &output {
                            return Err(format!("{} {:?} is added to {:?}", o.name, o.shape, y.shape));
                        }
                        let ab = if *value_is_a { [value, o.dtype] } else { [o.dtype, value] };
                        binary_rule(rule, [ab[0], ab[1], *dtype])?;
                        *dtype
                    }
                };
                if !value.is_int8() {
                    return Err(format!("{value} after a fused operation; u8 or i8 is needed"));
                }
            }
            value
        }
    };
    if last == y.dtype { Ok(()) } else { Err(format!("gives {last}, but {} is {}", y.name, y.dtype)) }
}

fn matmul(plan: &Plan, m: &MatMul) -> Result<(), String> {
    int8(plan, m.a)?;
    int8(plan, m.b)?;
    let (a, b, y) = (plan.tensor(m.a), plan.tensor(m.b), plan.tensor(m.output));
    let (Some((ab, am)), Some((bb, bm)), Some((yb, ym))) =
        (a.shape.split_last_chunk::<2>(), b.shape.split_last_chunk::<2>(), y.shape.split_last_chunk::<2>())
    else {
        return Err("both operands need at least two dimensions".into());
    };
    if am[1] != bm[0] || ym != &[am[0], bm[1]] {
        return Err(format!("{:?} by {:?} cannot give {:?}", a.shape, b.shape, y.shape));
    }
    broadcast(ab, bb, yb)?;
    zeros(a.dtype, &m.a_zero, u64::from(am[0]), "a")?;
    zeros(b.dtype, &m.b_zero, u64::from(bm[1]), "b")?;
    epilogue(plan, &m.epilogue, u64::from(bm[1]), m.output)
}

/// Checks that two shapes broadcast to the third, as in numpy.
fn broadcast(a: &[u32], b: &[u32], y: &[u32]) -> Result<(), String> {
    let extent = |s: &[u32], back: usize| s.len().checked_sub(back).map_or(1, |i| s[i]);
    let fits = y.len() == a.len().max(b.len())
        && (1..=y.len()).all(|i| {
            let (p, q, r) = (extent(a, i), extent(b, i), extent(y, i));
            r == p.max(q) && (p == r || p == 1) && (q == r || q == 1)
        });
    if fits { Ok(()) } else { Err(format!("{a:?} and {b:?} do not broadcast to {y:?}")) }
}

/// Vector code and scalar code treat infinities and NaN differently; no quantisation needs them.
fn finite(values: &[f32], what: &str) -> Result<(), String> {
    match values.iter().find(|v| !v.is_finite()) {
        None => Ok(()),
        Some(v) => Err(format!("{what} is {v}; a finite number is needed")),
    }
}

fn binary_rule(rule: &BinaryRule, [a, b, y]: [DType; 3]) -> Result<(), String> {
    let all_int8 = a.is_int8() && b.is_int8() && y.is_int8();
    let fits = match rule {
        BinaryRule::QLinearAdd { ra, rb, fix } => {
            finite(&[*ra, *rb, *fix], "factor")?;
            all_int8
        }
        BinaryRule::QLinearMul { a_zero, b_zero, y_zero, r } => {
            finite(&[*r], "factor")?;
            zeros(a, &[*a_zero], 1, "a")?;
            zeros(b, &[*b_zero], 1, "b")?;
            zeros(y, &[*y_zero], 1, "result")?;
            all_int8
        }
        BinaryRule::Dequantised { a: qa, b: qb, output, .. } => {
            quant(a, *qa)?;
            quant(b, *qb)?;
            quant(y, *output)?;
            all_int8
        }
        BinaryRule::Float(_) => [a, b, y] == [DType::F32; 3],
    };
    if fits { Ok(()) } else { Err(format!("{rule:?} on {a} and {b} cannot give {y}")) }
}

fn pool(plan: &Plan, p: &Pool) -> Result<(), String> {
    let [n, c, h, w] = nchw(plan, p.input)?;
    let out = nchw(plan, p.output)?;
    for (d, input) in [h, w].into_iter().enumerate() {
        // Rounding up may add one window, as long as it begins inside the padded input.
        let floor = window_extent(&p.window, d, input)?;
        let extent = u64::from(out[d + 2]);
        let begins = (extent - 1) * u64::from(p.window.stride[d]);
        if extent < floor || begins >= u64::from(input) + u64::from(p.window.pads[d]) {
            return Err(format!(
                "output extent {extent}, the window gives {floor}, or one more if it begins inside"
            ));
        }
    }
    if [n, c] != [out[0], out[1]] {
        return Err(format!("batch and channels change from {n}, {c} to {}, {}", out[0], out[1]));
    }
    let (x, y) = (plan.tensor(p.input).dtype, plan.tensor(p.output).dtype);
    match p.rule {
        PoolRule::Max if x == y && (x.is_int8() || x == DType::F32) => Ok(()),
        PoolRule::MeanF32 { .. } if x == DType::F32 && y == DType::F32 => Ok(()),
        PoolRule::Mean8 { input, output, .. } => quant(x, input).and_then(|()| quant(y, output)),
        _ => Err(format!("{:?} from {x} to {y}", p.rule)),
    }
}

fn mean(plan: &Plan, m: &Mean) -> Result<(), String> {
    let (x, y) = (plan.tensor(m.input), plan.tensor(m.output));
    if m.axes.is_empty()
        || !m.axes.is_sorted_by(|a, b| a < b)
        || m.axes.iter().any(|&a| a as usize >= x.shape.len())
    {
        return Err(format!("axes {:?} of rank {}: ascending, each below the rank", m.axes, x.shape.len()));
    }
    let reduced = |d: usize| m.axes.contains(&(d as u32));
    let kept: Vec<u32> = x.shape.iter().enumerate().map(|(d, &e)| if reduced(d) { 1 } else { e }).collect();
    let dropped: Vec<u32> =
        x.shape.iter().enumerate().filter(|&(d, _)| !reduced(d)).map(|(_, &e)| e).collect();
    if y.shape != kept && y.shape != dropped {
        return Err(format!("mean of {:?} over {:?} cannot give {:?}", x.shape, m.axes, y.shape));
    }
    match m.rule {
        MeanRule::Integer { input_zero, zero, scale } => {
            finite(&[scale], "scale")?;
            zeros(x.dtype, &[input_zero], 1, "input")?;
            zeros(y.dtype, &[zero], 1, "output")
        }
        MeanRule::Dequantised { input, output } => {
            quant(x.dtype, input).and_then(|()| quant(y.dtype, output))
        }
        MeanRule::Float => types(plan, m.input, m.output, DType::F32, DType::F32),
    }
}

fn remap(plan: &Plan, r: &Remap) -> Result<(), String> {
    let (x, y) = (plan.tensor(r.input), plan.tensor(r.output));
    if x.shape.len() != y.shape.len() || r.axes.len() != x.shape.len() {
        return Err(format!(
            "{} index lists between ranks {} and {}",
            r.axes.len(),
            x.shape.len(),
            y.shape.len()
        ));
    }
    for (d, list) in r.axes.iter().enumerate() {
        let fits = match list {
            None => x.shape[d] == y.shape[d],
            Some(l) => {
                l.len() == y.shape[d] as usize
                    && l.iter().all(|&i| i >= -1 && i64::from(i) < i64::from(x.shape[d]))
            }
        };
        if !fits {
            return Err(format!(
                "index list of dimension {d} does not lead from {} to {}",
                x.shape[d], y.shape[d]
            ));
        }
    }
    match r.table {
        Some(t) => {
            int8(plan, r.input)?;
            int8(plan, r.output)?;
            blob(plan, t, 256, "table")
        }
        None if x.dtype == y.dtype => Ok(()),
        None => Err(format!("{} to {} without a table", x.dtype, y.dtype)),
    }
}

fn bilinear(plan: &Plan, b: &Bilinear) -> Result<(), String> {
    let (x, y) = (plan.tensor(b.input), plan.tensor(b.output));
    let ([n, c, h, w], [yn, yc, yh, yw]) = (nchw(plan, b.input)?, nchw(plan, b.output)?);
    let inside = |list: &[(u32, u32, f32)], extent: u32| {
        list.iter().all(|&(p, q, f)| p < extent && q < extent && f.is_finite())
    };
    let fits = [n, c] == [yn, yc]
        && b.rows.len() == yh as usize
        && b.columns.len() == yw as usize
        && inside(&b.rows, h)
        && inside(&b.columns, w)
        && x.dtype == y.dtype
        && (x.dtype.is_int8() || x.dtype == DType::F32);
    if fits {
        Ok(())
    } else {
        Err(format!("{:?} {} cannot be resized to {:?} {}", x.shape, x.dtype, y.shape, y.dtype))
    }
}

fn arg_max(plan: &Plan, a: &ArgMax) -> Result<(), String> {
    axis(plan, a.input, a.axis)?;
    let (x, y) = (plan.tensor(a.input), plan.tensor(a.output));
    let (mut kept, mut dropped) = (x.shape.clone(), x.shape.clone());
    kept[a.axis as usize] = 1;
    dropped.remove(a.axis as usize);
    let fits = (y.shape == kept || y.shape == dropped)
        && y.dtype == DType::I64
        && (x.dtype.is_int8() || x.dtype == DType::F32);
    if fits {
        Ok(())
    } else {
        Err(format!("argmax of {:?} {} cannot give {:?} {}", x.shape, x.dtype, y.shape, y.dtype))
    }
}

fn convert(plan: &Plan, c: &Convert, float: TensorId, integer: TensorId) -> Result<(), String> {
    same_shape(plan, c.input, c.output)?;
    let (f, q) = (plan.tensor(float), plan.tensor(integer));
    if f.dtype != DType::F32 {
        return Err(format!("{} is {}, f32 is needed", f.name, f.dtype));
    }
    if c.quant.len() != 1 {
        axis(plan, c.input, c.axis)?;
        if c.quant.len() != f.shape[c.axis as usize] as usize {
            return Err(format!("{} scales for {} channels", c.quant.len(), f.shape[c.axis as usize]));
        }
    }
    c.quant.iter().try_for_each(|&s| quant(q.dtype, s))
}
