//! The `pilotlight` command.
#![forbid(unsafe_code)]

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A wrong flag or value ends in clap with exit code 2.
    match pilotlight_cli::command::Arguments::parse().run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pilotlight: {error:#}");
            ExitCode::FAILURE
        }
    }
}
