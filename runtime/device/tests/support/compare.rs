//! A plan on the devices of a suite, against the reference.
//!
//! The root of the test says which devices: `crate::devices()`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::support::Rng;
use pilotlight_device::{Device, Reference};
use pilotlight_plan::{DType, Plan};

/// Runs a plan on the reference and on every device, and compares all outputs of two runs with different inputs.
pub fn compare(plan: &Plan, seed: u64, what: &str) {
    let mut reference = Reference.load(plan).unwrap();
    let mut wanted = reference.slot().unwrap();
    for device in crate::devices() {
        let mut program = device.load(plan).unwrap();
        let mut slot = program.slot().unwrap();
        let mut rng = Rng::new(seed);
        for run in 0..2 {
            for (i, &id) in plan.inputs.iter().enumerate() {
                let float = plan.tensor(id).dtype == DType::F32;
                let bytes = slot.input_mut(i);
                if float {
                    for b in bytes.chunks_exact_mut(4) {
                        // Halves and quarters as well, for ties.
                        b.copy_from_slice(&(rng.range(-4000, 4000) as f32 / 8.0).to_le_bytes());
                    }
                } else {
                    bytes.iter_mut().for_each(|b| *b = rng.next() as u8);
                }
                wanted.input_mut(i).copy_from_slice(slot.input(i));
            }
            reference.run(&mut wanted).unwrap();
            program.run(&mut slot).unwrap();
            for i in 0..plan.outputs.len() {
                let differ = slot.output(i).iter().zip(wanted.output(i)).filter(|(a, b)| a != b).count();
                assert_eq!(
                    differ,
                    0,
                    "{} of {what}: output {i}, run {run}, differs in {differ} of {} bytes",
                    device.describe(),
                    slot.output(i).len()
                );
            }
        }
    }
}
