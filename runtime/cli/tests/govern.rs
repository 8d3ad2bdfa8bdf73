//! `boards`, `power`, `govern`, `restore` and `helper` from outside, on fixture trees.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn pilotlight() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pilotlight"))
}

fn done(command: &mut Command) -> Output {
    let output = command.output().expect("the command starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder of this test's own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pilotlight-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn board(name: &str) -> Self {
        let folder = Self::new(name);
        done(pilotlight().args(["boards", "--fixture", "orin-nano-8gb-super", "--root"]).arg(&folder.0));
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn content(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).expect("a folder").flatten() {
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                let value = fs::read_to_string(entry.path()).expect("text");
                found.insert(entry.path(), value.trim_end().to_owned());
            }
        }
    }
    found
}

fn measurements() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../boards/data/dvfs")
}

#[test]
fn boards_shows_a_fixture_and_this_machine() {
    let board = Folder::board("boards");
    let shown = text(&done(pilotlight().args(["boards", "--root"]).arg(&board.0)).stdout);
    assert!(shown.contains("Jetson Orin Nano 8 GB (super)") && shown.contains("5.54 W modelled"), "{shown}");
    let json = text(&done(pilotlight().args(["boards", "--json", "--root"]).arg(&board.0)).stdout);
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(value["data"]["name"], "orin-nano-8gb-super");
    assert_eq!(text(&done(pilotlight().args(["boards", "--list"])).stdout).lines().count(), 10);
    done(pilotlight().arg("boards"));
}

#[test]
fn power_measures_windows() {
    let board = Folder::board("power");
    let output = done(
        pilotlight().args(["power", "--json", "--window", "0.2", "--windows", "2", "--root"]).arg(&board.0),
    );
    let lines: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(lines.len(), 2);
    // Sums of whole microjoules may end a milliwatt below.
    assert!((5539..=5540).contains(&lines[1]["mean_mw"].as_u64().expect("a number")), "{}", lines[1]);
    // The tree is made up.
    assert_eq!(lines[1]["basis"], "modelled");
    assert!(text(&output.stderr).contains("% of a core"));
}

#[test]
fn power_raises_alerts_and_tells_costs() {
    let board = Folder::board("power-alerts");
    let power = |more: &[&str]| {
        let mut command = pilotlight();
        command
            .args(["power", "--json", "--window", "0.1", "--windows", "1", "--root"])
            .arg(&board.0)
            .args(more);
        let line = text(&done(&mut command).stdout);
        serde_json::from_str::<serde_json::Value>(&line).expect("JSON")
    };
    let calm = power(&[]);
    assert_eq!((&calm["alerts"], &calm["price_per_day"]), (&serde_json::json!([]), &serde_json::Value::Null));
    assert_eq!(calm["over_current"]["average"], 0);
    // 5.54 W at 100 a second are 55.4 mJ each; a day is 0.13296 kWh; a million are 0.015389 kWh.
    let rates = ["--inferences-per-second", "100", "--tariff", "0.5", "--grid", "400"];
    let limits = ["--alert-energy-mj", "55", "--alert-temperature", "47"];
    let loud = power(&[&rates[..], &limits].concat());
    let near = |key: &str, value: f64| {
        let found = loud[key].as_f64().expect("a number");
        assert!((found / value - 1.0).abs() < 1e-3, "{key} {found}, not {value}");
    };
    near("energy_per_inference_mj", 55.4);
    near("price_per_day", 0.066_48);
    near("co2_g_per_day", 53.184);
    near("price_per_million", 0.007_694);
    near("co2_g_per_million", 6.155_6);
    let raised: Vec<_> = loud["alerts"].as_array().expect("a list").iter().map(|a| &a["alert"]).collect();
    assert_eq!(raised, ["energy_mj", "temperature_c"]);
    let above = power(&["--inferences-per-second", "100", "--alert-energy-mj", "56"]);
    assert_eq!(above["alerts"], serde_json::json!([]));
    // Without a rate of inferences nobody knows what one takes.
    let refused = pilotlight().args(["power", "--alert-energy-mj", "5"]).output().expect("it starts");
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn power_counts_over_current_events() {
    let board = Folder::board("power-events");
    let mut child = pilotlight()
        .args(["power", "--json", "--window", "0.2", "--windows", "40", "--alert-throttling", "--root"])
        .arg(&board.0)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut next = || {
        let line = lines.next().expect("a line").expect("text");
        serde_json::from_str::<serde_json::Value>(&line).expect("JSON")
    };
    assert_eq!(next()["alerts"], serde_json::json!([]));
    let counter = "sys/devices/platform/soctherm-oc-event/hwmon/hwmon2/oc2_event_cnt";
    fs::write(board.0.join(counter), "3\n").expect("written");
    let raised = (0..39).map(|_| next()).find(|line| line["alerts"][0]["alert"] == "throttle_events");
    let raised = raised.expect("an alert");
    assert_eq!((&raised["alerts"][0]["value"], &raised["over_current"]["average"]), (&3.0.into(), &3.into()));
    // Once: they are events, not a state.
    assert_eq!(next()["alerts"], serde_json::json!([]));
    child.kill().expect("ended");
    child.wait().expect("ended");
}

#[test]
fn a_plant_of_lines_is_governed() {
    let mut child = pilotlight()
        .args([
            "govern",
            "--plant",
            "stdio",
            "--budget-us",
            "8000",
            "--period-us",
            "40000",
            "--percentile",
            "99",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut input = child.stdin.take().expect("a pipe");
    for cycle in 1..=50 {
        writeln!(input, "cycle={cycle} t_us={} latency_us=4300", cycle * 40_000).expect("written");
    }
    drop(input);
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success());
    let answers = text(&output.stdout);
    assert_eq!(answers.lines().count(), 51);
    assert!(answers.starts_with("gpu_hz=1020000000 emc_hz=3199000000 changed=1 state=struggling"));
    assert!(
        answers
            .lines()
            .any(|l| l.contains("changed=1") && !l.contains("gpu_hz=1020000000 emc_hz=3199000000"))
    );
    assert!(text(&output.stderr).contains("50 cycles, 0 late"));
}

#[test]
fn a_replay_writes_its_trace_and_plot() {
    let folder = Folder::new("replay");
    let (trace, plot) = (folder.0.join("t.csv"), folder.0.join("p.svg"));
    let output = done(
        pilotlight()
            .args(["govern", "--workload", "mobilenet", "--budget", "8ms", "--cycles", "600", "--replay"])
            .arg(measurements())
            .arg("--trace")
            .arg(&trace)
            .arg("--plot")
            .arg(&plot),
    );
    assert!(text(&output.stdout).contains("MODELLED"));
    assert_eq!(fs::read_to_string(trace).expect("a trace").lines().count(), 601);
    let svg = fs::read_to_string(plot).expect("a plot");
    assert!(svg.starts_with("<svg") && svg.contains("jetson-latency-lab"));
    let missing = pilotlight().args(["govern", "--replay", "/nowhere"]).output().expect("starts");
    assert!(!missing.status.success() && text(&missing.stderr).contains("power_traces_summary.csv"));
}

/// A program that reports a latency every few milliseconds. `1<>` never waits for a reader, so that it ends even
/// when the governor was killed.
const LOOP: &str = "for i in $(seq 2000); do echo latency_us=900 1<>$PILOTLIGHT_CYCLES; sleep 0.005; done";

fn governed(board: &Folder, state: &Path, script: &str) -> Command {
    let mut command = pilotlight();
    command.args(["govern", "--budget", "8ms", "--period-us", "5000", "--root"]).arg(&board.0);
    command.arg("--state").arg(state).args(["--", "sh", "-c", script]).stderr(Stdio::null());
    command
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_board_is_as_found_after_the_end_a_signal_and_a_kill() {
    let board = Folder::board("kill");
    let state = Folder::new("kill-state");
    let place = state.0.join("s");
    let before = content(&board.0);
    // It ends by itself.
    let short = "for i in 1 2 3 4 5 6 7 8 9 10; do echo latency_us=900 1<>$PILOTLIGHT_CYCLES; sleep 0.005; done; sleep 0.2";
    assert!(governed(&board, &place, short).status().expect("starts").success());
    assert_eq!(content(&board.0), before);
    // It is told to end.
    let mut child = governed(&board, &place, LOOP).spawn().expect("starts");
    wait_until("a change of clocks", || content(&board.0) != before);
    done(Command::new("kill").args(["-TERM", &child.id().to_string()]));
    child.wait().expect("ends");
    assert_eq!(content(&board.0), before);
    assert!(!place.join("clocks.json").exists());
    // It is killed, and restored after.
    let bounded = "for i in $(seq 200); do echo latency_us=900 1<>$PILOTLIGHT_CYCLES; sleep 0.005; done";
    let mut child = governed(&board, &place, bounded).spawn().expect("starts");
    wait_until("a change of clocks", || content(&board.0) != before);
    child.kill().expect("killed");
    child.wait().expect("ends");
    assert!(place.join("clocks.json").exists());
    assert_ne!(content(&board.0), before);
    done(pilotlight().args(["restore", "--root"]).arg(&board.0).arg("--state").arg(&place));
    assert_eq!(content(&board.0), before);
}

#[cfg(feature = "virtual")]
#[test]
fn the_loop_closes_on_a_virtual_board() {
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/digits");
    let govern = |board: &str, budget: &str| {
        let output = pilotlight()
            .args(["govern", "--json", "--budget-us", budget, "--cycles", "400", "--board", board, "--model"])
            .arg(&model)
            .args(["--alert-temperature", "20"])
            .output()
            .expect("starts");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report: serde_json::Value = serde_json::from_str(&text(&output.stdout)).expect("JSON");
        (report, text(&output.stderr))
    };
    let (report, events) = govern("virtual:orin-nano-super", "200");
    // Every inference ran on the emulator, and every output is the CPU device's.
    assert_eq!((report["elements"].as_u64(), report["different"].as_u64()), (Some(400 * 40), Some(0)));
    assert_eq!(report["late"], 0);
    assert_eq!(report["restored"], true);
    assert!(report["gpu_hz"].as_u64() < Some(1_020_000_000), "{report}");
    let (held, top) =
        (report["energy_mj"].as_f64().expect("one"), report["top_clocks_mj"].as_f64().expect("one"));
    assert!(held < 0.9 * top, "{held} mJ a period, top clocks {top}");
    // The meter reads the virtual rails and agrees with what the model spent.
    let meter = &report["metered"];
    let ratio = meter["metered_mj"].as_f64().expect("one") / meter["modelled_mj"].as_f64().expect("one");
    assert!((ratio - 1.0).abs() < 0.01, "{meter}");
    assert_eq!(meter["windows"], meter["covered"], "{meter}");
    assert!(events.contains(r#""event":"alert""#) && events.contains("temperature_c"), "{events}");
    assert!(events.contains(r#""event":"summary""#) && events.contains("room left"), "{events}");
    // Nothing is fast enough: named, and the fastest clocks held.
    let (report, events) = govern("virtual:orin-nx-16", "20");
    assert_eq!(report["state"], "infeasible", "{events}");
    let unknown = pilotlight()
        .args(["govern", "--budget", "1ms", "--board", "virtual:orin", "--model"])
        .arg(&model)
        .output()
        .expect("starts");
    assert!(!unknown.status.success() && text(&unknown.stderr).contains("virtual:orin-nano-super"));
}

#[cfg(feature = "virtual")]
#[test]
fn tune_prints_and_plots_its_frontier_on_a_virtual_board() {
    let folder = Folder::new("tune");
    let plot = folder.0.join("t.svg");
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/digits");
    let tune = |more: &[&str]| {
        let output = pilotlight().arg("tune").arg(&model).args(more).arg("--plot").arg(&plot).output();
        output.expect("starts")
    };
    let output = tune(&["--board", "virtual:orin-nano-super"]);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        shown.contains("knee: batch ") && shown.contains("one notch below") && shown.contains("MODELLED"),
        "{shown}"
    );
    let svg = fs::read_to_string(&plot).expect("a plot");
    assert!(svg.starts_with("<svg") && svg.contains("pick: batch") && svg.contains("MODELLED"));
    let json = text(&tune(&["--board", "virtual:orin-nano-super", "--json"]).stdout);
    let report: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    // 4 batches at 8 GPU clocks and 4 memory clocks.
    let candidates = report["candidates"].as_array().expect("a list");
    assert_eq!(candidates.len(), 128);
    let of = |i: &serde_json::Value| &candidates[i.as_u64().expect("an index") as usize];
    let (knee, pick) = (of(&report["frontier"]["knee"]), of(&report["frontier"]["pick"]));
    assert!(pick["per_second"].as_f64() <= knee["per_second"].as_f64());
    assert!(pick["energy_mj"].as_f64() <= knee["energy_mj"].as_f64());
    // Slower clocks never make the same counts faster.
    for pair in
        candidates.windows(2).filter(|p| p[0]["batch"] == p[1]["batch"] && p[0]["gpu_mhz"] == p[1]["gpu_mhz"])
    {
        assert!(pair[1]["latency_us"].as_f64() <= pair[0]["latency_us"].as_f64(), "{pair:?}");
    }
    let tight = tune(&["--board", "virtual:orin-nano-super", "--budget-us", "1"]);
    assert!(!tight.status.success() && text(&tight.stderr).contains("no candidate holds"));
    // This machine: batches alone, measured.
    let here = tune(&["-n", "3", "--batch", "1,4", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&text(&here.stdout)).expect("JSON");
    assert_eq!(report["candidates"].as_array().map(Vec::len), Some(2));
    // A board of fixtures: every clock that may be set, and put back.
    let board = Folder::board("tune-board");
    let before = content(&board.0);
    let state = folder.0.join("state");
    let root = board.0.to_str().expect("text");
    let swept = tune(&[
        "-n",
        "1",
        "--batch",
        "1",
        "--json",
        "--root",
        root,
        "--state",
        state.to_str().expect("text"),
    ]);
    assert!(swept.status.success(), "{}", text(&swept.stderr));
    let report: serde_json::Value = serde_json::from_str(&text(&swept.stdout)).expect("JSON");
    assert_eq!(report["candidates"].as_array().map(Vec::len), Some(32));
    assert_eq!(content(&board.0), before);
}

#[test]
fn a_second_owner_and_pinned_clocks_are_refused() {
    let board = Folder::board("owner");
    let state = Folder::new("owner-state");
    let before = content(&board.0);
    let mut first = governed(&board, &state.0.join("a"), LOOP).spawn().expect("starts");
    wait_until("a change of clocks", || content(&board.0) != before);
    // Another state folder does not help: the board itself is locked.
    let mut second = governed(&board, &state.0.join("b"), "true");
    let refused = second.stderr(Stdio::piped()).output().expect("starts");
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("another process owns the clocks"), "{}", text(&refused.stderr));
    done(Command::new("kill").args(["-TERM", &first.id().to_string()]));
    first.wait().expect("ends");
    assert_eq!(content(&board.0), before);
    // As jetson_clocks leaves it.
    let devfreq = board.0.join("sys/devices/platform/bus@0/17000000.gpu/devfreq/17000000.gpu");
    fs::write(devfreq.join("min_freq"), "1020000000\n").expect("written");
    let pinned = content(&board.0);
    let mut third = governed(&board, &state.0.join("c"), "true");
    let refused = third.stderr(Stdio::piped()).output().expect("starts");
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("jetson_clocks --restore"), "{}", text(&refused.stderr));
    assert_eq!(content(&board.0), pinned);
}

#[test]
fn alerts_urgency_and_faults_of_a_governed_program_are_told() {
    let board = Folder::board("alerts");
    let state = Folder::new("alerts-state");
    let before = content(&board.0);
    // Late from the start, on a rail that stands still, for more than a window.
    let script = "for i in $(seq 600); do echo latency_us=4000 1<>$PILOTLIGHT_CYCLES; \
                  [ $i = 500 ] && echo urgency=urgent 1<>$PILOTLIGHT_CYCLES; \
                  [ $i = 550 ] && echo urgency=background 1<>$PILOTLIGHT_CYCLES; sleep 0.005; done; sleep 0.2";
    let output = pilotlight()
        .args(["govern", "--json", "--budget", "5ms", "--period-us", "5000", "--root"])
        .arg(&board.0)
        .arg("--state")
        .arg(state.0.join("s"))
        .args(["--alert-energy-mj", "1", "--alert-temperature", "40", "--alert-late", "0.01"])
        .args(["--background-cap", "408", "--", "sh", "-c", script])
        .output()
        .expect("starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let events: Vec<serde_json::Value> =
        text(&output.stderr).lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let of = |kind: &str| events.iter().filter(|e| e["event"] == kind).collect::<Vec<_>>();
    let alerts: Vec<_> = of("alert").iter().map(|e| e["alert"].clone()).collect();
    assert!(alerts.contains(&"energy_mj".into()) && alerts.contains(&"temperature_c".into()), "{alerts:?}");
    let summary = of("summary")[0];
    assert_eq!(summary["cycles"], 600);
    assert!(summary["energy_per_inference_uj"].as_u64() > Some(1_000), "{summary}");
    assert!(summary["busy"].as_f64() > Some(0.5), "{summary}");
    assert_eq!(content(&board.0), before);
    let mut refused = pilotlight();
    refused.args(["govern", "--budget", "5ms", "--urgency", "background", "--root"]).arg(&board.0);
    let refused =
        refused.arg("--state").arg(state.0.join("s")).args(["--", "true"]).output().expect("starts");
    assert!(!refused.status.success() && text(&refused.stderr).contains("--background-cap"));
}

#[test]
fn energy_of_bench_is_that_of_the_rails_and_has_a_price() {
    let board = Folder::board("bench");
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/digits");
    let bench = |root: &Path, more: &[&str]| {
        let output = done(
            pilotlight().args(["bench", "--json", "-n", "40000", "--root"]).arg(root).args(more).arg(&model),
        );
        serde_json::from_str::<serde_json::Value>(&text(&output.stdout)).expect("JSON")
    };
    let report = bench(&board.0, &["--tariff", "0.36", "--grid", "360", "--before-mj", "2"]);
    let energy = &report["energy"];
    assert_eq!((&energy["status"], &energy["rails"][0]), (&"modelled".into(), &"VDD_IN".into()), "{energy}");
    // A rail that stands still at 5.54 W: energy is power times the time of the runs, shared evenly.
    let expected = 5_540.0 * 1e3 * energy["seconds"].as_f64().expect("one") / 40_000.0;
    let gross = energy["gross_uj"].as_f64().expect("one");
    assert!((gross / expected - 1.0).abs() < 0.10, "{energy}");
    assert!(energy["net_uj"].as_f64() < Some(0.01 * gross), "nothing above idle on a still rail: {energy}");
    let costs = &report["costs"];
    // 1 uJ an inference is 1 J a million, and 3.6 MJ a kilowatt-hour.
    let price = costs["energy_after_uj"].as_f64().expect("one") / 3.6e6 * 0.36;
    assert!((costs["price_per_million"].as_f64().expect("one") / price - 1.0).abs() < 1e-6, "{costs}");
    assert!((costs["co2_g_per_million_before"].as_f64().expect("one") - 0.2).abs() < 1e-6, "{costs}");
    let nowhere = Folder::new("bench-nowhere");
    let report = bench(&nowhere.0, &["--tariff", "0.36"]);
    assert_eq!(
        (&report["energy"]["status"], &report["costs"]),
        (&"not_measured".into(), &serde_json::Value::Null)
    );
    assert!(report["energy"]["reason"].as_str().is_some_and(|r| r.contains("no power sensor")));
}
