//! `pilotlight compile`: an ONNX model to a plan.

use crate::model::{self, CompileOptions};
use anyhow::{Context, Result};
use pilotlight_units::Bytes;
use std::path::PathBuf;
use std::time::Instant;

/// Compile an ONNX model to a plan; the same model gives the same bytes on every machine
#[derive(Debug, clap::Args)]
pub struct Compile {
    /// ONNX file, or model folder
    model: PathBuf,
    /// The plan to write
    #[arg(short, long, value_name = "FILE.plan")]
    output: PathBuf,
    #[command(flatten)]
    options: CompileOptions,
}

impl Compile {
    pub(super) fn run(self) -> Result<()> {
        let start = Instant::now();
        let (file, _) = model::resolve(&self.model)?;
        let plan = model::import(&file, &self.options)?;
        let bytes = plan.to_bytes();
        std::fs::write(&self.output, &bytes)
            .with_context(|| format!("{}: cannot be written", self.output.display()))?;
        println!(
            "{}: {} steps, {}, arena {} (lower bound {}), in {:.2} s",
            self.output.display(),
            plan.steps.len(),
            Bytes(bytes.len() as u64),
            Bytes(plan.arena_bytes),
            Bytes(plan.arena_lower_bound),
            start.elapsed().as_secs_f64()
        );
        Ok(())
    }
}
