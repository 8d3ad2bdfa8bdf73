//! Means over whole dimensions, softmax, argmax.

use super::{Lower, Rep, real};
use crate::error::{Why, why};
use crate::import::graph::{Node, ValueId};
use crate::import::infer::{global_axes, mean_axes};
use crate::import::views::{View, axis};
use pilotlight_plan::{ArgMax, DType, Mean, MeanRule, Op, Quant, Softmax, SoftmaxRule, TensorId};

/// The rule of ONNX Runtime's QLinearGlobalAveragePool.
fn integer(x: Quant, y: Quant, count: u64) -> MeanRule {
    MeanRule::Integer {
        scale: x.scale / (y.scale * count as f32),
        input_zero: x.zero_point,
        zero: y.zero_point,
    }
}

impl Lower<'_> {
    /// GlobalAveragePool and ReduceMean.
    pub(super) fn mean(&mut self, n: &Node) -> Result<(), Why> {
        let (x, out) = (self.arg(n, 0)?, self.out(n, 0)?);
        let shape = self.g.ty(n, 0)?.shape.clone();
        let global = n.op == "GlobalAveragePool";
        let axes: Vec<usize> =
            if global { global_axes(n, shape.len())?.collect() } else { mean_axes(self.g, n, shape.len())? };
        let count = axes.iter().map(|&a| u64::from(shape[a])).product();
        let axes: Vec<u32> = axes.into_iter().map(|a| a as u32).collect();
        let from = self.deq(x).and_then(|d| Some((d.q, d.pure?, d.direct)));
        if let (Some((input, quant, direct)), Some(after)) = (from, self.after(out)) {
            let dtype = self.q.value(input).dtype;
            if dtype.int8_range() == Some(after.clamp) && after.dtype == dtype {
                let rule = if global && direct {
                    integer(quant, after.quant, count)
                } else {
                    MeanRule::Dequantised { input: quant, output: after.quant }
                };
                let mut names = vec![n.name.clone()];
                names.extend(after.names.clone());
                let output = self.take(&after);
                self.push(names, Op::Mean(Mean { input, output, axes, rule }));
                return Ok(());
            }
        }
        let input = self.tensor(x)?;
        if self.q.value(input).dtype != DType::F32 {
            return why!("{} of {}; f32 is supported", n.op, self.q.value(input).dtype);
        }
        let output = self.declare(out, None);
        self.push(vec![n.name.clone()], Op::Mean(Mean { input, output, axes, rule: MeanRule::Float }));
        self.set(out, Rep::Tensor(output));
        Ok(())
    }

    /// `com.microsoft` QLinearGlobalAveragePool: X, x_scale, x_zero_point, y_scale, y_zero_point.
    pub(super) fn qlinear_mean(&mut self, n: &Node) -> Result<(), Why> {
        let (x, out) = (self.arg(n, 0)?, self.out(n, 0)?);
        let shape = self.g.ty(n, 0)?.shape.clone();
        let dtype = self.g.ty(n, 0)?.dtype;
        let (from, to) = (self.quant_at(n, 1, dtype)?, self.quant_at(n, 3, dtype)?);
        let axes = global_axes(n, shape.len())?;
        let count = axes.clone().map(|d| u64::from(shape[d])).product();
        let axes = axes.map(|d| d as u32).collect();
        let input = self.tensor(x)?;
        let output = self.declare(out, Some(to));
        let rule = integer(from, to, count);
        self.push(vec![n.name.clone()], Op::Mean(Mean { input, output, axes, rule }));
        self.set(out, Rep::Tensor(output));
        Ok(())
    }

    /// The dimension of a softmax, and whether all behind it belong to it (before opset 13).
    fn softmax_axis(&self, n: &Node, opset: i64) -> Result<(usize, bool), Why> {
        let rank = self.g.ty(n, 0)?.shape.len();
        let a = axis(n.int("axis", if opset < 13 { 1 } else { -1 })?, rank)?;
        Ok((a, opset < 13 && a + 1 != rank))
    }

    pub(super) fn softmax(&mut self, n: &Node) -> Result<(), Why> {
        let (x, out) = (self.arg(n, 0)?, self.out(n, 0)?);
        let at = self.softmax_axis(n, self.g.opset)?;
        let integer = self.deq(x).filter(|d| d.direct).and_then(|d| Some((d.q, d.pure?)));
        if let (Some((input, from)), Some(after)) = (integer, self.after(out)) {
            let dtype = self.q.value(input).dtype;
            if after.dtype == dtype && dtype.int8_range() == Some(after.clamp) {
                let mut names = vec![n.name.clone()];
                names.extend(after.names.clone());
                let rule = self.softmax_rule(n, at, dtype, from, after.quant)?;
                let output = self.take(&after);
                return self.push_softmax(names, input, output, at, rule);
            }
        }
        let input = self.tensor(x)?;
        if self.q.value(input).dtype != DType::F32 {
            return why!("{} of {}; f32 is supported", n.op, self.q.value(input).dtype);
        }
        self.softmax_to(n, input, out, None, at, SoftmaxRule::Float)
    }

    /// `com.microsoft` QLinearSoftmax: X, X_scale, x_zero_point, y_scale, y_zero_point.
    pub(super) fn qlinear_softmax(&mut self, n: &Node) -> Result<(), Why> {
        let (x, out) = (self.arg(n, 0)?, self.out(n, 0)?);
        let at = self.softmax_axis(n, n.int("opset", self.g.opset)?)?;
        let dtype = self.g.ty(n, 0)?.dtype;
        let (from, to) = (self.quant_at(n, 1, dtype)?, self.quant_at(n, 3, dtype)?);
        let input = self.tensor(x)?;
        let rule = self.softmax_rule(n, at, self.q.value(input).dtype, from, to)?;
        self.softmax_to(n, input, out, Some(to), at, rule)
    }

    fn softmax_to(
        &mut self,
        n: &Node,
        input: TensorId,
        out: ValueId,
        quant: Option<Quant>,
        at: (usize, bool),
        rule: SoftmaxRule,
    ) -> Result<(), Why> {
        let output = self.declare(out, quant);
        self.push_softmax(vec![n.name.clone()], input, output, at, rule)?;
        self.set(out, Rep::Tensor(output));
        Ok(())
    }

    fn push_softmax(
        &mut self,
        names: Vec<String>,
        input: TensorId,
        output: TensorId,
        (axis, rest): (usize, bool),
        rule: SoftmaxRule,
    ) -> Result<(), Why> {
        if !rest {
            self.push(names, Op::Softmax(Softmax { input, output, axis: axis as u32, rule }));
            return Ok(());
        }
        // Before opset 13 all dimensions from the axis on are one.
        let x = self.q.value(input).clone();
        let product = |s: &[u32]| s.iter().product::<u32>();
        let flat = View::Reshape(vec![product(&x.shape[..axis]), product(&x.shape[axis..])]);
        let a = self.view(&names, input, &format!("{}_flat", x.name), flat.clone(), 0)?;
        let mut y = self.q.value(output).clone();
        y.shape = flat.shape(&x.shape);
        y.name += "_flat";
        let b = self.q.add(y);
        self.push(names.clone(), Op::Softmax(Softmax { input: a, output: b, axis: 1, rule }));
        self.view_into(&names, b, output, View::Reshape(x.shape), 0);
        Ok(())
    }

    /// The rule of ONNX Runtime's QLinearSoftmax, `qlinear_softmax.cc`.
    fn softmax_rule(
        &mut self,
        n: &Node,
        (axis, rest): (usize, bool),
        dtype: DType,
        from: Quant,
        to: Quant,
    ) -> Result<SoftmaxRule, Why> {
        if !dtype.is_int8() {
            return why!("{} of {dtype}; u8 and i8 are supported", n.op);
        }
        let shape = &self.g.ty(n, 0)?.shape;
        let count: u64 = match rest {
            true => shape[axis..].iter().map(|&d| u64::from(d)).product(),
            false => u64::from(shape[axis]),
        };
        let scale = f64::from(from.scale);
        // The sum of all exponentials must stay below the largest float.
        let room = real::ln(f64::from(f32::MAX / count as f32));
        let shift = (room - 5.0).max(0.0) / scale;
        let mut table = [0_f32; 256];
        for i in 0..256 {
            let e = real::exp((i as f64 - 255.0 + shift) * scale) as f32;
            table[if dtype == DType::I8 { (i + 128) % 256 } else { i }] = e;
        }
        let table = self.q.blobs.floats(&table);
        Ok(SoftmaxRule::QLinear { table, inverse: (1.0 / to.scale).floor(), zero: to.zero_point })
    }

    pub(super) fn arg_max(&mut self, n: &Node) -> Result<(), Why> {
        let (x, out) = (self.arg(n, 0)?, self.out(n, 0)?);
        let a = axis(n.int("axis", 0)?, self.g.ty(n, 0)?.shape.len())?;
        let last = n.int("select_last_index", 0)? != 0;
        let input = match self.deq(x).filter(|d| d.pure.is_some()) {
            Some(d) => d.q,
            None => self.tensor(x)?,
        };
        if matches!(self.q.value(input).dtype, DType::I32 | DType::I64) {
            return why!("{} of {}; f32, u8 and i8 are supported", n.op, self.q.value(input).dtype);
        }
        let output = self.declare(out, None);
        self.push(vec![n.name.clone()], Op::ArgMax(ArgMax { input, output, axis: a as u32, last }));
        self.set(out, Rep::Tensor(output));
        Ok(())
    }
}
