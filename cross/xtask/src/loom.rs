//! Lock-free code under loom: every interleaving within a bound on preemptions.

use crate::abi::target;
use crate::c_programs::path;
use crate::shell::{command, run_command};
use anyhow::Result;

/// Explores the life of slots (runtime/pilotlight/src/ring.rs) and the mailbox of the persistent kernel
/// (runtime/cuda/src/persist/mailbox.rs).
pub fn run() -> Result<()> {
    for (package, filter) in [("pilotlight", ""), ("pilotlight-cuda", "mailbox")] {
        let mut command =
            command("cargo", &["test", "--package", package, "--release", "--lib", "--locked", "--", filter]);
        // A folder of its own: the flag is part of every crate's fingerprint.
        command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", path(&target()?.join("loom"))?);
        run_command(command)?;
    }
    Ok(())
}
