//! Addition, subtraction, multiplication.

use super::{Deq, Lower, Rep, from_bits};
use crate::error::{Why, why};
use crate::import::graph::{Node, ValueId};
use crate::import::infer::broadcast;
use pilotlight_plan::{Binary, BinaryKind, BinaryRule, DType, Op, Quant, Table, TensorId};

/// An operand as integers.
#[derive(Clone, Copy)]
struct Operand {
    id: TensorId,
    dtype: DType,
    quant: Quant,
    direct: bool,
}

/// The rule of ONNX Runtime's QLinearAdd.
fn qlinear_add(a: Quant, b: Quant, y: Quant) -> Result<BinaryRule, Why> {
    let (ra, rb) = (a.scale / y.scale, b.scale / y.scale);
    let fix = y.zero_point as f32 - ra.mul_add(a.zero_point as f32, rb * b.zero_point as f32);
    finite(&[ra, rb, fix])?;
    Ok(BinaryRule::QLinearAdd { ra, rb, fix })
}

/// Refuses scales whose ratios leave f32.
fn finite(factors: &[f32]) -> Result<(), Why> {
    match factors.iter().find(|f| !f.is_finite()) {
        Some(f) => why!("scales whose ratio is {f}"),
        None => Ok(()),
    }
}

/// The rule of ONNX Runtime's QLinearMul.
fn qlinear_mul(a: Quant, b: Quant, y: Quant) -> Result<BinaryRule, Why> {
    let r = a.scale * b.scale / y.scale;
    finite(&[r])?;
    Ok(BinaryRule::QLinearMul { a_zero: a.zero_point, b_zero: b.zero_point, r, y_zero: y.zero_point })
}

fn apply(op: &str, a: f32, b: f32) -> f32 {
    match op {
        "Add" => a + b,
        "Sub" => a - b,
        "Mul" => a * b,
        _ => a / b,
    }
}

impl Lower<'_> {
    pub(super) fn binary(&mut self, n: &Node) -> Result<(), Why> {
        let (a, b, out) = (self.arg(n, 0)?, self.arg(n, 1)?, self.out(n, 0)?);
        if self.g.ty(n, 0)?.dtype != DType::F32 || self.g.ty(n, 1)?.dtype != DType::F32 {
            return why!("{} of {}; f32 is supported", n.op, self.g.ty(n, 0)?.dtype);
        }
        let kind = match n.op.as_str() {
            "Add" => Some(BinaryKind::Add),
            "Sub" => Some(BinaryKind::Sub),
            "Mul" => Some(BinaryKind::Mul),
            _ => None,
        };
        let after = self.after(out);
        if let (Some(kind), Some(after)) = (kind, after)
            && self.both_integer(a, b)
        {
            let (x, y) = (self.operand(n, a)?, self.operand(n, b)?);
            let swap = kind == BinaryKind::Add && self.scalar_first(x.id, y.id);
            let (x, y) = if swap { (y, x) } else { (x, y) };
            let full = after.dtype.int8_range() == Some(after.clamp);
            let same = x.dtype == y.dtype && x.dtype == after.dtype;
            let exact = full && same && x.direct && y.direct;
            // ONNX Runtime fuses additions and multiplications right between DQ and Q, and computes the rest in
            // float.
            let one_tensor = x.id == y.id || self.unary_of(n, a, b).is_some();
            if (exact && kind != BinaryKind::Sub) || !one_tensor {
                let rule = match kind {
                    BinaryKind::Add if exact => qlinear_add(x.quant, y.quant, after.quant)?,
                    BinaryKind::Mul if exact => qlinear_mul(x.quant, y.quant, after.quant)?,
                    _ => BinaryRule::Dequantised { kind, a: x.quant, b: y.quant, output: after.quant },
                };
                let mut names = vec![n.name.clone()];
                names.extend(after.names.clone());
                let output = self.take(&after);
                let value = if full {
                    output
                } else {
                    let mut v = self.q.value(output).clone();
                    v.name += "_unclamped";
                    self.q.add(v)
                };
                self.push(names.clone(), Op::Binary(Binary { a: x.id, b: y.id, output: value, rule }));
                if !full {
                    let (lo, hi) = after.clamp;
                    let table: Vec<u8> =
                        (0..256).map(|i| from_bits(after.dtype, i).clamp(lo, hi) as u8).collect();
                    let table = self.q.blobs.add(&table);
                    self.push(names, Op::Table(Table { input: value, output, table }));
                }
                return Ok(());
            }
        }
        if let Some((d, other)) = self.unary_of(n, a, b) {
            let lut = Box::new(std::array::from_fn(|i| match &other {
                Other::Left(c) => apply(&n.op, *c, d.lut[i]),
                Other::Right(c) => apply(&n.op, d.lut[i], *c),
                Other::Same(e) => apply(&n.op, d.lut[i], e.lut[i]),
            }));
            let mut names = d.names;
            if let Other::Same(e) = other {
                names.extend(e.names.into_iter().filter(|m| !names.contains(m)).collect::<Vec<_>>());
            }
            names.push(n.name.clone());
            self.set(out, Rep::Deq(Deq { q: d.q, lut, pure: None, direct: false, names }));
            return Ok(());
        }
        let Some(kind) = kind else {
            return why!("{} of two computed tensors is not supported", n.op);
        };
        let (ta, tb) = (self.tensor(a)?, self.tensor(b)?);
        let output = self.declare(out, None);
        self.push(
            vec![n.name.clone()],
            Op::Binary(Binary { a: ta, b: tb, output, rule: BinaryRule::Float(kind) }),
        );
        self.set(out, Rep::Tensor(output));
        Ok(())
    }

    /// Whether both values stand on integers with one scale, and not both are constants.
    fn both_integer(&self, a: ValueId, b: ValueId) -> bool {
        let integer = |v: ValueId| match &self.rep[v.0 as usize] {
            Some(Rep::Deq(d)) => d.pure.is_some(),
            Some(Rep::Weights(w)) => w.scale.len() == 1 && w.c.ty.dtype.is_int8(),
            _ => false,
        };
        integer(a) && integer(b)
    }

    /// Whether the first operand is one element along the innermost dimension that counts: ONNX Runtime then
    /// adds it as the second.
    fn scalar_first(&self, a: TensorId, b: TensorId) -> bool {
        let (a, b) = (&self.q.value(a).shape, &self.q.value(b).shape);
        let extent = |s: &[u32], back: usize| s.len().checked_sub(back).map_or(1, |d| s[d]);
        (1..=a.len().max(b.len()))
            .map(|back| (extent(a, back), extent(b, back)))
            .find(|e| *e != (1, 1))
            .is_some_and(|(a, _)| a == 1)
    }

    fn operand(&mut self, n: &Node, v: ValueId) -> Result<Operand, Why> {
        match self.rep[v.0 as usize].clone() {
            Some(Rep::Deq(Deq { q, pure: Some(quant), direct, .. })) => {
                Ok(Operand { id: q, dtype: self.q.value(q).dtype, quant, direct })
            }
            Some(Rep::Weights(w)) => {
                let quant = Quant { scale: w.scale[0], zero_point: w.zero[0] };
                let name = self.g.value(v).name.clone();
                let id = self.constant(&name, &w.c, Some(quant));
                Ok(Operand { id, dtype: w.c.ty.dtype, quant, direct: true })
            }
            _ => why!("{} has an operand that is not quantised", n.name),
        }
    }

    /// The operands as one table and what it is combined with, if the node is a function of one 8-bit tensor.
    fn unary_of(&self, n: &Node, a: ValueId, b: ValueId) -> Option<(Deq, Other)> {
        let scalar = |v: ValueId| match &self.rep[v.0 as usize] {
            Some(Rep::Weights(w)) if w.c.len() == 1 => w.to_floats().to_floats().ok()?.first().copied(),
            None => match &self.g.value(v).constant {
                Some(c) if c.len() == 1 => c.to_floats().ok()?.first().copied(),
                _ => None,
            },
            _ => None,
        };
        let (found, other) = match (self.deq(a), self.deq(b)) {
            (Some(d), Some(e)) if d.q == e.q => (d, Other::Same(e.clone())),
            (Some(d), None) => (d, Other::Right(scalar(b)?)),
            (None, Some(d)) => (d, Other::Left(scalar(a)?)),
            _ => return None,
        };
        let shape = broadcast(&self.g.ty(n, 0).ok()?.shape, &self.g.ty(n, 1).ok()?.shape).ok()?;
        (shape == self.q.value(found.q).shape).then(|| (found.clone(), other))
    }

    /// `com.microsoft` QLinearAdd and QLinearMul: A, A_scale, A_zero_point, B, .., C_scale, C_zero_point.
    pub(super) fn qlinear_binary(&mut self, n: &Node) -> Result<(), Why> {
        let (a, b, out) = (self.arg(n, 0)?, self.arg(n, 3)?, self.out(n, 0)?);
        let (da, db) = (self.g.ty(n, 0)?.dtype, self.g.ty(n, 3)?.dtype);
        let (mut qa, mut qb, qy) =
            (self.quant_at(n, 1, da)?, self.quant_at(n, 4, db)?, self.quant_at(n, 6, da)?);
        if da != db || !da.is_int8() {
            return why!("{} of {da} and {db}; two u8 or two i8 are supported", n.op);
        }
        let (mut a, mut b) = (self.tensor(a)?, self.tensor(b)?);
        if self.scalar_first(a, b) {
            (a, b, qa, qb) = (b, a, qb, qa);
        }
        let rule = if n.op == "QLinearAdd" { qlinear_add(qa, qb, qy) } else { qlinear_mul(qa, qb, qy) }?;
        let output = self.declare(out, Some(qy));
        self.push(vec![n.name.clone()], Op::Binary(Binary { a, b, output, rule }));
        self.set(out, Rep::Tensor(output));
        Ok(())
    }
}

/// What a table is combined with.
enum Other {
    /// A constant on the left.
    Left(f32),
    /// A constant on the right.
    Right(f32),
    /// Another table over the same tensor.
    Same(Deq),
}
