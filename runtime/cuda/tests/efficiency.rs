//! How much of the matrix units' work is useful, how often weights come from memory, and whether main loops meet
//! bank conflicts: from the plan and the launches, and as the virtual board counts.
#![allow(clippy::unwrap_used, reason = "a test's helper fails the test")]

#[path = "../../device/tests/support/mod.rs"]
mod support;
mod virtual_orin;

use pilotlight_cuda::{Cuda, Mode, issued_macs, lower};
use pilotlight_device::Device;
use pilotlight_plan::{Conv, DType, Epilogue, Linear, Op, Plan, Requant, Space, Window};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use support::Builder;

/// Finished launches since the last call, as the virtual board reports them.
fn report() -> Vec<serde_json::Value> {
    virtual_orin::board().report().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Multiply-accumulates of a step by its definition: outputs times taps times inputs.
fn useful_macs(plan: &Plan, op: &Op) -> u64 {
    match op {
        Op::Conv(c) => {
            let taps = u64::from(c.window.kernel[0] * c.window.kernel[1]);
            plan.tensor(c.output).elements() * taps * u64::from(c.linear.group_inputs)
        }
        Op::Gemm(g) => plan.tensor(g.output).elements() * u64::from(g.linear.group_inputs),
        _ => 0,
    }
}

/// What an inference does on matrix units and in shared memory, convolutions and products alone.
#[derive(Default)]
struct Seen {
    /// Multiply-accumulates of convolutions: needed by the results, and issued.
    useful: u64,
    issued: u64,
    /// Passes over the banks in main loops, and how many of them are conflicts.
    loop_passes: u64,
    loop_conflicts: u64,
    /// The same of all instructions.
    passes: u64,
    conflicts: u64,
    /// Bytes of constants, and the most that was read from DRAM of one allocation.
    constants: u64,
    read: u64,
}

/// Runs a plan once, launch by launch.
fn run(cuda: &Cuda, plan: &Plan) -> Seen {
    // The board's report has the launches of all threads.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let sms = cuda.multiprocessors();
    let lowered = lower(plan, sms).unwrap();
    let mut program = cuda.load(plan).unwrap();
    let mut slot = program.slot().unwrap();
    report();
    program.run(&mut slot).unwrap();
    let counted = report();
    let launches: Vec<_> =
        lowered.steps.iter().enumerate().flat_map(|(n, s)| s.iter().map(move |l| (n, l))).collect();
    assert_eq!(launches.len(), counted.len());
    let mut sum = Seen { constants: lowered.constants.len() as u64, ..Seen::default() };
    let mut read: BTreeMap<u64, u64> = BTreeMap::new();
    for ((step, launch), seen) in launches.into_iter().zip(&counted) {
        assert_eq!(seen["kernel"], launch.kernel);
        for pair in seen["dram_read_by"].as_array().unwrap() {
            *read.entry(pair[0].as_u64().unwrap()).or_default() += pair[1].as_u64().unwrap();
        }
        let Some(macs) = issued_macs(launch) else { continue };
        // What the lowering says is what the board executed.
        assert_eq!(seen["work"]["mma_macs"], macs, "{seen}");
        let op = &plan.steps[step].op;
        let blocks: u32 = launch.grid.iter().product();
        let count = |name: &str| seen["counters"][name].as_u64().unwrap();
        let (all, loops) = (count("shared_passes"), count("loop_passes"));
        let (more, in_loops) = (all - count("shared_least"), loops - count("loop_least"));
        println!(
            "{step:4} {:18} {:15} {:13.3}  {:13.2}  {in_loops:8}/{loops:<8} {more:8}/{all}",
            launch.kernel,
            format!("{:?}", launch.grid),
            useful_macs(plan, op) as f64 / macs as f64,
            f64::from(blocks) / f64::from(blocks.next_multiple_of(sms)),
        );
        if matches!(op, Op::Conv(_)) {
            sum.useful += useful_macs(plan, op);
            sum.issued += macs;
        }
        // Each mma needs at least one fragment from shared memory.
        assert!(loops > 0, "step {step}: no main loop was found in {}", launch.kernel);
        sum.loop_passes += loops;
        sum.loop_conflicts += in_loops;
        sum.passes += all;
        sum.conflicts += more;
    }
    sum.read = read.into_values().max().unwrap_or(0);
    sum
}

fn heading(what: &str, cuda: &Cuda) {
    println!(
        "{what}\nstep kernel             grid            useful/issued  blocks/waves of {}  conflicts/passes: main \
         loops, all",
        cuda.multiprocessors()
    );
}

#[test]
fn efficientnet_lite0_uses_what_it_issues() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/efficientnet-lite0/model.plan");
    let plan = Plan::open(path).unwrap_or_else(|e| panic!("{e}"));
    let cuda = virtual_orin::open(Mode::Launch);
    heading("EfficientNet-Lite0", &cuda);
    let seen = run(&cuda, &plan);
    let ratio = seen.useful as f64 / seen.issued as f64;
    println!("convolutions on matrix units: {} useful of {} issued, {ratio:.3}", seen.useful, seen.issued);
    println!("main loops: {} of {} passes are conflicts", seen.loop_conflicts, seen.loop_passes);
    println!("in all: {} of {} passes are conflicts", seen.conflicts, seen.passes);
    println!("constants: {} bytes, {} read from DRAM", seen.constants, seen.read);
    assert!(ratio >= 0.85, "{ratio}");
    assert_eq!(seen.loop_conflicts, 0);
    // Results of tiles whose lines do not fill the banks meet some on their way out.
    assert!(seen.conflicts * 50 <= seen.passes, "{} of {}", seen.conflicts, seen.passes);
    assert!(seen.read <= seen.constants, "weights are read more than once");
}

/// A convolution of a network at 224 pixels and batch 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Layer {
    /// Rows, and columns, of the input.
    side: u32,
    inputs: u32,
    kernel: u32,
    stride: u32,
    outputs: u32,
}

/// ResNet-50 (v1.5: the 3x3 convolution carries the stride).
fn resnet50() -> Vec<Layer> {
    let mut list = vec![Layer { side: 224, inputs: 3, kernel: 7, stride: 2, outputs: 64 }];
    let mut inputs = 64;
    for (stage, (blocks, width)) in [(3, 64), (4, 128), (6, 256), (3, 512)].into_iter().enumerate() {
        for block in 0..blocks {
            let stride = if block == 0 && stage > 0 { 2 } else { 1 };
            let (after, outputs) = (56 >> stage, 4 * width);
            let side = after * stride;
            list.push(Layer { side, inputs, kernel: 1, stride: 1, outputs: width });
            list.push(Layer { side, inputs: width, kernel: 3, stride, outputs: width });
            list.push(Layer { side: after, inputs: width, kernel: 1, stride: 1, outputs });
            if block == 0 {
                list.push(Layer { side, inputs, kernel: 1, stride, outputs });
            }
            inputs = outputs;
        }
    }
    list
}

/// MobileNetV2 without its depthwise convolutions, which use no matrix units.
fn mobilenetv2() -> Vec<Layer> {
    let mut list = vec![Layer { side: 224, inputs: 3, kernel: 3, stride: 2, outputs: 32 }];
    let (mut side, mut inputs) = (112, 32);
    let stages = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ];
    for (expand, outputs, repeats, stride) in stages {
        for repeat in 0..repeats {
            let wide = inputs * expand;
            if expand > 1 {
                list.push(Layer { side, inputs, kernel: 1, stride: 1, outputs: wide });
            }
            side /= if repeat == 0 { stride } else { 1 };
            list.push(Layer { side, inputs: wide, kernel: 1, stride: 1, outputs });
            inputs = outputs;
        }
    }
    list.push(Layer { side, inputs, kernel: 1, stride: 1, outputs: 1280 });
    list
}

/// A plan of one convolution from memory to memory; values are of no interest.
fn plan_of(layer: Layer) -> Plan {
    let Layer { side, inputs, kernel, stride, outputs } = layer;
    let mut b = Builder::new(1);
    let mut image = |channels: u32, side: u32| {
        let (shape, pixel) = ([1, channels, side, side], Builder::pixel(channels));
        let buffer = b.buffer(Space::Arena, pixel * u64::from(side * side));
        b.tensor(&shape, DType::U8, buffer, 0, Builder::channels_last(&shape, pixel))
    };
    let (input, output) = (image(inputs, side), image(outputs, side.div_ceil(stride)));
    let weights = b.blob(&vec![1; (outputs * inputs * kernel * kernel) as usize]);
    let requant =
        Requant { scale: b.f32_blob(&[1e-3]), zero: 0, dtype: DType::U8, lo: 0, hi: 255, post: vec![] };
    let linear = Linear {
        weights,
        weights_dtype: DType::I8,
        weights_zero: vec![0],
        bias: None,
        input_zero: 0,
        group_inputs: inputs,
        outputs,
        epilogue: Epilogue::Requant(requant),
    };
    let window = Window { kernel: [kernel; 2], stride: [stride; 2], dilation: [1; 2], pads: [kernel / 2; 4] };
    b.step(Op::Conv(Conv { input, output, window, groups: 1, linear }));
    b.finish()
}

/// Runs each different layer once, and adds them up as often as the network has them.
fn layers(what: &str, list: &[Layer]) -> Seen {
    let cuda = virtual_orin::open(Mode::Launch);
    heading(what, &cuda);
    let mut times: BTreeMap<Layer, u64> = BTreeMap::new();
    list.iter().for_each(|&layer| *times.entry(layer).or_default() += 1);
    let mut sum = Seen::default();
    for (layer, n) in times {
        let seen = run(&cuda, &plan_of(layer));
        sum.useful += n * seen.useful;
        sum.issued += n * seen.issued;
        sum.loop_passes += n * seen.loop_passes;
        sum.loop_conflicts += n * seen.loop_conflicts;
    }
    println!(
        "{what}: {} useful of {} issued, {:.3}; main loops: {} of {} passes are conflicts",
        sum.useful,
        sum.issued,
        sum.useful as f64 / sum.issued as f64,
        sum.loop_conflicts,
        sum.loop_passes
    );
    sum
}

#[test]
fn resnet50_uses_what_it_issues() {
    assert_eq!(resnet50().len(), 53);
    let seen = layers("ResNet-50", &resnet50());
    assert!((4_000_000_000..4_150_000_000).contains(&seen.useful), "{}", seen.useful);
    assert!(seen.useful * 100 >= seen.issued * 93, "{} of {}", seen.useful, seen.issued);
    assert_eq!(seen.loop_conflicts, 0);
}

#[test]
fn mobilenetv2_meets_no_bank_conflicts_in_main_loops() {
    assert_eq!(mobilenetv2().len(), 35);
    let seen = layers("MobileNetV2", &mobilenetv2());
    assert!((270_000_000..300_000_000).contains(&seen.useful), "{}", seen.useful);
    assert_eq!(seen.loop_conflicts, 0);
}
