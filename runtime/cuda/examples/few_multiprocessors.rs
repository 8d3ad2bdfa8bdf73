//! The persistent kernel on some of a real GPU's multiprocessors, as few as an Orin has; launch and graph mode beside
//! it, with kernels cut for as few but on all of them, as a driver cannot be told to leave some out.
//!
//! `few_multiprocessors PLAN N`. Below the persistent kernel's time: by kernel, how long its blocks worked and waited
//! in one inference. The kernels are those of `PILOTLIGHT_TEST_PTX` where that is set.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made ends the program")]

use pilotlight_cuda::{Cuda, Mode, Settings, Wait};
use pilotlight_device::{Device, Program, Slot, Span};
use pilotlight_plan::Plan;
use std::collections::BTreeMap;
use std::time::Instant;

const RUNS: usize = 500;

fn feed(slot: &mut Slot) {
    for (n, bytes) in slot.input_mut(0).chunks_exact_mut(4).enumerate() {
        let value = (n as u32).wrapping_mul(2_654_435_761) % 255;
        bytes.copy_from_slice(&(value as f32 / 127.5 - 1.0).to_le_bytes());
    }
}

fn time(program: &mut dyn Program, slot: &mut Slot) -> String {
    for _ in 0..50 {
        program.run(slot).unwrap();
    }
    let mut micros: Vec<f64> = (0..RUNS)
        .map(|_| {
            let since = Instant::now();
            program.run(slot).unwrap();
            since.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    micros.sort_by(f64::total_cmp);
    format!(
        "min {:.1} p50 {:.1} p95 {:.1} us (n = {RUNS})",
        micros[0],
        micros[RUNS / 2],
        micros[RUNS * 95 / 100]
    )
}

/// By kernel, microseconds of a multiprocessor at work and waiting, in the mean of them all.
fn summary(spans: &[Span]) {
    let lanes = spans.iter().map(|s| s.lane + 1).max().unwrap_or(1);
    let micros = |nanos: u64| nanos as f64 / 1e3 / f64::from(lanes);
    let mut kernels: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for s in spans {
        let kernel = kernels.entry(s.what.split(',').next().unwrap_or_default()).or_default();
        kernel.0 += micros(s.end.saturating_sub(s.ready));
        kernel.1 += micros(s.ready.saturating_sub(s.begin));
    }
    for (kernel, (work, wait)) in kernels {
        println!("  {kernel:<18} work {work:7.1} us  wait {wait:6.1} us");
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, path, used] = &args[..] else { panic!("few_multiprocessors PLAN N") };
    let (plan, used) = (Plan::open(path).unwrap(), used.parse::<u32>().unwrap());
    let ptx = std::env::var("PILOTLIGHT_TEST_PTX").map(|path| std::fs::read_to_string(path).unwrap());
    let ptx = ptx.as_deref().unwrap_or(pilotlight_kernels::PTX);
    let mut output = Vec::new();
    for mode in [Mode::Launch, Mode::Graph, Mode::Persistent] {
        let cuda = Cuda::open_with(mode, ptx).unwrap();
        let free = cuda.multiprocessors().checked_sub(used).expect("no more than the GPU has");
        let settings =
            Settings { free_multiprocessors: free, wait: Wait::Spin, idle: None, ..Settings::default() };
        let cuda = cuda.with(settings);
        let mut program = cuda.load(&plan).unwrap();
        let mut slot = program.slot().unwrap();
        feed(&mut slot);
        let resident = used.min(pilotlight_kernels::abi::MOST_CTAS);
        let on = if mode == Mode::Persistent { resident } else { cuda.multiprocessors() };
        println!("{} {mode:?} on {on}: {}", plan.name, time(&mut *program, &mut slot));
        let out = slot.output(0).to_vec();
        assert!(output.is_empty() || output == out, "{mode:?} differs");
        output = out;
        if mode == Mode::Persistent {
            let mut spans = Vec::new();
            program.run_traced(&mut slot, &mut spans).unwrap();
            program.run_traced(&mut slot, &mut spans).unwrap();
            summary(&spans);
        }
    }
}
