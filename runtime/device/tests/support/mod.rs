//! Small random plans.

#![allow(clippy::unwrap_used, dead_code, reason = "helpers of tests; not every test uses each")]

use pilotlight_plan::*;

/// The 8-bit types.
pub const INT8: [DType; 2] = [DType::U8, DType::I8];

/// A small generator of repeatable numbers (xorshift64*).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From `lo` to `hi`, both included.
    pub fn range(&mut self, lo: i64, hi: i64) -> i64 {
        lo + (self.next() >> 11) as i64 % (hi - lo + 1)
    }

    pub fn size(&mut self, lo: u32, hi: u32) -> u32 {
        self.range(lo.into(), hi.into()) as u32
    }

    pub fn chance(&mut self, one_in: i64) -> bool {
        self.range(1, one_in) == 1
    }

    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.range(0, list.len() as i64 - 1) as usize]
    }

    pub fn int8(&mut self, dtype: DType) -> i32 {
        let (lo, hi) = dtype.int8_range().unwrap();
        self.range(lo.into(), hi.into()) as i32
    }

    pub fn quant(&mut self, dtype: DType) -> Quant {
        Quant { scale: self.range(1, 1000) as f32 * 1e-3, zero_point: self.int8(dtype) }
    }
}

/// The smallest and largest value of an 8-bit type.
pub fn range(dtype: DType) -> (i32, i32) {
    dtype.int8_range().unwrap()
}

/// A plan under construction.
pub struct Builder {
    pub plan: Plan,
    weights: Vec<u8>,
    pub rng: Rng,
}

impl Builder {
    pub fn new(seed: u64) -> Self {
        let plan = Plan {
            name: format!("random {seed}"),
            inputs: vec![],
            outputs: vec![],
            tensors: vec![],
            buffers: vec![],
            steps: vec![],
            arena_bytes: 0,
            arena_lower_bound: 0,
            weights: Weights::default(),
        };
        Self { plan, weights: vec![], rng: Rng::new(seed) }
    }

    pub fn blob(&mut self, bytes: &[u8]) -> Blob {
        let offset = self.weights.len() as u64;
        self.weights.extend_from_slice(bytes);
        self.weights.resize(self.weights.len().next_multiple_of(64), 0);
        Blob { offset, bytes: bytes.len() as u64 }
    }

    pub fn f32_blob(&mut self, list: &[f32]) -> Blob {
        let bytes: Vec<u8> = list.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.blob(&bytes)
    }

    pub fn table(&mut self) -> Blob {
        let bytes: Vec<u8> = (0..256).map(|_| self.rng.next() as u8).collect();
        self.blob(&bytes)
    }

    pub fn buffer(&mut self, space: Space, bytes: u64) -> BufferId {
        self.plan.buffers.push(Buffer { space, offset: 0, bytes });
        BufferId(self.plan.buffers.len() as u32 - 1)
    }

    pub fn tensor(
        &mut self,
        shape: &[u32],
        dtype: DType,
        buffer: BufferId,
        offset: u64,
        strides: Vec<u64>,
    ) -> TensorId {
        let name = format!("t{}", self.plan.tensors.len());
        let shape = shape.to_vec();
        self.plan.tensors.push(Tensor { name, dtype, shape, quant: None, buffer, offset, strides });
        TensorId(self.plan.tensors.len() as u32 - 1)
    }

    pub fn step(&mut self, op: Op) {
        self.plan.steps.push(Step { nodes: vec![format!("n{}", self.plan.steps.len())], op });
    }

    /// A plan input.
    pub fn input(&mut self, shape: &[u32], dtype: DType) -> TensorId {
        let bytes = shape.iter().map(|&d| u64::from(d)).product::<u64>() * dtype.bytes() as u64;
        let buffer = self.buffer(Space::Input(self.plan.inputs.len() as u32), bytes);
        let id = self.tensor(shape, dtype, buffer, 0, row_major(shape));
        self.plan.inputs.push(id);
        id
    }

    /// A plan output.
    pub fn output(&mut self, shape: &[u32], dtype: DType) -> TensorId {
        let bytes = shape.iter().map(|&d| u64::from(d)).product::<u64>() * dtype.bytes() as u64;
        let buffer = self.buffer(Space::Output(self.plan.outputs.len() as u32), bytes);
        let id = self.tensor(shape, dtype, buffer, 0, row_major(shape));
        self.plan.outputs.push(id);
        id
    }

    /// Strides of `[N, C, H, W]` or `[N, C, W]` with pixels of `pixel` elements.
    pub fn channels_last(shape: &[u32], pixel: u64) -> Vec<u64> {
        let (w, h) = match *shape {
            [_, _, h, w] => (u64::from(w), u64::from(h)),
            [_, _, w] => (u64::from(w), 1),
            _ => panic!("rank"),
        };
        let mut strides = vec![pixel * w * h, 1, pixel * w, pixel];
        if shape.len() == 3 {
            strides.remove(2);
        }
        strides
    }

    /// The pixel stride that a plan gives so many channels.
    pub fn pixel(channels: u32) -> u64 {
        if channels <= 4 { 4 } else { u64::from(channels.next_multiple_of(16)) }
    }

    /// An activation in the arena, channels last; one in four lies among the lanes of a wider buffer.
    pub fn activation(&mut self, shape: &[u32], dtype: DType) -> TensorId {
        let own = Self::pixel(shape[1]);
        let (pixel, at) = if self.rng.chance(4) {
            let before = self.rng.range(0, 3) as u64 * 16;
            (own.next_multiple_of(16) + before + self.rng.range(0, 2) as u64 * 16, before)
        } else {
            (own, 0)
        };
        let pixels: u64 =
            shape.iter().enumerate().filter(|(d, _)| *d != 1).map(|(_, &e)| u64::from(e)).product();
        let bytes = pixel * pixels * dtype.bytes() as u64;
        let buffer = self.buffer(Space::Arena, bytes);
        self.tensor(shape, dtype, buffer, at * dtype.bytes() as u64, Self::channels_last(shape, pixel))
    }

    /// A step that copies elements to another layout.
    pub fn copy(&mut self, input: TensorId, output: TensorId) {
        let axes = vec![None; self.plan.tensor(input).shape.len()];
        self.step(Op::Remap(Remap { input, output, axes, fill: 0, table: None }));
    }

    /// An input that is copied into an activation.
    pub fn fed(&mut self, shape: &[u32], dtype: DType) -> TensorId {
        let input = self.input(shape, dtype);
        let x = self.activation(shape, dtype);
        // Unused lanes hold what they will: an earlier value of the same buffer.
        let t = self.plan.tensor(x).clone();
        let pixel = t.strides[t.strides.len() - 1] as u32;
        if t.offset == 0 && dtype.is_int8() {
            let mut wide = t.shape.clone();
            wide[1] = pixel;
            let noise = self.input(&wide, dtype);
            let lanes = self.tensor(&wide, dtype, t.buffer, 0, t.strides);
            self.copy(noise, lanes);
        }
        self.copy(input, x);
        x
    }

    /// An activation that is copied to an output.
    pub fn delivered(&mut self, shape: &[u32], dtype: DType) -> (TensorId, TensorId) {
        let y = self.activation(shape, dtype);
        (y, self.output(shape, dtype))
    }

    /// The plan, placed and validated.
    pub fn finish(mut self) -> Plan {
        self.plan.weights = Weights::from(std::mem::take(&mut self.weights));
        arena::place(&mut self.plan);
        validate::validate(&self.plan).unwrap();
        self.plan
    }
}

/// A random integer rule on operands of these types.
pub fn rule(b: &mut Builder, [x, y]: [DType; 2], result: DType) -> BinaryRule {
    let (a, c, output) = (b.rng.quant(x), b.rng.quant(y), b.rng.quant(result));
    match b.rng.range(0, 2) {
        0 => {
            let (ra, rb) = (a.scale / output.scale, c.scale / output.scale);
            let fix = output.zero_point as f32 - ra.mul_add(a.zero_point as f32, rb * c.zero_point as f32);
            BinaryRule::QLinearAdd { ra, rb, fix }
        }
        1 => BinaryRule::QLinearMul {
            a_zero: a.zero_point,
            b_zero: c.zero_point,
            r: a.scale * c.scale / output.scale * 0.1,
            y_zero: output.zero_point,
        },
        _ => {
            let kind = b.rng.pick(&[BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul]);
            BinaryRule::Dequantised { kind, a, b: c, output }
        }
    }
}
