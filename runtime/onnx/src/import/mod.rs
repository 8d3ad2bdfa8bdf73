//! Stage "import": the protobuf becomes a graph of nodes with types and shapes, constants folded.

mod fold;
pub mod graph;
pub(crate) mod infer;
mod proto;
pub(crate) mod resize;
pub(crate) mod views;
pub(crate) mod window;

use crate::Options;
use crate::error::{ImportError, NodeIssue};
use graph::{Constant, Graph, Node, Type, Value, ValueId};
use pilotlight_plan::validate::MAX_RANK;
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dim;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, ValueInfoProto, type_proto};

/// Reads a model.
///
/// # Errors
/// See [`ImportError`]; all nodes that cannot be imported are in one error. Nodes that only a later stage can
/// judge are judged there.
pub fn read(bytes: &[u8], options: &Options) -> Result<(Graph, Vec<NodeIssue>), ImportError> {
    let model = ModelProto::decode(bytes)?;
    let Some(proto) = &model.graph else {
        return Err(ImportError::NoGraph { bytes: bytes.len() });
    };
    let opset = model.opset_import.iter().find(|o| matches!(&*o.domain, "" | "ai.onnx"));
    let opset = opset.map_or(0, |o| o.version);
    if !(10..=22).contains(&opset) {
        return Err(ImportError::Opset { found: opset });
    }
    let mut b = Builder {
        graph: Graph {
            name: proto.name.clone(),
            opset,
            values: vec![],
            nodes: vec![],
            inputs: vec![],
            outputs: vec![],
        },
        names: HashMap::new(),
        issues: vec![],
        // What folding may make: in proportion to the file, and enough for any shape arithmetic.
        fold_budget: bytes.len() as u64 * 4 + (1 << 20),
        computed: 0,
    };
    b.initialisers(proto);
    b.inputs(proto, options)?;
    for (position, node) in proto.node.iter().enumerate() {
        b.node(position, node);
    }
    for output in &proto.output {
        match b.names.get(&output.name) {
            Some(&v) => b.graph.outputs.push(v),
            None => return Err(ImportError::Output { output: output.name.clone() }),
        }
    }
    if b.computed > options.max_bytes {
        return Err(ImportError::TooLarge { found: b.computed, limit: options.max_bytes });
    }
    Ok((b.graph, b.issues))
}

struct Builder {
    graph: Graph,
    /// Only looked up, never iterated: the order of the graph is the model's.
    names: HashMap<String, ValueId>,
    issues: Vec<NodeIssue>,
    fold_budget: u64,
    computed: u64,
}

impl Builder {
    fn add(&mut self, value: Value) -> ValueId {
        let id = ValueId(self.graph.values.len() as u32);
        self.names.insert(value.name.clone(), id);
        self.graph.values.push(value);
        id
    }

    fn initialisers(&mut self, proto: &GraphProto) {
        for t in &proto.initializer {
            let tensor = proto::tensor(t);
            self.add(match tensor {
                Ok(c) if c.ty.shape.len() <= MAX_RANK => constant(&t.name, c),
                Ok(c) => broken(&t.name, format!("rank {}; up to {MAX_RANK} is supported", c.ty.shape.len())),
                Err(problem) => broken(&t.name, problem),
            });
        }
        for t in &proto.sparse_initializer {
            let name = t.values.as_ref().map_or("", |v| &v.name);
            self.add(broken(name, format!("tensor {name} is sparse, which is not supported")));
        }
    }

    fn inputs(&mut self, proto: &GraphProto, options: &Options) -> Result<(), ImportError> {
        let mut known = vec![];
        for input in &proto.input {
            // Before IR version 4 initialisers were listed among the inputs.
            if self.names.contains_key(&input.name) {
                continue;
            }
            let ty = input_type(input, options, &mut known)?;
            self.computed = self.computed.saturating_add(ty.bytes());
            let id =
                self.add(Value { name: input.name.clone(), ty: Some(ty), constant: None, problem: None });
            self.graph.inputs.push(id);
        }
        match options.dims.iter().find(|(name, _)| !known.contains(name)) {
            Some((name, _)) => {
                Err(ImportError::UnknownDimension { found: name.clone(), known: known.join(", ") })
            }
            None => Ok(()),
        }
    }

    fn node(&mut self, position: usize, proto: &NodeProto) {
        let op = match &*proto.domain {
            "" | "ai.onnx" | "com.microsoft" => proto.op_type.clone(),
            domain => format!("{domain}.{}", proto.op_type),
        };
        let name = match &*proto.name {
            "" => format!("{}_{position}", proto.op_type),
            given => given.to_string(),
        };
        let mut problem = (!infer::known(&op)).then(|| format!("operator {op} is not supported"));
        let mut inputs = Vec::with_capacity(proto.input.len());
        for input in &proto.input {
            inputs.push(match self.names.get(input) {
                Some(&v) => Some(v),
                None if input.is_empty() => None,
                None => {
                    problem = problem.or(Some(format!("input {input} is made by no earlier node")));
                    None
                }
            });
        }
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let attrs = proto.attribute.iter().map(|a| (a.name.clone(), proto::attribute(a))).collect();
        let mut node = Node { name, op, inputs, outputs: vec![], attrs };

        let behind_unknown = node
            .inputs
            .iter()
            .flatten()
            .map(|&v| self.graph.value(v))
            .filter(|v| v.ty.is_none())
            .map(|v| v.problem.clone())
            .collect::<Vec<_>>();
        problem = problem.or_else(|| behind_unknown.iter().flatten().next().cloned());
        let mut types = vec![];
        let mut folded = None;
        if problem.is_none() && behind_unknown.is_empty() {
            // Outputs must be counted before they exist.
            node.outputs = vec![Some(ValueId(u32::MAX)); proto.output.len()];
            match self.types(&node) {
                Ok((t, c)) => (types, folded) = (t, c),
                Err(why) => problem = Some(why),
            }
        }
        node.outputs = vec![];
        for (i, name) in proto.output.iter().enumerate() {
            if name.is_empty() {
                node.outputs.push(None);
                continue;
            }
            if self.names.contains_key(name) {
                problem = problem.or(Some(format!("output {name} is made a second time")));
            }
            let ty = types.get(i).cloned();
            if ty.is_none() && problem.is_none() && behind_unknown.is_empty() {
                problem = Some(format!("output {i} ({name}) is not supported"));
            }
            let constant = folded.take_if(|_| i == 0);
            let id = self.add(Value { name: name.clone(), ty, constant, problem: None });
            node.outputs.push(Some(id));
        }
        if let Some(why) = problem {
            self.issues.push(NodeIssue { node: node.name.clone(), op: node.op.clone(), why });
        }
        self.graph.nodes.push(node);
    }

    #[allow(clippy::type_complexity, reason = "types and the constant, used once")]
    fn types(&mut self, node: &Node) -> Result<(Vec<Type>, Option<Arc<Constant>>), String> {
        let folded = fold::fold(&self.graph, node, self.fold_budget)?;
        let types = match &folded {
            Some(c) => vec![c.ty.clone()],
            None => infer::infer(&self.graph, node)?,
        };
        for t in &types {
            if t.shape.len() > MAX_RANK {
                return Err(format!("its result has rank {}; up to {MAX_RANK} is supported", t.shape.len()));
            }
            if folded.is_none() && t.shape.contains(&0) {
                return Err(format!("its result {t} is empty"));
            }
        }
        match &folded {
            Some(c) => self.fold_budget = self.fold_budget.saturating_sub(c.bytes.len() as u64),
            None => {
                let bytes = types.iter().fold(0_u64, |n, t| n.saturating_add(t.bytes()));
                self.computed = self.computed.saturating_add(bytes);
            }
        }
        Ok((types, folded.map(Arc::new)))
    }
}

fn constant(name: &str, c: Constant) -> Value {
    Value { name: name.into(), ty: Some(c.ty.clone()), constant: Some(Arc::new(c)), problem: None }
}

fn broken(name: &str, problem: String) -> Value {
    Value { name: name.into(), ty: None, constant: None, problem: Some(problem) }
}

/// The type of an input, its symbolic dimensions bound.
fn input_type(
    input: &ValueInfoProto,
    options: &Options,
    known: &mut Vec<String>,
) -> Result<Type, ImportError> {
    let bad = |why: String| ImportError::Input { input: input.name.clone(), why };
    let Some(type_proto::Value::TensorType(t)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Err(bad("it is no tensor".into()));
    };
    let dtype = proto::dtype(t.elem_type).map_err(bad)?;
    let dims = t.shape.as_ref().map(|s| &*s.dim).unwrap_or_default();
    if dims.len() > MAX_RANK {
        return Err(bad(format!("rank {}; up to {MAX_RANK} is supported", dims.len())));
    }
    let mut shape = vec![];
    for (axis, d) in dims.iter().enumerate() {
        let (extent, name) = match &d.value {
            Some(Dim::DimValue(v)) if *v > 0 => (Some(*v), String::new()),
            Some(Dim::DimParam(p)) if !p.is_empty() => (None, p.clone()),
            _ => (None, format!("{}.{axis}", input.name)),
        };
        let extent = match extent {
            Some(v) => u32::try_from(v).map_err(|_| bad(format!("an extent of {v}")))?,
            None => {
                let bound = options.dims.iter().find(|(n, _)| *n == name).map(|&(_, v)| v);
                known.push(name.clone());
                bound.filter(|&v| v > 0).ok_or(ImportError::UnboundDimension {
                    input: input.name.clone(),
                    dim: name,
                    axis,
                })?
            }
        };
        shape.push(extent);
    }
    Ok(Type { dtype, shape })
}
