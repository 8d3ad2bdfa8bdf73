//! Runs every conformance case on the reference device and on the CPU device with every instruction set that this
//! machine has.
//!
//! `cargo test --test conformance [-- WORD]`: only cases whose `suite/name` holds WORD, each with its outcome.

#![forbid(unsafe_code)]

use pilotlight_device::{Cpu, CpuOptions, Device, Isa, Reference};
use pilotlight_tests::conformance::{Outcome, SUITES, index, run};
use std::collections::BTreeMap;
use std::process::ExitCode;

fn main() -> ExitCode {
    let word = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let mut devices: Vec<(String, Box<dyn Device>)> = vec![("reference".into(), Box::new(Reference))];
    for isa in Isa::available() {
        // Two threads with the fastest set: the last one.
        let threads = if Some(&isa) == Isa::available().last() { 2 } else { 1 };
        match Cpu::new(CpuOptions { threads, isa: Some(isa) }) {
            Ok(cpu) => devices.push((cpu.describe(), Box::new(cpu))),
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        }
    }
    let (mut passed, mut failed) = (0, 0);
    let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for suite in SUITES {
        let (mut here, mut cases) = (0, 0);
        for case in index(suite) {
            let name = format!("{suite}/{}", case.name);
            if word.as_ref().is_some_and(|w| !name.contains(w.as_str())) {
                continue;
            }
            cases += 1;
            for (device_name, device) in &devices {
                match run(device.as_ref(), suite, &case) {
                    Outcome::Passed => {
                        passed += 1;
                        here += 1;
                    }
                    Outcome::Failed(why) => {
                        failed += 1;
                        println!("FAILED {name} on {device_name} ({}): {why}", case.about);
                    }
                    Outcome::Refused(why) => {
                        refused.entry(why).or_default().push(format!("{name} on {device_name}"));
                    }
                }
            }
        }
        println!("{suite}: {cases} cases, {here} runs passed on {} devices", devices.len());
    }
    let skipped: usize = refused.values().map(Vec::len).sum();
    for (why, names) in &refused {
        println!("skipped {} ({}, ...): {}", names.len(), names[0], why.replace('\n', " "));
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 && (passed > 0 || word.is_some()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
