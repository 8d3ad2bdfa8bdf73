//! The suites of the CPU device on the virtual Orin: random plans of every operation against the reference.

#![allow(clippy::duplicate_mod, reason = "two suites of the CPU device share their support module")]

mod boards;
mod matrix;
mod virtual_orin;

#[path = "../../device/tests/cpu_linear.rs"]
mod linear;
#[path = "../../device/tests/cpu_other.rs"]
mod other;

use pilotlight_cuda::{Cuda, Mode, Settings, Wait, lower};
use pilotlight_device::{Device, LoadError, Program, Reference};
use pilotlight_plan::Plan;
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A device that is opened once for all tests.
struct Shared(&'static Cuda);

impl Device for Shared {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn load(&self, plan: &Plan) -> Result<Box<dyn Program>, LoadError> {
        self.0.load(plan)
    }
}

/// Names the kernels of each plan; the reference runs it.
struct Named;

impl Device for Named {
    fn describe(&self) -> String {
        "the reference".into()
    }

    fn load(&self, plan: &Plan) -> Result<Box<dyn Program>, LoadError> {
        let lowered = lower(plan, 8).unwrap_or_else(|e| panic!("{e}"));
        for launch in lowered.steps.iter().flatten() {
            println!("kernel {}", launch.kernel);
        }
        Reference.load(plan)
    }
}

/// `named`: no GPU, kernels are only named. `all`: every plan in every mode; `persistent`: in this one; `launched`: launch
/// and graph mode take turns; else all three do.
const MODES: &str = "PILOTLIGHT_TEST_MODES";

/// One device for each plan, the modes in turn: emulation costs time.
fn devices() -> Vec<Box<dyn Device>> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    static OPEN: [OnceLock<Cuda>; 3] = [const { OnceLock::new() }; 3];
    let modes = std::env::var(MODES).unwrap_or_default();
    if modes == "named" {
        return vec![Box::new(Named)];
    }
    let turns = match modes.as_str() {
        "all" => vec![0, 1, 2],
        "persistent" => vec![2],
        "launched" => vec![TURN.fetch_add(1, Ordering::Relaxed) % 2],
        _ => vec![TURN.fetch_add(1, Ordering::Relaxed) % 3],
    };
    let open = |turn: usize| {
        let mode = [Mode::Launch, Mode::Graph, Mode::Persistent][turn];
        // Waiting threads sleep: emulation needs the cores.
        let settings = Settings { wait: Wait::Block, ..Settings::default() };
        let cuda = || virtual_orin::open(mode).with(settings.clone());
        Box::new(Shared(OPEN[turn].get_or_init(cuda))) as Box<dyn Device>
    };
    turns.into_iter().map(open).collect()
}

#[test]
fn the_suites_reach_every_kernel() {
    let program = std::env::current_exe().unwrap_or_else(|e| panic!("{e}"));
    let output = Command::new(program)
        .args(["linear::", "other::", "--nocapture"])
        .env(MODES, "named")
        .output()
        .unwrap_or_else(|e| panic!("{e}"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let mut plans: BTreeMap<&str, usize> = pilotlight_kernels::figures().map(|f| (f.name, 0)).collect();
    // It holds all the others, and no plan names it.
    plans.remove("persistent");
    for name in text.lines().filter_map(|line| line.split_once("kernel ").map(|(_, name)| name)) {
        *plans.entry(name).or_default() += 1;
    }
    println!("launches by kernel: {plans:?}");
    assert!(plans.values().all(|&n| n >= 3), "kernels that the suites hardly reach: {plans:?}");
}
