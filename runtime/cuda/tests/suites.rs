//! The suites of the CPU device on the virtual Orin: random plans of every operation against the reference.

#![allow(clippy::duplicate_mod, reason = "two suites of the CPU device share their support module")]

mod matrix;
mod virtual_orin;

#[path = "../../device/tests/cpu_linear.rs"]
mod linear;
#[path = "../../device/tests/cpu_other.rs"]
mod other;

use pilotlight_cuda::{Cuda, Mode};
use pilotlight_device::{Device, LoadError, Program};
use pilotlight_plan::Plan;
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

/// `all`: every plan in every mode; `launched`: launch and graph mode take turns; else all three do.
const MODES: &str = "PILOTLIGHT_TEST_MODES";

/// One device for each plan, the modes in turn: emulation costs time.
fn devices() -> Vec<Box<dyn Device>> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    static OPEN: [OnceLock<Cuda>; 3] = [const { OnceLock::new() }; 3];
    let modes = std::env::var(MODES).unwrap_or_default();
    // `cargo xtask sync-mutants` wants the persistent kernel alone.
    let turns = match std::env::var_os("PILOTLIGHT_TEST_PERSISTENT") {
        Some(_) => vec![2],
        None if modes == "all" => vec![0, 1, 2],
        None if modes == "launched" => vec![TURN.fetch_add(1, Ordering::Relaxed) % 2],
        None => vec![TURN.fetch_add(1, Ordering::Relaxed) % 3],
    };
    let open = |turn: usize| {
        let mode = [Mode::Launch, Mode::Graph, Mode::Persistent][turn];
        Box::new(Shared(OPEN[turn].get_or_init(|| virtual_orin::open(mode)))) as Box<dyn Device>
    };
    turns.into_iter().map(open).collect()
}
