//! Element operations.

use super::{Lowering, Walk, kind, narrow, range};
use pilotlight_kernels::abi;
use pilotlight_plan::{
    Bilinear, Binary, BinaryRule, Cast, Convert, DType, Function, Remap, Table, TensorId, Unary,
};
use zerocopy::IntoBytes;

impl Lowering<'_> {
    /// A map block for two tensors of one shape; `axis` gives the index of a pair.
    fn map(&mut self, x: TensorId, y: TensorId, axis: Option<u32>) -> Result<abi::Map, String> {
        let (a, b) = (self.tensor(x), self.tensor(y));
        let channel = (0..a.shape.len()).map(|d| u64::from(axis == Some(d as u32))).collect();
        let walk = Walk::new(&a.shape, [channel, a.strides.clone(), b.strides.clone()])?;
        let (lo, hi) = range(b.dtype);
        let [c_strides, x_strides, y_strides] = walk.strides;
        Ok(abi::Map {
            x: self.address(x),
            y: self.address(y),
            shape: walk.shape,
            c_strides,
            x_strides,
            y_strides,
            total: walk.total,
            from: kind(a.dtype),
            to: kind(b.dtype),
            lo,
            hi,
            ..abi::Map::default()
        })
    }

    pub(super) fn table(&mut self, t: &Table) -> Result<(), String> {
        let mut block = self.map(t.input, t.output, None)?;
        block.table = self.blob(t.table);
        let kernel = if self.tensor(t.output).dtype == DType::F32 { "table_f32" } else { "table8" };
        self.each(kernel, block.total.into(), &block)
    }

    pub(super) fn unary(&mut self, u: &Unary) -> Result<(), String> {
        let mut block = self.map(u.input, u.output, None)?;
        (block.from, block.alpha, block.beta) = match u.function {
            Function::Relu => (0, 0.0, 0.0),
            Function::Clip { lo, hi } => (1, lo, hi),
            Function::Sigmoid => (2, 0.0, 0.0),
            Function::HardSigmoid { alpha, beta } => (3, alpha, beta),
            Function::HardSwish => (4, 0.0, 0.0),
            Function::LeakyRelu { alpha } => (5, alpha, 0.0),
            Function::Tanh => (6, 0.0, 0.0),
        };
        self.each("unary", block.total.into(), &block)
    }

    fn convert(&mut self, c: &Convert) -> Result<abi::Map, String> {
        let mut block = self.map(c.input, c.output, (c.quant.len() > 1).then_some(c.axis))?;
        let pairs: Vec<i32> = c.quant.iter().flat_map(|q| [q.scale.to_bits() as i32, q.zero_point]).collect();
        block.table = self.constant_i32(&pairs);
        Ok(block)
    }

    pub(super) fn quantize(&mut self, c: &Convert) -> Result<(), String> {
        let mut block = self.convert(c)?;
        // The input's neighbours come last, as a thread takes some; the rest keeps the output's order.
        let inner = (0..abi::RANK).find(|&d| block.shape[d] > 1 && block.x_strides[d] == 1);
        if let Some(d) = inner {
            for list in [&mut block.shape, &mut block.c_strides, &mut block.x_strides, &mut block.y_strides] {
                list[d..].rotate_left(1);
            }
        }
        self.each("quantize", block.total.div_ceil(abi::QUANTIZE_RUN).into(), &block)
    }

    pub(super) fn dequantize(&mut self, c: &Convert) -> Result<(), String> {
        let block = self.convert(c)?;
        self.each("dequantize", block.total.into(), &block)
    }

    pub(super) fn cast(&mut self, c: &Cast) -> Result<(), String> {
        let block = self.map(c.input, c.output, None)?;
        self.each("cast", block.total.into(), &block)
    }

    pub(super) fn binary(&mut self, b: &Binary) -> Result<(), String> {
        let (ta, tb, ty) = (self.tensor(b.a), self.tensor(b.b), self.tensor(b.output));
        // An operand's missing or single dimensions repeat: stride 0.
        let spread = |t: &pilotlight_plan::Tensor| {
            let missing = ty.shape.len() - t.shape.len();
            let own = t.shape.iter().zip(&t.strides).map(|(&d, &s)| if d == 1 { 0 } else { s });
            std::iter::repeat_n(0, missing).chain(own).collect::<Vec<u64>>()
        };
        let walk = Walk::new(&ty.shape, [spread(ta), spread(tb), ty.strides.clone()])?;
        let [a_strides, b_strides, y_strides] = walk.strides;
        let block = abi::Zip {
            a: self.address(b.a),
            b: self.address(b.b),
            y: self.address(b.output),
            shape: walk.shape,
            a_strides,
            b_strides,
            y_strides,
            total: walk.total,
            a_signed: u32::from(ta.dtype == DType::I8),
            b_signed: u32::from(tb.dtype == DType::I8),
            float_in: u32::from(matches!(b.rule, BinaryRule::Float(_))),
            rule: self.rule(&b.rule, ty.dtype),
        };
        self.each("zip", block.total.into(), &block)
    }

    pub(super) fn remap(&mut self, r: &Remap) -> Result<(), String> {
        let (tx, ty) = (self.tensor(r.input), self.tensor(r.output));
        let mut order: Vec<usize> = (0..ty.shape.len()).collect();
        // A list may stand on a dimension of one element too, so none is left out unless it is the identity.
        order.retain(|&d| ty.shape[d] > 1 || r.axes[d].is_some());
        order.sort_by_key(|&d| std::cmp::Reverse(ty.strides[d]));
        let walk = Walk::ordered(&ty.shape, [tx.strides.clone(), ty.strides.clone()], &order)?;
        let [x_strides, y_strides] = walk.strides;
        let mut lists = [0; abi::RANK];
        for (at, &d) in order.iter().enumerate() {
            if let Some(list) = &r.axes[d] {
                lists[abi::RANK - order.len() + at] = self.constant_i32(list);
            }
        }
        let block = abi::Remap {
            x: self.address(r.input),
            y: self.address(r.output),
            table: r.table.map_or(0, |t| self.blob(t)),
            fill: r.fill,
            lists,
            shape: walk.shape,
            x_strides,
            y_strides,
            total: walk.total,
            size: ty.dtype.bytes() as u32,
        };
        self.each("remap", block.total.into(), &block)
    }

    pub(super) fn bilinear(&mut self, b: &Bilinear) -> Result<(), String> {
        let (tx, ty) = (self.tensor(b.input), self.tensor(b.output));
        let list = |list: &[(u32, u32, f32)]| {
            list.iter()
                .flat_map(|&(low, high, weight)| [low, high, weight.to_bits(), 0])
                .collect::<Vec<u32>>()
        };
        let [rows, columns] = [&b.rows, &b.columns].map(|l| list(l));
        let (x_strides, y_strides) = (four(&tx.strides)?, four(&ty.strides)?);
        let mut shape = [0; 4];
        shape.copy_from_slice(&image(&ty.shape));
        let block = abi::Bilinear {
            x: self.address(b.input),
            y: self.address(b.output),
            rows: self.constant(rows.as_bytes()),
            columns: self.constant(columns.as_bytes()),
            shape,
            x_strides,
            y_strides,
            total: narrow("the number of elements", ty.elements())?,
            kind: kind(ty.dtype),
        };
        self.each("bilinear", block.total.into(), &block)
    }
}

/// `[N, C, H, W]` of `[N, C, W]`: height 1.
pub(super) fn image(shape: &[u32]) -> [u32; 4] {
    match *shape {
        [n, c, h, w] => [n, c, h, w],
        [n, c, w] => [n, c, 1, w],
        // A validated plan has no other rank here.
        _ => [1; 4],
    }
}

/// Strides as [`image`] gives extents.
pub(super) fn four(strides: &[u64]) -> Result<[u32; 4], String> {
    let list = match *strides {
        [n, c, h, w] => [n, c, h, w],
        [n, c, w] => [n, c, 0, w],
        _ => return Err(format!("rank {}; 3 or 4 is needed", strides.len())),
    };
    let mut out = [0; 4];
    for (to, from) in out.iter_mut().zip(list) {
        *to = narrow("a stride", from)?;
    }
    Ok(out)
}
