//! The long tests: what the quick ones leave out.

use crate::{exact, fuzz, shell};
use anyhow::Result;
use clap::Parser;

#[derive(clap::Args)]
pub struct Soak {
    /// Seconds for each fuzz target
    #[arg(long, default_value_t = 600)]
    fuzz_seconds: u32,
}

#[derive(Parser)]
struct Defaults<T: clap::Args> {
    #[command(flatten)]
    args: T,
}

impl Soak {
    pub fn run(self) -> Result<()> {
        shell::run("cargo", &["test", "--workspace", "--release", "--", "--include-ignored"])?;
        Defaults::<exact::Exact>::parse_from(["exact", "-n", "128"]).args.run()?;
        let seconds = self.fuzz_seconds.to_string();
        Defaults::<fuzz::Fuzz>::parse_from(["fuzz", "--seconds", &seconds]).args.run()
    }
}
