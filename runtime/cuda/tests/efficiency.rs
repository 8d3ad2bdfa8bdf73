//! How much of the matrix units' work is useful, how often weights come from memory, and whether shared memory
//! is read without conflicts: from the plan and the launches, and as the virtual board counts.
#![allow(clippy::unwrap_used, reason = "a test's helper fails the test")]

mod virtual_orin;

use pilotlight_cuda::{Mode, issued_macs, lower};
use pilotlight_device::Device;
use pilotlight_kernels::abi;
use pilotlight_plan::{Op, Plan};
use std::collections::HashMap;
use std::path::Path;
use zerocopy::{FromBytes, IntoBytes};

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

#[test]
fn efficientnet_lite0_uses_what_it_issues() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/efficientnet-lite0/model.plan");
    let plan = Plan::open(path).unwrap_or_else(|e| panic!("{e}"));
    let cuda = virtual_orin::open(Mode::Launch);
    let sms = cuda.multiprocessors();
    let lowered = lower(&plan, sms).unwrap();
    let mut program = cuda.load(&plan).unwrap();
    let mut slot = program.slot().unwrap();
    report();
    program.run(&mut slot).unwrap();
    let counted = report();
    let launches: Vec<_> =
        lowered.steps.iter().enumerate().flat_map(|(n, s)| s.iter().map(move |l| (n, l))).collect();
    assert_eq!(launches.len(), counted.len());
    let (mut useful, mut issued, mut conflicts, mut passes) = (0, 0, 0, 0);
    let mut read: HashMap<u64, u64> = HashMap::new();
    println!(
        "step kernel             grid            useful/issued  blocks/waves of {sms}  conflicts/passes"
    );
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
        let all = seen["counters"]["shared_passes"].as_u64().unwrap();
        let more = all - seen["counters"]["shared_least"].as_u64().unwrap();
        println!(
            "{step:4} {:18} {:15} {:13.3}  {:13.2}  {more:14}/{all}",
            launch.kernel,
            format!("{:?}", launch.grid),
            useful_macs(&plan, op) as f64 / macs as f64,
            f64::from(blocks) / f64::from(blocks.next_multiple_of(sms)),
        );
        if matches!(op, Op::Conv(_)) {
            useful += useful_macs(&plan, op);
            issued += macs;
        }
        (conflicts, passes) = (conflicts + more, passes + all);
        // Results of lines that do not fill the banks meet some on their way out; main loops meet none.
        let (block, _) = abi::Conv::read_from_prefix(launch.block.as_bytes()).unwrap();
        if block.padded.is_multiple_of(32) && block.tile_channels.is_multiple_of(32) {
            assert_eq!(more, 0, "step {step}: bank conflicts");
        }
    }
    let ratio = useful as f64 / issued as f64;
    println!("convolutions on matrix units: {useful} useful of {issued} issued, {ratio:.3}");
    println!("shared memory: {conflicts} of {passes} passes are conflicts");
    let weights = read.values().copied().max().unwrap_or(0);
    println!("constants: {} bytes, {weights} read from DRAM", lowered.constants.len());
    assert!(ratio >= 0.85, "{ratio}");
    assert!(conflicts * 50 <= passes, "{conflicts} of {passes}");
    assert!(weights as usize <= lowered.constants.len(), "weights are read more than once");
}

/// ResNet-50 at 224, batch 1: pixels, input channels, taps and output channels of its convolutions.
fn resnet50() -> Vec<[u64; 4]> {
    let mut list = vec![[112 * 112, 3, 49, 64]];
    let mut inputs = 64;
    for (stage, (blocks, width)) in [(3, 64), (4, 128), (6, 256), (3, 512)].into_iter().enumerate() {
        let side = 56u64 >> stage;
        for block in 0..blocks {
            // The 3x3 convolution carries the stride, so the 1x1 before it has the larger image.
            let before = if block == 0 && stage > 0 { 2 * side } else { side };
            list.push([before * before, inputs, 1, width]);
            list.push([side * side, width, 9, width]);
            list.push([side * side, width, 1, 4 * width]);
            if block == 0 {
                list.push([side * side, inputs, 1, 4 * width]);
            }
            inputs = 4 * width;
        }
    }
    list
}

/// By the count that the test above holds against the board's.
#[test]
fn resnet50_would_use_what_it_issues() {
    let (mut useful, mut issued) = (0, 0);
    for [pixels, inputs, taps, channels] in resnet50() {
        useful += pixels * inputs * taps * channels;
        let k = if inputs <= 4 {
            (inputs * taps).next_multiple_of(16)
        } else {
            inputs.next_multiple_of(16) * taps
        };
        issued += pixels.next_multiple_of(8) * k * channels.next_multiple_of(16);
    }
    let ratio = useful as f64 / issued as f64;
    println!("ResNet-50: {useful} useful of {issued} issued, {ratio:.3}");
    assert_eq!(resnet50().len(), 53);
    assert!((4_000_000_000..4_150_000_000).contains(&useful), "{useful}");
    assert!(ratio >= 0.93, "{ratio}");
}
