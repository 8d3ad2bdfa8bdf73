//! Committed models: golden outputs, plans, arena, accuracy.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use pilotlight_cli::model::{CompileOptions, Model};
use pilotlight_device::{Cpu, CpuOptions, Reference};
use pilotlight_plan::Plan;
use pilotlight_tests::{golden, models};

const MODELS: [(&str, &str); 4] = [
    ("digits/model.onnx", "digits/golden/qdq"),
    ("digits/model.qop.onnx", "digits/golden/qoperator"),
    ("efficientnet-lite0/model.onnx", "efficientnet-lite0/golden/qdq"),
    ("efficientnet-lite0/model.qop.onnx", "efficientnet-lite0/golden/qoperator"),
];

fn compile(model: &str) -> Plan {
    Model::open(&models(model), &CompileOptions::default()).unwrap().plan
}

#[test]
fn cpu_gives_the_bits_of_onnx_runtime() {
    for threads in [1, 2] {
        let cpu = Cpu::new(CpuOptions { threads, ..CpuOptions::default() }).unwrap();
        for (model, folder) in MODELS {
            let (compared, different) =
                golden::differences(&cpu, &compile(model), &models(folder), usize::MAX);
            println!("{model}, {threads} threads: {compared} elements, {different} differ");
            assert!(compared >= 320, "{model}");
            assert_eq!(different, 0, "{model}, {threads} threads");
        }
    }
}

#[test]
fn reference_gives_the_bits_of_onnx_runtime() {
    for (model, folder) in MODELS {
        // A whole ImageNet network takes plain loops seconds.
        let cases = if model.starts_with("digits") { usize::MAX } else { 1 };
        let (compared, different) = golden::differences(&Reference, &compile(model), &models(folder), cases);
        assert!(compared > 0);
        assert_eq!(different, 0, "{model}");
    }
}

#[test]
fn the_committed_plans_are_what_the_models_compile_to() {
    for folder in ["digits", "efficientnet-lite0"] {
        let committed = std::fs::read(models(&format!("{folder}/model.plan"))).unwrap();
        let (once, twice) =
            (compile(&format!("{folder}/model.onnx")), compile(&format!("{folder}/model.onnx")));
        assert_eq!(once.to_bytes(), twice.to_bytes(), "{folder}: compiled twice");
        assert!(once.to_bytes() == committed, "{folder}: run `cargo xtask bless` where the change is meant");
    }
}

#[test]
fn arenas_are_near_their_lower_bound() {
    for (model, _) in MODELS {
        let plan = compile(model);
        let ratio = plan.arena_bytes as f64 / plan.arena_lower_bound as f64;
        println!(
            "{model}: arena {} bytes, lower bound {}, {ratio:.3} times",
            plan.arena_bytes, plan.arena_lower_bound
        );
        assert!(ratio <= 1.15, "{model}: {ratio}");
    }
}
