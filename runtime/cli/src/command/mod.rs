//! The subcommands; each is a clap struct with a `run` that says whether what it checked holds.

mod accuracy;
mod bench;
mod boards;
#[cfg(feature = "collector")]
mod collect;
mod compare;
mod compile;
mod energyrunner;
mod explain;
mod govern;
mod power;
mod profile;
mod restore;
mod run;
mod sass;
#[cfg(feature = "collector")]
mod simulate_fleet;
mod telemetry;
#[cfg(feature = "collector")]
mod top;
mod trace;
mod tune;
mod verify;
mod vitals;
#[cfg(feature = "collector")]
mod wire;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Run INT8 neural networks exactly, and say what they cost.
///
/// A MODEL is a compiled plan (.plan), an ONNX file, or a folder with a card (model.toml).
///
/// Exit codes: 0 done, 1 failed (or the compared results differ), 2 wrong usage.
#[derive(Debug, Parser)]
#[command(
    name = "pilotlight",
    version,
    after_help = "\
Examples:
  pilotlight run models/efficientnet-lite0 --image models/photos/coffee.jpg
  pilotlight run models/digits --image photo.png --device cuda:graph --board virtual:orin-nano-super
  pilotlight compile model.onnx -o model.plan
  pilotlight explain model.plan
  pilotlight bench models/efficientnet-lite0 --threads 2"
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Bench(bench::Bench),
    Compile(compile::Compile),
    Explain(explain::Explain),
    Verify(verify::Verify),
    Compare(compare::Compare),
    Accuracy(accuracy::Accuracy),
    Trace(trace::Trace),
    Boards(boards::Boards),
    Power(power::Power),
    Profile(profile::Profile),
    Govern(Box<govern::Govern>),
    Tune(tune::Tune),
    Restore(restore::Restore),
    Sass(sass::Sass),
    Helper(restore::Helper),
    Energyrunner(energyrunner::EnergyRunner),
    #[cfg(feature = "collector")]
    Collect(collect::Collect),
    #[cfg(feature = "collector")]
    Top(top::Top),
    #[cfg(feature = "collector")]
    Wire(wire::Wire),
    #[cfg(feature = "collector")]
    SimulateFleet(simulate_fleet::SimulateFleet),
}

impl Arguments {
    /// Runs the subcommand; `false` where what it checked does not hold.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub fn run(self) -> Result<bool> {
        match self.command {
            Command::Run(c) => c.run(),
            Command::Bench(c) => c.run().map(|()| true),
            Command::Compile(c) => c.run().map(|()| true),
            Command::Explain(c) => c.run().map(|()| true),
            Command::Verify(c) => c.run(),
            Command::Compare(c) => c.run(),
            Command::Accuracy(c) => c.run(),
            Command::Trace(c) => c.run().map(|()| true),
            Command::Boards(c) => c.run().map(|()| true),
            Command::Power(c) => c.run().map(|()| true),
            Command::Profile(c) => c.run().map(|()| true),
            Command::Govern(c) => c.run(),
            Command::Tune(c) => c.run().map(|()| true),
            Command::Restore(c) => c.run().map(|()| true),
            Command::Sass(c) => c.run().map(|()| true),
            Command::Helper(c) => c.run().map(|()| true),
            Command::Energyrunner(c) => c.run().map(|()| true),
            #[cfg(feature = "collector")]
            Command::Collect(c) => c.run().map(|()| true),
            #[cfg(feature = "collector")]
            Command::Top(c) => c.run().map(|()| true),
            #[cfg(feature = "collector")]
            Command::Wire(c) => c.run(),
            #[cfg(feature = "collector")]
            Command::SimulateFleet(c) => c.run(),
        }
    }
}

/// Prints a value as one line of JSON.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

/// A progress bar on a terminal, nothing elsewhere.
fn progress(steps: usize, what: &'static str) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(steps as u64);
    if let Ok(style) = indicatif::ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_message(what)
}
