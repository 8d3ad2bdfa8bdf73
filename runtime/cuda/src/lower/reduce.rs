//! Windows and lines.

use super::element::{four, image};
use super::{Lowering, Walk, kind, narrow};
use pilotlight_kernels::abi;
use pilotlight_plan::{
    ArgMax, DType, Mean, MeanRule, Pool, PoolRule, Softmax, SoftmaxRule, Tensor, TensorId,
};

/// The strides of an output without its reduced dimensions, back in the input's dimensions.
fn kept_strides(input: &Tensor, output: &Tensor, reduced: &[u32]) -> Vec<u64> {
    let mut own = output.strides.iter();
    let same_rank = input.shape.len() == output.shape.len();
    (0..input.shape.len() as u32)
        .map(|d| {
            let gone = reduced.contains(&d);
            let stride = if same_rank || !gone { own.next().copied().unwrap_or(0) } else { 0 };
            if gone { 0 } else { stride }
        })
        .collect()
}

impl Lowering<'_> {
    pub(super) fn pool(&mut self, p: &Pool) -> Result<(), String> {
        let (tx, ty) = (self.tensor(p.input), self.tensor(p.output));
        let [_, _, h, width] = image(&tx.shape);
        let block = abi::Pool {
            x: self.address(p.input),
            y: self.address(p.output),
            shape: image(&ty.shape),
            x_strides: four(&tx.strides)?,
            y_strides: four(&ty.strides)?,
            h,
            width,
            kh: p.window.kernel[0],
            kw: p.window.kernel[1],
            stride_y: p.window.stride[0],
            stride_x: p.window.stride[1],
            dilation_y: p.window.dilation[0],
            dilation_x: p.window.dilation[1],
            pads: p.window.pads,
            total: narrow("the number of elements", ty.elements())?,
            kind: kind(tx.dtype),
            y_signed: u32::from(ty.dtype == DType::I8),
            ..abi::Pool::default()
        };
        let block = match p.rule {
            PoolRule::Max => block,
            PoolRule::MeanF32 { count_pads } => abi::Pool { mean: 1, count_pads: count_pads.into(), ..block },
            PoolRule::Mean8 { input, output, count_pads } => abi::Pool {
                mean: 1,
                count_pads: count_pads.into(),
                x_scale: input.scale,
                x_zero: input.zero_point,
                y_scale: output.scale,
                y_zero: output.zero_point,
                ..block
            },
        };
        let strides = block.x_strides.iter().chain(&block.y_strides).enumerate();
        let words = p.rule == PoolRule::Max
            && tx.dtype != DType::F32
            && block.shape[1] % 4 == 0
            && (block.x | block.y) % 4 == 0
            && strides.into_iter().all(|(n, stride)| if n % 4 == 1 { *stride == 1 } else { stride % 4 == 0 });
        let block = if words { abi::Pool { words: 1, total: block.total / 4, ..block } } else { block };
        self.each("pool", block.total.into(), &block)
    }

    /// A line block: `inside` are the dimensions of a line.
    fn line(
        &mut self,
        x: TensorId,
        y: TensorId,
        inside: &[u32],
        y_strides: Vec<u64>,
    ) -> Result<abi::Line, String> {
        let (tx, ty) = (self.tensor(x), self.tensor(y));
        let split = |reduced: bool| -> Vec<u32> {
            let extents = tx.shape.iter().zip(0u32..);
            extents.map(|(&e, d)| if inside.contains(&d) == reduced { e } else { 1 }).collect()
        };
        let lines = Walk::new(&split(false), [tx.strides.clone(), y_strides])?;
        // Sums of floats run in row-major order.
        let line = Walk::row_major(&split(true), [tx.strides.clone()])?;
        let [x_strides, y_strides] = lines.strides;
        let [inner_strides] = line.strides;
        Ok(abi::Line {
            x: self.address(x),
            y: self.address(y),
            shape: lines.shape,
            x_strides,
            y_strides,
            inner: line.shape,
            inner_strides,
            total: lines.total,
            length: line.total,
            kind: kind(tx.dtype),
            y_signed: u32::from(ty.dtype == DType::I8),
            ..abi::Line::default()
        })
    }

    pub(super) fn mean(&mut self, m: &Mean) -> Result<(), String> {
        let kept = kept_strides(self.tensor(m.input), self.tensor(m.output), &m.axes);
        let block = self.line(m.input, m.output, &m.axes, kept)?;
        let block = match m.rule {
            MeanRule::Integer { scale, input_zero, zero } => {
                abi::Line { rule: 0, scale, x_zero: input_zero, y_zero: zero, ..block }
            }
            MeanRule::Dequantised { input, output } => abi::Line {
                rule: 1,
                scale: input.scale,
                x_zero: input.zero_point,
                y_scale: output.scale,
                y_zero: output.zero_point,
                ..block
            },
            MeanRule::Float => abi::Line { rule: 2, ..block },
        };
        self.each("mean", block.total.into(), &block)
    }

    pub(super) fn softmax(&mut self, s: &Softmax) -> Result<(), String> {
        let ty = self.tensor(s.output);
        let mut block = self.line(s.input, s.output, &[s.axis], ty.strides.clone())?;
        block.y_inner = narrow("a stride", ty.strides[s.axis as usize])?;
        match s.rule {
            SoftmaxRule::Float => self.each("softmax", block.total.into(), &block),
            SoftmaxRule::QLinear { table, inverse, zero } => {
                block.table = self.blob(table);
                (block.scale, block.y_zero) = (inverse, zero);
                self.each("softmax8", block.total.into(), &block)
            }
        }
    }

    pub(super) fn arg_max(&mut self, a: &ArgMax) -> Result<(), String> {
        let kept = kept_strides(self.tensor(a.input), self.tensor(a.output), &[a.axis]);
        let mut block = self.line(a.input, a.output, &[a.axis], kept)?;
        block.rule = a.last.into();
        self.each("arg_max", block.total.into(), &block)
    }
}
