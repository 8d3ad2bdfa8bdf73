//! Whole committed networks on the virtual Orin: every tensor of every step against the CPU device.
#![allow(clippy::unwrap_used, reason = "a test's helper fails the test")]

mod virtual_orin;

use pilotlight_cuda::Mode;
use pilotlight_device::{Cpu, CpuOptions, Device};
use pilotlight_plan::Plan;
use std::path::Path;

/// Runs a committed plan on both devices and compares every step; returns the elements compared.
fn compare(folder: &str, mode: Mode, fill: impl Fn(usize) -> f32) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(folder).join("model.plan");
    let plan = Plan::open(&path).unwrap_or_else(|e| panic!("{e}"));
    let cuda = virtual_orin::open(mode);
    let (mut gpu, mut cpu) =
        (cuda.load(&plan).unwrap(), Cpu::new(CpuOptions::default()).unwrap().load(&plan).unwrap());
    let (mut slot, mut wanted) = (gpu.slot().unwrap(), cpu.slot().unwrap());
    for (n, bytes) in slot.input_mut(0).chunks_exact_mut(4).enumerate() {
        bytes.copy_from_slice(&fill(n).to_le_bytes());
    }
    wanted.input_mut(0).copy_from_slice(slot.input(0));
    let mut steps = Vec::new();
    cpu.run_observed(&mut wanted, &mut |_, bytes| steps.push(bytes.to_vec())).unwrap();
    let mut compared = 0;
    gpu.run_observed(&mut slot, &mut |n, bytes| {
        let op = &plan.steps[n];
        let differ = bytes.iter().zip(&steps[n]).filter(|(a, b)| a != b).count();
        assert_eq!((bytes.len(), differ), (steps[n].len(), 0), "step {n}, {} {:?}", op.op.name(), op.nodes);
        compared += bytes.len();
    })
    .unwrap();
    // And once more as the mode sends it.
    slot.output_mut(0).fill(0);
    gpu.run(&mut slot).unwrap();
    assert!(slot.output(0) == wanted.output(0));
    compared
}

#[test]
fn digits_in_every_mode() {
    for mode in [Mode::Launch, Mode::Graph, Mode::Persistent] {
        let bytes = compare("digits", mode, |n| (n * 37 % 17) as f32);
        assert!(bytes > 1000, "{bytes}");
    }
}

#[test]
fn efficientnet_lite0_in_graph_mode() {
    let start = std::time::Instant::now();
    let bytes =
        compare("efficientnet-lite0", Mode::Graph, |n| ((n * 2_654_435_761) % 255) as f32 / 127.5 - 1.0);
    println!("{bytes} bytes equal; {:.1} s for two inferences emulated", start.elapsed().as_secs_f32());
    assert!(bytes > 1_000_000, "{bytes}");
}

#[test]
fn efficientnet_lite0_in_persistent_mode() {
    let start = std::time::Instant::now();
    let bytes =
        compare("efficientnet-lite0", Mode::Persistent, |n| ((n * 2_654_435_761) % 255) as f32 / 127.5 - 1.0);
    println!("{bytes} bytes equal; {:.1} s for two inferences emulated", start.elapsed().as_secs_f32());
    assert!(bytes > 1_000_000, "{bytes}");
}
