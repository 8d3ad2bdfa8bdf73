//! INT8 ONNX models into plans.
//!
//! `model.onnx` -> graph (nodes, types, shapes, constants) -> quantised graph (QDQ and QOperator become the same
//! operations) -> fusion -> plan (places in memory). tract reads the protobuf and nothing else.
//!
//! **Not supported**: float models, control flow, external data, types other than f32, u8, i8, i32, i64,
//! transformers' operators.
//!
//! ```no_run
//! let bytes = std::fs::read("model.onnx")?;
//! let options = pilotlight_onnx::Options { dims: vec![("N".into(), 1)], ..Default::default() };
//! let plan = pilotlight_onnx::import(&bytes, &options)?;
//! println!("{} steps, {} bytes of arena", plan.steps.len(), plan.arena_bytes);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod error;
mod fuse;
mod import;
mod layout;
mod quant;

pub use error::{ImportError, NodeIssue};
pub use import::graph;
pub use import::views::View;
pub use quant::qgraph;

use pilotlight_plan::{Plan, arena, validate};
use qgraph::QGraph;

/// How a model is imported.
#[derive(Clone, Debug)]
pub struct Options {
    /// Numbers for symbolic dimensions, by name (`INPUT.AXIS` for one without a name).
    pub dims: Vec<(String, u32)>,
    /// Refuse what ONNX Runtime would compute in float and a plan computes in integers.
    pub strict: bool,
    /// The most bytes that all computed tensors together may need.
    pub max_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { dims: vec![], strict: false, max_bytes: 1 << 32 }
    }
}

/// The plan of an ONNX model.
///
/// Deterministic: the same bytes and options give the same plan on every machine.
///
/// # Errors
/// See [`ImportError`]; every node that cannot be imported is in one error.
pub fn import(bytes: &[u8], options: &Options) -> Result<Plan, ImportError> {
    Ok(stages(bytes, options)?.plan)
}

/// What each stage made of a model.
#[derive(Clone, Debug)]
pub struct Stages {
    /// The model as read.
    pub import: graph::Graph,
    /// The quantised graph.
    pub quant: QGraph,
    /// After fusion.
    pub fuse: QGraph,
    /// The plan.
    pub plan: Plan,
}

/// The result of every stage.
///
/// # Errors
/// As [`import`].
pub fn stages(bytes: &[u8], options: &Options) -> Result<Stages, ImportError> {
    let (graph, mut issues) = import::read(bytes, options)?;
    let quant = quant::lower(graph.clone(), &mut issues, options.strict);
    if !issues.is_empty() {
        return Err(ImportError::Nodes(issues));
    }
    check("quant", quant.check())?;
    let fuse = fuse::fuse(quant.clone());
    check("fuse", fuse.check())?;
    let mut plan = layout::plan(fuse.clone());
    arena::place(&mut plan);
    check("plan", validate::validate(&plan).map_err(|e| e.to_string()))?;
    Ok(Stages { import: graph, quant, fuse, plan })
}

/// The result of one stage as text: `import`, `quant` or `fuse`.
///
/// # Errors
/// As [`import`], and for a stage without a text.
pub fn stage(bytes: &[u8], options: &Options, stage: &str) -> Result<String, ImportError> {
    if stage == "import" {
        // Shown even where later stages fail: it helps to see why.
        return Ok(import::read(bytes, options)?.0.to_string());
    }
    let stages = stages(bytes, options)?;
    match stage {
        "quant" => Ok(stages.quant.to_string()),
        "fuse" => Ok(stages.fuse.to_string()),
        other => Err(ImportError::UnknownStage { found: other.to_string() }),
    }
}

fn check(stage: &'static str, result: Result<(), String>) -> Result<(), ImportError> {
    result.map_err(|problem| ImportError::Stage { stage, problem })
}
