//! Harnesses for input that nobody vouches for: each takes any bytes and must neither panic nor allocate without
//! bound. The fuzz targets call them, and ordinary tests run them over the committed seeds.

use pilotlight_cli::card::{Channels, Input};
use pilotlight_cli::{npy::Array, picture};
use pilotlight_device::{Cpu, CpuOptions, Device, Reference};
use pilotlight_plan::Plan;

/// An ONNX file: imported, and where that succeeds, run.
pub fn onnx(bytes: &[u8]) {
    let options = pilotlight_onnx::Options { dims: vec![("N".into(), 2)], ..Default::default() };
    let Ok(plan) = pilotlight_onnx::import(bytes, &options) else { return };
    let again = Plan::from_bytes(plan.to_bytes());
    assert_eq!(again.as_ref().ok(), Some(&plan), "a plan survives its file");
    run(&plan);
}

/// A plan's file. The hash in front would stop a fuzzer at the door, so it is put right first.
pub fn plan(bytes: &[u8]) {
    let _ = Plan::from_bytes(bytes.to_vec());
    if let Ok(plan) = Plan::from_bytes(pilotlight_plan::rehash(bytes.to_vec())) {
        run(&plan);
    }
}

/// A `.npy` file.
pub fn npy(bytes: &[u8]) {
    if let Ok(array) = Array::parse(bytes) {
        let again = Array::parse(&array.to_npy());
        assert_eq!(again.ok().as_ref(), Some(&array), "an array survives its file");
    }
}

/// A picture, made into an input tensor.
pub fn picture(bytes: &[u8]) {
    let input = Input {
        name: "x".into(),
        shape: vec![1, 3, 16, 16],
        channels: Some(Channels::Rgb),
        crop: Some(0.875),
        mean: vec![127.0; 3],
        std: vec![128.0; 3],
    };
    if let Ok(tensor) = picture::decode(bytes, "fuzz", &input) {
        assert_eq!(tensor.len(), 3 * 16 * 16 * 4);
    }
}

/// Runs a small plan on both devices, which must agree.
fn run(plan: &Plan) {
    let work: u64 = plan.tensors.iter().map(|t| t.elements()).sum();
    if work > 1 << 14 || plan.steps.len() > 64 || plan.arena_bytes > 1 << 22 {
        return;
    }
    let Ok(cpu) = Cpu::new(CpuOptions::default()) else { return };
    let outputs = |device: &dyn Device| {
        let mut program = device.load(plan).ok()?;
        let mut slot = program.slot().ok()?;
        pilotlight_cli::feed::random(plan, 1, &mut slot);
        program.run(&mut slot).ok()?;
        Some((0..plan.outputs.len()).map(|i| slot.output(i).to_vec()).collect::<Vec<_>>())
    };
    assert_eq!(outputs(&cpu), outputs(&Reference), "the devices agree");
}
