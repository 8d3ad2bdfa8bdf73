//! A small network in persistent mode with memory as weak as it may be, and with the race detector.
//!
//! `cargo xtask sync-mutants` runs the same on kernels whose synchronisation was weakened, and on faulty hosts.
#![allow(clippy::unwrap_used, reason = "a test's helper fails the test")]

mod virtual_orin;

use pilotlight_cuda::{Mode, Settings, Wait};
use pilotlight_device::{Cpu, CpuOptions, Device, Program, Slot};
use pilotlight_plan::Plan;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const NETWORK: &str = "in_child_small_network";

/// The settings of the virtual Orin, and seeds.
fn child(mode: &str, seed: u64) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NETWORK, "--ignored", "--nocapture"])
        .env(format!("PILOTLIGHT_VIRTUAL_{mode}"), "1")
        .env("PILOTLIGHT_VIRTUAL_SEED", seed.to_string())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{mode}, seed {seed}: {text}");
}

#[test]
fn a_small_network_is_exact_with_weak_memory() {
    (1..=3).for_each(|seed| child("WEAK", seed));
}

#[test]
fn a_small_network_has_no_race() {
    child("RACE", 1);
}

fn fill(slot: &mut Slot, seed: usize) {
    for (n, bytes) in slot.input_mut(0).chunks_exact_mut(4).enumerate() {
        bytes.copy_from_slice(&(((n + 1) * (seed + 3) * 2_654_435_761 % 255) as f32 / 15.0).to_le_bytes());
    }
}

fn run(program: &mut dyn Program, cpu: &mut dyn Program, slot: &mut Slot, seed: usize) {
    let mut wanted = cpu.slot().unwrap();
    fill(slot, seed);
    fill(&mut wanted, seed);
    cpu.run(&mut wanted).unwrap();
    program.run(slot).unwrap();
    let differ = slot.output(0).iter().zip(wanted.output(0)).filter(|(a, b)| a != b).count();
    assert_eq!(differ, 0, "input {seed} differs in {differ} of {} bytes", wanted.output(0).len());
}

#[test]
#[ignore = "needs a device of its own; run in children by the tests above"]
fn in_child_small_network() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/digits/model.plan");
    let plan = Plan::open(&model).unwrap();
    // Short patience: a weakened kernel may wait for ever. Numbers wrap around on the way.
    let settings = Settings {
        wait: Wait::Block,
        patience: Duration::from_secs(20),
        first: u32::MAX - 2,
        ..Settings::default()
    };
    let cuda = virtual_orin::open(Mode::Persistent).with(settings);
    let mut program = cuda.load(&plan).unwrap();
    let mut cpu = Cpu::new(CpuOptions::default()).unwrap().load(&plan).unwrap();
    let mut slots = [program.slot().unwrap(), program.slot().unwrap()];
    for seed in 0..6 {
        run(&mut *program, &mut *cpu, &mut slots[seed % 2], seed);
    }
    let parks = std::env::var("PILOTLIGHT_TEST_PARKS").map_or(80, |n| n.parse().unwrap());
    requests_that_race_with_leaving(parks, &cuda, |seed| {
        run(&mut *program, &mut *cpu, &mut slots[seed % 2], seed)
    });
    // A second plan, loaded while the first is there.
    let mut second = cuda.load(&plan).unwrap();
    let mut slot = second.slot().unwrap();
    run(&mut *second, &mut *cpu, &mut slot, 7);
    run(&mut *program, &mut *cpu, &mut slots[0], 8);
    drop((second, slot, program, slots));
    assert_eq!(lit_calls(), "", "the driver was asked what it may not answer while a kernel is lit");
}

/// Requests that come as the kernel is about to leave. How long that takes depends on the machine and its load, so the
/// pause before each follows what the last one met: longer if the kernel was there still, shorter if it had left.
fn requests_that_race_with_leaving(requests: usize, cuda: &dyn Device, mut run: impl FnMut(usize)) {
    let since = Instant::now();
    while cuda.lit() && since.elapsed() < Duration::from_secs(2) {
        std::thread::yield_now();
    }
    let mut pause = since.elapsed();
    let mut met_lit = 0;
    for seed in 0..requests {
        let since = Instant::now();
        // Sleeping alone is not fine enough.
        std::thread::sleep(pause.saturating_sub(Duration::from_micros(300)));
        while since.elapsed() < pause {
            std::hint::spin_loop();
        }
        let lit = cuda.lit();
        run(seed);
        met_lit += usize::from(lit);
        // Large steps find the moment, small ones stay near it.
        let step = pause / (4 + seed as u32 % 13 * 6);
        pause = if lit { pause + step } else { pause - step };
    }
    println!("{requests} requests raced with leaving: {met_lit} met the kernel, the last after {pause:?}");
}

/// Calls that came while the kernel was lit and may wait for it, with their counts.
fn lit_calls() -> String {
    if virtual_orin::real() {
        // Only the virtual driver counts them. A GPU's would never return, and the test would hang.
        return String::new();
    }
    type Calls = unsafe extern "C" fn(*mut std::ffi::c_char, usize) -> usize;
    let path = std::env::current_exe().unwrap().with_file_name("libcuda.so");
    // SAFETY: (1) the library is loaded already and the symbol is of this type; (2) the buffer has the bytes it names.
    unsafe {
        let library = libloading::Library::new(path).unwrap();
        let calls = library.get::<Calls>(b"pilotlight_virtual_lit_calls").unwrap();
        let mut text = vec![0u8; 4096];
        let needed = calls(text.as_mut_ptr().cast(), text.len());
        text.truncate(needed.saturating_sub(1));
        String::from_utf8(text).unwrap()
    }
}
