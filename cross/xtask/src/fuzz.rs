//! The fuzz targets, one after the other or two at a time.

use crate::shell;
use anyhow::{Context, Result, bail};
use std::process::Child;

#[derive(clap::Args)]
pub struct Fuzz {
    /// Seconds for each target
    #[arg(long, default_value_t = 600)]
    seconds: u32,
    /// Targets at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Targets; all where none is named
    targets: Vec<String>,
}

impl Fuzz {
    pub fn run(self) -> Result<()> {
        let folder = shell::root().join("tests/fuzz");
        if shell::output("cargo", &["fuzz", "--version"]).is_err() {
            shell::run("cargo", &["install", "--locked", "--quiet", "cargo-fuzz"])?;
        }
        // libFuzzer's coverage flags are unstable; this check alone uses them on the stable compiler.
        let fuzz = |args: &[&str]| {
            let mut command = shell::command("cargo", &[&["fuzz"], args].concat());
            command.current_dir(&folder).env("RUSTC_BOOTSTRAP", "1");
            command
        };
        let list = fuzz(&["list"]).output().context("cargo fuzz list")?;
        let list = String::from_utf8(list.stdout)?;
        let known: Vec<&str> = list.lines().collect();
        let wanted: Vec<&str> = known
            .iter()
            .copied()
            .filter(|t| self.targets.is_empty() || self.targets.iter().any(|w| w == t))
            .collect();
        if wanted.is_empty() {
            bail!("no such target; there are: {}", known.join(", "));
        }
        shell::run_command(fuzz(&["build", "--release"]))?;
        let limit = format!("-max_total_time={}", self.seconds);
        let mut failed = Vec::new();
        let mut running: Vec<(&str, Child)> = Vec::new();
        for target in wanted.iter().copied().map(Some).chain([None]) {
            while running.len() >= self.jobs || (target.is_none() && !running.is_empty()) {
                let (name, mut child) = running.remove(0);
                let status = child.wait()?;
                println!(
                    "fuzz {name}: {} s, {}",
                    self.seconds,
                    if status.success() { "no crash" } else { "CRASHED" }
                );
                if !status.success() {
                    failed.push(name);
                }
            }
            if let Some(name) = target {
                let seeds = format!("seeds/{name}");
                let corpus = format!("corpus/{name}");
                std::fs::create_dir_all(folder.join(&corpus))?;
                let args = [
                    "run",
                    "--release",
                    name,
                    &corpus,
                    &seeds,
                    "--",
                    &limit,
                    "-rss_limit_mb=4096",
                    "-print_final_stats=1",
                ];
                running.push((name, fuzz(&args).spawn().context("cargo fuzz run")?));
            }
        }
        if !failed.is_empty() {
            bail!("crashes in {}; the inputs are in tests/fuzz/artifacts", failed.join(", "));
        }
        Ok(())
    }
}
