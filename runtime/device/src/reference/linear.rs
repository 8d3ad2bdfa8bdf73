//! Convolution and matrix products.

use super::{Bench, Values, each_index, flat, pointwise};
use pilotlight_plan::{Blob, Conv, Epilogue, Gemm, Linear, MatMul, Post, TensorId, math};

/// 8-bit weights as integers, zero point taken off, `k` for each output channel.
fn weights(bench: &Bench, l: &Linear, k: usize) -> Vec<i32> {
    let signed = l.weights_dtype == pilotlight_plan::DType::I8;
    let value = |b: u8| if signed { i32::from(b as i8) } else { i32::from(b) };
    let raw = bench.plan.blob(l.weights);
    raw.iter().enumerate().map(|(i, &b)| value(b) - pick(&l.weights_zero, i / k)).collect()
}

/// Element `i` of a list that holds one for all, or one for each.
fn pick<T: Copy>(list: &[T], i: usize) -> T {
    if list.len() == 1 { list[0] } else { list[i] }
}

pub(super) fn conv(bench: &Bench, c: &Conv) -> Values {
    let x = bench.read(c.input);
    let x = x.ints();
    let spatial = |s: Vec<usize>| if s.len() == 4 { [s[0], s[1], s[2], s[3]] } else { [s[0], s[1], 1, s[2]] };
    let [n, cin, h, w] = spatial(bench.shape(c.input));
    let [_, cout, oh, ow] = spatial(bench.shape(c.output));
    let [kh, kw] = c.window.kernel.map(|k| k as usize);
    let per_group = c.linear.group_inputs as usize;
    let group_outputs = cout / c.groups as usize;
    let k = kh * kw * per_group;
    let weights = weights(bench, &c.linear, k);
    let bias = c.linear.bias.map(|b| bench.plan.blob_i32(b));
    // Where a tap reads: None is padding, which stands for the zero point and adds nothing.
    let tap = |o: usize, t: usize, d: usize, extent: usize| {
        let at = o * c.window.stride[d] as usize + t * c.window.dilation[d] as usize;
        at.checked_sub(c.window.pads[d] as usize).filter(|&i| i < extent)
    };
    let mut acc = Vec::with_capacity(n * cout * oh * ow);
    each_index(&[n, cout, oh, ow], |i| {
        let (b, m, oy, ox) = (i[0], i[1], i[2], i[3]);
        let first = m / group_outputs * per_group;
        let mut sum = bias.as_ref().map_or(0, |b| b[m]);
        for ky in 0..kh {
            let Some(y) = tap(oy, ky, 0, h) else { continue };
            for kx in 0..kw {
                let Some(xx) = tap(ox, kx, 1, w) else { continue };
                for ci in 0..per_group {
                    let v = x[flat(&[n, cin, h, w], &[b, first + ci, y, xx])] - c.linear.input_zero;
                    let wt = weights[m * k + (ky * kw + kx) * per_group + ci];
                    sum = sum.wrapping_add(v.wrapping_mul(wt));
                }
            }
        }
        acc.push(sum);
    });
    epilogue(bench, &c.linear.epilogue, acc, |i| i / (oh * ow) % cout, c.output)
}

pub(super) fn gemm(bench: &Bench, g: &Gemm) -> Values {
    let x = bench.read(g.input);
    let (k, n) = (g.linear.group_inputs as usize, g.linear.outputs as usize);
    let weights = weights(bench, &g.linear, k);
    let bias = g.linear.bias.map(|b| bench.plan.blob_i32(b));
    let mut acc = Vec::new();
    for row in x.ints().chunks(k) {
        for (m, w) in weights.chunks(k).enumerate() {
            let start = bias.as_ref().map_or(0, |b| b[m]);
            acc.push(
                row.iter()
                    .zip(w)
                    .fold(start, |sum, (&v, &w)| sum.wrapping_add((v - g.linear.input_zero).wrapping_mul(w))),
            );
        }
    }
    epilogue(bench, &g.linear.epilogue, acc, |i| i % n, g.output)
}

pub(super) fn matmul(bench: &Bench, m: &MatMul) -> Values {
    let (a, b) = (bench.read(m.a), bench.read(m.b));
    let (sa, sb, sy) = (bench.shape(m.a), bench.shape(m.b), bench.shape(m.output));
    let k = sa[sa.len() - 1];
    let mut acc = Vec::new();
    each_index(&sy, |y| {
        let (batch, cell) = y.split_at(y.len() - 2);
        let (row, column) = (cell[0], cell[1]);
        let (a_base, b_base) = (batch_base(&sa, batch), batch_base(&sb, batch));
        let n = sb[sb.len() - 1];
        let sum = (0..k).fold(0_i32, |sum, i| {
            let av = a.ints()[a_base + row * k + i] - pick(&m.a_zero, row);
            let bv = b.ints()[b_base + i * n + column] - pick(&m.b_zero, column);
            sum.wrapping_add(av.wrapping_mul(bv))
        });
        acc.push(sum);
    });
    let n = sy[sy.len() - 1];
    epilogue(bench, &m.epilogue, acc, |i| i % n, m.output)
}

/// Where the matrix of a batch index begins, the batch dimensions broadcast.
fn batch_base(shape: &[usize], batch: &[usize]) -> usize {
    let own = &shape[..shape.len() - 2];
    let index: Vec<usize> = own
        .iter()
        .zip(&batch[batch.len() - own.len()..])
        .map(|(&d, &i)| if d == 1 { 0 } else { i })
        .collect();
    flat(own, &index) * shape[shape.len() - 2] * shape[shape.len() - 1]
}

fn epilogue(
    bench: &Bench,
    e: &Epilogue,
    acc: Vec<i32>,
    channel: impl Fn(usize) -> usize,
    output: TensorId,
) -> Values {
    let scaled = |scale: &Blob| {
        let scale = bench.plan.blob_f32(*scale);
        acc.iter().enumerate().map(|(i, &a)| a as f32 * pick(&scale, channel(i))).collect::<Vec<f32>>()
    };
    match e {
        Epilogue::Raw => Values::Int(acc),
        Epilogue::Float { scale } => Values::Float(scaled(scale)),
        Epilogue::Requant(r) => {
            let mut values: Vec<i32> =
                scaled(&r.scale).into_iter().map(|v| math::round_to(v, r.zero, r.lo, r.hi)).collect();
            for post in &r.post {
                values = match post {
                    Post::Table { table, dtype } => {
                        let table = bench.plan.blob(*table);
                        values.iter().map(|&v| pointwise::look_up(table, v, *dtype)).collect()
                    }
                    Post::Binary { other, value_is_a, rule, dtype } => {
                        let other = bench.read(*other);
                        let both = values.iter().zip(other.ints());
                        both.map(|(&v, &o)| {
                            let (a, b) = if *value_is_a { (v, o) } else { (o, v) };
                            pointwise::combine(rule, a, b, *dtype)
                        })
                        .collect()
                    }
                };
            }
            debug_assert_eq!(values.len() as u64, bench.plan.tensor(output).elements());
            Values::Int(values)
        }
    }
}
