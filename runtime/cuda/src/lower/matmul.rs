//! Products of two computed matrices.

use super::{Lowering, narrow};
use pilotlight_kernels::abi;
use pilotlight_plan::{DType, MatMul, Tensor};

impl Lowering<'_> {
    pub(super) fn matmul(&mut self, m: &MatMul) -> Result<(), String> {
        let (ta, tb, ty) = (self.tensor(m.a), self.tensor(m.b), self.tensor(m.output));
        let rank = ty.shape.len();
        let batch_rank = rank - 2;
        let wide: Vec<usize> = (0..batch_rank).filter(|&d| ty.shape[d] > 1).collect();
        if wide.len() > 4 {
            return Err(format!("{} batch dimensions above 1; the kernels take 4", wide.len()));
        }
        let (mut batch, mut over) = ([1; 4], [[0; 4]; 3]);
        for (at, &d) in wide.iter().enumerate() {
            let to = 4 - wide.len() + at;
            batch[to] = ty.shape[d];
            for (strides, t) in over.iter_mut().zip([ta, tb, ty]) {
                // Missing and single dimensions repeat.
                let own = (d + t.shape.len()).checked_sub(rank).filter(|&own| t.shape[own] > 1);
                strides[to] = own.map_or(Ok(0), |own| narrow("a stride", t.strides[own]))?;
            }
        }
        let ends = |t: &Tensor| -> Result<[u32; 2], String> {
            let n = t.strides.len();
            Ok([narrow("a stride", t.strides[n - 2])?, narrow("a stride", t.strides[n - 1])?])
        };
        let (rows, columns) = (ty.shape[rank - 2], ty.shape[rank - 1]);
        let total = batch.iter().map(|&d| u64::from(d)).product::<u64>() * u64::from(rows);
        // The kernel's channel is the column; it places results by its own strides.
        let epilogue = self.epilogue(&m.epilogue, m.output, [0; 4], |_| {
            Err("an operand fused behind a product of two computed tensors".into())
        })?;
        let block = abi::MatMul {
            a: self.address(m.a),
            b: self.address(m.b),
            a_zero: self.constant_i32(&m.a_zero),
            b_zero: self.constant_i32(&m.b_zero),
            batch,
            a_batch: over[0],
            b_batch: over[1],
            y_batch: over[2],
            a_strides: ends(ta)?,
            b_strides: ends(tb)?,
            y_strides: ends(ty)?,
            total: narrow("the number of rows", total)?,
            rows,
            columns,
            k: ta.shape[ta.shape.len() - 1],
            a_zero_step: u32::from(m.a_zero.len() > 1),
            b_zero_step: u32::from(m.b_zero.len() > 1),
            a_signed: u32::from(ta.dtype == DType::I8),
            b_signed: u32::from(tb.dtype == DType::I8),
            epilogue,
        };
        self.each("matmul", total * u64::from(columns), &block)
    }
}
