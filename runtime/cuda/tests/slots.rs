//! Slots lend pinned memory: nothing is copied, several exist at once, and they outlive their program.
#![allow(clippy::unwrap_used, reason = "a test's helper fails the test")]

mod virtual_orin;

use pilotlight_cuda::Mode;
use pilotlight_device::{Cpu, CpuOptions, Device, RunError, Slot};
use pilotlight_plan::Plan;
use std::path::Path;

fn digits() -> Plan {
    Plan::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/digits/model.plan")).unwrap()
}

fn fill(slot: &mut Slot, seed: usize) {
    for (n, bytes) in slot.input_mut(0).chunks_exact_mut(4).enumerate() {
        bytes.copy_from_slice(&((n * 37 + seed * 11) as f32 % 17.0).to_le_bytes());
    }
}

/// What the CPU device gives.
fn expected(plan: &Plan, seed: usize) -> Vec<u8> {
    let mut program = Cpu::new(CpuOptions::default()).unwrap().load(plan).unwrap();
    let mut slot = program.slot().unwrap();
    fill(&mut slot, seed);
    program.run(&mut slot).unwrap();
    slot.output(0).to_vec()
}

#[test]
fn a_ring_of_slots_keeps_each_inference_apart() {
    let plan = digits();
    for mode in [Mode::Launch, Mode::Graph] {
        let mut program = virtual_orin::open(mode).load(&plan).unwrap();
        let mut slots: Vec<Slot> = (0..3).map(|_| program.slot().unwrap()).collect();
        for (seed, slot) in slots.iter_mut().enumerate() {
            fill(slot, seed);
        }
        // Backwards, so that no slot runs behind the one it was made behind.
        slots.iter_mut().rev().for_each(|slot| program.run(slot).unwrap());
        drop(program);
        for (seed, slot) in slots.iter().enumerate() {
            assert!(slot.output(0) == expected(&plan, seed), "{mode:?}: slot {seed}");
        }
        assert!(slots[0].output(0) != slots[1].output(0), "the inputs must tell the slots apart");
    }
}

#[test]
fn a_slot_of_another_program_or_device_is_refused() {
    let plan = digits();
    let cuda = virtual_orin::open(Mode::Launch);
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let (mut first, mut second, mut host) =
        (cuda.load(&plan).unwrap(), cuda.load(&plan).unwrap(), cpu.load(&plan).unwrap());
    let (mut lent, mut plain) = (first.slot().unwrap(), host.slot().unwrap());
    assert_eq!(second.run(&mut lent), Err(RunError::Foreign));
    assert_eq!(host.run(&mut lent), Err(RunError::Foreign));
    assert_eq!(first.run(&mut plain), Err(RunError::Foreign));
    assert_eq!(first.run(&mut lent), Ok(()));
}

const CHILD: &str = "PILOTLIGHT_TEST_RUNS";

/// Not a test by itself: what the next one runs in a process of its own, to see its driver calls.
#[test]
fn child() {
    let Ok(runs) = std::env::var(CHILD) else { return };
    let mut program = virtual_orin::open(Mode::Graph).load(&digits()).unwrap();
    let mut slot = program.slot().unwrap();
    fill(&mut slot, 0);
    (0..runs.parse().unwrap()).for_each(|_: u32| program.run(&mut slot).unwrap());
    assert!(slot.output(0) == expected(&digits(), 0));
    if runs == "2" {
        program.run_timed(&mut slot, &mut Vec::new()).unwrap();
        program.run_observed(&mut slot, &mut |_, _| ()).unwrap();
        let mut resident = virtual_orin::open(Mode::Persistent).load(&digits()).unwrap();
        let mut slot = resident.slot().unwrap();
        fill(&mut slot, 1);
        resident.run(&mut slot).unwrap();
        assert!(slot.output(0) == expected(&digits(), 1));
    }
}

/// The driver calls of a process that runs so many inferences.
fn calls(runs: u32) -> Vec<String> {
    let log = std::env::temp_dir().join(format!("pilotlight-slots-{}-{runs}", std::process::id()));
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact"])
        .env(CHILD, runs.to_string())
        .env("PILOTLIGHT_VIRTUAL_LOG", &log)
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    text.lines().filter_map(|l| l.split(' ').next()).map(String::from).collect()
}

#[test]
fn an_inference_copies_nothing() {
    let counts = |runs| {
        let calls = calls(runs);
        let count = |name: &str| calls.iter().filter(|c| c.starts_with(name)).count();
        (count("cuGraphLaunch"), count("cuMemcpy"))
    };
    let ((one, copies), (five, still)) = (counts(1), counts(5));
    assert_eq!((one, five), (1, 5));
    // Loading copies the constants; inferences copy nothing.
    assert_eq!((copies, still), (1, 1));
}

#[test]
fn every_driver_call_is_looked_up_before() {
    let calls = calls(2);
    assert!(calls.len() > 20, "{calls:?}");
    let unknown: Vec<&String> =
        calls.iter().filter(|c| !pilotlight_cuda::FUNCTIONS.contains(&c.as_str())).collect();
    assert!(unknown.is_empty(), "not in FUNCTIONS: {unknown:?}");
}
