//! The long tests: what the quick ones leave out.

use crate::{cutlass, exact, fuzz, mutants, shell, twins, wire_size};
use anyhow::Result;
use clap::Parser;

#[derive(clap::Args)]
pub struct Soak {
    /// Seconds for each fuzz target
    #[arg(long, default_value_t = 600)]
    fuzz_seconds: u32,
}

#[derive(Parser)]
struct Defaults<T: clap::Args> {
    #[command(flatten)]
    args: T,
}

impl Soak {
    pub fn run(self) -> Result<()> {
        // First, because it makes what ignored tests of the next step read.
        cutlass::test()?;
        shell::run("cargo", &["test", "--workspace", "--release", "--", "--include-ignored"])?;
        // Small nets with memory as weak as it may be, and with every access checked for races.
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
        mutants::kernel_mutants(&mutants::Options::default())?;
        mutants::sync::run(&mutants::Options::default())?;
        telemetry()?;
        // The persistent kernel on every board with many schedules.
        let mut seeds =
            shell::command("cargo", &["test", "-p", "pilotlight-cuda", "--release", "--test", "persistent"]);
        seeds.env("PILOTLIGHT_TEST_SEEDS", "50");
        shell::run_command(seeds)?;
        twins::run()?;
        Defaults::<exact::Exact>::parse_from(["exact", "-n", "128"]).args.run()?;
        let seconds = self.fuzz_seconds.to_string();
        Defaults::<fuzz::Fuzz>::parse_from(["fuzz", "--seconds", &seconds]).args.run()
    }
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
