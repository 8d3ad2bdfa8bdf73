//! What can go wrong between a file and a plan.

use thiserror::Error;

/// Why a model has no plan.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The bytes are not an ONNX protobuf.
    #[error("not an ONNX file: {0}; export the model again, or check that the download is whole")]
    Protobuf(#[from] prost::DecodeError),
    /// The protobuf holds no graph.
    #[error("the ONNX file holds no graph; {bytes} bytes were read")]
    NoGraph {
        /// Size of the file.
        bytes: usize,
    },
    /// The operator set is outside what is supported.
    #[error("opset {found} is not supported, 10 to 22 are; convert the model with onnx.version_converter")]
    Opset {
        /// The model's version of the default operator set.
        found: i64,
    },
    /// An input has a dimension without a number.
    #[error("input {input} has no number for dimension {axis}; give one with --dim {dim}=N")]
    UnboundDimension {
        /// The input's name.
        input: String,
        /// The name that binds it.
        dim: String,
        /// Position of the dimension.
        axis: usize,
    },
    /// A dimension was bound that no input has.
    #[error("no input has a dimension {found}; there are: {known}")]
    UnknownDimension {
        /// The name given.
        found: String,
        /// The names that exist.
        known: String,
    },
    /// A graph input that cannot be used.
    #[error("input {input}: {why}")]
    Input {
        /// The input's name.
        input: String,
        /// What was found and what is allowed.
        why: String,
    },
    /// A graph output that no node makes.
    #[error("output {output} is made by no node, and is neither an input nor an initialiser")]
    Output {
        /// The output's name.
        output: String,
    },
    /// Nodes that cannot be imported: all of them.
    #[error("{} of the model's nodes cannot be imported:{}", .0.len(), list(.0))]
    Nodes(Vec<NodeIssue>),
    /// The tensors are larger than the limit.
    #[error("the model's tensors need {found} bytes, {limit} are allowed (Options::max_bytes)")]
    TooLarge {
        /// Bytes of all computed tensors.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A stage that has no text was asked for.
    #[error("no stage {found}; there are import, quant and fuse")]
    UnknownStage {
        /// The name given.
        found: String,
    },
    /// A stage broke one of the rules between stages: a defect of the importer.
    #[error("internal error after stage {stage}: {problem}; please report the model")]
    Stage {
        /// The stage.
        stage: &'static str,
        /// The rule and the object.
        problem: String,
    },
}

/// A node that cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIssue {
    /// The node's name, or one derived from its operator and position.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// What was found and what is allowed.
    pub why: String,
}

fn list(issues: &[NodeIssue]) -> String {
    issues.iter().map(|i| format!("\n  {} ({}): {}", i.node, i.op, i.why)).collect()
}

/// Why one node cannot be imported; becomes [`NodeIssue::why`].
pub(crate) type Why = String;

/// `Err` with a formatted reason.
macro_rules! why {
    ($($arg:tt)*) => { Err(format!($($arg)*)) };
}
pub(crate) use why;
