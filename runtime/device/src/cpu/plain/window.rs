//! Windows, pools and means.

use super::linear::range;
use super::view::{Index, Value, View};
use crate::cpu::place::Bases;
use pilotlight_plan::{DType, MeanRule, PoolRule, Window, math, validate::MAX_RANK};

/// Calls `visit` with the kernel row and column and the input index of every place of a window inside the input;
/// returns how many places lie inside the padded input.
pub(super) fn each_place(
    x: &View,
    w: &Window,
    i: &Index,
    mut visit: impl FnMut(usize, usize, &Index),
) -> usize {
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
/// As [`super::Plain::element`].
pub(super) unsafe fn pool(
    bases: &Bases,
    i: &Index,
    x: &View,
    w: &Window,
    rule: PoolRule,
    dtype: DType,
) -> Value {
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
/// As [`super::Plain::element`].
pub(super) unsafe fn mean(
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
