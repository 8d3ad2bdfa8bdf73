//! What only the inside can bring about: a host that stops to live while its kernel is lit.
#![allow(clippy::unwrap_used, reason = "a test's helper fails the test")]

#[path = "../../../tests/virtual_orin/mod.rs"]
mod virtual_orin;

use super::*;
use crate::{Cuda, Mode, Settings};
use pilotlight_device::{Device, Program, Slot};
use pilotlight_plan::Plan;
use std::path::Path;
use std::time::Instant;

/// One kernel has all of the virtual board.
static BOARD: Mutex<()> = Mutex::new(());

/// A device whose kernel stays lit as long as it is told in time that the host lives; it has run once.
fn lit(heartbeat: Duration) -> (MutexGuard<'static, ()>, Cuda, Box<dyn Program>, Slot) {
    let board = BOARD.lock().unwrap_or_else(PoisonError::into_inner);
    let patience = Duration::from_secs(100);
    let settings = Settings { idle: None, heartbeat, wait: Wait::Block, patience, ..Settings::default() };
    let cuda = virtual_orin::open(Mode::Persistent).with(settings);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/digits/model.plan");
    let mut program = cuda.load(&Plan::open(path).unwrap()).unwrap();
    let mut slot = program.slot().unwrap();
    program.run(&mut slot).unwrap();
    (board, cuda, program, slot)
}

#[test]
fn a_kernel_stays_lit_while_its_host_lives_and_leaves_when_it_is_told() {
    let (_board, cuda, mut program, mut slot) = lit(Duration::from_secs(2));
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
    let (_board, cuda, mut program, mut slot) = lit(Duration::from_millis(500));
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
