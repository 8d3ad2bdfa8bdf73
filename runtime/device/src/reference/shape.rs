//! Operations over places: remap, bilinear resize, softmax, argmax.

use super::{Bench, Values, each_index, flat, pointwise::range};
use pilotlight_plan::{ArgMax, Bilinear, DType, Remap, Softmax, SoftmaxRule, math};

pub(super) fn remap(bench: &Bench, r: &Remap) -> Values {
    let x = bench.read(r.input);
    let from = bench.shape(r.input);
    let out = bench.plan.tensor(r.output);
    let mut index = Vec::new();
    each_index(&bench.shape(r.output), |i| {
        let source: Option<Vec<usize>> = r
            .axes
            .iter()
            .zip(i)
            .map(|(list, &i)| list.as_ref().map_or(Some(i), |l| usize::try_from(l[i]).ok()))
            .collect();
        index.push(source.map(|s| flat(&from, &s)));
    });
    match r.table {
        None => x.gather(&index, out.dtype, r.fill),
        Some(table) => {
            let table = bench.plan.blob(table);
            let fill = Values::Int(vec![]).gather(&[None], out.dtype, r.fill);
            let value = |k: usize| super::pointwise::look_up(table, x.ints()[k], out.dtype);
            Values::Int(index.iter().map(|k| k.map_or(fill.ints()[0], value)).collect())
        }
    }
}

pub(super) fn bilinear(bench: &Bench, b: &Bilinear) -> Values {
    let x = bench.read(b.input);
    let shape = bench.shape(b.input);
    let rank = shape.len();
    let (h, w) = if rank == 4 { (shape[2], shape[3]) } else { (1, shape[2]) };
    let dtype = bench.plan.tensor(b.output).dtype;
    let (mut ints, mut floats) = (Vec::new(), Vec::new());
    for plane in 0..shape[0] * shape[1] {
        for &(top, bottom, fy) in &b.rows {
            for &(left, right, fx) in &b.columns {
                let value = |y: u32, x_: u32| {
                    let k = (plane * h + y as usize) * w + x_ as usize;
                    if dtype == DType::F32 { x.floats()[k] } else { x.ints()[k] as f32 }
                };
                let (gx, gy) = (1.0 - fx, 1.0 - fy);
                let mixed = (gx * gy) * value(top, left)
                    + (fx * gy) * value(top, right)
                    + (gx * fy) * value(bottom, left)
                    + (fx * fy) * value(bottom, right);
                if dtype == DType::F32 {
                    floats.push(mixed);
                } else {
                    let (lo, hi) = range(dtype);
                    ints.push(math::round_to(mixed.trunc(), 0, lo, hi));
                }
            }
        }
    }
    if dtype == DType::F32 { Values::Float(floats) } else { Values::Int(ints) }
}

/// Calls `visit` with the positions of each line along `axis`.
fn each_line(shape: &[usize], axis: usize, mut visit: impl FnMut(Vec<usize>)) {
    let mut outer = shape.to_vec();
    outer[axis] = 1;
    each_index(&outer, |base| {
        let mut index = base.to_vec();
        visit(
            (0..shape[axis])
                .map(|i| {
                    index[axis] = i;
                    flat(shape, &index)
                })
                .collect(),
        );
    });
}

pub(super) fn softmax(bench: &Bench, s: &Softmax) -> Values {
    let x = bench.read(s.input);
    match s.rule {
        SoftmaxRule::Float => {
            let x = x.floats();
            let mut y = vec![0.0; x.len()];
            each_line(&bench.shape(s.input), s.axis as usize, |line| {
                let max = line.iter().fold(f32::NEG_INFINITY, |m, &k| if x[k] > m { x[k] } else { m });
                let mut sum = 0.0;
                for &k in &line {
                    y[k] = math::exp(x[k] - max);
                    sum += y[k];
                }
                for &k in &line {
                    y[k] /= sum;
                }
            });
            Values::Float(y)
        }
        SoftmaxRule::QLinear { table, inverse, zero } => {
            let (x, table) = (x.ints(), bench.plan.blob_f32(table));
            let dtype = bench.plan.tensor(s.input).dtype;
            let mut y = vec![0; x.len()];
            each_line(&bench.shape(s.input), s.axis as usize, |line| {
                let shift = range(dtype).1 - line.iter().map(|&k| x[k]).max().unwrap_or(0);
                let e: Vec<f32> = line.iter().map(|&k| table[usize::from((x[k] + shift) as u8)]).collect();
                let sum = e.iter().fold(0.0, |s: f32, &e| s + e);
                for (&k, e) in line.iter().zip(e) {
                    let scaled = if sum == 0.0 { 0.0 } else { (e * inverse) / sum };
                    let (lo, hi) = range(dtype);
                    y[k] = math::round_to(scaled, zero, lo, hi);
                }
            });
            Values::Int(y)
        }
    }
}

pub(super) fn arg_max(bench: &Bench, a: &ArgMax) -> Values {
    let x = bench.read(a.input);
    let mut best = Vec::new();
    each_line(&bench.shape(a.input), a.axis as usize, |line| {
        let greater = |i: usize, j: usize| match &x {
            Values::Int(v) => v[i] > v[j] || (a.last && v[i] == v[j]),
            Values::Float(v) => v[i] > v[j] || (a.last && v[i] == v[j]),
            Values::Long(v) => v[i] > v[j] || (a.last && v[i] == v[j]),
        };
        let winner = (1..line.len()).fold(0, |w, i| if greater(line[i], line[w]) { i } else { w });
        best.push(winner as i64);
    });
    Values::Long(best)
}
