//! The `pilotlight` command.
#![forbid(unsafe_code)]

use clap::Parser;
use std::panic::{PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::process::ExitCode;

fn main() -> ExitCode {
    let usual = take_hook();
    set_hook(Box::new(move |panic| {
        if !reader_left(panic) {
            usual(panic);
        }
    }));
    // Unwinding, not exiting at once, lets a governor put the board's clocks back.
    catch_unwind(run).unwrap_or(ExitCode::FAILURE)
}

fn run() -> ExitCode {
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

/// Whether `println!` gave up because nobody reads any more (`pilotlight ... | head`): no fault of ours, and
/// nobody is left to be told. The words are the standard library's.
fn reader_left(panic: &PanicHookInfo<'_>) -> bool {
    panic
        .payload_as_str()
        .is_some_and(|text| text.starts_with("failed printing to stdout") && text.contains("Broken pipe"))
}
