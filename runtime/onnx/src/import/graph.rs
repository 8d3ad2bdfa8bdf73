//! The model as read: nodes in order, values with type, shape and, where known, contents.

use crate::error::Why;
use pilotlight_plan::DType;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Index of a value in [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Element type and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Vec<u32>,
}

impl Type {
    pub(crate) fn new(dtype: DType, shape: impl Into<Vec<u32>>) -> Self {
        Self { dtype, shape: shape.into() }
    }

    /// Bytes of a dense tensor of this type.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().fold(self.dtype.bytes() as u64, |n, &d| n.saturating_mul(u64::from(d)))
    }
}

/// A tensor whose contents are known: little-endian, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Element type and shape; an extent may be 0.
    pub ty: Type,
    /// The elements.
    pub bytes: Vec<u8>,
}

impl Constant {
    /// An i64 vector.
    pub(crate) fn ints(values: &[i64]) -> Self {
        Self {
            ty: Type::new(DType::I64, [values.len() as u32]),
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    /// An f32 tensor.
    pub(crate) fn floats(shape: &[u32], values: &[f32]) -> Self {
        Self {
            ty: Type::new(DType::F32, shape),
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.ty.dtype.bytes()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements of an integer tensor.
    pub(crate) fn to_ints(&self) -> Result<Vec<i64>, Why> {
        let b = &self.bytes;
        Ok(match self.ty.dtype {
            DType::I64 => b.as_chunks().0.iter().map(|c| i64::from_le_bytes(*c)).collect(),
            DType::I32 => b.as_chunks().0.iter().map(|c| i64::from(i32::from_le_bytes(*c))).collect(),
            DType::U8 => b.iter().map(|&v| i64::from(v)).collect(),
            DType::I8 => b.iter().map(|&v| i64::from(v as i8)).collect(),
            DType::F32 => return Err("an f32 tensor stands where integers are needed".into()),
        })
    }

    /// The elements of an f32 tensor.
    pub(crate) fn to_floats(&self) -> Result<Vec<f32>, Why> {
        match self.ty.dtype {
            DType::F32 => Ok(self.bytes.as_chunks().0.iter().map(|c| f32::from_le_bytes(*c)).collect()),
            other => Err(format!("an {other} tensor stands where f32 is needed")),
        }
    }
}

/// A value of the graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name in the model.
    pub name: String,
    /// Type and shape; unknown behind a node that cannot be imported.
    pub ty: Option<Type>,
    /// Contents, where known.
    pub constant: Option<Arc<Constant>>,
    /// Why the value cannot be used.
    pub problem: Option<String>,
}

/// An attribute of a node.
#[derive(Clone, Debug)]
pub enum Attr {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f32),
    /// Text.
    Text(String),
    /// Integers.
    Ints(Vec<i64>),
    /// Floats.
    Floats(Vec<f32>),
    /// A tensor.
    Tensor(Result<Arc<Constant>, Why>),
    /// Of a kind that no supported operator has.
    Other,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name, or `OP_POSITION`.
    pub name: String,
    /// Its operator; the domain stands in front where it is neither ONNX's nor `com.microsoft`.
    pub op: String,
    /// Inputs; `None` where an optional one is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs; `None` where an optional one is left out.
    pub outputs: Vec<Option<ValueId>>,
    /// Attributes by name.
    pub attrs: BTreeMap<String, Attr>,
}

impl Node {
    /// An integer attribute, or its default.
    pub(crate) fn int(&self, name: &str, default: i64) -> Result<i64, Why> {
        match self.attrs.get(name) {
            None => Ok(default),
            Some(Attr::Int(i)) => Ok(*i),
            Some(_) => Err(format!("attribute {name} is not an integer")),
        }
    }

    /// A float attribute, or its default.
    pub(crate) fn float(&self, name: &str, default: f32) -> Result<f32, Why> {
        match self.attrs.get(name) {
            None => Ok(default),
            Some(Attr::Float(f)) => Ok(*f),
            Some(_) => Err(format!("attribute {name} is not a float")),
        }
    }

    /// A text attribute, or its default.
    pub(crate) fn text<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str, Why> {
        match self.attrs.get(name) {
            None => Ok(default),
            Some(Attr::Text(t)) => Ok(t),
            Some(_) => Err(format!("attribute {name} is not text")),
        }
    }

    /// An integer list attribute.
    pub(crate) fn ints(&self, name: &str) -> Result<Option<&[i64]>, Why> {
        match self.attrs.get(name) {
            None => Ok(None),
            Some(Attr::Ints(i)) => Ok(Some(i)),
            Some(_) => Err(format!("attribute {name} is not a list of integers")),
        }
    }

    /// The value at input `i`, if given.
    pub(crate) fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }
}

/// A model as read.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The graph's name.
    pub name: String,
    /// Version of ONNX's operator set.
    pub opset: i64,
    /// All values.
    pub values: Vec<Value>,
    /// Nodes, each behind those that make its inputs.
    pub nodes: Vec<Node>,
    /// What the caller gives.
    pub inputs: Vec<ValueId>,
    /// What the caller gets.
    pub outputs: Vec<ValueId>,
}

impl Graph {
    pub(crate) fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// Type of input `i` of a node.
    pub(crate) fn ty(&self, node: &Node, i: usize) -> Result<&Type, Why> {
        match node.input(i) {
            None => why(format!("input {i} is missing")),
            Some(v) => {
                self.value(v).ty.as_ref().ok_or_else(|| format!("{} has no known type", self.value(v).name))
            }
        }
    }

    /// Contents of input `i` of a node: `None` where it is left out.
    pub(crate) fn constant(&self, node: &Node, i: usize) -> Result<Option<&Arc<Constant>>, Why> {
        match node.input(i) {
            None => Ok(None),
            Some(v) => match &self.value(v).constant {
                Some(c) => Ok(Some(c)),
                None => Err(format!("input {i} ({}) must be a constant", self.value(v).name)),
            },
        }
    }

    /// Integers of input `i`.
    pub(crate) fn const_ints(&self, node: &Node, i: usize) -> Result<Option<Vec<i64>>, Why> {
        self.constant(node, i)?.map(|c| c.to_ints()).transpose()
    }
}

fn why<T>(text: String) -> Result<T, Why> {
    Err(text)
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(u32::to_string).collect();
        write!(f, "{}[{}]", self.dtype, dims.join(","))
    }
}

/// One line a node: outputs, operator, inputs.
impl std::fmt::Display for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |v: &Option<ValueId>| match v {
            None => "-".to_string(),
            Some(v) => {
                let v = self.value(*v);
                let ty = v.ty.as_ref().map_or("?".to_string(), Type::to_string);
                format!("{}{} {ty}", if v.constant.is_some() { "const " } else { "" }, v.name)
            }
        };
        writeln!(f, "graph {} opset {}", self.name, self.opset)?;
        for node in &self.nodes {
            let ins: Vec<String> = node.inputs.iter().map(show).collect();
            let outs: Vec<String> = node.outputs.iter().map(show).collect();
            writeln!(f, "{} {}: {} -> {}", node.op, node.name, ins.join(", "), outs.join(", "))?;
        }
        Ok(())
    }
}
