//! Rewrites the committed files that the project makes itself.

use crate::shell;
use anyhow::{Context, Result};

/// Models whose plan is committed beside the ONNX file.
const PLANS: &[&str] = &["models/efficientnet-lite0", "models/digits"];

pub fn run() -> Result<()> {
    let pilotlight = shell::pilotlight()?;
    let program = pilotlight.to_str().context("path is not text")?;
    for folder in PLANS {
        shell::run(program, &["compile", folder, "--output", &format!("{folder}/model.plan")])?;
    }
    Ok(())
}
