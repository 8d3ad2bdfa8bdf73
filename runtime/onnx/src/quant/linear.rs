//! Convolutions and matrix products.

use super::{Lower, Rep, Weights};
use crate::error::{Why, why};
use crate::import::graph::{Constant, Node, ValueId};
use crate::import::views::{View, apply};
use crate::import::window;
use pilotlight_plan::{Blob, Conv, DType, Epilogue, Gemm, Linear, MatMul, Op, Quant, Requant, TensorId};
use std::sync::Arc;

/// Everything but the input of a linear operation, from whichever form of node.
struct Parts {
    /// The input's quantisation; scale 1 for the integer forms.
    x: Quant,
    w: Arc<Constant>,
    w_scale: Vec<f32>,
    w_zero: Vec<i32>,
    bias: Option<Vec<i32>>,
    to: To,
}

/// What becomes of the accumulator.
enum To {
    Raw,
    /// The node's own output quantisation.
    Quant(Quant, DType),
    /// Whatever stands behind the float output.
    Follow,
}

/// Positions of a node's inputs.
struct Slots {
    w: usize,
    bias: usize,
    y: usize,
}

impl Lower<'_> {
    pub(super) fn conv(&mut self, n: &Node) -> Result<(), Why> {
        let (input, parts) = match n.op.as_str() {
            "QLinearConv" => self.qlinear(n, Slots { w: 3, bias: 8, y: 6 })?,
            "ConvInteger" => self.integer(n)?,
            _ => self.dequantised(n)?,
        };
        if n.int("channels_last", 0)? != 0 {
            return why!("channels_last is not supported; [N, C, H, W] is");
        }
        let shape = self.g.ty(n, 0)?.shape.clone();
        let w = parts.w.ty.shape.clone();
        let window = window::slide(n, &shape, Some(&w[2..]))?.window;
        let groups = n.int("group", 1)? as u32;
        // [O][I][spatial..] becomes [O][spatial..][I].
        let perm = std::iter::once(0).chain(2..w.len()).chain([1]).collect();
        let packed = apply(&parts.w, &View::Transpose(perm), &[]);
        let linear = |l: &mut Self, epilogue| l.linear(&parts, &packed.bytes, w[1], w[0], epilogue);
        self.finish(n, &parts, w[0], |l, output, epilogue| {
            Ok(Op::Conv(Conv { input, output, window, groups, linear: linear(l, epilogue)? }))
        })
    }

    pub(super) fn gemm(&mut self, n: &Node) -> Result<(), Why> {
        let (mut input, mut parts) = if n.op == "QGemm" {
            let slots = Slots { w: 3, bias: 6, y: 7 };
            self.qlinear(n, slots)?
        } else {
            self.dequantised(n)?
        };
        // alpha * a_scale * b_scale, in this order.
        parts.x.scale *= n.float("alpha", 1.0)?;
        if n.op == "Gemm" && parts.bias.is_some() && n.float("beta", 1.0)? != 1.0 {
            return why!("beta {} with a bias; 1 is supported", n.float("beta", 1.0)?);
        }
        if n.int("transA", 0)? != 0 {
            let name = format!("{}_transposed", self.q.value(input).name);
            input = self.view(std::slice::from_ref(&n.name), input, &name, View::Transpose(vec![1, 0]), 0)?;
        }
        let across = n.int("transB", 0)? == 0;
        self.dense(n, input, parts, across)
    }

    /// A product with constant weights: `[K, N]` if `across`, else `[N, K]`.
    fn dense(&mut self, n: &Node, input: TensorId, parts: Parts, across: bool) -> Result<(), Why> {
        let packed =
            if across { apply(&parts.w, &View::Transpose(vec![1, 0]), &[]) } else { (*parts.w).clone() };
        let &[outputs, k] = &packed.ty.shape[..] else {
            return why!("weights of shape {:?}; a matrix is needed", parts.w.ty.shape);
        };
        let linear = |l: &mut Self, epilogue| l.linear(&parts, &packed.bytes, k, outputs, epilogue);
        self.finish(n, &parts, outputs, |l, output, epilogue| {
            Ok(Op::Gemm(Gemm { input, output, linear: linear(l, epilogue)? }))
        })
    }

    pub(super) fn matmul(&mut self, n: &Node) -> Result<(), Why> {
        let b = match n.op.as_str() {
            "QLinearMatMul" => self.arg(n, 3)?,
            _ => self.arg(n, 1)?,
        };
        let constant = match &self.rep[b.0 as usize] {
            Some(Rep::Weights(w)) => Some(w.c.clone()),
            _ => self.g.value(b).constant.clone(),
        };
        let is_matrix = |c: &Constant| {
            let lead = c.ty.shape.len().saturating_sub(2);
            c.ty.shape[..lead].iter().all(|&d| d == 1)
        };
        let rank = self.g.ty(n, 0)?.shape.len();
        let known_a = self.arg(n, 0).is_ok_and(|a| {
            self.g.value(a).constant.is_some() || matches!(self.rep[a.0 as usize], Some(Rep::Weights(_)))
        });
        if let Some(c) = constant.filter(|c| is_matrix(c) && c.ty.shape.len() <= rank && !known_a) {
            let (input, mut parts) = match n.op.as_str() {
                "QLinearMatMul" => self.qlinear(n, Slots { w: 3, bias: usize::MAX, y: 6 })?,
                "MatMulInteger" => self.integer(n)?,
                _ => self.dequantised(n)?,
            };
            let matrix = c.ty.shape[c.ty.shape.len() - 2..].to_vec();
            parts.w = Arc::new(apply(&c, &View::Reshape(matrix), &[]));
            return self.dense(n, input, parts, true);
        }
        self.computed(n, b)
    }

    /// A product of two computed tensors.
    fn computed(&mut self, n: &Node, b: ValueId) -> Result<(), Why> {
        let a = self.arg(n, 0)?;
        let (a, b, qa, qb, to) = match n.op.as_str() {
            "QLinearMatMul" => {
                let (dtype, db) = (self.g.ty(n, 0)?.dtype, self.g.ty(n, 3)?.dtype);
                let qa = (vec![self.scale(n, 1)?], self.zeros(n, 2, dtype)?);
                let qb = (self.scales(n, 4)?, self.zeros(n, 5, db)?);
                (self.tensor(a)?, self.tensor(b)?, qa, qb, To::Quant(self.quant_at(n, 6, dtype)?, dtype))
            }
            "MatMulInteger" => {
                let (da, db) = (self.g.ty(n, 0)?.dtype, self.g.ty(n, 1)?.dtype);
                let (za, zb) = (self.zeros(n, 2, da)?, self.zeros(n, 3, db)?);
                (self.tensor(a)?, self.tensor(b)?, (vec![1.0], za), (vec![1.0], zb), To::Raw)
            }
            _ => {
                let (a, qa) = self.integers(n, a)?;
                let (b, qb) = self.integers(n, b)?;
                let one = |q: Quant| (vec![q.scale], vec![q.zero_point]);
                (a, b, one(qa), one(qb), To::Follow)
            }
        };
        let columns = self.q.value(b).shape.last().copied().unwrap_or(1);
        if qb.0.len() != 1 && qb.0.len() != columns as usize {
            return why!("{} scales for {columns} columns", qb.0.len());
        }
        let parts = Parts {
            x: Quant { scale: qa.0[0], zero_point: 0 },
            w: Arc::new(Constant::ints(&[])),
            w_scale: qb.0,
            w_zero: vec![0],
            bias: None,
            to,
        };
        self.finish(n, &parts, columns, |_, output, epilogue| {
            Ok(Op::MatMul(MatMul { a, b, output, a_zero: qa.1, b_zero: qb.1, epilogue }))
        })
    }

    /// A value as 8-bit integers with one scale.
    fn integers(&mut self, n: &Node, v: ValueId) -> Result<(TensorId, Quant), Why> {
        match self.rep[v.0 as usize].clone() {
            Some(Rep::Deq(d)) if d.pure.is_some() => {
                Ok((d.q, d.pure.unwrap_or(Quant { scale: 1.0, zero_point: 0 })))
            }
            Some(Rep::Weights(w)) if w.scale.len() == 1 && w.c.ty.dtype.is_int8() => {
                let quant = Quant { scale: w.scale[0], zero_point: w.zero[0] };
                let name = self.g.value(v).name.clone();
                Ok((self.constant(&name, &w.c, Some(quant)), quant))
            }
            _ => why!(
                "{} of {} in float; only quantised {} (8-bit values dequantised right in front) is supported",
                n.op,
                self.g.value(v).name,
                n.op
            ),
        }
    }

    /// The parts of a QLinear form.
    fn qlinear(&mut self, n: &Node, s: Slots) -> Result<(TensorId, Parts), Why> {
        let w = self.g.constant(n, s.w)?.ok_or("the weights are missing")?.clone();
        let dtype = self.g.ty(n, 0)?.dtype;
        let to = match n.input(s.y) {
            Some(_) => To::Quant(self.quant_at(n, s.y, dtype)?, dtype),
            None => To::Follow,
        };
        let bias = match self.g.constant(n, s.bias)? {
            None => None,
            Some(b) if b.ty.dtype == DType::I32 => Some(b.to_ints()?.iter().map(|&v| v as i32).collect()),
            Some(b) => return why!("a bias of {}; i32 is needed", b.ty.dtype),
        };
        let parts = Parts {
            x: self.quant_at(n, 1, dtype)?,
            w_scale: self.scales(n, s.w + 1)?,
            w_zero: self.zeros(n, s.w + 2, w.ty.dtype)?,
            w,
            bias,
            to,
        };
        let x = self.arg(n, 0)?;
        Ok((self.tensor(x)?, parts))
    }

    /// The parts of ConvInteger and MatMulInteger.
    fn integer(&mut self, n: &Node) -> Result<(TensorId, Parts), Why> {
        let w = self.g.constant(n, 1)?.ok_or("the weights are missing")?.clone();
        let parts = Parts {
            x: Quant { scale: 1.0, zero_point: self.zero(n, 2, self.g.ty(n, 0)?.dtype)? },
            w_scale: vec![1.0],
            w_zero: self.zeros(n, 3, w.ty.dtype)?,
            w,
            bias: None,
            to: To::Raw,
        };
        let x = self.arg(n, 0)?;
        Ok((self.tensor(x)?, parts))
    }

    /// The parts of a float operation between dequantised values.
    fn dequantised(&mut self, n: &Node) -> Result<(TensorId, Parts), Why> {
        let (x, w) = (self.arg(n, 0)?, self.arg(n, 1)?);
        let Some(Rep::Weights(w)) = self.rep[w.0 as usize].clone() else {
            return why!(
                "weights {} are not quantised; constant 8-bit weights behind DequantizeLinear are needed",
                self.g.value(w).name
            );
        };
        if !w.c.ty.dtype.is_int8() {
            return why!("weights of {}; u8 and i8 are supported", w.c.ty.dtype);
        }
        let (input, quant) = self.integers(n, x)?;
        let rank = w.c.ty.shape.len();
        let along = match n.op.as_str() {
            "Conv" => 0,
            "Gemm" if n.int("transB", 0)? != 0 => 0,
            _ => rank - 1,
        };
        if w.scale.len() != 1 && w.axis != along {
            return why!("weights with scales along axis {}; {along} (the output) is supported", w.axis);
        }
        let bias = self.bias(n, quant.scale, &w)?;
        let parts = Parts { x: quant, w: w.c, w_scale: w.scale, w_zero: w.zero, bias, to: To::Follow };
        Ok((input, parts))
    }

    /// The bias as accumulator integers.
    ///
    /// Source: ONNX Runtime `weight_bias_quantization.cc` for a float bias.
    fn bias(&self, n: &Node, x_scale: f32, w: &Weights) -> Result<Option<Vec<i32>>, Why> {
        let Some(b) = n.input(2) else {
            return Ok(None);
        };
        match (&self.rep[b.0 as usize], &self.g.value(b).constant) {
            (Some(Rep::Weights(b)), _) if b.c.ty.dtype == DType::I32 => {
                Ok(Some(b.c.to_ints()?.into_iter().map(|v| v as i32).collect()))
            }
            (None, Some(c)) => {
                let v = c.to_floats()?;
                if w.scale.len() != 1 && w.scale.len() != v.len() {
                    return why!("a bias of {} elements for {} scales", v.len(), w.scale.len());
                }
                let scale = |i: usize| x_scale * w.scale[if w.scale.len() == 1 { 0 } else { i }];
                Ok(Some(
                    v.iter().enumerate().map(|(i, &b)| (b / scale(i)).round_ties_even() as i32).collect(),
                ))
            }
            _ => {
                why!("bias {} must be a constant: i32 behind DequantizeLinear, or f32", self.g.value(b).name)
            }
        }
    }

    fn linear(
        &mut self,
        p: &Parts,
        packed: &[u8],
        group_inputs: u32,
        outputs: u32,
        epilogue: Epilogue,
    ) -> Result<Linear, Why> {
        if p.w_zero.len() != 1 && p.w_zero.len() != outputs as usize {
            return why!("{} zero points for {outputs} outputs", p.w_zero.len());
        }
        if !p.w.ty.dtype.is_int8() {
            return why!("weights of {}; u8 and i8 are supported", p.w.ty.dtype);
        }
        let bias = match &p.bias {
            None => None,
            Some(b) if b.len() == outputs as usize => Some(self.q.blobs.ints(b)),
            Some(b) if b.len() == 1 => Some(self.q.blobs.ints(&vec![b[0]; outputs as usize])),
            Some(b) => return why!("a bias of {} elements for {outputs} outputs", b.len()),
        };
        // One value where all are the same.
        let same = p.w_zero.iter().all(|z| *z == p.w_zero[0]);
        Ok(Linear {
            weights: self.q.blobs.add(packed),
            weights_dtype: p.w.ty.dtype,
            weights_zero: if same { vec![p.w_zero[0]] } else { p.w_zero.clone() },
            bias,
            input_zero: p.x.zero_point,
            group_inputs,
            outputs,
            epilogue,
        })
    }

    /// Adds the operation with the way from its accumulator to what the model wants.
    fn finish(
        &mut self,
        n: &Node,
        p: &Parts,
        outputs: u32,
        make: impl FnOnce(&mut Self, TensorId, Epilogue) -> Result<Op, Why>,
    ) -> Result<(), Why> {
        if p.w_scale.len() != 1 && p.w_scale.len() != outputs as usize {
            return why!("{} scales for {outputs} outputs", p.w_scale.len());
        }
        let out = self.out(n, 0)?;
        let mut names = vec![n.name.clone()];
        let (output, epilogue) = match &p.to {
            To::Raw => (self.declare(out, None), Epilogue::Raw),
            To::Quant(y, dtype) => {
                let Some((lo, hi)) = dtype.int8_range() else {
                    return why!("an input of {dtype}; u8 and i8 are supported");
                };
                let scale = self.scaled(p, Some(y.scale))?;
                let r = Requant { scale, zero: y.zero_point, dtype: *dtype, lo, hi, post: vec![] };
                (self.declare(out, Some(*y)), Epilogue::Requant(r))
            }
            To::Follow => match self.after(out) {
                Some(after) => {
                    names.extend(after.names.clone());
                    let y = after.quant;
                    let scale = self.scaled(p, Some(y.scale))?;
                    let (lo, hi) = after.clamp;
                    let r = Requant { scale, zero: y.zero_point, dtype: after.dtype, lo, hi, post: vec![] };
                    let output = self.take(&after);
                    self.push_linear(names, output, Epilogue::Requant(r), make)?;
                    return Ok(());
                }
                None if self.strict && n.op == "Conv" => {
                    return why!("no QuantizeLinear behind it: ONNX Runtime computes it in float");
                }
                None => {
                    let scale = self.scaled(p, None)?;
                    (self.declare(out, None), Epilogue::Float { scale })
                }
            },
        };
        self.push_linear(names, output, epilogue, make)?;
        self.set(out, Rep::Tensor(output));
        Ok(())
    }

    fn push_linear(
        &mut self,
        names: Vec<String>,
        output: TensorId,
        epilogue: Epilogue,
        make: impl FnOnce(&mut Self, TensorId, Epilogue) -> Result<Op, Why>,
    ) -> Result<(), Why> {
        let op = make(self, output, epilogue)?;
        self.push(names, op);
        Ok(())
    }

    /// `f32(x_scale * w_scale[c])`, divided by the output's scale where there is one.
    fn scaled(&mut self, p: &Parts, y: Option<f32>) -> Result<Blob, Why> {
        let v: Vec<f32> = p.w_scale.iter().map(|w| y.map_or(p.x.scale * w, |y| p.x.scale * w / y)).collect();
        match v.iter().find(|s| !s.is_finite()) {
            Some(bad) => why!("scales whose product and ratio is {bad}"),
            None => Ok(self.q.blobs.floats(&v)),
        }
    }
}
