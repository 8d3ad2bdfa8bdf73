//! The checks that every change must pass.

use crate::shell::{self, run};
use crate::{abi, capi, cross, deps, kernels, loom, python, sizes, wire_size};
use anyhow::{Result, bail};
use std::time::Instant;

#[derive(clap::Args)]
pub struct Ci {
    /// Checks to run; all of them where none is named
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(CHECKS.iter().map(|c| c.name)))]
    checks: Vec<String>,
}

struct Check {
    name: &'static str,
    run: fn() -> Result<()>,
}

/// In order: the cheap ones first.
const CHECKS: &[Check] = &[
    Check { name: "fmt", run: || run("cargo", &["fmt", "--all", "--check"]) },
    Check { name: "deps", run: deps::run },
    Check { name: "clippy", run: clippy },
    Check { name: "test", run: test },
    Check { name: "nats", run: nats },
    Check { name: "doc", run: doc },
    Check { name: "first-run", run: first_run },
    Check { name: "models", run: models },
    Check { name: "kernels", run: kernels::Kernels::check },
    Check { name: "loom", run: loom::run },
    Check { name: "abi", run: || abi::Abi::default().run() },
    Check { name: "capi", run: capi::test },
    Check { name: "sizes", run: || sizes::Sizes::default().run() },
    Check { name: "cross-check", run: cross::check },
    Check { name: "cross-test", run: cross::test },
    Check { name: "sizes-aarch64", run: || sizes::Sizes { aarch64: true }.run() },
    Check { name: "cross-plans", run: cross_plans },
    Check { name: "no-std", run: no_std },
    Check { name: "deny", run: deny },
];

impl Ci {
    pub fn run(self) -> Result<()> {
        let wanted = |c: &&Check| self.checks.is_empty() || self.checks.iter().any(|n| n == c.name);
        let mut failed = Vec::new();
        let mut lines = Vec::new();
        for check in CHECKS.iter().filter(wanted) {
            eprintln!("== {}", check.name);
            let start = Instant::now();
            let result = (check.run)();
            let seconds = start.elapsed().as_secs();
            let word = if result.is_ok() { "ok" } else { "FAILED" };
            lines.push(format!("{:<14} {word:<7} {seconds:>5} s", check.name));
            if let Err(error) = result {
                eprintln!("{}: {error:#}", check.name);
                failed.push(check.name);
            }
        }
        println!("{}", lines.join("\n"));
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

fn clippy() -> Result<()> {
    let rest = ["--workspace", "--all-targets", "--all-features", "--locked", "--", "-D", "warnings"];
    run("cargo", &[&["clippy"], &rest[..]].concat())
}

/// The README's own command.
fn test() -> Result<()> {
    run("cargo", &["test", "--workspace", "--no-fail-fast"])
}

/// Collectors that share a JetStream: the one quick suite that a feature of its own brings.
fn nats() -> Result<()> {
    run("cargo", &["test", "--package", "pilotlight-collector", "--features", "nats", "--test", "nats"])
}

fn doc() -> Result<()> {
    let mut command =
        shell::command("cargo", &["doc", "--workspace", "--no-deps", "--all-features", "--locked"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    shell::run_command(command)
}

/// The README's first command, its answer checked.
fn first_run() -> Result<()> {
    let args = ["run", "--release", "--quiet", "--package", "pilotlight-cli", "--locked", "--"];
    let model = ["run", "models/efficientnet-lite0", "--image", "models/photos/coffee.jpg", "--json"];
    let text = shell::output("cargo", &[&args[..], &model[..]].concat())?;
    let report: serde_json::Value = serde_json::from_str(&text)?;
    let label = report["top"][0]["label"].as_str().unwrap_or_default();
    if !label.contains("espresso") && !label.contains("cup") {
        bail!("a photo of a cup of coffee is named {label}: {text}");
    }
    println!("first-run: coffee.jpg is {label}, latency p50 {} us", report["latency_us"]["p50"]);
    Ok(())
}

/// The conformance cases come out of their generator byte for byte.
fn models() -> Result<()> {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !flags.contains("vnni") {
        println!("models: 0 passed, 0 failed, 1 skipped: golden outputs need a CPU with VNNI");
        return Ok(());
    }
    python::run(&["models/recipe.py", "conformance", "--check"])
}

/// Importer and conformance on aarch64: the same models give the same plans, the same plans the same bits.
fn cross_plans() -> Result<()> {
    run("bash", &["cross/toolchain.sh", "setup"])?;
    let tests = ["--package", "pilotlight-tests", "--test", "conformance", "--test", "models"];
    run("bash", &[&["cross/toolchain.sh", "cargo", "test", "--locked"], &tests[..]].concat())
}

/// Crates without an operating system under them.
fn no_std() -> Result<()> {
    run("bash", &["cross/toolchain.sh", "setup", "--no-std"])?;
    let crates = ["--package", "pilotlight-units", "--package", "pilotlight-wire"];
    run(
        "bash",
        &[&["cross/toolchain.sh", "nostd", "thumbv7em-none-eabi", "--locked"], &crates[..]].concat(),
    )?;
    wire_size::run_all()
}

fn deny() -> Result<()> {
    if shell::output("cargo", &["deny", "--version"]).is_err() {
        run("cargo", &["install", "--locked", "--quiet", "cargo-deny"])?;
    }
    run("cargo", &["deny", "--offline", "--all-features", "check", "licenses", "bans", "sources"])
}
