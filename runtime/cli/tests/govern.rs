//! `boards`, `power`, `govern`, `restore` and `helper` from outside, on fixture trees.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
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
    assert!(shown.contains("Jetson Orin Nano 8 GB (super)") && shown.contains("5.54 W measured"), "{shown}");
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
    assert_eq!(lines[1]["measured"], true);
    assert!(text(&output.stderr).contains("% of a core"));
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
