//! Every operation without weights on the CPU device against the reference, over random shapes, layouts and types.

#[path = "support/compare.rs"]
mod compare;
mod support;

use compare::compare;
use pilotlight_plan::*;
use std::cell::Cell;
use support::{Builder, INT8, rule};

/// The CPU device in every variant. Runners of other devices have a list of their own.
#[allow(dead_code, clippy::unwrap_used, reason = "unused where another crate includes this file")]
fn devices() -> Vec<Box<dyn pilotlight_device::Device>> {
    use pilotlight_device::{Cpu, CpuOptions, Isa};
    let each = |isa| {
        [1, 2].map(|threads| {
            let cpu = Cpu::new(CpuOptions { threads, isa: Some(isa) }).unwrap();
            Box::new(cpu) as Box<dyn pilotlight_device::Device>
        })
    };
    Isa::available().into_iter().flat_map(each).collect()
}

const SEEDS: u64 = 60;

/// Builds a plan for each seed and compares it.
fn check(op: &str, first: u64, build: impl Fn(&mut Builder) -> String) {
    for seed in first..first + SEEDS {
        let mut b = Builder::new(seed);
        let what = build(&mut b);
        compare(&b.finish(), seed, &format!("{op}, seed {seed}: {what}"));
    }
}

fn image(b: &mut Builder) -> Vec<u32> {
    let c = b.rng.pick(&[1, 3, 4, 16, 20, 64, 70, 200]);
    vec![b.rng.size(1, 2), c, b.rng.size(1, 12), b.rng.size(1, 40)]
}

/// An operand: channels last, or row-major.
fn operand(b: &mut Builder, shape: &[u32], dtype: DType) -> TensorId {
    if shape.len() == 4 && b.rng.chance(2) { b.fed(shape, dtype) } else { b.input(shape, dtype) }
}

/// Where a result goes, and a step that follows to bring it out.
fn result(b: &mut Builder, shape: &[u32], dtype: DType, op: impl FnOnce(TensorId) -> Op) {
    if shape.len() == 4 && b.rng.chance(2) {
        let (y, end) = b.delivered(shape, dtype);
        b.step(op(y));
        b.copy(y, end);
    } else {
        let y = b.output(shape, dtype);
        b.step(op(y));
    }
}

#[test]
fn tables() {
    check("table", 0, |b| {
        let (shape, x, y) = (image(b), b.rng.pick(&INT8), b.rng.pick(&[DType::U8, DType::I8, DType::F32]));
        let input = operand(b, &shape, x);
        let table = if y == DType::F32 {
            let list: Vec<f32> = (0..256).map(|_| b.rng.range(-999, 999) as f32).collect();
            b.f32_blob(&list)
        } else {
            b.table()
        };
        result(b, &shape, y, |output| Op::Table(Table { input, output, table }));
        format!("{shape:?} {x} -> {y}")
    });
}

/// As concatenation leaves its parts: beside each other in one buffer.
#[test]
fn neighbours_in_one_buffer() {
    check("neighbours", 8000, |b| {
        let mut shape = image(b);
        shape[1] = b.rng.pick(&[3, 16, 20, 32]);
        let dtype = b.rng.pick(&INT8);
        let pixels = shape[0] * shape[2] * shape[3];
        let buffer = b.buffer(Space::Arena, 64 * u64::from(pixels));
        let halves = [0, 32].map(|at| {
            let (input, table) = (b.input(&shape, dtype), b.table());
            let output = b.tensor(&shape, dtype, buffer, at, Builder::channels_last(&shape, 64));
            b.step(Op::Table(Table { input, output, table }));
            output
        });
        for half in halves {
            let end = b.output(&shape, dtype);
            b.copy(half, end);
        }
        format!("{shape:?} {dtype}")
    });
}

#[test]
fn binaries() {
    check("binary", 1000, |b| {
        let shape = image(b);
        let (mut left, mut right) = (shape.clone(), shape.clone());
        for d in 0..4 {
            match b.rng.range(0, 9) {
                0 => left[d] = 1,
                1 => right[d] = 1,
                _ => (),
            }
        }
        let shape: Vec<u32> = left.iter().zip(&right).map(|(&l, &r)| l.max(r)).collect();
        if b.rng.chance(4) {
            right = right.split_off(2);
        }
        let shape = if right.len() == 2 {
            vec![left[0], left[1], left[2].max(right[0]), left[3].max(right[1])]
        } else {
            shape
        };
        let types = [b.rng.pick(&INT8), b.rng.pick(&INT8), b.rng.pick(&INT8)];
        let types = if b.rng.chance(2) { [types[0]; 3] } else { types };
        let (rule, types) = if b.rng.chance(6) {
            (
                BinaryRule::Float(b.rng.pick(&[BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul])),
                [DType::F32; 3],
            )
        } else {
            (rule(b, [types[0], types[1]], types[2]), types)
        };
        let (p, q) = (operand(b, &left, types[0]), operand(b, &right, types[1]));
        result(b, &shape, types[2], |output| Op::Binary(Binary { a: p, b: q, output, rule }));
        format!("{left:?} {right:?} {types:?} {rule:?}")
    });
}

/// A pool. Where `rounded`, its extents are rounded up as by ONNX's `ceil_mode`; the last value says whether that
/// added a window, which then reaches past the padding.
fn pool(b: &mut Builder, rounded: bool) -> (String, PoolRule, bool) {
    let shape = image(b);
    let kernel = [b.rng.size(1, 5), b.rng.size(1, 5)];
    let least = if rounded { 2 } else { 1 };
    let stride = [b.rng.size(least, 3), b.rng.size(least, 3)];
    let dilation = if b.rng.chance(5) { [2, 2] } else { [1, 1] };
    let reach = [0, 1].map(|d| dilation[d] * (kernel[d] - 1) + 1);
    let mut pads = [0; 4];
    for d in 0..4 {
        pads[d] = b.rng.size(0, (kernel[d % 2] / 2 + 1).min(reach[d % 2] - 1));
    }
    for d in 0..2 {
        pads[d] = pads[d].max(reach[d].saturating_sub(shape[2 + d] + pads[d + 2]));
    }
    let floor = [0, 1].map(|d| (shape[2 + d] + pads[d] + pads[d + 2] - reach[d]) / stride[d] + 1);
    let out = [0, 1].map(|d| {
        let whole = (floor[d] - 1) * stride[d] + reach[d] == shape[2 + d] + pads[d] + pads[d + 2];
        // A window may only be added if it begins inside the input or the padding before it.
        let begins = floor[d] * stride[d] < shape[2 + d] + pads[d];
        floor[d] + u32::from(rounded && !whole && begins)
    });
    let to = vec![shape[0], shape[1], out[0], out[1]];
    let window = Window { kernel, stride, dilation, pads };
    let (x, y) = (b.rng.pick(&INT8), b.rng.pick(&INT8));
    let count_pads = b.rng.chance(2);
    // Maxima do not see where padding ends, so there are fewer of them here.
    let (rule, x, y) = match b.rng.range(0, if rounded { 3 } else { 5 }) {
        0 => (PoolRule::MeanF32 { count_pads }, DType::F32, DType::F32),
        1 => (PoolRule::Max, DType::F32, DType::F32),
        2 => (PoolRule::Mean8 { input: b.rng.quant(x), output: b.rng.quant(y), count_pads }, x, y),
        _ => (PoolRule::Max, x, x),
    };
    let input = operand(b, &shape, x);
    result(b, &to, y, |output| Op::Pool(Pool { input, output, window, rule }));
    (format!("{shape:?} {window:?} -> {out:?} {rule:?} {x} -> {y}"), rule, out != floor)
}

#[test]
fn pools() {
    check("pool", 2000, |b| pool(b, false).0);
}

#[test]
fn rounded_pools() {
    // Float and 8-bit means, without padding counted and with.
    let added = [const { Cell::new(0) }; 4];
    let build = |b: &mut Builder| {
        let (what, rule, more) = pool(b, true);
        let (kind, count_pads) = match rule {
            PoolRule::MeanF32 { count_pads } => (0, count_pads),
            PoolRule::Mean8 { count_pads, .. } => (2, count_pads),
            PoolRule::Max => return what,
        };
        let count = &added[kind + usize::from(count_pads)];
        count.set(count.get() + usize::from(more));
        what
    };
    for first in [9000, 9100] {
        check("pool", first, build);
    }
    assert!(added.iter().all(|n| n.get() >= 2), "{added:?}: some mean has no window that rounding up added");
}

#[test]
fn means() {
    check("mean", 3000, |b| {
        let shape = image(b);
        let axes = b.rng.pick(&[&[2_u32, 3][..], &[2, 3], &[1], &[0, 3], &[3]]).to_vec();
        let kept: Vec<u32> =
            shape.iter().enumerate().map(|(d, &e)| if axes.contains(&(d as u32)) { 1 } else { e }).collect();
        let dropped: Vec<u32> =
            shape.iter().enumerate().filter(|(d, _)| !axes.contains(&(*d as u32))).map(|(_, &e)| e).collect();
        let to = if b.rng.chance(2) { kept } else { dropped };
        let (x, y) = (b.rng.pick(&INT8), b.rng.pick(&INT8));
        let (rule, x, y) = match b.rng.range(0, 3) {
            0 => (MeanRule::Float, DType::F32, DType::F32),
            1 => (MeanRule::Dequantised { input: b.rng.quant(x), output: b.rng.quant(y) }, x, y),
            _ => {
                let scale = b.rng.range(1, 100) as f32 * 1e-3;
                (MeanRule::Integer { scale, input_zero: b.rng.int8(x), zero: b.rng.int8(y) }, x, y)
            }
        };
        let input = operand(b, &shape, x);
        let named = axes.clone();
        result(b, &to, y, |output| Op::Mean(Mean { input, output, axes, rule }));
        format!("{shape:?} over {named:?} {rule:?} {x} -> {y}")
    });
}

#[test]
fn conversions() {
    check("conversion", 4000, |b| {
        let (shape, q) = (image(b), b.rng.pick(&INT8));
        let axis = b.rng.size(0, 3);
        let count = if b.rng.chance(4) { shape[axis as usize] } else { 1 };
        let quant: Vec<Quant> = (0..count).map(|_| b.rng.quant(q)).collect();
        match b.rng.range(0, 3) {
            0 => {
                let input = operand(b, &shape, q);
                result(b, &shape, DType::F32, |output| {
                    Op::Dequantize(Convert { input, output, axis, quant })
                });
            }
            1 => {
                let types = [DType::U8, DType::I8, DType::I32, DType::F32, DType::I64];
                let (from, to) = (b.rng.pick(&types[..4]), b.rng.pick(&types));
                let input = operand(b, &shape, from);
                result(b, &shape, to, |output| Op::Cast(Cast { input, output }));
            }
            _ => {
                let input = operand(b, &shape, DType::F32);
                result(b, &shape, q, |output| Op::Quantize(Convert { input, output, axis, quant }));
            }
        }
        format!("{shape:?} {q} axis {axis}")
    });
}

#[test]
fn remaps() {
    check("remap", 5000, |b| {
        let (shape, dtype) = (image(b), b.rng.pick(&[DType::U8, DType::I8, DType::F32, DType::I32]));
        let mut to = shape.clone();
        let mut axes = vec![None; 4];
        for d in 0..4 {
            let e = shape[d] as i32;
            axes[d] = match b.rng.range(0, 6) {
                0 => Some((0..2 * e).map(|i| i / 2).collect::<Vec<i32>>()),
                1 => Some((0..e).rev().collect()),
                2 => Some((-1..=e).map(|i| if i < e { i } else { -1 }).collect()),
                3 => Some((e / 2..e).collect()),
                4 => Some((0..e).step_by(2).collect()),
                _ => None,
            };
            to[d] = axes[d].as_ref().map_or(shape[d], |l| l.len() as u32);
        }
        let table = (dtype.is_int8() && b.rng.chance(2)).then(|| b.table());
        let fill = b.rng.next() & 0xffff_ffff;
        // NaN bits pass through the reference as they are, so every fill is comparable.
        let input = operand(b, &shape, dtype);
        result(b, &to, dtype, |output| Op::Remap(Remap { input, output, axes, fill, table }));
        format!("{shape:?} -> {to:?} {dtype}")
    });
}

#[test]
fn functions_and_resizes() {
    check("function", 6000, |b| {
        let shape = image(b);
        let dtype = b.rng.pick(&[DType::U8, DType::I8, DType::F32]);
        let axis = b.rng.size(0, 3);
        match b.rng.range(0, 3) {
            0 => {
                let function = b.rng.pick(&[
                    Function::Relu,
                    Function::Clip { lo: -1.0, hi: 3.0 },
                    Function::Sigmoid,
                    Function::HardSwish,
                    Function::Tanh,
                    Function::LeakyRelu { alpha: 0.1 },
                ]);
                let input = operand(b, &shape, DType::F32);
                result(b, &shape, DType::F32, |output| Op::Unary(Unary { input, output, function }));
            }
            1 if dtype.is_int8() => {
                let exponents: Vec<f32> = (0..256).map(|i| (i as f32 / 20.0 - 12.8).exp()).collect();
                let table = b.f32_blob(&exponents);
                let rule = SoftmaxRule::QLinear { table, inverse: 256.0, zero: b.rng.int8(dtype) };
                let input = operand(b, &shape, dtype);
                result(b, &shape, dtype, |output| Op::Softmax(Softmax { input, output, axis, rule }));
            }
            1 => {
                let input = operand(b, &shape, DType::F32);
                let rule = SoftmaxRule::Float;
                result(b, &shape, DType::F32, |output| Op::Softmax(Softmax { input, output, axis, rule }));
            }
            2 => {
                let mut to = shape.clone();
                to[axis as usize] = 1;
                if b.rng.chance(2) {
                    to.remove(axis as usize);
                }
                let last = b.rng.chance(2);
                let input = operand(b, &shape, dtype);
                result(b, &to, DType::I64, |output| Op::ArgMax(ArgMax { input, output, axis, last }));
            }
            _ => {
                let places = |b: &mut Builder, e: u32| -> Vec<(u32, u32, f32)> {
                    (0..e + 3)
                        .map(|_| (b.rng.size(0, e - 1), b.rng.size(0, e - 1), b.rng.range(0, 8) as f32 / 8.0))
                        .collect()
                };
                let (rows, columns) = (places(b, shape[2]), places(b, shape[3]));
                let to = vec![shape[0], shape[1], shape[2] + 3, shape[3] + 3];
                let input = operand(b, &shape, dtype);
                result(b, &to, dtype, |output| Op::Bilinear(Bilinear { input, output, rows, columns }));
            }
        }
        format!("{shape:?} {dtype} axis {axis}")
    });
}

#[test]
fn products_of_computed_tensors() {
    check("matmul", 7000, |b| {
        let (m, k, n) = (b.rng.size(1, 20), b.rng.size(1, 40), b.rng.size(1, 20));
        let batch = [b.rng.size(1, 3), b.rng.size(1, 2)];
        let (x, y) = (b.rng.pick(&INT8), b.rng.pick(&INT8));
        let (left, to) = ([batch[0], batch[1], m, k], [batch[0], batch[1], m, n]);
        let right = if b.rng.chance(2) { vec![k, n] } else { vec![1, batch[1], k, n] };
        let zeros = |b: &mut Builder, d, count: u32| {
            let count = if b.rng.chance(3) { count } else { 1 };
            (0..count).map(|_| b.rng.int8(d)).collect::<Vec<i32>>()
        };
        let (a_zero, b_zero) = (zeros(b, x, m), zeros(b, y, n));
        let (a, c) = (operand(b, &left, x), operand(b, &right, y));
        let scale = b.f32_blob(&[1e-4]);
        let (epilogue, dtype) = match b.rng.range(0, 2) {
            0 => (Epilogue::Raw, DType::I32),
            1 => (Epilogue::Float { scale }, DType::F32),
            _ => {
                let post = vec![];
                (
                    Epilogue::Requant(Requant { scale, zero: 3, dtype: DType::U8, lo: 0, hi: 255, post }),
                    DType::U8,
                )
            }
        };
        result(b, &to, dtype, |output| Op::MatMul(MatMul { a, b: c, output, a_zero, b_zero, epilogue }));
        format!("{left:?} by {right:?} {x} {y} -> {dtype}")
    });
}

/// Memory of the caller's is written by one step and read by another, whose parts need parts of many.
#[test]
fn outputs_that_a_later_step_reads() {
    for seed in 8000..8004 {
        let mut b = Builder::new(seed);
        let (h, w) = (b.rng.size(20, 90), b.rng.size(20, 90));
        let x = b.input(&[1, 1, h, w], DType::U8);
        let first = b.output(&[1, 1, h, w], DType::U8);
        b.copy(x, first);
        let written = b.plan.tensor(first).clone();
        let turned = b.tensor(&[1, 1, w, h], DType::U8, written.buffer, 0, vec![0, 0, 1, u64::from(w)]);
        let second = b.output(&[1, 1, w, h], DType::U8);
        b.copy(turned, second);
        compare(&b.finish(), seed, &format!("seed {seed}: {h} x {w} copied, then turned"));
    }
}

/// A step writes where other parts of the step before it still read: rows are turned over in between.
#[test]
fn memory_that_is_used_again() {
    for seed in 8100..8104 {
        let mut b = Builder::new(seed);
        let shape = [1, 16, b.rng.size(20, 60), b.rng.size(8, 40)];
        let (x, end) = (b.input(&shape, DType::U8), b.output(&shape, DType::U8));
        let [first, turned, again] = [0; 3].map(|_| b.activation(&shape, DType::U8));
        b.copy(x, first);
        let mut axes = vec![None; 4];
        axes[2] = Some((0..shape[2] as i32).rev().collect());
        b.step(Op::Remap(Remap { input: first, output: turned, axes, fill: 0, table: None }));
        b.copy(turned, again);
        b.copy(again, end);
        compare(&b.finish(), seed, &format!("seed {seed}: {shape:?} turned over"));
    }
}
