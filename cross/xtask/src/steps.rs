//! Named steps that run one after the other, with a table of how they went.

use anyhow::{Result, bail};
use std::time::Instant;

/// A step of a longer run.
pub struct Step {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it does.
    pub run: fn() -> Result<()>,
}

/// The names of steps, in their order.
pub fn names(steps: &'static [Step]) -> impl Iterator<Item = &'static str> {
    steps.iter().map(|step| step.name)
}

/// Runs the steps that are named, or all where none is, and prints how each went and its seconds.
///
/// # Errors
/// A step failed; the ones behind it have run all the same.
pub fn run(steps: &[Step], names: &[String]) -> Result<()> {
    let wanted = |step: &&Step| names.is_empty() || names.iter().any(|n| n == step.name);
    let mut failed = Vec::new();
    let mut lines = Vec::new();
    for step in steps.iter().filter(wanted) {
        eprintln!("== {}", step.name);
        let start = Instant::now();
        let result = (step.run)();
        let seconds = start.elapsed().as_secs();
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        lines.push(format!("{:<14} {word:<7} {seconds:>5} s", step.name));
        if let Err(error) = result {
            eprintln!("{}: {error:#}", step.name);
            failed.push(step.name);
        }
    }
    println!("{}", lines.join("\n"));
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
