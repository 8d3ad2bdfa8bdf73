//! The `pilotlight` command from outside: what it prints, and its exit codes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use pilotlight_cli::npy::Array;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn models(path: &str) -> String {
    format!("{}/../../models/{path}", env!("CARGO_MANIFEST_DIR"))
}

fn pilotlight(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pilotlight")).args(args).output().unwrap()
}

/// Standard output of a command that must succeed.
fn ok(args: &[&str]) -> String {
    let output = pilotlight(args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a command that must end with `code`.
fn fails(code: i32, args: &[&str]) -> String {
    let output = pilotlight(args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    errors
}

/// An empty folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("pilotlight-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_photo_is_named_with_latency_and_energy() {
    let (plan, photo) = (models("efficientnet-lite0/model.plan"), models("photos/coffee.jpg"));
    let json: Value =
        serde_json::from_str(&ok(&["run", &plan, "--image", &photo, "--json", "--top", "3"])).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["top"].as_array().unwrap().len(), 3);
    assert_eq!(json["top"][0]["label"], "espresso");
    assert!(json["top"][0]["score"].as_f64().unwrap() > 0.3);
    assert!(json["latency_us"]["p50"].as_f64().unwrap() <= json["latency_us"]["p99"].as_f64().unwrap());
    assert_eq!(json["latency_us"]["n"], 20);
    assert_eq!(json["energy"]["status"], "not_measured");
    assert!(json["device"].as_str().unwrap().starts_with("cpu"));
    let shown = ok(&["run", &plan, "--image", &photo, "--repeat", "1"]);
    assert!(shown.contains("espresso") && shown.contains("energy: not measured"), "{shown}");
}

#[test]
fn a_reader_that_leaves_ends_the_command_without_a_word() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pilotlight"))
        .args(["explain", &models("efficientnet-lite0/model.plan")])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(1), ""));
}

#[test]
fn arrays_go_in_and_come_out() {
    let dir = folder("arrays");
    let (plan, input) = (models("digits/model.plan"), dir.join("x.npy"));
    let array = Array { dtype: pilotlight_plan::DType::F32, shape: vec![1, 1, 8, 8], bytes: vec![0; 256] };
    std::fs::write(&input, array.to_npy()).unwrap();
    let given = format!("image={}", text(&input));
    ok(&["run", &plan, "--input", &given, "--output-dir", text(&dir.join("a"))]);
    ok(&["run", &plan, "--input", &given, "--output-dir", text(&dir.join("b")), "--device", "reference"]);
    assert_eq!(Array::open(&dir.join("a/logits.npy")).unwrap().shape, [1, 10]);
    ok(&["compare", text(&dir.join("a")), text(&dir.join("b"))]);

    let mut other = Array::open(&dir.join("b/logits.npy")).unwrap();
    other.bytes[21] ^= 0x40;
    std::fs::write(dir.join("b/logits.npy"), other.to_npy()).unwrap();
    let differ = pilotlight(&["compare", text(&dir.join("a")), text(&dir.join("b")), "--first-mismatch"]);
    assert_eq!(differ.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&differ.stdout).contains("logits: first at [0, 5]"));

    let name = fails(1, &["run", &plan, "--input", &format!("picture={}", text(&input))]);
    assert!(name.contains("no input picture; the model has: image"), "{name}");
    assert!(fails(1, &["run", &plan]).contains("input image (f32 [1, 1, 8, 8]) is missing"));
    let twice = fails(1, &["run", &plan, "--input", &given, "--input", &given]);
    assert!(twice.contains("given twice"));
    std::fs::write(&input, Array { shape: vec![8, 8], ..array }.to_npy()).unwrap();
    assert!(fails(1, &["run", &plan, "--input", &given]).contains("needs f32 [1, 1, 8, 8]"));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn golden_outputs_hold_and_a_wrong_one_is_found() {
    let plan = models("digits/model.plan");
    let said = ok(&["verify", &plan, "--golden", &models("digits/golden/qdq")]);
    assert!(said.contains(" 0 of "), "{said}");
    // The QOperator form was quantised separately; where its logits differ, so must the answer.
    let dir = folder("golden");
    for file in ["golden.toml", "logits.npy"] {
        std::fs::copy(models(&format!("digits/golden/qdq/{file}")), dir.join(file)).unwrap();
    }
    std::fs::copy(models("digits/golden/inputs.npy"), dir.join("inputs.npy")).unwrap();
    let toml =
        std::fs::read_to_string(dir.join("golden.toml")).unwrap().replace("../inputs.npy", "inputs.npy");
    std::fs::write(dir.join("golden.toml"), toml).unwrap();
    let mut logits = std::fs::read(dir.join("logits.npy")).unwrap();
    *logits.last_mut().unwrap() ^= 1;
    std::fs::write(dir.join("logits.npy"), logits).unwrap();
    let wrong = pilotlight(&["verify", &plan, "--golden", text(&dir)]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stdout).contains(" 1 of "));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn devices_agree_on_every_tensor() {
    let plan = models("digits/model.plan");
    assert!(ok(&["compare", &plan, &plan, "--seed", "7"]).contains(" 0 differ"));
}

#[test]
fn int8_digits_are_within_half_a_point_of_float() {
    let said = ok(&["accuracy", &models("digits/model.plan"), "--within", "0.5", "--json"]);
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(json["pictures"], 360);
    assert!(json["percent"].as_f64().unwrap() > 90.0);
}

#[test]
fn a_plan_explains_itself() {
    let plan = models("digits/model.plan");
    let shown = ok(&["explain", &plan]);
    assert!(shown.contains("conv") && shown.contains("arena:"), "{shown}");
    let json: Value = serde_json::from_str(&ok(&["explain", &plan, "--json"])).unwrap();
    assert!(json["macs"].as_u64().unwrap() > 0);
    assert!(json["arena_bytes"].as_u64().unwrap() >= json["arena_lower_bound"].as_u64().unwrap());
}

#[test]
fn bench_counts_what_it_says() {
    let said = ok(&["bench", &models("digits/model.plan"), "-n", "5", "--warm-up", "1", "--json"]);
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(json["latency_us"]["n"], 5);
    assert!(json["steps"].as_array().unwrap().len() > 3);
    assert!(json["plan_open_us"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_trace_has_a_span_for_each_step_of_the_cpu() {
    let file = std::env::temp_dir().join(format!("pilotlight-trace-{}.json", std::process::id()));
    let path = file.to_str().unwrap();
    let said = ok(&["trace", &models("digits/model.plan"), "-o", path, "--json"]);
    let json: Value = serde_json::from_str(&said).unwrap();
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    std::fs::remove_file(&file).unwrap();
    // First the name of the one lane.
    let [lane, events @ ..] = &trace["traceEvents"].as_array().unwrap()[..] else { panic!("{trace}") };
    assert!(lane["ph"] == "M" && lane["args"]["name"] == "device", "{lane}");
    assert_eq!(json["lanes"], 1);
    assert_eq!(json["spans"].as_u64().unwrap() as usize, events.len());
    assert!(events.len() > 3 && events.iter().all(|e| e["ph"] == "X" && e["cat"] == "work"), "{trace}");
    // One after the other.
    assert!(events.windows(2).all(|e| e[0]["ts"].as_f64() <= e[1]["ts"].as_f64()));
}

#[test]
fn wrong_usage_ends_in_code_2() {
    let plan = models("digits/model.plan");
    for args in [
        &["run", &plan, "--imgae", "x.png"][..],
        &["run", &plan, "--threads", "two"],
        &["run", &plan, "--input", "x.npy"],
        &["run", &plan, "--device", "tpu"],
        &["bench", &plan, "-n", "0"],
        &["explain", &plan, "--dim", "N=0"],
        &["frobnicate"],
        &[],
    ] {
        fails(2, args);
    }
    assert!(fails(2, &["run", &plan, "--imgae", "x.png"]).contains("--image"), "the nearest flag is named");
}

#[test]
fn bad_files_end_in_code_1_with_a_way_out() {
    let dir = folder("bad");
    let plan = std::fs::read(models("digits/model.plan")).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        text(&path).to_owned()
    };
    let short = file("short.plan", &plan[..plan.len() / 2]);
    assert!(fails(1, &["explain", &short]).contains("truncated"));
    let mut damaged = plan.clone();
    damaged[200] ^= 1;
    assert!(fails(1, &["explain", &file("damaged.plan", &damaged)]).contains("hash"));
    let mut newer = plan;
    newer[8] = 9;
    assert!(fails(1, &["explain", &file("newer.plan", &newer)]).contains("format 9"));
    fails(1, &["explain", &file("zeros.onnx", &[0; 100])]);
    fails(1, &["explain", &file("empty.onnx", &[])]);
    assert!(fails(1, &["explain", text(&dir.join("none.plan"))]).contains("cannot be read"));
    assert!(fails(1, &["explain", text(&dir)]).contains("model.toml"));
    let photo = file("photo.png", b"\x89PNG\r\n\x1a\nnot really");
    assert!(
        fails(1, &["run", &models("efficientnet-lite0/model.plan"), "--image", &photo]).contains("photo.png")
    );
    assert!(fails(1, &["run", &short.replace("short", "damaged"), "--image", &photo]).contains("hash"));
    let bare = file("bare.plan", &std::fs::read(models("digits/model.plan")).unwrap());
    assert!(fails(1, &["run", &bare, "--image", &photo]).contains("model card"));
    assert!(fails(1, &["explain", &bare, "--dim", "N=2"]).contains("bound already"));
    std::fs::remove_dir_all(dir).unwrap();
}
