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

/// What a command says that must fail.
fn fails(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && !errors.contains("panicked"), "{errors}");
    errors
}

/// What a command says that is used wrongly.
fn refused(args: &[&str]) -> String {
    let output = pilotlight(args);
    let errors = fails(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
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
    let device = refused(&["bench", &model, "--device", "gpu"]);
    assert!(device.contains("cuda:graph") && device.contains("cuda:launch"), "{device}");
    for name in ["virtual:nonsense", "virtual:", "jetson", "virtual"] {
        for command in [&["bench", &model, "--device", "cuda"][..], &["profile", &model], &["verify", &model]]
        {
            let board = refused(&[command, &["--board", name]].concat());
            assert!(board.contains("no such board"), "{board}");
            let known = pilotlight_boards::virtual_tree::virtual_names();
            assert!(known.into_iter().all(|known| board.contains(&format!("virtual:{known}"))), "{board}");
        }
    }
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

#[test]
fn profile_counts_work_and_names_what_is_modelled() {
    let model = models("digits");
    let json: Value = serde_json::from_str(&ok(&["profile", &model, "--json"])).unwrap();
    assert_eq!((&json["schema"], &json["status"]), (&Value::from(1), &Value::from("modelled")));
    let steps = json["steps"].as_array().unwrap();
    let sum = |key: &str| steps.iter().map(|s| s[key].as_u64().unwrap()).sum::<u64>();
    let total = |key: &str| json["totals"][key].as_u64().unwrap();
    assert!(steps.iter().all(|s| !s["kernels"].as_array().unwrap().is_empty()), "{json}");
    let matrix: Vec<&Value> = steps.iter().filter(|s| s["issued_macs"] != 0).collect();
    assert!(matrix.len() >= 2, "{json}");
    assert!(matrix.iter().all(|s| s["useful_macs"].as_u64() <= s["issued_macs"].as_u64()), "{json}");
    assert_eq!(total("mma_issued"), sum("issued_macs"));
    assert_eq!(total("bank_conflicts"), sum("bank_conflicts"));
    assert!(total("loop_passes") > 0);
    assert_eq!((total("loop_bank_conflicts"), sum("loop_bank_conflicts")), (0, 0));
    assert!(json["totals"]["modelled_us"].as_f64().unwrap() > 0.0);
    let text = ok(&["profile", &model, "--board", "virtual:agx-orin-64"]);
    assert!(text.contains("16 multiprocessors") && text.contains("modelled by the virtual Orin"), "{text}");
    assert!(text.contains("bank conflicts: 0 in main loops (of "), "{text}");
    let auto = fails(&pilotlight(&["profile", &model, "--board", "auto"]));
    assert!(auto.contains("virtual:") || auto.contains("no CUDA driver"), "{auto}");
}

#[test]
fn explain_shows_the_program_of_a_gpu() {
    let model = models("efficientnet-lite0/model.plan");
    let program = |more: &[&str]| ok(&[&["explain", &model, "--stage", "program"][..], more].concat());
    let json: Value = serde_json::from_str(&program(&["--json"])).unwrap();
    assert_eq!(json["multiprocessors"], 8);
    let launches = json["launches"].as_array().unwrap();
    let steps: Vec<u64> = launches.iter().map(|l| l["step"].as_u64().unwrap()).collect();
    assert!(steps.is_sorted() && steps.len() > 50, "{steps:?}");
    let kernels: Vec<&str> = launches.iter().map(|l| l["kernel"].as_str().unwrap()).collect();
    let known = |name: &&str| pilotlight_kernels::figures().any(|f| f.name == *name);
    assert!(kernels.iter().all(known), "{kernels:?}");
    assert!(launches.iter().all(|l| l["waves"].as_u64() > Some(0) && l["why"] != ""), "{json}");
    // Another GPU, another program.
    assert_ne!(
        json["launches"],
        serde_json::from_str::<Value>(&program(&["--json", "--multiprocessors", "16"])).unwrap()["launches"]
    );
    let text = program(&[]);
    assert!(text.contains("launches on 8 multiprocessors") && text.contains("depthwise"), "{text}");
    refused(&["explain", &model, "--stage", "program", "--multiprocessors", "0"]);
    let stage = refused(&["explain", &model, "--stage", "kernels"]);
    assert!(stage.contains("program") && stage.contains("plan"), "{stage}");
}

#[test]
fn sass_stands_beside_cutlass() {
    let json: Value = serde_json::from_str(&ok(&["sass", "--json"])).unwrap();
    let rows = json["kernels"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * pilotlight_kernels::tiles().count());
    for row in rows {
        assert_eq!(row["spills"], 0);
        assert!(row["registers"].as_u64().unwrap() <= 255, "{row}");
        // CUTLASS's shared loads for each IMMA at the same warp tile.
        let most = match row["warp_tile"].as_str().unwrap() {
            "64x64" => 0.25,
            "64x32" => 0.38,
            other => panic!("{other}"),
        };
        // The gathering kernels have no loop of whole tiles.
        if let Some(ratio) = row["loads_per_imma"].as_f64() {
            assert!(ratio <= most, "{row}");
        } else {
            assert!(row["kernel"].as_str().unwrap().ends_with("gather"), "{row}");
        }
    }
    let text = ok(&["sass"]);
    assert!(text.contains("CUTLASS 4.7.0") && text.contains("conv_u8_128x256"), "{text}");
    let missing = fails(&pilotlight(&["sass", "--nvdisasm", "/no/such/program"]));
    assert!(missing.contains("pip install nvidia-cuda-nvdisasm"), "{missing}");
}

/// The timeline of the persistent kernel as a viewer reads it.
#[test]
fn a_trace_shows_each_block_its_waits_and_the_mailbox() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.json");
    let args = ["trace", &models("digits"), "-o", file.to_str().unwrap(), "--device", "cuda:persistent"];
    let report: Value = serde_json::from_str(&ok(&[&args[..], &NANO[2..], &["--json"]].concat())).unwrap();
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |kind: &str| events.iter().filter(|e| e["cat"] == kind).collect::<Vec<_>>();
    let names: Vec<(u64, &str)> = events
        .iter()
        .filter(|e| e["ph"] == "M" && e["name"] == "thread_name")
        .map(|e| (e["tid"].as_u64().unwrap(), e["args"]["name"].as_str().unwrap()))
        .collect();
    // Eight multiprocessors, and the mailbox behind them.
    let wanted: Vec<(u64, String)> =
        (0..8).map(|n| (n, format!("CTA {n}"))).chain([(8, "mailbox".into())]).collect();
    assert!(names.iter().map(|(n, s)| (*n, s.to_string())).eq(wanted), "{names:?}");
    let (work, waits, mailbox) = (of("work"), of("wait"), of("mailbox"));
    assert_eq!(work.len() as u64, report["spans"].as_u64().unwrap());
    assert!(!waits.is_empty() && report["lanes"] == 8, "{report}");
    assert!(work.iter().all(|e| e["args"]["step"].is_u64() && e["tid"].as_u64() < Some(8)));
    // Thousandths of a microsecond, in which the clock counts.
    let range = |e: &Value| {
        let nanos = |v: &Value| (v.as_f64().unwrap() * 1e3).round() as u64;
        nanos(&e["ts"])..nanos(&e["ts"]) + nanos(&e["dur"])
    };
    // In a CTA's lane one thing ends before the next begins.
    for lane in 0..8u64 {
        let mut all: Vec<_> =
            work.iter().chain(&waits).filter(|e| e["tid"] == lane).map(|e| range(e)).collect();
        all.sort_by_key(|r| (r.start, r.end));
        assert!(!all.is_empty() && all.windows(2).all(|w| w[0].end <= w[1].start), "CTA {lane}: {all:?}");
    }
    // The request spans everything; in it, behind all work, lies the join.
    let [request, join] = [range(mailbox[0]), range(mailbox[1])];
    assert!(mailbox.len() == 2 && mailbox.iter().all(|e| e["tid"] == 8), "{mailbox:?}");
    assert!(request.start <= join.start && join.end <= request.end, "{request:?} {join:?}");
    for event in work.iter().chain(&waits).map(|e| range(e)) {
        assert!(
            request.start <= event.start && event.end <= request.end && event.end <= join.start,
            "{event:?}"
        );
    }
}

#[test]
fn a_rate_of_requests_is_billed_by_policy_and_the_chosen_one_is_near_the_best() {
    let model = models("digits");
    let bench = |more: &[&'static str]| [&["bench", model.as_str(), "--rate"][..], more, &NANO[2..]].concat();
    for hz in ["1", "25", "100", "1000", "5000", "30000"] {
        let json: Value = serde_json::from_str(&ok(&bench(&[hz, "--json"]))).unwrap();
        assert_eq!((json["status"].as_str(), json["validated"].as_bool()), (Some("modelled"), Some(false)));
        let over = json["over_best_percent"].as_array().unwrap();
        assert!(over.iter().all(|p| (0.0..=3.0).contains(&p.as_f64().unwrap())), "{hz} Hz: {over:?}");
        let policies = json["policies"].as_array().unwrap();
        let names: Vec<_> = policies.iter().map(|p| p["policy"].as_str().unwrap()).collect();
        assert_eq!(names, ["lit", "parked", "graph"]);
        // No policy that keeps up costs 3 % less than the chosen one.
        let mj = |p: &Value| p["mj"].as_f64();
        let chosen = policies.iter().find(|p| p["policy"] == json["chosen"]).and_then(mj).unwrap();
        assert!(policies.iter().filter_map(mj).all(|other| chosen <= 1.03 * other), "{hz} Hz: {policies:?}");
        let idle = &json["idle"];
        let figure = |name: &str| idle[name].as_f64().unwrap();
        // The break-even follows from what is printed beside it.
        let even = figure("relaunch_mj") * 1e3 / (figure("back_off_w") - figure("parked_w"));
        assert!((even / figure("break_even_us") - 1.0).abs() < 1e-9, "{idle}");
        assert_eq!(figure("idle_us"), figure("break_even_us").max(figure("least_us")));
        assert!(idle["inputs"].as_array().unwrap().len() >= 5);
        let changed = json["sensitivity"].as_array().unwrap();
        assert!(changed.iter().any(|s| s["constant"] == "gate_exit_ns"), "{changed:?}");
    }
    // The graph's launch alone takes longer than the pause between requests.
    let text = ok(&bench(&["30000"]));
    assert!(text.contains("everything MODELLED, nothing measured") && text.contains("too slow"), "{text}");
    assert!(text.contains("chosen: lit") && text.contains("(assumed)"), "{text}");
    let errors = fails(&pilotlight(&bench(&["500000"])));
    assert!(errors.contains("requests a second leave"), "{errors}");
    let errors = fails(&pilotlight(&["bench", &model, "--rate", "25"]));
    assert!(errors.contains("--board virtual:"), "{errors}");
    let errors = fails(&pilotlight(&["bench", &model, "--rate", "25", "--board", "virtual:none"]));
    assert!(errors.contains("orin-nano-super"), "{errors}");
    let errors = fails(&pilotlight(&bench(&["0"])));
    assert!(errors.contains("0.001"), "{errors}");
}

#[test]
fn a_profile_models_the_whole_inference_in_both_modes() {
    let model = models("digits");
    let args = [&["profile", model.as_str(), "--modes"][..], &NANO[2..]].concat();
    let json: Value = serde_json::from_str(&ok(&[&args[..], &["--json"]].concat())).unwrap();
    let modes = &json["modes"];
    let number = |v: &Value| v.as_f64().unwrap_or_else(|| panic!("{modes}"));
    let persistent = number(&modes["persistent_us"]);
    let parts = ["work_us", "fill_us", "waits_us", "mailbox_us"].map(|part| number(&modes["critical"][part]));
    assert!(
        parts.iter().all(|us| *us > 0.0) && (parts.iter().sum::<f64>() - persistent).abs() < 1e-6,
        "{modes}"
    );
    // Graph mode's kernels are those that were profiled one by one.
    assert!((number(&modes["graph_us"]) - number(&json["totals"]["modelled_us"])).abs() < 1e-6);
    assert_eq!(modes["tensorrt_us"], Value::Null, "nobody published it for digits");
    let worst = number(&modes["worst_single_us"]);
    assert!(persistent < worst && worst < number(&modes["pessimistic_us"][0]), "{modes}");
    let flags =
        modes["sensitivity"].as_array().unwrap().iter().find(|s| s["constant"] == "wait_clocks").unwrap();
    assert!(
        number(&flags["persistent_us"][0]) < persistent && persistent < number(&flags["persistent_us"][1])
    );
    assert_eq!(flags["graph_us"][0], flags["graph_us"][1], "a graph has no flags");
    let text = ok(&args);
    assert!(text.contains("not validated") && text.contains("slower ends"), "{text}");
}
