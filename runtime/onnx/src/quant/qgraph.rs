//! The quantised graph: the plan's operations over values that have no place in memory yet.

use crate::import::views::View;
use pilotlight_plan::{Blob, DType, Op, Quant, TensorId, arena};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A value: what a [`Tensor`](pilotlight_plan::Tensor) is without a place.
#[derive(Clone, Debug)]
pub struct QValue {
    /// Name in the model, or one derived from it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents, ONNX order.
    pub shape: Vec<u32>,
    /// How integers stand for reals, where that is known.
    pub quant: Option<Quant>,
    /// The contents of a constant, row-major.
    pub constant: Option<Blob>,
}

/// What a node does.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Computes.
    Op(Op),
    /// Sees the elements of `input` in other places; `fill` stands where an index is -1.
    View {
        /// Source.
        input: TensorId,
        /// Result.
        output: TensorId,
        /// How.
        view: View,
        /// Bits of the filled element.
        fill: u64,
    },
    /// Joins values of one type.
    Concat {
        /// Parts, in order.
        inputs: Vec<TensorId>,
        /// Result.
        output: TensorId,
        /// The dimension they are joined along.
        axis: usize,
    },
}

impl Kind {
    /// The values it reads.
    pub fn reads(&self) -> Vec<TensorId> {
        match self {
            Self::Op(op) => op.reads(),
            Self::View { input, .. } => vec![*input],
            Self::Concat { inputs, .. } => inputs.clone(),
        }
    }

    /// The value it makes.
    pub fn writes(&self) -> TensorId {
        match self {
            Self::Op(op) => op.writes(),
            Self::View { output, .. } | Self::Concat { output, .. } => *output,
        }
    }

    /// Its name, as `explain` shows it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Op(op) => op.name(),
            Self::View { view: View::Reshape(_), .. } => "reshape",
            Self::View { view: View::Transpose(_), .. } => "transpose",
            Self::View { view: View::Index(_), .. } => "index",
            Self::Concat { .. } => "concat",
        }
    }
}

/// A node.
#[derive(Clone, Debug)]
pub struct QNode {
    /// The model's nodes it stands for.
    pub names: Vec<String>,
    /// What it does.
    pub kind: Kind,
}

/// A quantised graph; nodes stand behind those that make their inputs.
#[derive(Clone, Debug)]
pub struct QGraph {
    /// The graph's name.
    pub name: String,
    /// All values; some are used by no node.
    pub values: Vec<QValue>,
    /// All nodes.
    pub nodes: Vec<QNode>,
    /// What the caller gives.
    pub inputs: Vec<TensorId>,
    /// What the caller gets, with the names of the model.
    pub outputs: Vec<(String, TensorId)>,
    /// Constants.
    pub blobs: Blobs,
}

impl QGraph {
    /// The value of this id.
    pub fn value(&self, id: TensorId) -> &QValue {
        &self.values[id.0 as usize]
    }

    /// A new value.
    pub(crate) fn add(&mut self, value: QValue) -> TensorId {
        self.values.push(value);
        TensorId(self.values.len() as u32 - 1)
    }

    /// How often each value is read, by nodes and as an output.
    pub(crate) fn uses(&self) -> Vec<u32> {
        let mut uses = vec![0; self.values.len()];
        let reads = self.nodes.iter().flat_map(|n| n.kind.reads());
        for id in reads.chain(self.outputs.iter().map(|o| o.1)) {
            uses[id.0 as usize] += 1;
        }
        uses
    }

    /// The node that makes each value.
    pub(crate) fn producers(&self) -> Vec<Option<usize>> {
        let mut made = vec![None; self.values.len()];
        for (i, n) in self.nodes.iter().enumerate() {
            made[n.kind.writes().0 as usize] = Some(i);
        }
        made
    }

    /// Checks the rules that hold between stages: every value is made once, before it is read, and the parts of
    /// views and joins fit.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut made: Vec<bool> = self.values.iter().map(|v| v.constant.is_some()).collect();
        for &i in &self.inputs {
            made[i.0 as usize] = true;
        }
        for n in &self.nodes {
            let name = || format!("{} {}", n.kind.name(), n.names.join("+"));
            for id in n.kind.reads() {
                if !made.get(id.0 as usize).copied().unwrap_or(false) {
                    return Err(format!("{} reads value {} before it is made", name(), id.0));
                }
            }
            let out = n.kind.writes();
            if std::mem::replace(&mut made[out.0 as usize], true) {
                return Err(format!("{} makes {} a second time", name(), self.value(out).name));
            }
            let y = self.value(out);
            let fits = match &n.kind {
                Kind::Op(_) => true,
                Kind::View { input, view, .. } => {
                    let x = self.value(*input);
                    let count = |s: &[u32]| s.iter().map(|&d| u64::from(d)).product::<u64>();
                    view.shape(&x.shape) == y.shape
                        && x.dtype == y.dtype
                        && (!matches!(view, View::Reshape(_)) || count(&x.shape) == count(&y.shape))
                }
                Kind::Concat { inputs, axis, .. } => {
                    let sum: u32 = inputs.iter().map(|&i| self.value(i).shape[*axis]).sum();
                    sum == y.shape[*axis] && inputs.iter().all(|&i| self.value(i).dtype == y.dtype)
                }
            };
            if !fits {
                return Err(format!("{} does not fit its result {:?}", name(), y.shape));
            }
        }
        match self.outputs.iter().find(|o| !made[o.1.0 as usize]) {
            Some((name, _)) => Err(format!("output {name} is made by no node")),
            None => Ok(()),
        }
    }
}

/// Constants, each stored once.
#[derive(Clone, Debug, Default)]
pub struct Blobs {
    bytes: Vec<u8>,
    /// Only looked up, never iterated.
    known: HashMap<u64, Vec<Blob>>,
}

impl Blobs {
    /// The place of these bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Blob {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let same = self.known.entry(hasher.finish()).or_default();
        if let Some(&blob) = same.iter().find(|b| of(&self.bytes, **b) == bytes) {
            return blob;
        }
        self.bytes.resize(arena::align(self.bytes.len() as u64) as usize, 0);
        let blob = Blob { offset: self.bytes.len() as u64, bytes: bytes.len() as u64 };
        self.bytes.extend(bytes);
        same.push(blob);
        blob
    }

    pub(crate) fn floats(&mut self, values: &[f32]) -> Blob {
        self.add(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    pub(crate) fn ints(&mut self, values: &[i32]) -> Blob {
        self.add(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    /// The bytes of a blob.
    pub fn get(&self, blob: Blob) -> &[u8] {
        of(&self.bytes, blob)
    }
}

fn of(bytes: &[u8], blob: Blob) -> &[u8] {
    &bytes[blob.offset as usize..(blob.offset + blob.bytes) as usize]
}

/// One line a node: results, operation, inputs.
impl std::fmt::Display for QGraph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |id: TensorId| {
            let v = self.value(id);
            let dims: Vec<String> = v.shape.iter().map(u32::to_string).collect();
            let quant = v.quant.map_or(String::new(), |q| format!(" *{} +{}", q.scale, q.zero_point));
            let constant = if v.constant.is_some() { "const " } else { "" };
            format!("{constant}{} {}[{}]{quant}", v.name, v.dtype, dims.join(","))
        };
        writeln!(f, "graph {}", self.name)?;
        for n in &self.nodes {
            let ins: Vec<String> = n.kind.reads().into_iter().map(show).collect();
            let out = show(n.kind.writes());
            writeln!(f, "{} {}: {} -> {out}", n.kind.name(), n.names.join("+"), ins.join(", "))?;
        }
        Ok(())
    }
}
