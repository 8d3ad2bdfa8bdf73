//! The Python environment of the recipes and of the outside references.

use crate::shell;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// The interpreter of `models/.cache/venv`, made from `models/requirements.txt` where it is not there yet.
pub fn interpreter() -> Result<PathBuf> {
    let venv = shell::root().join("models/.cache/venv");
    let python = venv.join("bin/python");
    let done = venv.join(".complete");
    let wanted =
        std::fs::read(shell::root().join("models/requirements.txt")).context("models/requirements.txt")?;
    if std::fs::read(&done).ok() != Some(wanted.clone()) {
        shell::run("python3", &["-m", "venv", "models/.cache/venv"])?;
        let pip = ["-m", "pip", "install", "--quiet", "--require-hashes", "-r", "models/requirements.txt"];
        shell::run(python.to_str().context("path is not text")?, &pip)?;
        std::fs::write(done, wanted)?;
    }
    Ok(python)
}

/// Runs a script of `models/` and gives what it prints.
pub fn output(args: &[&str]) -> Result<String> {
    let python = interpreter()?;
    shell::output(python.to_str().context("path is not text")?, args)
}

/// Runs a script of `models/`.
pub fn run(args: &[&str]) -> Result<()> {
    let python = interpreter()?;
    shell::run(python.to_str().context("path is not text")?, args)
}
