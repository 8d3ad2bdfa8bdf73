//! The long tests: what the quick ones leave out.

use crate::steps::{self, Step};
use crate::{cutlass, exact, fuzz, mutants, shell, twins, wire_size};
use anyhow::Result;
use clap::Parser;

#[derive(clap::Args)]
pub struct Soak {
    /// Steps to run; all of them where none is named
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(steps::names(STEPS)))]
    steps: Vec<String>,
}

/// In order.
const STEPS: &[Step] = &[
    // First, because it makes what ignored tests of the next step read.
    Step { name: "cutlass", run: cutlass::test },
    Step { name: "ignored", run: ignored },
    Step { name: "weak-and-race", run: weak_and_race },
    Step { name: "kernel-mutants", run: || mutants::kernel_mutants(&mutants::Options::default()) },
    Step { name: "sync-mutants", run: || mutants::sync::run(&mutants::Options::default()) },
    Step { name: "telemetry", run: telemetry },
    Step { name: "seeds", run: seeds },
    Step { name: "twins", run: || command::<twins::Twins>(&["--seeds", SEEDS]).run() },
    Step { name: "exact", run: || command::<exact::Exact>(&["-n", "128"]).run() },
    Step { name: "fuzz", run: || command::<fuzz::Fuzz>(&[]).run() },
];

/// Schedules of the persistent kernel's blocks that are tried on each board.
const SEEDS: &str = "50";

impl Soak {
    pub fn run(self) -> Result<()> {
        steps::run(STEPS, &self.steps)
    }
}

/// Another command with these arguments.
fn command<T: clap::Args>(arguments: &[&str]) -> T {
    #[derive(Parser)]
    struct Arguments<T: clap::Args> {
        #[command(flatten)]
        args: T,
    }
    Arguments::<T>::parse_from([&["soak"], arguments].concat()).args
}

/// Every test, the long ones too.
fn ignored() -> Result<()> {
    shell::run("cargo", &["test", "--workspace", "--release", "--no-fail-fast", "--", "--include-ignored"])
}

/// Small nets with memory as weak as it may be, and with every access checked for races.
fn weak_and_race() -> Result<()> {
    for mode in ["PILOTLIGHT_VIRTUAL_WEAK", "PILOTLIGHT_VIRTUAL_RACE"] {
        for seed in ["1", "2", "3"] {
            for tests in [&["suites"][..], &["models", "digits"]] {
                let cuda = ["test", "--release", "--package", "pilotlight-cuda", "--test"];
                let mut command = shell::command("cargo", &[&cuda[..], tests].concat());
                command.env(mode, "1").env("PILOTLIGHT_VIRTUAL_SEED", seed);
                shell::run_command(command)?;
            }
        }
    }
    Ok(())
}

/// The persistent kernel on every board with many schedules: digits, EfficientNet, and every suite.
fn seeds() -> Result<()> {
    let cuda = ["test", "--release", "--package", "pilotlight-cuda", "--test"];
    let suites = ["suites", "--", "--nocapture", "every_suite_with_the_persistent_kernel"];
    for tests in [&["persistent", "--", "on_every_board"][..], &suites] {
        let mut command = shell::command("cargo", &[&cuda[..], tests].concat());
        command.env("PILOTLIGHT_TEST_SEEDS", SEEDS);
        shell::run_command(command)?;
    }
    Ok(())
}

/// Collectors that share a JetStream, what a collector stores a second, and what the protocol takes on a device. The
/// million reports and the hundred kills are ignored tests, which have run before.
fn telemetry() -> Result<()> {
    let collector = ["--release", "--package", "pilotlight-collector", "--features", "nats"];
    shell::run("cargo", &[&["test"], &collector[..], &["--test", "nats", "--", "--nocapture"]].concat())?;
    let throughput = [&["run"], &collector[..], &["--example", "throughput", "--"]].concat();
    shell::run("cargo", &[&throughput[..], &["--reports", "3000000"]].concat())?;
    shell::run("cargo", &[&throughput[..], &["--one-way", "50000"]].concat())?;
    shell::run("cargo", &[&throughput[..], &["--nats"]].concat())?;
    let wire = ["run", "--release", "--package", "pilotlight-wire", "--example"];
    for example in ["sizes", "encode_time"] {
        shell::run("cargo", &[&wire[..], &[example]].concat())?;
    }
    wire_size::run_all()
}
