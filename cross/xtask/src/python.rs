//! Python environments: of the recipes and outside references, and of the kernels' compilers.

use crate::shell;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// A virtual environment with exactly the packages of a requirements file, pinned by hash.
pub struct Environment {
    /// Its folder, from the repository's root.
    pub folder: &'static str,
    /// The requirements file, from the repository's root.
    pub requirements: &'static str,
    /// Packages come without those that they ask for.
    pub alone: bool,
}

/// Recipes and outside references.
const MODELS: Environment =
    Environment { folder: "models/.cache/venv", requirements: "models/requirements.txt", alone: false };

impl Environment {
    /// The interpreter; the environment is made where it is not there yet or its list has changed.
    pub fn interpreter(&self) -> Result<PathBuf> {
        let venv = shell::root().join(self.folder);
        let python = venv.join("bin/python");
        let done = venv.join(".complete");
        let wanted = std::fs::read(shell::root().join(self.requirements)).context(self.requirements)?;
        if std::fs::read(&done).ok() != Some(wanted.clone()) {
            shell::run("python3", &["-m", "venv", self.folder])?;
            let pip = ["-m", "pip", "install", "--quiet", "--require-hashes", "-r", self.requirements];
            let alone: &[&str] = if self.alone { &["--no-deps"] } else { &[] };
            shell::run(text(&python)?, &[&pip, alone].concat())?;
            std::fs::write(done, wanted)?;
        }
        Ok(python)
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("path is not text")
}

/// The interpreter of the recipes.
pub fn interpreter() -> Result<PathBuf> {
    MODELS.interpreter()
}

/// Runs a script of `models/` and gives what it prints.
pub fn output(args: &[&str]) -> Result<String> {
    shell::output(text(&interpreter()?)?, args)
}

/// Runs a script of `models/`.
pub fn run(args: &[&str]) -> Result<()> {
    shell::run(text(&interpreter()?)?, args)
}
