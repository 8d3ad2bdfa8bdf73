//! Whole models against golden outputs.

use pilotlight_cli::golden::{Golden, entry};
use pilotlight_device::Device;
use pilotlight_plan::Plan;
use std::path::Path;

/// Elements compared and elements that differ, over the first `cases` cases of a golden folder.
///
/// # Panics
/// When a file cannot be read, or the plan does not fit the folder.
pub fn differences(device: &dyn Device, plan: &Plan, folder: &Path, cases: usize) -> (usize, usize) {
    let golden = Golden::open(folder).unwrap_or_else(|e| panic!("{e}"));
    let mut program = device.load(plan).unwrap_or_else(|e| panic!("{e}"));
    let mut slot = program.slot().unwrap_or_else(|e| panic!("{e}"));
    let expected = golden.outputs().unwrap_or_else(|e| panic!("{e}"));
    let (mut compared, mut different) = (0, 0);
    for case in 0..golden.len().min(cases) {
        slot.input_mut(0).copy_from_slice(&golden.input(case).unwrap_or_else(|e| panic!("{e}")));
        program.run(&mut slot).unwrap_or_else(|e| panic!("{e}"));
        for (name, array) in &expected {
            let at = plan.outputs.iter().position(|&id| plan.tensor(id).name == *name);
            let got = slot.output(at.unwrap_or_else(|| panic!("no output {name}")));
            let want = entry(array, case);
            assert_eq!(got.len(), want.len(), "{name}");
            let size = array.dtype.bytes();
            compared += got.len() / size;
            different += got.chunks(size).zip(want.chunks(size)).filter(|(a, b)| a != b).count();
        }
    }
    (compared, different)
}
