//! Times of the CPU device on networks of well-known shapes with random weights, and where the time goes.
//!
//! `cargo run --release -p pilotlight-device --example speed [NET] [THREADS] [ISA] [--steps] [--check]`; NET is
//! `efficientnet-lite0`, `mobilenetv2`, `resnet50`, or the path of a plan. `--check` compares every step with the
//! reference device.

#![allow(clippy::unwrap_used, reason = "a tool for developers: a failure ends it")]

#[path = "../tests/support/mod.rs"]
mod support;

use pilotlight_device::{Cpu, CpuOptions, Device, Isa, Reference};
use pilotlight_plan::*;
use std::time::Instant;
use support::Builder;

const RULE: BinaryRule = BinaryRule::QLinearAdd { ra: 0.7, rb: 0.6, fix: -20.0 };

struct Net {
    b: Builder,
    at: TensorId,
}

impl Net {
    fn new() -> Self {
        let mut b = Builder::new(7);
        let image = b.input(&[1, 3, 224, 224], DType::F32);
        let at = plain(&mut b, &[1, 3, 224, 224]);
        let quant = vec![Quant { scale: 4.0, zero_point: 128 }];
        b.step(Op::Quantize(Convert { input: image, output: at, axis: 0, quant }));
        Self { b, at }
    }

    fn shape(&self) -> [u32; 4] {
        self.b.plan.tensor(self.at).shape.clone().try_into().unwrap()
    }

    fn linear(&mut self, outputs: u32, group_inputs: u32, k: u32, relu: bool, post: Vec<Post>) -> Linear {
        let bytes: Vec<u8> = (0..outputs * k).map(|_| self.b.rng.next() as u8).collect();
        let scale: Vec<f32> = (0..outputs).map(|c| 1e-5 * (1.0 + c as f32 * 1e-3)).collect();
        let (zero, lo) = if relu { (0, 0) } else { (120, 0) };
        let scale = self.b.f32_blob(&scale);
        Linear {
            weights: self.b.blob(&bytes),
            weights_dtype: DType::I8,
            weights_zero: vec![0],
            bias: None,
            input_zero: 0,
            group_inputs,
            outputs,
            epilogue: Epilogue::Requant(Requant { scale, zero, dtype: DType::U8, lo, hi: 255, post }),
        }
    }

    /// A convolution padded to keep its extent but for the stride; `add` is a residual.
    fn conv(&mut self, k: u32, s: u32, outputs: u32, groups: u32, relu: bool, add: Option<TensorId>) {
        let [n, c, h, w] = self.shape();
        let out = |e: u32| (e + 2 * (k / 2) - k) / s + 1;
        let output = plain(&mut self.b, &[n, outputs, out(h), out(w)]);
        let post = add.map(|other| Post::Binary { other, value_is_a: true, rule: RULE, dtype: DType::U8 });
        let linear = self.linear(outputs, c / groups, c / groups * k * k, relu, post.into_iter().collect());
        let window = Window { kernel: [k; 2], stride: [s; 2], dilation: [1; 2], pads: [k / 2; 4] };
        self.b.step(Op::Conv(Conv { input: self.at, output, window, groups, linear }));
        self.at = output;
    }

    fn inverted(&mut self, k: u32, s: u32, expand: u32, outputs: u32) {
        let from = self.at;
        let c = self.shape()[1];
        if expand > 1 {
            self.conv(1, 1, c * expand, 1, true, None);
        }
        self.conv(k, s, c * expand, c * expand, true, None);
        self.conv(1, 1, outputs, 1, false, (s == 1 && c == outputs).then_some(from));
    }

    fn bottleneck(&mut self, s: u32, width: u32) {
        let from = self.at;
        let project = self.shape()[1] != width * 4;
        if project {
            self.conv(1, s, width * 4, 1, false, None);
        }
        let shortcut = std::mem::replace(&mut self.at, from);
        self.conv(1, 1, width, 1, true, None);
        self.conv(3, s, width, 1, true, None);
        self.conv(1, 1, width * 4, 1, true, Some(shortcut));
    }

    fn head(mut self) -> Plan {
        let [n, c, ..] = self.shape();
        let mean = self.b.buffer(Space::Arena, u64::from(c));
        let mean = self.b.tensor(&[n, c], DType::U8, mean, 0, vec![u64::from(c), 1]);
        let rule = MeanRule::Integer { scale: 0.02, input_zero: 0, zero: 0 };
        self.b.step(Op::Mean(Mean { input: self.at, output: mean, axes: vec![2, 3], rule }));
        let logits = self.b.buffer(Space::Arena, 1000);
        let logits = self.b.tensor(&[n, 1000], DType::U8, logits, 0, vec![1000, 1]);
        let linear = self.linear(1000, c, c, false, vec![]);
        self.b.step(Op::Gemm(Gemm { input: mean, output: logits, linear }));
        let output = self.b.output(&[n, 1000], DType::F32);
        let quant = vec![Quant { scale: 0.1, zero_point: 120 }];
        self.b.step(Op::Dequantize(Convert { input: logits, output, axis: 0, quant }));
        self.b.finish()
    }
}

fn plain(b: &mut Builder, shape: &[u32]) -> TensorId {
    let pixel = Builder::pixel(shape[1]);
    let buffer = b.buffer(Space::Arena, pixel * u64::from(shape[0] * shape[2] * shape[3]));
    b.tensor(shape, DType::U8, buffer, 0, Builder::channels_last(shape, pixel))
}

fn net(name: &str) -> Option<Plan> {
    let mut net = Net::new();
    match name {
        "efficientnet-lite0" | "mobilenetv2" => {
            // Kernel, expansion, channels, repetitions, stride.
            let blocks: &[(u32, u32, u32, u32, u32)] = if name == "mobilenetv2" {
                &[
                    (3, 1, 16, 1, 1),
                    (3, 6, 24, 2, 2),
                    (3, 6, 32, 3, 2),
                    (3, 6, 64, 4, 2),
                    (3, 6, 96, 3, 1),
                    (3, 6, 160, 3, 2),
                    (3, 6, 320, 1, 1),
                ]
            } else {
                &[
                    (3, 1, 16, 1, 1),
                    (3, 6, 24, 2, 2),
                    (5, 6, 40, 2, 2),
                    (3, 6, 80, 3, 2),
                    (5, 6, 112, 3, 1),
                    (5, 6, 192, 4, 2),
                    (3, 6, 320, 1, 1),
                ]
            };
            net.conv(3, 2, 32, 1, true, None);
            for &(k, expand, channels, times, stride) in blocks {
                for i in 0..times {
                    net.inverted(k, if i == 0 { stride } else { 1 }, expand, channels);
                }
            }
            net.conv(1, 1, 1280, 1, true, None);
        }
        "resnet50" => {
            net.conv(7, 2, 64, 1, true, None);
            let output = plain(&mut net.b, &[1, 64, 56, 56]);
            let window = Window { kernel: [3; 2], stride: [2; 2], dilation: [1; 2], pads: [1; 4] };
            net.b.step(Op::Pool(Pool { input: net.at, output, window, rule: PoolRule::Max }));
            net.at = output;
            for (i, (width, times)) in [(64, 3), (128, 4), (256, 6), (512, 3)].into_iter().enumerate() {
                for j in 0..times {
                    net.bottleneck(if i > 0 && j == 0 { 2 } else { 1 }, width);
                }
            }
        }
        _ => return None,
    }
    Some(net.head())
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let steps = args.iter().any(|a| a == "--steps");
    let words: Vec<&str> = args.iter().map(String::as_str).filter(|a| !a.starts_with("--")).collect();
    let name = words.first().copied().unwrap_or("efficientnet-lite0");
    let threads = words.get(1).map_or(1, |t| t.parse().expect("THREADS is a number"));
    let isa = words.get(2).map(|i| Isa::from_name(i).unwrap_or_else(|e| panic!("{e}")));
    let plan = match net(name) {
        Some(plan) => plan,
        None => Plan::open(name).unwrap_or_else(|e| panic!("{name} is no net above, and no plan: {e}")),
    };
    let cpu = Cpu::new(CpuOptions { threads, isa }).unwrap_or_else(|e| panic!("{e}"));
    // The first load also pays for pages that the allocator keeps afterwards.
    let mut load = std::time::Duration::MAX;
    for _ in 0..20 {
        let begin = Instant::now();
        drop(cpu.load(&plan).unwrap());
        load = load.min(begin.elapsed());
    }
    let mut program = cpu.load(&plan).unwrap();
    let mut slot = program.slot().unwrap();
    let mut rng = support::Rng::new(1);
    for b in slot.input_mut(0).chunks_exact_mut(4) {
        b.copy_from_slice(&(rng.range(-500, 500) as f32).to_le_bytes());
    }
    if args.iter().any(|a| a == "--check") {
        let mut wanted: Vec<Vec<u8>> = vec![];
        Reference.load(&plan).unwrap().run_observed(&mut slot, &mut |_, y| wanted.push(y.to_vec())).unwrap();
        let mut wrong = 0;
        let mut observe = |i: usize, y: &[u8]| {
            let differ = y.iter().zip(&wanted[i]).filter(|(a, b)| a != b).count();
            if differ > 0 {
                wrong += 1;
                println!(
                    "step {i} {:?} {}: {differ} of {} bytes differ",
                    plan.steps[i].nodes,
                    plan.steps[i].op.name(),
                    y.len()
                );
            }
        };
        program.run_observed(&mut slot, &mut observe).unwrap();
        println!("{wrong} of {} steps differ from the reference", plan.steps.len());
    }
    let mut times: Vec<u128> = Vec::new();
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 2.0 {
        let start = Instant::now();
        program.run(&mut slot).unwrap();
        times.push(start.elapsed().as_micros());
    }
    times.sort();
    let n = times.len();
    println!(
        "{name}, {}: load {:.2} ms, min {} us, p50 {} us, p99 {} us, {n} runs",
        cpu.describe(),
        load.as_secs_f64() * 1e3,
        times[0],
        times[n / 2],
        times[n * 99 / 100]
    );
    if steps {
        let mut best = vec![u64::MAX; plan.steps.len()];
        let mut nanos = vec![];
        for _ in 0..200 {
            program.run_timed(&mut slot, &mut nanos).unwrap();
            best.iter_mut().zip(&nanos).for_each(|(b, n)| *b = (*b).min(*n));
        }
        for (step, ns) in plan.steps.iter().zip(&best) {
            let (shape, macs) = (&plan.tensor(step.op.writes()).shape, macs(&plan, &step.op));
            let rate = macs as f64 / *ns as f64;
            println!(
                "{:>9.1} us {rate:>7.1} GMAC/s {:<10} {shape:?} {}",
                *ns as f64 / 1e3,
                step.op.name(),
                detail(&step.op)
            );
        }
        println!("{:>9.1} us in all", best.iter().sum::<u64>() as f64 / 1e3);
    }
}

fn macs(plan: &Plan, op: &Op) -> u64 {
    let each = match op {
        Op::Conv(c) => u64::from(c.linear.group_inputs * c.window.kernel[0] * c.window.kernel[1]),
        Op::Gemm(g) => g.linear.group_inputs.into(),
        _ => 0,
    };
    each * plan.tensor(op.writes()).elements()
}

fn detail(op: &Op) -> String {
    match op {
        Op::Conv(c) => format!(
            "{}x{} /{} from {}",
            c.window.kernel[0], c.window.kernel[1], c.window.stride[0], c.linear.group_inputs
        ),
        _ => String::new(),
    }
}
