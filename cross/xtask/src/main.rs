//! Developer commands: `cargo xtask`.
#![forbid(unsafe_code)]

mod abi;
mod bless;
mod ci;
mod deps;
mod exact;
mod fuzz;
mod python;
mod rivals;
mod shell;
mod soak;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Developer commands of Pilotlight
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the checks that every change must pass, or only those named
    Ci(ci::Ci),
    /// Check which crate may depend on which, and the Rust version that dependencies need
    Deps,
    /// Rewrite the committed files that are made by the project itself (plans)
    Bless,
    /// Check that the C header and the exported symbols are the committed ones
    Abi(abi::Abi),
    /// Compare every model with ONNX Runtime, element by element
    Exact(exact::Exact),
    /// Measure Pilotlight, ONNX Runtime and tract in one run
    Rivals(rivals::Rivals),
    /// Run every fuzz target for a while
    Fuzz(fuzz::Fuzz),
    /// Run the long tests
    Soak(soak::Soak),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Ci(c) => c.run(),
        Command::Deps => deps::run(),
        Command::Bless => bless::run(),
        Command::Abi(c) => c.run(),
        Command::Exact(c) => c.run(),
        Command::Rivals(c) => c.run(),
        Command::Fuzz(c) => c.run(),
        Command::Soak(c) => c.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
