//! The checks that every change must pass.

use crate::shell::{self, run};
use crate::steps::{self, Step};
use crate::{abi, capi, cross, deps, kernels, loom, python, sizes, wire_size};
use anyhow::{Result, bail};

#[derive(clap::Args)]
pub struct Ci {
    /// Checks to run; all of them where none is named
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(steps::names(CHECKS)))]
    checks: Vec<String>,
}

/// In order: the cheap ones first.
const CHECKS: &[Step] = &[
    Step { name: "fmt", run: || run("cargo", &["fmt", "--all", "--check"]) },
    Step { name: "deps", run: deps::run },
    Step { name: "clippy", run: clippy },
    Step { name: "test", run: test },
    Step { name: "nats", run: nats },
    Step { name: "doc", run: doc },
    Step { name: "first-run", run: first_run },
    Step { name: "models", run: models },
    Step { name: "kernels", run: kernels::Kernels::check },
    Step { name: "loom", run: loom::run },
    Step { name: "abi", run: || abi::Abi::default().run() },
    Step { name: "capi", run: capi::test },
    Step { name: "sizes", run: || sizes::Sizes::default().run() },
    Step { name: "cross-check", run: cross::check },
    Step { name: "cross-test", run: cross::test },
    Step { name: "sizes-aarch64", run: || sizes::Sizes { aarch64: true }.run() },
    Step { name: "cross-plans", run: cross_plans },
    Step { name: "no-std", run: no_std },
    Step { name: "deny", run: deny },
];

impl Ci {
    pub fn run(self) -> Result<()> {
        steps::run(CHECKS, &self.checks)
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
