//! Operators that only move elements, and joins.

use super::qgraph::{Kind, QNode, QValue};
use super::{Deq, Lower, Rep, Weights, dequantised};
use crate::error::{Why, why};
use crate::import::graph::{Attr, Constant, Node, ValueId};
use crate::import::views::{self, View, axis};
use pilotlight_plan::{DType, Op, Quant, Table, TensorId, math};
use std::sync::Arc;

/// Moves that ONNX Runtime carries a DequantizeLinear across.
const CARRIED: [&str; 5] = ["Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice"];

impl Lower<'_> {
    pub(super) fn moves(&mut self, _: usize, n: &Node) -> Result<(), Why> {
        let x = self.arg(n, 0)?;
        for o in 0..n.outputs.len() {
            let Some(out) = n.outputs[o] else { continue };
            let Some(list) = views::views(self.g, n, o)? else {
                return why!("operator {} is not supported on computed tensors", n.op);
            };
            for v in &list {
                if let View::Index(axes) = v {
                    let entries = axes.iter().flatten().map(Vec::len).sum();
                    self.spend(entries)?;
                }
            }
            self.move_one(n, x, out, list)?;
        }
        Ok(())
    }

    fn move_one(&mut self, n: &Node, x: ValueId, out: ValueId, list: Vec<View>) -> Result<(), Why> {
        let fill = self.fill(n)?;
        match self.rep[x.0 as usize].clone() {
            Some(Rep::Deq(d)) => {
                let place = match fill {
                    None => Some(0),
                    Some(c) => d.lut.iter().position(|&v| v == c),
                };
                if let Some(place) = place {
                    let name = self.g.value(out).name.clone();
                    let q = self.views(n, d.q, &name, list, place as u64)?;
                    let direct = d.direct && CARRIED.contains(&n.op.as_str());
                    self.set(out, Rep::Deq(Deq { q, direct, ..d }));
                    return Ok(());
                }
            }
            Some(Rep::Weights(w)) => {
                let mut w = w;
                for v in &list {
                    w = moved(&w, v, fill)?;
                }
                self.set(out, Rep::Weights(w));
                return Ok(());
            }
            Some(Rep::Tensor(_)) => {}
            None => {
                if let Some(c) = self.g.value(x).constant.clone() {
                    // A constant that folding left alone: the parts of a Split.
                    let mut c = (*c).clone();
                    for v in &list {
                        c = views::apply(&c, v, &vec![0; c.ty.dtype.bytes()]);
                    }
                    let name = self.g.value(out).name.clone();
                    let id = self.constant(&name, &c, None);
                    self.set(out, Rep::Tensor(id));
                    return Ok(());
                }
            }
        }
        let input = self.tensor(x)?;
        let bits = match self.q.value(input).dtype {
            DType::F32 => u64::from(fill.unwrap_or(0.0).to_bits()),
            _ => fill.unwrap_or(0.0) as i64 as u64,
        };
        let name = self.g.value(out).name.clone();
        let id = self.views(n, input, &name, list, bits)?;
        self.set(out, Rep::Tensor(id));
        Ok(())
    }

    /// The value that a Pad fills with; `None` where nothing is filled.
    fn fill(&self, n: &Node) -> Result<Option<f32>, Why> {
        if n.op != "Pad" || n.text("mode", "constant")? != "constant" {
            return Ok(None);
        }
        if let Some(Attr::Float(v)) = n.attrs.get("value") {
            return Ok(Some(*v));
        }
        let Some(v) = n.input(2) else {
            return Ok(Some(0.0));
        };
        let c = match &self.rep[v.0 as usize] {
            Some(Rep::Weights(w)) => Arc::new(w.to_floats()),
            _ => self.g.constant(n, 2)?.ok_or("the fill value is missing")?.clone(),
        };
        match c.ty.dtype {
            DType::F32 => c.to_floats()?.first().copied(),
            _ => c.to_ints()?.first().map(|&v| v as f32),
        }
        .map(Some)
        .ok_or_else(|| "the fill value is empty".into())
    }

    /// Sees `input` through each view that changes it.
    fn views(
        &mut self,
        n: &Node,
        input: TensorId,
        name: &str,
        list: Vec<View>,
        fill: u64,
    ) -> Result<TensorId, Why> {
        let mut at = input;
        for v in list {
            if v.changes(&self.q.value(at).shape) {
                at = self.view(std::slice::from_ref(&n.name), at, name, v, fill)?;
            }
        }
        Ok(at)
    }

    /// Adds a view.
    pub(super) fn view(
        &mut self,
        names: &[String],
        input: TensorId,
        name: &str,
        view: View,
        fill: u64,
    ) -> Result<TensorId, Why> {
        let x = self.q.value(input);
        let output = QValue {
            name: name.into(),
            dtype: x.dtype,
            shape: view.shape(&x.shape),
            quant: x.quant,
            constant: None,
        };
        let output = self.q.add(output);
        self.view_into(names, input, output, view, fill);
        Ok(output)
    }

    /// Adds a view with a result that exists.
    pub(super) fn view_into(
        &mut self,
        names: &[String],
        input: TensorId,
        output: TensorId,
        view: View,
        fill: u64,
    ) {
        let kind = Kind::View { input, output, view, fill };
        self.q.nodes.push(QNode { names: names.to_vec(), kind });
    }

    pub(super) fn concat(&mut self, n: &Node) -> Result<(), Why> {
        let out = self.out(n, 0)?;
        let parts: Vec<ValueId> = n.inputs.iter().flatten().copied().collect();
        if parts.len() != n.inputs.len() {
            return why!("an input is missing");
        }
        let a = axis(n.int("axis", 0)?, self.g.ty(n, 0)?.shape.len())?;
        let integer = parts.iter().all(|p| {
            matches!(&self.rep[p.0 as usize], Some(Rep::Deq(_)))
                || matches!(&self.rep[p.0 as usize], Some(Rep::Weights(w)) if w.scale.len() == 1)
        });
        if integer && let Some(after) = self.after(out) {
            let (lo, hi) = after.clamp;
            let mut inputs = vec![];
            for &p in &parts {
                inputs.push(self.part(n, p, after.dtype, after.quant, (lo, hi))?);
            }
            let mut names = vec![n.name.clone()];
            names.extend(after.names.clone());
            let output = self.take(&after);
            self.q.nodes.push(QNode { names, kind: Kind::Concat { inputs, output, axis: a } });
            return Ok(());
        }
        // All parts on the same scale: the integers are joined and stay remembered as floats.
        let first = self.deq(parts[0]).cloned();
        let same = first.filter(|d| {
            parts.iter().all(|&p| {
                self.deq(p)
                    .is_some_and(|e| e.lut == d.lut && self.q.value(e.q).dtype == self.q.value(d.q).dtype)
            })
        });
        if let Some(d) = same {
            let inputs = parts.iter().filter_map(|&p| self.deq(p).map(|e| e.q)).collect();
            let x = self.q.value(d.q).clone();
            let output = self.declare(out, x.quant);
            self.q.values[output.0 as usize].dtype = x.dtype;
            self.q
                .nodes
                .push(QNode { names: vec![n.name.clone()], kind: Kind::Concat { inputs, output, axis: a } });
            self.set(out, Rep::Deq(Deq { q: output, direct: false, ..d }));
            return Ok(());
        }
        let inputs = parts.iter().map(|&p| self.tensor(p)).collect::<Result<Vec<_>, _>>()?;
        let output = self.declare(out, self.q.value(inputs[0]).quant);
        self.q
            .nodes
            .push(QNode { names: vec![n.name.clone()], kind: Kind::Concat { inputs, output, axis: a } });
        self.set(out, Rep::Tensor(output));
        Ok(())
    }

    /// One part of a join on the scale of the result.
    fn part(
        &mut self,
        n: &Node,
        p: ValueId,
        dtype: DType,
        to: Quant,
        (lo, hi): (i32, i32),
    ) -> Result<TensorId, Why> {
        let requantised = |v: f32| math::quantize(v, to.scale, to.zero_point, lo.min(hi), hi.max(lo)) as u8;
        match self.rep[p.0 as usize].clone() {
            Some(Rep::Weights(w)) => {
                let f = w.to_floats();
                let bytes = f.to_floats()?.into_iter().map(requantised).collect();
                let mut ty = f.ty;
                ty.dtype = dtype;
                let name = self.g.value(p).name.clone();
                Ok(self.constant(&name, &Constant { ty, bytes }, Some(to)))
            }
            Some(Rep::Deq(d)) => {
                let table: Vec<u8> = d.lut.iter().map(|&v| requantised(v)).collect();
                self.rescaled(n, d.q, dtype, to, &table)
            }
            _ => why!("{} is not quantised", self.g.value(p).name),
        }
    }

    /// A tensor through a table; the tensor itself where the table changes nothing.
    fn rescaled(
        &mut self,
        n: &Node,
        input: TensorId,
        dtype: DType,
        quant: Quant,
        table: &[u8],
    ) -> Result<TensorId, Why> {
        let x = self.q.value(input).clone();
        if x.dtype == dtype && table.iter().enumerate().all(|(i, &t)| i == usize::from(t)) {
            return Ok(input);
        }
        let name = format!("{}_rescaled", x.name);
        let output = self.q.add(QValue { name, dtype, shape: x.shape, quant: Some(quant), constant: None });
        let table = self.q.blobs.add(table);
        self.push(vec![n.name.clone()], Op::Table(Table { input, output, table }));
        Ok(output)
    }

    /// `com.microsoft` QLinearConcat: Y_scale, Y_zero_point, then X, x_scale, x_zero_point of each part.
    pub(super) fn qlinear_concat(&mut self, n: &Node) -> Result<(), Why> {
        let out = self.out(n, 0)?;
        let ty = self.g.ty(n, 2)?.clone();
        let to = self.quant_at(n, 0, ty.dtype)?;
        let Some((lo, hi)) = ty.dtype.int8_range() else {
            return why!("{} of {}; u8 and i8 are supported", n.op, ty.dtype);
        };
        let a = axis(n.int("axis", 0)?, ty.shape.len())?;
        let mut inputs = vec![];
        for i in (2..n.inputs.len()).step_by(3) {
            let x = self.arg(n, i)?;
            let from = self.quant_at(n, i + 1, ty.dtype)?;
            let id = self.tensor(x)?;
            let table: Vec<u8> = if from == to {
                (0..=255).collect()
            } else {
                dequantised(ty.dtype, from)
                    .iter()
                    .map(|&v| math::quantize(v, to.scale, to.zero_point, lo, hi) as u8)
                    .collect()
            };
            inputs.push(self.rescaled(n, id, ty.dtype, to, &table)?);
        }
        let output = self.declare(out, Some(to));
        self.q
            .nodes
            .push(QNode { names: vec![n.name.clone()], kind: Kind::Concat { inputs, output, axis: a } });
        self.set(out, Rep::Tensor(output));
        Ok(())
    }
}

/// Dequantised weights seen through a view.
fn moved(w: &Weights, view: &View, fill: Option<f32>) -> Result<Weights, Why> {
    let mut axis = w.axis;
    if w.scale.len() != 1 {
        axis = match view {
            View::Transpose(perm) => perm.iter().position(|&p| p == w.axis).unwrap_or(0),
            View::Index(axes) if axes[w.axis].is_none() => w.axis,
            _ => return why!("weights with a scale for each channel change their shape"),
        };
    }
    if fill.is_some_and(|f| f != 0.0) {
        return why!("weights padded with {fill:?}; 0 is supported");
    }
    let bytes = w.zero[0].to_le_bytes()[..w.c.ty.dtype.bytes().min(4)].to_vec();
    let c = Arc::new(views::apply(&w.c, view, &bytes));
    Ok(Weights { c, axis, scale: w.scale.clone(), zero: w.zero.clone() })
}
