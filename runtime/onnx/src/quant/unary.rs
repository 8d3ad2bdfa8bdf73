//! Functions of one variable.

use super::{Deq, Lower, Rep, dequantised, from_bits};
use crate::error::{Why, why};
use crate::import::graph::{Attr, Graph, Node};
use pilotlight_plan::{Cast, DType, Function, Op, Table, Unary, math};

/// What a Relu or Clip lets through.
pub(super) fn bounds(g: &Graph, n: &Node) -> Result<(f32, f32), Why> {
    let (mut lo, mut hi) = (f32::NEG_INFINITY, f32::INFINITY);
    if n.op == "Relu" {
        return Ok((0.0, hi));
    }
    for (i, name, bound) in [(1, "min", &mut lo), (2, "max", &mut hi)] {
        if let Some(c) = g.constant(n, i)? {
            let list = match c.ty.dtype {
                DType::F32 => c.to_floats()?,
                _ => c.to_ints()?.into_iter().map(|v| v as f32).collect(),
            };
            match list[..] {
                [v] if !v.is_nan() => *bound = v,
                _ => return why!("{name} must be one number"),
            }
        }
        if let Some(Attr::Float(v)) = n.attrs.get(name) {
            *bound = *v;
        }
    }
    if lo > hi { why!("min {lo} is above max {hi}") } else { Ok((lo, hi)) }
}

/// The function that a node applies.
pub(super) fn function(g: &Graph, n: &Node) -> Result<Function, Why> {
    Ok(match n.op.as_str() {
        "Relu" => Function::Relu,
        "Clip" => {
            let (lo, hi) = bounds(g, n)?;
            Function::Clip { lo, hi }
        }
        "Sigmoid" | "QLinearSigmoid" => Function::Sigmoid,
        "Tanh" => Function::Tanh,
        "HardSwish" => Function::HardSwish,
        "HardSigmoid" => Function::HardSigmoid { alpha: n.float("alpha", 0.2)?, beta: n.float("beta", 0.5)? },
        "LeakyRelu" | "QLinearLeakyRelu" => Function::LeakyRelu { alpha: n.float("alpha", 0.01)? },
        other => return why!("operator {other} is not supported"),
    })
}

impl Lower<'_> {
    pub(super) fn unary(&mut self, n: &Node) -> Result<(), Why> {
        let (x, out) = (self.arg(n, 0)?, self.out(n, 0)?);
        let f = function(self.g, n)?;
        if let Some(d) = self.deq(x).cloned() {
            let mut lut = d.lut;
            lut.iter_mut().for_each(|v| *v = math::apply(f, *v));
            let mut names = d.names;
            names.push(n.name.clone());
            self.set(out, Rep::Deq(Deq { q: d.q, lut, pure: None, direct: false, names }));
            return Ok(());
        }
        let dtype = self.g.ty(n, 0)?.dtype;
        let input = self.tensor(x)?;
        let quant = self.q.value(input).quant;
        let output = self.declare(out, quant);
        let op = match (dtype, dtype.int8_range(), f) {
            (DType::F32, _, function) => Op::Unary(Unary { input, output, function }),
            (_, Some(_), Function::Relu | Function::Clip { .. }) => {
                let table: Vec<u8> =
                    (0..256).map(|i| math::apply(f, from_bits(dtype, i) as f32) as i32 as u8).collect();
                Op::Table(Table { input, output, table: self.q.blobs.add(&table) })
            }
            _ => return why!("{} of {dtype}; f32 is supported", n.op),
        };
        self.push(vec![n.name.clone()], op);
        self.set(out, Rep::Tensor(output));
        Ok(())
    }

    /// `com.microsoft` QLinearSigmoid and QLinearLeakyRelu: X, X_scale, X_zero_point, Y_scale, Y_zero_point.
    pub(super) fn qlinear_unary(&mut self, n: &Node) -> Result<(), Why> {
        let (x, out) = (self.arg(n, 0)?, self.out(n, 0)?);
        let dtype = self.g.ty(n, 0)?.dtype;
        let Some((lo, hi)) = dtype.int8_range() else {
            return why!("{} of {dtype}; u8 and i8 are supported", n.op);
        };
        let f = function(self.g, n)?;
        let (from, to) = (self.quant_at(n, 1, dtype)?, self.quant_at(n, 3, dtype)?);
        let table: Vec<u8> = dequantised(dtype, from)
            .iter()
            .map(|&v| math::quantize(math::apply(f, v), to.scale, to.zero_point, lo, hi) as u8)
            .collect();
        let input = self.tensor(x)?;
        let output = self.declare(out, Some(to));
        let table = self.q.blobs.add(&table);
        self.push(vec![n.name.clone()], Op::Table(Table { input, output, table }));
        self.set(out, Rep::Tensor(output));
        Ok(())
    }

    pub(super) fn cast(&mut self, n: &Node) -> Result<(), Why> {
        let (x, out) = (self.arg(n, 0)?, self.out(n, 0)?);
        let to = self.g.value(out).ty.as_ref().map(|t| t.dtype);
        if to == Some(self.g.ty(n, 0)?.dtype)
            && let Some(rep) = self.rep[x.0 as usize].clone()
        {
            self.set(out, rep);
            return Ok(());
        }
        let input = self.tensor(x)?;
        let output = self.declare(out, None);
        self.push(vec![n.name.clone()], Op::Cast(Cast { input, output }));
        self.set(out, Rep::Tensor(output));
        Ok(())
    }
}
