//! Every model against ONNX Runtime, element by element.

use crate::{python, shell};
use anyhow::{Context, Result, bail};

#[derive(clap::Args)]
pub struct Exact {
    /// Inputs for each model
    #[arg(short = 'n', long, default_value_t = 32)]
    inputs: u32,
}

/// Model files; those in the cache are made by their recipes first.
pub const MODELS: &[&str] = &[
    "models/efficientnet-lite0/model.onnx",
    "models/efficientnet-lite0/model.qop.onnx",
    "models/digits/model.onnx",
    "models/digits/model.qop.onnx",
    "models/.cache/yolox/model.onnx",
    "models/.cache/yolox/model.qop.onnx",
    "models/.cache/twins/resnet50.onnx",
    "models/.cache/twins/mobilenetv2.onnx",
];

/// The recipes of models that are not committed.
pub const RECIPES: &[&str] = &["yolox", "twins"];

/// Makes the models of recipes, where they are missing.
pub fn make_models(recipes: &[&str]) -> Result<()> {
    for recipe in recipes {
        if !shell::root().join("models/.cache").join(recipe).exists() {
            python::run(&["models/recipe.py", recipe])?;
        }
    }
    Ok(())
}

impl Exact {
    pub fn run(self) -> Result<()> {
        let pilotlight = shell::pilotlight("onnx")?;
        let program = pilotlight.to_str().context("path is not text")?;
        make_models(RECIPES)?;
        let mut failed = Vec::new();
        for model in MODELS {
            let n = self.inputs.to_string();
            if python::run(&["models/compare_ort.py", model, "--pilotlight", program, "-n", &n]).is_err() {
                failed.push(*model);
            }
        }
        if !failed.is_empty() {
            bail!("not bit-identical: {}", failed.join(", "));
        }
        Ok(())
    }
}
