//! What only the inside can bring about: a host that stops to live while its kernel is lit.
#![allow(clippy::unwrap_used, reason = "a test's helper fails the test")]

#[path = "../../../tests/virtual_orin/mod.rs"]
mod virtual_orin;

use super::*;
use crate::{Mode, Settings};
use pilotlight_device::Device;
use pilotlight_plan::Plan;
use std::path::Path;
use std::time::Instant;

/// One kernel has all of the virtual board.
static BOARD: Mutex<()> = Mutex::new(());

fn digits() -> Plan {
    Plan::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/digits/model.plan")).unwrap()
}

#[test]
fn a_kernel_stays_lit_while_its_host_lives_and_leaves_when_it_is_told() {
    let _board = BOARD.lock().unwrap_or_else(PoisonError::into_inner);
    let settings = Settings {
        idle: None,
        heartbeat: Duration::from_secs(2),
        wait: Wait::Block,
        patience: Duration::from_secs(15),
        ..Settings::default()
    };
    let cuda = virtual_orin::open(Mode::Persistent).with(settings);
    let mut program = cuda.load(&digits()).unwrap();
    let mut slot = program.slot().unwrap();
    program.run(&mut slot).unwrap();
    let lamp = cuda.lamp().unwrap().unwrap();
    let generation = lamp.lock().generation;
    for pause in [0, 10, 4500] {
        std::thread::sleep(Duration::from_millis(pause));
        program.run(&mut slot).unwrap();
        assert_eq!(lamp.lock().generation, generation, "it left although the host lives");
    }
    drop((program, slot));
    assert!(lamp.idle().unwrap());
    assert_eq!(lamp.words().left(generation), Some(abi::LEAVE_ORDERED));
}

#[test]
fn a_kernel_leaves_when_its_host_is_frozen_and_comes_back_when_it_thaws() {
    let _board = BOARD.lock().unwrap_or_else(PoisonError::into_inner);
    let settings = Settings {
        idle: None,
        heartbeat: Duration::from_millis(500),
        wait: Wait::Block,
        patience: Duration::from_secs(100),
        ..Settings::default()
    };
    let cuda = virtual_orin::open(Mode::Persistent).with(settings);
    let mut program = cuda.load(&digits()).unwrap();
    let mut slot = program.slot().unwrap();
    program.run(&mut slot).unwrap();
    let output = slot.output(0).to_vec();
    let lamp = cuda.lamp().unwrap().unwrap();
    // The thread that beats ends; nothing else tells the kernel that this process lives.
    *lamp.beat.lock().unwrap() = None;
    let since = Instant::now();
    while !lamp.idle().unwrap() {
        assert!(since.elapsed() < Duration::from_secs(100), "it polls although the host is gone");
        std::thread::sleep(Duration::from_millis(10));
    }
    let generation = lamp.lock().generation;
    assert_eq!(lamp.words().left(generation), Some(abi::LEAVE_HEARTBEAT));
    slot.output_mut(0).fill(0xEE);
    program.run(&mut slot).unwrap();
    assert!(slot.output(0) == output);
    assert_eq!(lamp.lock().generation, generation + 1);
}
