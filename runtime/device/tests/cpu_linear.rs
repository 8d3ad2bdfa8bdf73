//! Convolutions and matrix products on the CPU device against the reference, over random shapes and types.

#[path = "support/compare.rs"]
mod compare;
mod support;

use compare::compare;
use pilotlight_plan::*;
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

/// Weights, bias and epilogue for `outputs` channels of `k` values.
fn linear(
    b: &mut Builder,
    x: DType,
    group_inputs: u32,
    outputs: u32,
    k: u32,
    shape: &[u32],
) -> (Linear, DType) {
    let n = outputs as usize;
    let weights_dtype = b.rng.pick(&INT8);
    let bytes: Vec<u8> = (0..n * k as usize)
        .map(|_| if b.rng.chance(8) { b.rng.pick(&[0, 127, 128, 255]) } else { b.rng.next() as u8 })
        .collect();
    let weights = b.blob(&bytes);
    let per_channel = if b.rng.chance(3) { n } else { 1 };
    let weights_zero = match b.rng.range(0, 3) {
        0 => (0..per_channel).map(|_| b.rng.int8(weights_dtype)).collect(),
        _ if weights_dtype == DType::U8 => vec![128],
        _ => vec![0],
    };
    let bias = b.rng.chance(2).then(|| {
        let list: Vec<u8> =
            (0..n).flat_map(|_| (b.rng.range(-100_000, 100_000) as i32).to_le_bytes()).collect();
        b.blob(&list)
    });
    let spread = (k as f32).sqrt() * 6000.0;
    let scales = |b: &mut Builder| {
        let count = if b.rng.chance(2) { n } else { 1 };
        // Results far outside the integers too.
        let spread = if b.rng.chance(12) { spread / 1e9 } else { spread };
        let list: Vec<f32> = (0..count).map(|_| b.rng.range(1, 4000) as f32 * 0.1 / spread).collect();
        b.f32_blob(&list)
    };
    let (epilogue, dtype) = match b.rng.range(0, 7) {
        0 => (Epilogue::Raw, DType::I32),
        1 => (Epilogue::Float { scale: scales(b) }, DType::F32),
        _ => {
            let dtype = b.rng.pick(&INT8);
            let (min, max) = support::range(dtype);
            let zero = b.rng.int8(dtype);
            let (lo, hi) = if b.rng.chance(3) {
                (zero, b.rng.range(zero.into(), max.into()) as i32)
            } else {
                (min, max)
            };
            let mut value = dtype;
            let mut post = vec![];
            for _ in 0..b.rng.pick(&[0, 0, 1, 2]) {
                let result = b.rng.pick(&INT8);
                if b.rng.chance(2) {
                    post.push(Post::Table { table: b.table(), dtype: result });
                } else {
                    let second = b.rng.pick(&INT8);
                    let value_is_a = b.rng.chance(2);
                    let other = match shape.len() {
                        2 => b.input(shape, second),
                        _ => b.fed(shape, second),
                    };
                    let types = if value_is_a { [value, second] } else { [second, value] };
                    let rule = rule(b, types, result);
                    post.push(Post::Binary { other, value_is_a, rule, dtype: result });
                }
                value = result;
            }
            let scale = scales(b);
            (Epilogue::Requant(Requant { scale, zero, dtype, lo, hi, post }), value)
        }
    };
    let input_zero = b.rng.int8(x);
    let l =
        Linear { weights, weights_dtype, weights_zero, bias, input_zero, group_inputs, outputs, epilogue };
    (l, dtype)
}

/// A convolution of random shape; `depthwise` fixes the groups.
fn conv(seed: u64, depthwise: bool) -> (Plan, String) {
    let mut b = Builder::new(seed);
    let x = b.rng.pick(&INT8);
    let rank3 = b.rng.chance(6);
    let kh = if rank3 { 1 } else { b.rng.pick(&[1, 1, 2, 3, 3, 5]) };
    let kernel = [kh, b.rng.pick(&[1, 1, 3, 3, 4, 5])];
    let stride = [if rank3 { 1 } else { b.rng.pick(&[1, 1, 2, 3]) }, b.rng.pick(&[1, 1, 2, 3])];
    let dilation = if b.rng.chance(4) { [b.rng.size(1, 3), b.rng.size(1, 3)] } else { [1, 1] };
    let pads = if b.rng.chance(3) {
        [0; 4]
    } else {
        let mut pad = |k: u32| b.rng.size(0, k);
        [pad(kernel[0]), pad(kernel[1]), pad(kernel[0]), pad(kernel[1])]
    };
    let pads = if rank3 { [0, pads[1], 0, pads[3]] } else { pads };
    let window = Window { kernel, stride, dilation, pads };
    let reach = |d: usize| dilation[d] * (kernel[d] - 1) + 1;
    let extent = |b: &mut Builder, d: usize| {
        let least = reach(d).saturating_sub(pads[d] + pads[d + 2]).max(1);
        b.rng.size(least, least + 18)
    };
    let (h, w) = (if rank3 { 1 } else { extent(&mut b, 0) }, extent(&mut b, 1));
    let out = |e: u32, d: usize| (e + pads[d] + pads[d + 2] - reach(d)) / stride[d] + 1;
    let (groups, per_group, group_outputs) = if depthwise {
        (b.rng.size(2, 150), 1, if b.rng.chance(6) { 2 } else { 1 })
    } else if b.rng.chance(5) {
        (b.rng.size(2, 4), b.rng.pick(&[1, 3, 8, 16, 20, 32]), b.rng.size(1, 40))
    } else {
        (1, b.rng.pick(&[1, 3, 4, 12, 16, 24, 33, 64, 100]), b.rng.pick(&[1, 7, 16, 24, 40, 64, 80, 130]))
    };
    let n = b.rng.pick(&[1, 1, 2]);
    let shape = |c: u32, h: u32, w: u32| if rank3 { vec![n, c, w] } else { vec![n, c, h, w] };
    let input = shape(groups * per_group, h, w);
    let output = shape(groups * group_outputs, out(h, 0), out(w, 1));
    let from = b.fed(&input, x);
    let k = per_group * kernel[0] * kernel[1];
    let (linear, y) = linear(&mut b, x, per_group, groups * group_outputs, k, &output);
    let what = format!(
        "seed {seed}: {input:?} {x} {window:?} groups {groups} -> {output:?} {y}, {:?}",
        linear.epilogue
    );
    if b.rng.chance(8) {
        // Straight to the row-major output.
        let to = b.output(&output, y);
        b.step(Op::Conv(Conv { input: from, output: to, window, groups, linear }));
    } else {
        let (to, end) = b.delivered(&output, y);
        b.step(Op::Conv(Conv { input: from, output: to, window, groups, linear }));
        b.copy(to, end);
    }
    (b.finish(), what)
}

#[test]
fn convolutions_equal_the_reference() {
    for seed in 0..120 {
        let (plan, what) = conv(seed, false);
        compare(&plan, seed, &what);
    }
}

#[test]
fn depthwise_convolutions_equal_the_reference() {
    for seed in 1000..1060 {
        let (plan, what) = conv(seed, true);
        compare(&plan, seed, &what);
    }
}

/// On a GPU of four multiprocessors these are whole tiles with a rest, in long sums, and several of them one after
/// the other.
#[test]
fn whole_tiles_equal_the_reference() {
    let shapes = [
        (1, 4, 7, 24, 72),
        (8, 16, 1, 4, 16),
        (8, 128, 1, 4, 16),
        (1, 16, 1, 40, 16),
        (1, 80, 3, 11, 128),
        (1, 208, 1, 32, 128),
    ];
    for (n, (groups, inputs, side, extent, outputs)) in (4000..).zip(shapes) {
        for (x, seed) in INT8.into_iter().zip([n, n + 100]) {
            let mut b = Builder::new(seed);
            let (outputs, k) = (groups * outputs, inputs * side * side);
            let (input, output) = ([1, groups * inputs, extent, extent], [1, outputs, extent, extent]);
            let from = b.fed(&input, x);
            let (linear, y) = linear(&mut b, x, inputs, outputs, k, &output);
            let pad = side / 2;
            let window = Window { kernel: [side; 2], stride: [1, 1], dilation: [1, 1], pads: [pad; 4] };
            let what = format!("seed {seed}: {input:?} {x} -> {output:?} {y}, {:?}", linear.epilogue);
            let (to, end) = b.delivered(&output, y);
            b.step(Op::Conv(Conv { input: from, output: to, window, groups, linear }));
            b.copy(to, end);
            compare(&b.finish(), seed, &what);
        }
    }
}

/// More pixels and channels than the ones above: a device may give several to a thread.
#[test]
fn depthwise_convolutions_of_many_pixels_equal_the_reference() {
    for seed in 1100..1109 {
        let mut b = Builder::new(seed);
        let x = b.rng.pick(&INT8);
        let (kernel, stride) = (b.rng.pick(&[3, 5]), b.rng.size(1, 2));
        let (channels, after) = (b.rng.size(80, 130), [b.rng.size(24, 30), b.rng.size(24, 30)]);
        let [h, w] = after.map(|extent| (extent - 1) * stride + 1);
        let (input, output) = ([1, channels, h, w], [1, channels, after[0], after[1]]);
        let from = b.fed(&input, x);
        let (linear, y) = linear(&mut b, x, 1, channels, kernel * kernel, &output);
        let window =
            Window { kernel: [kernel; 2], stride: [stride; 2], dilation: [1; 2], pads: [kernel / 2; 4] };
        let what = format!("seed {seed}: {input:?} {x} {window:?} -> {output:?} {y}, {:?}", linear.epilogue);
        let (to, end) = b.delivered(&output, y);
        b.step(Op::Conv(Conv { input: from, output: to, window, groups: channels, linear }));
        b.copy(to, end);
        compare(&b.finish(), seed, &what);
    }
}

/// A device may take several pixels at a time, and zeros for what is outside: what lies behind the last pixel stays.
#[test]
fn results_end_with_their_tensor() {
    for seed in 1200..1208 {
        let mut b = Builder::new(seed);
        let x = b.rng.pick(&INT8);
        let (channels, extent) = (96, b.rng.size(25, 27));
        let (groups, inputs) = if seed % 2 == 0 { (channels, 1) } else { (1, 32) };
        let (input, output) = ([1, groups * inputs, extent, extent], [1, channels, extent, extent]);
        let from = b.fed(&input, x);
        let (mut linear, y) = linear(&mut b, x, inputs, channels, inputs * 9, &output);
        linear.input_zero = 0;
        let end = u64::from(channels * extent * extent);
        let buffer = b.buffer(Space::Arena, end + 8 * u64::from(channels));
        let behind = [1, channels, 1, 8];
        let strides = |shape: &[u32]| Builder::channels_last(shape, channels.into());
        let (to, next) = (
            b.tensor(&output, y, buffer, 0, strides(&output)),
            b.tensor(&behind, y, buffer, end, strides(&behind)),
        );
        let noise = b.input(&behind, y);
        b.copy(noise, next);
        let window = Window { kernel: [3; 2], stride: [1; 2], dilation: [1; 2], pads: [1; 4] };
        let what = format!("seed {seed}: {input:?} {x} groups {groups} -> {y}, {:?}", linear.epilogue);
        b.step(Op::Conv(Conv { input: from, output: to, window, groups, linear }));
        for (tensor, shape) in [(to, &output), (next, &behind)] {
            let delivered = b.output(shape, y);
            b.copy(tensor, delivered);
        }
        compare(&b.finish(), seed, &what);
    }
}

/// Rows and images that are apart, as where a padded image is written in place: what lies between them stays.
#[test]
fn results_of_rows_that_are_apart() {
    for seed in 1300..1312 {
        let mut b = Builder::new(seed);
        let x = b.rng.pick(&INT8);
        let (channels, extent) = (b.rng.pick(&[16, 32, 96]), b.rng.size(5, 12));
        let (groups, inputs) = if seed % 2 == 0 { (channels, 1) } else { (1, 32) };
        let (input, output) = ([2, groups * inputs, extent, extent], [2, channels, extent, extent]);
        let from = b.fed(&input, x);
        let (mut linear, y) = linear(&mut b, x, inputs, channels, inputs * 9, &output);
        if b.rng.chance(2) {
            linear.input_zero = 0;
        }
        // One more row, column, or both.
        let [row, column] = b.rng.pick(&[[1, 0], [0, 1], [1, 1]]);
        let whole = [2, channels, extent + row, extent + column];
        let strides = Builder::channels_last(&whole, channels.into());
        let buffer = b.buffer(Space::Arena, 2 * strides[0] * y.bytes() as u64);
        let (to, all) =
            (b.tensor(&output, y, buffer, 0, strides.clone()), b.tensor(&whole, y, buffer, 0, strides));
        let noise = b.input(&whole, y);
        b.copy(noise, all);
        let window = Window { kernel: [3; 2], stride: [1; 2], dilation: [1; 2], pads: [1; 4] };
        let what = format!("seed {seed}: {input:?} {x} groups {groups} -> {output:?} {y} in {whole:?}");
        b.step(Op::Conv(Conv { input: from, output: to, window, groups, linear }));
        let delivered = b.output(&whole, y);
        b.copy(all, delivered);
        compare(&b.finish(), seed, &what);
    }
}

#[test]
fn matrix_products_equal_the_reference() {
    for seed in 2000..2050 {
        let mut b = Builder::new(seed);
        let x = b.rng.pick(&INT8);
        let (m, k, n) = (b.rng.pick(&[1, 1, 2, 17, 40]), b.rng.size(1, 200), b.rng.size(1, 150));
        // Whole pieces of 16 inputs go other ways than the rest.
        let k = if b.rng.chance(2) { k.next_multiple_of(16) } else { k };
        let from = b.input(&[m, k], x);
        let (linear, y) = linear(&mut b, x, k, n, k, &[m, n]);
        let to = b.output(&[m, n], y);
        let what = format!("seed {seed}: gemm {m} x {k} {x} by {n} -> {y}, {:?}", linear.epilogue);
        b.step(Op::Gemm(Gemm { input: from, output: to, linear }));
        compare(&b.finish(), seed, &what);
    }
}

/// Few results of many inputs each: a device may share out a single sum.
#[test]
fn long_sums_equal_the_reference() {
    for seed in 3000..3016 {
        let mut b = Builder::new(seed);
        let x = b.rng.pick(&INT8);
        let (inputs, side) = (b.rng.pick(&[512, 520, 768]), b.rng.size(3, 7));
        let outputs = b.rng.pick(&[16, 40, 64, 100]);
        let (input, output) = ([1, inputs, side, side], [1, outputs, side, side]);
        let from = b.fed(&input, x);
        let (linear, y) = linear(&mut b, x, inputs, outputs, inputs * 9, &output);
        let window = Window { kernel: [3, 3], stride: [1, 1], dilation: [1, 1], pads: [1; 4] };
        let what = format!("seed {seed}: {input:?} {x} -> {output:?} {y}, {:?}", linear.epilogue);
        let (to, end) = b.delivered(&output, y);
        b.step(Op::Conv(Conv { input: from, output: to, window, groups: 1, linear }));
        b.copy(to, end);
        compare(&b.finish(), seed, &what);
    }
}

/// Grey images: one channel, in pixels of their own or beside other channels.
#[test]
fn convolutions_of_one_channel_equal_the_reference() {
    for seed in 4000..4024 {
        let mut b = Builder::new(seed);
        let x = b.rng.pick(&INT8);
        let (kernel, stride) = (b.rng.size(1, 7), b.rng.size(1, 2));
        let (side, outputs) = (b.rng.size(8, 20), b.rng.pick(&[6, 16, 40]));
        let (input, pixel) = ([1, 1, side, side], b.rng.pick(&[4, 16, 32]));
        let after = (side + kernel / 2 * 2 - kernel) / stride + 1;
        let output = [1, outputs, after, after];
        let given = b.input(&input, x);
        let buffer = b.buffer(Space::Arena, pixel * u64::from(side * side));
        let from = b.tensor(&input, x, buffer, 0, Builder::channels_last(&input, pixel));
        b.copy(given, from);
        let (linear, y) = linear(&mut b, x, 1, outputs, kernel * kernel, &output);
        let window =
            Window { kernel: [kernel; 2], stride: [stride; 2], dilation: [1; 2], pads: [kernel / 2; 4] };
        let what = format!("seed {seed}: pixels of {pixel}, {input:?} {x} {window:?} -> {output:?} {y}");
        let (to, end) = b.delivered(&output, y);
        b.step(Op::Conv(Conv { input: from, output: to, window, groups: 1, linear }));
        b.copy(to, end);
        compare(&b.finish(), seed, &what);
    }
}
