//! Rewrites the committed files that the project makes itself: plans, and the cards that list them.

use crate::{python, shell};
use anyhow::{Context, Result};

/// Models whose plan is committed beside the ONNX file.
const PLANS: &[&str] = &["models/efficientnet-lite0", "models/digits"];

/// Small models whose plans seed the fuzzing of the plan reader.
const SEEDS: &[&str] =
    &["conv-001", "add-003", "gemm-005", "average-pool-001", "resize-003", "softmax-001", "concat-004"];

pub fn run() -> Result<()> {
    let pilotlight = shell::pilotlight("onnx")?;
    let program = pilotlight.to_str().context("path is not text")?;
    for folder in PLANS {
        shell::run(program, &["compile", folder, "--output", &format!("{folder}/model.plan")])?;
    }
    // The cards list size and hash of each file.
    python::run(&["models/recipe.py", "cards"])?;
    for name in SEEDS {
        let (model, plan) = (
            format!("models/conformance/qoperator/{name}.onnx"),
            format!("tests/fuzz/seeds/plan/{name}.plan"),
        );
        shell::run(program, &["compile", &model, "--output", &plan])?;
    }
    Ok(())
}
