//! The `pilotlight` command on virtual boards: one command, no library path to set, modelled figures labelled so.
#![cfg(feature = "virtual")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;
use std::process::{Command, Output};

fn models(path: &str) -> String {
    format!("{}/../../models/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs the command without cargo's library path.
fn pilotlight(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pilotlight")).args(args).env_remove("LD_LIBRARY_PATH").output().unwrap()
}

fn ok(args: &[&str]) -> String {
    let output = pilotlight(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn fails(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && !errors.contains("panicked"), "{errors}");
    errors
}

const NANO: [&str; 4] = ["--device", "cuda:graph", "--board", "virtual:orin-nano-super"];

#[test]
fn a_picture_runs_on_a_virtual_board_and_every_tensor_agrees() {
    let (model, photo) = (models("digits"), models("photos/coffee.jpg"));
    let args = [&["run", &model, "--image", &photo, "--check"][..], &NANO].concat();
    let json: Value = serde_json::from_str(&ok(&[&args[..], &["--json"]].concat())).unwrap();
    assert!(json["device"].as_str().unwrap().starts_with("cuda:graph"), "{json}");
    assert_eq!(json["check"]["different"], 0);
    assert!(json["check"]["tensors"].as_u64().unwrap() > 5);
    assert_eq!(json["latency_us"], Value::Null, "a virtual board has no time of its own");
    assert_eq!(json["modelled"]["status"], "modelled");
    for count in ["launches", "instructions", "mma_macs", "dram_read_bytes"] {
        assert!(json["modelled"][count].as_u64().unwrap() > 0, "{count}");
    }
    assert!(json["modelled"]["us"].as_f64().unwrap() > 0.0);
    let text = ok(&args);
    assert!(text.contains("modelled by the virtual Orin, not measured"), "{text}");
    assert!(text.contains("energy: not measured") && !text.contains("latency"), "{text}");
}

#[test]
fn a_resident_kernel_shows_no_time_of_the_emulator_as_latency() {
    let (model, photo) = (models("digits"), models("photos/coffee.jpg"));
    let args = ["run", &model, "--image", &photo, "--check", "--device", "cuda:persistent"];
    let text = ok(&[&args[..], &NANO[2..]].concat());
    assert!(text.contains("neither measured nor modelled") && !text.contains("latency"), "{text}");
    assert!(text.contains(" 0 differ"), "{text}");
}

#[test]
fn telemetry_takes_no_figure_of_a_virtual_board() {
    let (model, key) = (models("digits"), std::env::temp_dir().join("pilotlight-virtual.key"));
    let telemetry = ["--telemetry", "udp://127.0.0.1:9", "--key", key.to_str().unwrap()];
    let errors = fails(&pilotlight(&[&["bench", &model][..], &NANO, &telemetry].concat()));
    assert!(errors.contains("measures nothing"), "{errors}");
}

#[test]
fn the_other_commands_take_the_same_names() {
    let model = models("digits");
    let golden = models("digits/golden/qdq");
    let verified = ok(&[&["verify", &model, "--golden", &golden][..], &NANO].concat());
    assert!(verified.contains(" 0 of"), "{verified}");
    let same =
        ok(&[&["compare", &model, "--device-a", "cpu", "--device-b", "cuda:launch"][..], &NANO[2..]]
            .concat());
    assert!(same.contains("0 differ"), "{same}");
    let bench = ok(&[&["bench", &model][..], &NANO].concat());
    assert!(bench.contains("modelled, not measured, one by one"), "{bench}");
    let json: Value = serde_json::from_str(&ok(&[&["bench", &model, "--json"][..], &NANO].concat())).unwrap();
    assert_eq!(json["modelled"]["status"], "modelled");
}

#[test]
fn an_unknown_name_is_answered_with_all_names() {
    let model = models("digits");
    let run = |more: &[&str]| fails(&pilotlight(&[&["bench", &model][..], more].concat()));
    let device = run(&["--device", "gpu"]);
    assert!(device.contains("cuda:graph") && device.contains("cuda:launch"), "{device}");
    let board = run(&["--device", "cuda", "--board", "virtual:orin"]);
    assert!(board.contains("no such board") && board.contains("orin-nano-super"), "{board}");
    let kind = run(&["--device", "cuda", "--board", "jetson"]);
    assert!(kind.contains("auto") && kind.contains("virtual:NAME"), "{kind}");
    let cpu = run(&["--board", "virtual:orin-nano-super"]);
    assert!(cpu.contains("--board is for CUDA devices"), "{cpu}");
    let threads = run(&["--device", "cuda", "--threads", "2"]);
    assert!(threads.contains("--threads"), "{threads}");
}

#[test]
fn a_virtual_board_is_never_taken_for_this_machine_s_gpu() {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_pilotlight"));
    let output = Command::new(program)
        .args(["bench", &models("digits"), "--device", "cuda", "--board", "auto"])
        .env("LD_LIBRARY_PATH", program.parent().unwrap().join("deps"))
        .output()
        .unwrap();
    let errors = fails(&output);
    assert!(errors.contains("virtual Orin's"), "{errors}");
}
