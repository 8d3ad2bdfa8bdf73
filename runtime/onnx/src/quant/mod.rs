//! Stage "quant": QDQ and QOperator models become the same integer operations.
//!
//! A float value that stands on an 8-bit tensor is not computed but remembered (`Deq`): as a table from that
//! tensor's 256 values to floats. Unary functions change the table, moves go to the integers below, a
//! QuantizeLinear turns it into an 8-bit table (or into nothing). Operations with an integer form take the
//! integers, when the QuantizeLinear behind them allows it, as ONNX Runtime's fusions do; all others get the
//! float tensor.

mod binary;
mod linear;
mod moves;
mod pool;
mod propagate;
pub mod qgraph;
mod real;
mod reduce;
mod unary;
pub(crate) mod visit;

use crate::error::{NodeIssue, Why, why};
use crate::import::graph::{Constant, Graph, Node, ValueId};
use crate::import::views::axis;
use pilotlight_plan::{Convert, DType, Op, Quant, Table, TensorId, math};
use qgraph::{Kind, QGraph, QNode, QValue};
use std::sync::Arc;

/// 256 floats, by the bits of the 8-bit value.
pub(crate) type Lut = Box<[f32; 256]>;

/// What a value of the model is in the quantised graph.
#[derive(Clone, Debug)]
enum Rep {
    /// A tensor of the same type.
    Tensor(TensorId),
    /// A float value that stands on an 8-bit tensor.
    Deq(Deq),
    /// A dequantised constant.
    Weights(Weights),
}

/// A float value as a table over an 8-bit tensor.
#[derive(Clone, Debug)]
struct Deq {
    q: TensorId,
    lut: Lut,
    /// Scale and zero point where the table is nothing but a dequantisation.
    pure: Option<Quant>,
    /// Whether ONNX Runtime sees a DequantizeLinear right in front of the reader.
    direct: bool,
    /// Nodes since the dequantisation.
    names: Vec<String>,
}

/// Integers with scales: one, or one for each index of `axis`.
#[derive(Clone, Debug)]
struct Weights {
    c: Arc<Constant>,
    axis: usize,
    scale: Vec<f32>,
    zero: Vec<i32>,
}

/// A QuantizeLinear that takes a value whole, perhaps through a Relu or Clip.
struct After {
    /// Nodes that are done with.
    nodes: Vec<usize>,
    names: Vec<String>,
    out: ValueId,
    dtype: DType,
    quant: Quant,
    /// Smallest and largest integer that the Relu or Clip lets through.
    clamp: (i32, i32),
}

struct Lower<'g> {
    g: &'g Graph,
    q: QGraph,
    rep: Vec<Option<Rep>>,
    /// Nodes that read each value; an output counts as `usize::MAX`.
    readers: Vec<Vec<usize>>,
    done: Vec<bool>,
    index_budget: usize,
    strict: bool,
}

/// Lowers a graph; `issues` are those of the stage before and grow by what is found here.
pub(crate) fn lower(mut g: Graph, issues: &mut Vec<NodeIssue>, strict: bool) -> QGraph {
    propagate::quantise_earlier(&mut g);
    let mut readers = vec![vec![]; g.values.len()];
    for (i, n) in g.nodes.iter().enumerate() {
        for v in n.inputs.iter().flatten() {
            readers[v.0 as usize].push(i);
        }
    }
    for v in &g.outputs {
        readers[v.0 as usize].push(usize::MAX);
    }
    let mut l = Lower {
        q: QGraph {
            name: g.name.clone(),
            values: vec![],
            nodes: vec![],
            inputs: vec![],
            outputs: vec![],
            blobs: Default::default(),
        },
        rep: vec![None; g.values.len()],
        readers,
        done: vec![false; g.nodes.len()],
        index_budget: 1 << 24,
        strict,
        g: &g,
    };
    for &v in &g.inputs {
        let id = l.declare(v, None);
        l.q.inputs.push(id);
        l.rep[v.0 as usize] = Some(Rep::Tensor(id));
    }
    for (i, n) in g.nodes.iter().enumerate() {
        let unknown = |v: &Option<ValueId>| v.is_some_and(|v| g.value(v).ty.is_none());
        let folded = n.outputs.iter().flatten().all(|&v| g.value(v).constant.is_some());
        if l.done[i] || folded || n.inputs.iter().any(unknown) || n.outputs.iter().any(unknown) {
            continue;
        }
        // A value whose maker failed has no representation; its readers are not judged.
        let lost = |v: &Option<ValueId>| {
            v.is_some_and(|v| g.value(v).constant.is_none() && l.rep[v.0 as usize].is_none())
        };
        if n.inputs.iter().any(lost) {
            continue;
        }
        if let Err(why) = l.node(i, n) {
            issues.push(NodeIssue { node: n.name.clone(), op: n.op.clone(), why });
        }
    }
    for &v in &g.outputs {
        let name = g.value(v).name.clone();
        if g.value(v).constant.is_none() && l.rep[v.0 as usize].is_none() {
            continue;
        }
        match l.tensor(v) {
            Ok(id) => l.q.outputs.push((name, id)),
            Err(why) => issues.push(NodeIssue { node: name, op: "output".into(), why }),
        }
    }
    l.q
}

impl<'g> Lower<'g> {
    fn node(&mut self, i: usize, n: &'g Node) -> Result<(), Why> {
        match n.op.as_str() {
            "QuantizeLinear" => self.quantize(n),
            "DequantizeLinear" => self.dequantize(n),
            "Conv" | "QLinearConv" | "ConvInteger" => self.conv(n),
            "Gemm" | "QGemm" => self.gemm(n),
            "MatMul" | "QLinearMatMul" | "MatMulInteger" => self.matmul(n),
            "Add" | "Sub" | "Mul" | "Div" => self.binary(n),
            "QLinearAdd" | "QLinearMul" => self.qlinear_binary(n),
            "Relu" | "Clip" | "Sigmoid" | "HardSigmoid" | "HardSwish" | "LeakyRelu" | "Tanh" => self.unary(n),
            "QLinearSigmoid" | "QLinearLeakyRelu" => self.qlinear_unary(n),
            "MaxPool" => self.max_pool(n),
            "AveragePool" => self.average_pool(n),
            "QLinearAveragePool" => self.qlinear_average_pool(n),
            "GlobalAveragePool" | "ReduceMean" => self.mean(n),
            "QLinearGlobalAveragePool" => self.qlinear_mean(n),
            "Softmax" => self.softmax(n),
            "QLinearSoftmax" => self.qlinear_softmax(n),
            "ArgMax" => self.arg_max(n),
            "Cast" => self.cast(n),
            "Concat" => self.concat(n),
            "QLinearConcat" => self.qlinear_concat(n),
            "Resize" if n.text("mode", "nearest")? != "nearest" => self.resize(n),
            _ => self.moves(i, n),
        }
    }

    /// A value of the quantised graph with the name and type of a value of the model.
    fn declare(&mut self, v: ValueId, quant: Option<Quant>) -> TensorId {
        let value = self.g.value(v);
        let (dtype, shape) = match &value.ty {
            Some(t) => (t.dtype, t.shape.clone()),
            // Types were checked before the node was taken up.
            None => (DType::F32, vec![]),
        };
        self.q.add(QValue { name: value.name.clone(), dtype, shape, quant, constant: None })
    }

    /// Adds a node.
    fn push(&mut self, names: Vec<String>, op: Op) {
        self.q.nodes.push(QNode { names, kind: Kind::Op(op) });
    }

    /// Says what a value of the model is.
    fn set(&mut self, v: ValueId, rep: Rep) {
        self.rep[v.0 as usize] = Some(rep);
    }

    /// Output `i` of a node.
    fn out(&self, n: &Node, i: usize) -> Result<ValueId, Why> {
        n.outputs.get(i).copied().flatten().ok_or_else(|| format!("output {i} is missing"))
    }

    /// Input `i` of a node.
    fn arg(&self, n: &Node, i: usize) -> Result<ValueId, Why> {
        n.input(i).ok_or_else(|| format!("input {i} is missing"))
    }

    /// The float that input `i` of a node stands for, where it stands on integers.
    fn deq(&self, v: ValueId) -> Option<&Deq> {
        match &self.rep[v.0 as usize] {
            Some(Rep::Deq(d)) => Some(d),
            _ => None,
        }
    }

    /// A value as a tensor of its own type, computed where it was only remembered.
    fn tensor(&mut self, v: ValueId) -> Result<TensorId, Why> {
        let g = self.g;
        let id = match self.rep[v.0 as usize].clone() {
            Some(Rep::Tensor(id)) => return Ok(id),
            Some(Rep::Deq(d)) => {
                let output = self.declare(v, None);
                let op = match d.pure {
                    Some(quant) => {
                        Op::Dequantize(Convert { input: d.q, output, axis: 0, quant: vec![quant] })
                    }
                    None => {
                        let table = self.q.blobs.floats(&d.lut[..]);
                        Op::Table(Table { input: d.q, output, table })
                    }
                };
                self.push(d.names, op);
                output
            }
            Some(Rep::Weights(w)) => {
                let c = w.to_floats();
                self.constant(&g.value(v).name, &c, None)
            }
            None => match &g.value(v).constant {
                Some(c) => self.constant(&g.value(v).name, c, None),
                None => return why!("{} is not computed", g.value(v).name),
            },
        };
        self.set(v, Rep::Tensor(id));
        Ok(id)
    }

    /// A constant as a tensor.
    fn constant(&mut self, name: &str, c: &Constant, quant: Option<Quant>) -> TensorId {
        let blob = self.q.blobs.add(&c.bytes);
        self.q.add(QValue {
            name: name.into(),
            dtype: c.ty.dtype,
            shape: c.ty.shape.clone(),
            quant,
            constant: Some(blob),
        })
    }

    /// The only element of a constant f32 input.
    fn scale(&self, n: &Node, i: usize) -> Result<f32, Why> {
        match self.scales(n, i)?[..] {
            [s] => Ok(s),
            ref many => why!("input {i} holds {} scales, one is needed", many.len()),
        }
    }

    /// The scales of a constant input: positive numbers.
    fn scales(&self, n: &Node, i: usize) -> Result<Vec<f32>, Why> {
        let c = self.g.constant(n, i)?.ok_or_else(|| format!("input {i} (a scale) is missing"))?;
        let scales = c.to_floats()?;
        match scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            Some(bad) => why!("a scale of {bad}; a positive number is needed"),
            None if scales.is_empty() => why!("input {i} (a scale) is empty"),
            None => Ok(scales),
        }
    }

    /// The zero points of a constant input, of the type of the values; 0 where it is left out.
    fn zeros(&self, n: &Node, i: usize, dtype: DType) -> Result<Vec<i32>, Why> {
        match self.g.constant(n, i)? {
            None => Ok(vec![0]),
            Some(c) if c.ty.dtype != dtype => {
                why!("a zero point of {} for values of {dtype}; both must have one type", c.ty.dtype)
            }
            Some(c) => match c.to_ints()? {
                v if v.is_empty() => why!("input {i} (a zero point) is empty"),
                v => Ok(v.into_iter().map(|z| z as i32).collect()),
            },
        }
    }

    fn zero(&self, n: &Node, i: usize, dtype: DType) -> Result<i32, Why> {
        match self.zeros(n, i, dtype)?[..] {
            [z] => Ok(z),
            ref many => why!("input {i} holds {} zero points, one is needed", many.len()),
        }
    }

    /// Scale at input `i`, zero point of values of `dtype` behind it.
    fn quant_at(&self, n: &Node, i: usize, dtype: DType) -> Result<Quant, Why> {
        Ok(Quant { scale: self.scale(n, i)?, zero_point: self.zero(n, i + 1, dtype)? })
    }

    /// The quantisation behind a value, if that is all that reads it.
    fn after(&self, v: ValueId) -> Option<After> {
        let only = |v: ValueId| match self.readers[v.0 as usize][..] {
            [i] if i != usize::MAX => Some(i),
            _ => None,
        };
        let mut i = only(v)?;
        let mut after_nodes = vec![];
        let mut names = vec![];
        let mut clip = None;
        if matches!(self.g.nodes[i].op.as_str(), "Relu" | "Clip") {
            let n = &self.g.nodes[i];
            clip = Some(unary::bounds(self.g, n).ok()?);
            after_nodes.push(i);
            names.push(n.name.clone());
            i = only(n.outputs.first().copied().flatten()?)?;
        }
        let n = &self.g.nodes[i];
        if n.op != "QuantizeLinear" || self.scales(n, 1).ok()?.len() != 1 {
            return None;
        }
        let out = n.outputs.first().copied().flatten()?;
        let dtype = self.g.value(out).ty.as_ref()?.dtype;
        let quant = self.quant_at(n, 1, dtype).ok()?;
        let (lo, hi) = dtype.int8_range()?;
        let clamp = match clip {
            None => (lo, hi),
            Some((a, b)) => {
                let q = |x| math::quantize(x, quant.scale, quant.zero_point, lo, hi);
                (q(a), q(b).max(q(a)))
            }
        };
        after_nodes.push(i);
        names.push(n.name.clone());
        Some(After { nodes: after_nodes, names, out, dtype, quant, clamp })
    }

    /// Takes the nodes of a quantisation as done and declares its result.
    fn take(&mut self, after: &After) -> TensorId {
        for &i in &after.nodes {
            self.done[i] = true;
        }
        let id = self.declare(after.out, Some(after.quant));
        self.set(after.out, Rep::Tensor(id));
        id
    }

    fn quantize(&mut self, n: &Node) -> Result<(), Why> {
        let (x, out) = (self.arg(n, 0)?, self.out(n, 0)?);
        let dtype = self.g.ty(n, 0)?.dtype;
        let to = self.g.value(out).ty.as_ref().map_or(DType::F32, |t| t.dtype);
        let Some((lo, hi)) = to.int8_range() else {
            return why!("quantised to {to}; u8 and i8 are supported");
        };
        if dtype != DType::F32 {
            return why!("quantises {dtype}; f32 is supported");
        }
        let scales = self.scales(n, 1)?;
        let zeros = self.zeros(n, 2, to)?;
        if let (Some(d), [_]) = (self.deq(x).cloned(), &scales[..]) {
            let quant = self.quant_at(n, 1, to)?;
            let table: Vec<u8> = d
                .lut
                .iter()
                .map(|&v| math::quantize(v, quant.scale, quant.zero_point, lo, hi) as u8)
                .collect();
            let source = self.q.value(d.q);
            if source.dtype == to && table.iter().enumerate().all(|(i, &t)| i == usize::from(t)) {
                self.set(out, Rep::Tensor(d.q));
                return Ok(());
            }
            let output = self.declare(out, Some(quant));
            let table = self.q.blobs.add(&table);
            let mut names = d.names;
            names.push(n.name.clone());
            self.push(names, Op::Table(Table { input: d.q, output, table }));
            self.set(out, Rep::Tensor(output));
            return Ok(());
        }
        let shape = self.g.ty(n, 0)?.shape.clone();
        let along = if scales.len() == 1 { 0 } else { axis(n.int("axis", 1)?, shape.len())? };
        let input = self.tensor(x)?;
        let quant = pairs(&scales, &zeros)?;
        let whole = (quant.len() == 1).then(|| quant[0]);
        if quant.len() != 1 && quant.len() != shape[along] as usize {
            return why!("{} scales along an extent of {}", quant.len(), shape[along]);
        }
        let output = self.declare(out, whole);
        self.push(vec![n.name.clone()], Op::Quantize(Convert { input, output, axis: along as u32, quant }));
        self.set(out, Rep::Tensor(output));
        Ok(())
    }

    fn dequantize(&mut self, n: &Node) -> Result<(), Why> {
        let (x, out) = (self.arg(n, 0)?, self.out(n, 0)?);
        let ty = self.g.ty(n, 0)?.clone();
        if n.int("block_size", 0)? != 0 {
            return why!("blocked quantisation is not supported");
        }
        let (scale, zero) = (self.scales(n, 1)?, self.zeros(n, 2, ty.dtype)?);
        if ty.dtype == DType::I32 && zero.iter().any(|&z| z != 0) {
            return why!("i32 values with zero points {zero:?}; 0 is supported");
        }
        let along = if scale.len() == 1 { 0 } else { axis(n.int("axis", 1)?, ty.shape.len())? };
        if scale.len() != 1 && scale.len() != ty.shape[along] as usize {
            return why!("{} scales along an extent of {}", scale.len(), ty.shape[along]);
        }
        let quant = pairs(&scale, &zero)?;
        if !(ty.dtype.is_int8() || ty.dtype == DType::I32) {
            return why!("dequantises {}; u8, i8 and i32 are supported", ty.dtype);
        }
        if let Some(c) = &self.g.value(x).constant {
            let zero = quant.iter().map(|q| q.zero_point).collect();
            self.set(out, Rep::Weights(Weights { c: c.clone(), axis: along, scale, zero }));
            return Ok(());
        }
        let q = self.tensor(x)?;
        if quant.len() == 1 && ty.dtype.is_int8() {
            if self.q.value(q).quant.is_none() {
                self.q.values[q.0 as usize].quant = Some(quant[0]);
            }
            let d = Deq {
                q,
                lut: dequantised(ty.dtype, quant[0]),
                pure: Some(quant[0]),
                direct: true,
                names: vec![n.name.clone()],
            };
            self.set(out, Rep::Deq(d));
            return Ok(());
        }
        let output = self.declare(out, None);
        self.push(
            vec![n.name.clone()],
            Op::Dequantize(Convert { input: q, output, axis: along as u32, quant }),
        );
        self.set(out, Rep::Tensor(output));
        Ok(())
    }
}

/// Scales with their zero points.
fn pairs(scales: &[f32], zeros: &[i32]) -> Result<Vec<Quant>, Why> {
    if zeros.len() != 1 && zeros.len() != scales.len() {
        return why!("{} scales, but {} zero points", scales.len(), zeros.len());
    }
    let zero = |i: usize| if zeros.len() == 1 { zeros[0] } else { zeros[i] };
    Ok(scales.iter().enumerate().map(|(i, &scale)| Quant { scale, zero_point: zero(i) }).collect())
}

/// The integer whose bits are `i`.
pub(crate) fn from_bits(dtype: DType, i: usize) -> i32 {
    if dtype == DType::I8 { i32::from(i as u8 as i8) } else { i as i32 }
}

/// The table of a dequantisation.
pub(crate) fn dequantised(dtype: DType, quant: Quant) -> Lut {
    Box::new(std::array::from_fn(|i| (from_bits(dtype, i) - quant.zero_point) as f32 * quant.scale))
}

impl Weights {
    fn to_floats(&self) -> Constant {
        let inner: usize = self.c.ty.shape.iter().skip(self.axis + 1).map(|&d| d as usize).product();
        let ints = self.c.to_ints().unwrap_or_default();
        let v: Vec<f32> = ints
            .iter()
            .enumerate()
            .map(|(i, &q)| {
                let k = if self.scale.len() == 1 { 0 } else { i / inner % self.scale.len() };
                (q as i32).wrapping_sub(self.zero[k]) as f32 * self.scale[k]
            })
            .collect();
        Constant::floats(&self.c.ty.shape, &v)
    }
}
