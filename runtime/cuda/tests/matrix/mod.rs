//! The device suites on other boards and schedules than the default: a process for each, since a process has one
//! virtual board.
#![allow(clippy::unwrap_used, reason = "a test's helper fails the test")]

use super::boards::{BOARDS, seeds};
use std::process::Command;

/// Runs the tests of the suites that `filter` names in a process with this board.
fn run(board: &str, seed: u64, race: &str, modes: &str, filter: &[&str]) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(filter)
        .env("PILOTLIGHT_VIRTUAL_BOARD", board)
        .env("PILOTLIGHT_VIRTUAL_SEED", seed.to_string())
        .env("PILOTLIGHT_VIRTUAL_RACE", race)
        .env(super::MODES, modes)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{board}, seed {seed}, race {race}: {}\n{text}\n{errors}",
        output.status
    );
    let passed = text.lines().find_map(|l| l.strip_prefix("test result: ok. ")).unwrap();
    let passed: usize = passed.split(' ').next().unwrap().parse().unwrap();
    assert!(passed > 0, "{board}: no test of {filter:?} ran");
    println!("{board}, seed {seed}, race detector {race}, {modes}: {passed} passed");
}

/// Short tests that use every kind of kernel between them.
const QUICK: &[&str] = &["linear::depthwise", "linear::matrix_products", "other::pools", "other::remaps"];

/// All tests of the suites.
const ALL: [&str; 2] = ["linear::", "other::"];

/// Tests of faulty kernels run the suites alone.
fn shipped_kernels() -> bool {
    let chosen = ["PILOTLIGHT_TEST_PTX", super::MODES, "PILOTLIGHT_VIRTUAL_WEAK"];
    chosen.iter().all(|name| std::env::var_os(name).is_none())
}

#[test]
fn every_suite_with_the_persistent_kernel_on_every_board_and_seed() {
    if !shipped_kernels() {
        return;
    }
    for board in BOARDS {
        for seed in 1..=seeds() {
            run(board, seed, "0", "persistent", &ALL);
        }
    }
}

#[test]
fn a_part_of_the_suites_with_launches_on_every_board() {
    if !shipped_kernels() {
        return;
    }
    // The seeds go round with the boards; the long test has every pair.
    for (board, seed) in BOARDS.into_iter().zip([1, 2, 3, 1]) {
        run(board, seed, "0", "launched", QUICK);
    }
}

#[test]
fn a_part_of_the_suites_under_the_race_detector() {
    if !shipped_kernels() {
        return;
    }
    run("orin-nano-4gb", 2, "1", "launched", QUICK);
}

#[test]
#[ignore = "long: every suite in all modes on four boards with three seeds; cargo xtask soak runs it"]
fn all_suites_on_every_board_and_seed() {
    for board in BOARDS {
        for seed in 1..=3 {
            run(board, seed, "0", "all", &ALL);
        }
    }
}
