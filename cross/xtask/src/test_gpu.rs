//! The device suites on a real CUDA GPU, when there is one.

use crate::shell;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Command;

#[derive(clap::Args)]
pub struct TestGpu {
    /// Fail where there is no GPU, instead of counting what was skipped
    #[arg(long)]
    require: bool,
}

/// A line of cargo's messages.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Test programs that run on any CUDA GPU, and the arguments that choose the tests of each that do.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("vectors", &[]),
    ("suites", &["linear::", "other::"]),
    ("models", &[]),
    // A process for each scenario, and a kernel that takes the GPU: not too many at once.
    ("persistent", &["--test-threads", "2"]),
    ("weak", &["--ignored"]),
    ("quiet", &[]),
];

impl TestGpu {
    pub fn run(self) -> Result<()> {
        // Built, not tested: a test harness around the example would find no test and call that success.
        let probe = ["build", "--message-format=json", "--package", "pilotlight-cuda", "--example", "gpu"];
        let mut build = vec!["test", "--no-run", "--message-format=json"];
        build.extend(["--package", "pilotlight-cuda", "--package", "pilotlight-virtual-orin"]);
        PROGRAMS.iter().for_each(|(name, _)| build.extend(["--test", name]));
        let text = shell::output("cargo", &probe)? + &shell::output("cargo", &build)?;
        let built: Vec<Message> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let program = |name: &str| -> Result<PathBuf> {
            let found = built
                .iter()
                .find(|m| m.target.as_ref().is_some_and(|t| t.name == name) && m.executable.is_some());
            found.and_then(|m| m.executable.clone()).with_context(|| format!("cargo built no {name}"))
        };
        let probe = on_gpu(Command::new(program("gpu")?)).output().context("looking for a GPU")?;
        let said = String::from_utf8_lossy(&probe.stdout).trim().to_owned();
        let (mut ran, mut skipped) = (0, 0);
        for (name, filter) in PROGRAMS {
            let mut tests = on_gpu(Command::new(program(name)?));
            tests.args(*filter);
            if !probe.status.success() {
                let list = tests.arg("--list").output().with_context(|| format!("listing {name}"))?;
                let count =
                    String::from_utf8_lossy(&list.stdout).lines().filter(|l| l.ends_with(": test")).count();
                println!("skipped: {count} tests of {name}");
                skipped += count;
                continue;
            }
            let output = tests.output().with_context(|| format!("running {name}"))?;
            let text = String::from_utf8_lossy(&output.stdout);
            print!("{text}{}", String::from_utf8_lossy(&output.stderr));
            if !output.status.success() {
                bail!("{name} failed on {said}");
            }
            ran += passed(&text).with_context(|| format!("{name} says nothing of its tests"))?;
        }
        println!("test-gpu: {ran} tests passed, {skipped} skipped ({said})");
        if ran == 0 && self.require {
            bail!("no test ran, and --require was given");
        }
        Ok(())
    }
}

/// A command that sees the system's driver and no virtual board: cargo's own folders, where the virtual Orin's
/// libcuda.so lies, leave the library path.
fn on_gpu(mut command: Command) -> Command {
    let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let target = std::path::absolute(shell::target()).unwrap_or_default();
    let rest = std::env::split_paths(&path).filter(|p| !p.starts_with(&target) && !is_target(p));
    match std::env::join_paths(rest) {
        Ok(rest) if !rest.is_empty() => command.env("LD_LIBRARY_PATH", rest),
        _ => command.env_remove("LD_LIBRARY_PATH"),
    };
    command.env("PILOTLIGHT_TEST_GPU", "1").env("PILOTLIGHT_TEST_MODES", "all").current_dir(shell::root());
    command
}

/// Whether a folder is one that cargo builds into: target/PROFILE, or its deps.
fn is_target(folder: &std::path::Path) -> bool {
    folder.ends_with("deps") || folder.join("deps").is_dir()
}

/// How many tests passed, by the harness's last line.
fn passed(text: &str) -> Option<usize> {
    text.lines().find_map(|l| l.strip_prefix("test result: ok. "))?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_counted_and_nothing_else() {
        assert_eq!(passed("running\ntest result: ok. 12 passed; 0 failed"), Some(12));
        assert_eq!(passed("test result: FAILED. 12 passed; 1 failed"), None);
    }

    #[test]
    fn folders_of_cargo_are_told_from_others() {
        let target = shell::target().join("debug/deps");
        assert!(is_target(&target));
        assert!(!is_target(std::path::Path::new("/usr/lib")));
    }
}
