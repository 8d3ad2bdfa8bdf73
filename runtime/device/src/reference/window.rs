//! Pools and means.

use super::{Bench, Values, each_index, flat, pointwise::range};
use pilotlight_plan::{DType, Mean, MeanRule, Pool, PoolRule, math};

pub(super) fn pool(bench: &Bench, p: &Pool) -> Values {
    let x = bench.read(p.input);
    let spatial = |s: Vec<usize>| if s.len() == 4 { [s[0], s[1], s[2], s[3]] } else { [s[0], s[1], 1, s[2]] };
    let shape = spatial(bench.shape(p.input));
    let [_, _, h, w] = shape;
    let dtype = bench.plan.tensor(p.output).dtype;
    let [kh, kw] = p.window.kernel.map(|k| k as usize);
    let (mut ints, mut floats) = (Vec::new(), Vec::new());
    each_index(&spatial(bench.shape(p.output)), |i| {
        let at = |o: usize, t: usize, d: usize| {
            o * p.window.stride[d] as usize + t * p.window.dilation[d] as usize
        };
        // The elements of the window in row-major order, and how many places count where padding does: those up
        // to the end of the padded input (a window that rounding up added may reach further).
        let (mut window, mut padded) = (Vec::new(), 0);
        for ky in 0..kh {
            for kx in 0..kw {
                let (y, xx) = (at(i[2], ky, 0), at(i[3], kx, 1));
                let [top, left, bottom, right] = p.window.pads.map(|v| v as usize);
                padded += usize::from(y < top + h + bottom && xx < left + w + right);
                if let (Some(y), Some(xx)) = (y.checked_sub(top), xx.checked_sub(left))
                    && y < h
                    && xx < w
                {
                    window.push(flat(&shape, &[i[0], i[1], y, xx]));
                }
            }
        }
        let divisor = |count_pads: bool| if count_pads { padded } else { window.len() }.max(1) as f32;
        match p.rule {
            PoolRule::Max if dtype == DType::F32 => {
                floats.push(
                    window
                        .iter()
                        .fold(f32::NEG_INFINITY, |m, &k| if x.floats()[k] > m { x.floats()[k] } else { m }),
                );
            }
            PoolRule::Max => ints.push(window.iter().map(|&k| x.ints()[k]).max().unwrap_or(range(dtype).0)),
            PoolRule::MeanF32 { count_pads } => {
                floats.push(window.iter().fold(0.0, |s, &k| s + x.floats()[k]) / divisor(count_pads));
            }
            PoolRule::Mean8 { input, output, count_pads } => {
                let real = |k: usize| (x.ints()[k] - input.zero_point) as f32 * input.scale;
                let count = if count_pads { kh * kw } else { window.len() }.max(1);
                let mean = window.iter().fold(0.0, |s, &k| s + real(k)) / count as f32;
                let (lo, hi) = range(dtype);
                ints.push(math::round_to(mean / output.scale + output.zero_point as f32, 0, lo, hi));
            }
        }
    });
    if dtype == DType::F32 { Values::Float(floats) } else { Values::Int(ints) }
}

pub(super) fn mean(bench: &Bench, m: &Mean) -> Values {
    let x = bench.read(m.input);
    let shape = bench.shape(m.input);
    let split = |reduced: bool| -> Vec<usize> {
        shape
            .iter()
            .enumerate()
            .map(|(d, &e)| if m.axes.contains(&(d as u32)) == reduced { e } else { 1 })
            .collect()
    };
    let (kept, reduced) = (split(false), split(true));
    let count = reduced.iter().product::<usize>();
    let (lo, hi) = range(bench.plan.tensor(m.output).dtype);
    let (mut ints, mut floats) = (Vec::new(), Vec::new());
    each_index(&kept, |base| {
        let mut elements = Vec::with_capacity(count);
        each_index(&reduced, |offset| {
            let index: Vec<usize> = base.iter().zip(offset).map(|(a, b)| a + b).collect();
            elements.push(flat(&shape, &index));
        });
        match m.rule {
            MeanRule::Integer { scale, input_zero, zero } => {
                let sum = elements.iter().fold(0_i32, |s, &k| s.wrapping_add(x.ints()[k] - input_zero));
                ints.push(math::round_to(sum as f32 * scale, zero, lo, hi));
            }
            MeanRule::Dequantised { input, output } => {
                let real = |k: usize| (x.ints()[k] - input.zero_point) as f32 * input.scale;
                let mean = elements.iter().fold(0.0, |s, &k| s + real(k)) / count as f32;
                ints.push(math::quantize(mean, output.scale, output.zero_point, lo, hi));
            }
            MeanRule::Float => {
                floats.push(elements.iter().fold(0.0, |s, &k| s + x.floats()[k]) / count as f32)
            }
        }
    });
    if m.rule == MeanRule::Float { Values::Float(floats) } else { Values::Int(ints) }
}
