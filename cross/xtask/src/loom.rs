//! The slot life cycle under loom.

use crate::abi::target;
use crate::c_programs::path;
use crate::shell::{command, run_command};
use anyhow::Result;

/// Explores the interleavings of runtime/pilotlight/src/ring.rs.
pub fn run() -> Result<()> {
    let mut command =
        command("cargo", &["test", "--package", "pilotlight", "--release", "--lib", "--locked"]);
    // A folder of its own: the flag is part of every crate's fingerprint.
    command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", path(&target()?.join("loom"))?);
    run_command(command)
}
