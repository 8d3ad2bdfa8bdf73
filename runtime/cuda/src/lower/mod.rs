//! A plan's steps as kernel launches.

mod element;
mod epilogue;
mod implicit;
mod linear;
mod matmul;
mod pack;
mod reduce;
mod taps;
mod tile;

use pilotlight_kernels::abi;
use pilotlight_plan::{BinaryKind, BinaryRule, Blob, DType, Op, Plan, Space, Tensor, TensorId};
use std::collections::HashMap;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// One kernel launch.
///
/// Addresses in its block are places in the plan's memory until it is bound to a slot's.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// Kernel name.
    pub kernel: String,
    /// Blocks of 256 threads.
    pub grid: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// The parameter block; words keep it aligned.
    pub block: Vec<u64>,
    /// Which words of the block are addresses (or 0, for nothing).
    pub addresses: Vec<usize>,
}

impl Launch {
    /// The launch with the addresses of real memory in its block.
    pub(crate) fn bound(&self, bases: &Bases) -> Self {
        let mut launch = self.clone();
        for &n in &self.addresses {
            launch.block[n] = bases.resolve(launch.block[n]);
        }
        launch
    }
}

/// What the kernels cannot do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {problem}")]
pub struct Unsupported {
    /// The step.
    pub step: String,
    /// What of it.
    pub problem: String,
}

/// Where memory lies.
pub(crate) struct Bases {
    pub(crate) arena: u64,
    pub(crate) constants: u64,
    pub(crate) inputs: Vec<u64>,
    pub(crate) outputs: Vec<u64>,
}

/// Bits of a place that are an offset: no memory of a plan is larger.
const OFFSET_BITS: u32 = 40;
/// Bits of a place that are the number of an input or output.
const NUMBER_BITS: u32 = 20;

impl Bases {
    /// Places instead of addresses: the space in the upper four bits, then the number of the input or output,
    /// then the offset. They are aligned as real memory is.
    pub(crate) fn places(plan: &Plan) -> Self {
        let place = |space: u64, n: usize| space << (OFFSET_BITS + NUMBER_BITS) | (n as u64) << OFFSET_BITS;
        Self {
            arena: place(1, 0),
            constants: place(2, 0),
            inputs: (0..plan.inputs.len()).map(|n| place(3, n)).collect(),
            outputs: (0..plan.outputs.len()).map(|n| place(4, n)).collect(),
        }
    }

    /// The address that a place stands for; 0 stays nothing.
    pub(crate) fn resolve(&self, place: u64) -> u64 {
        let offset = place & ((1 << OFFSET_BITS) - 1);
        let n = (place >> OFFSET_BITS & ((1 << NUMBER_BITS) - 1)) as usize;
        match place >> (OFFSET_BITS + NUMBER_BITS) {
            1 => self.arena + offset,
            2 => self.constants + offset,
            3 => self.inputs[n] + offset,
            4 => self.outputs[n] + offset,
            _ => place,
        }
    }
}

/// The offset of a place in its space.
pub(crate) fn offset(place: u64) -> usize {
    (place & ((1 << OFFSET_BITS) - 1)) as usize
}

/// Whether a place is in an output: memory that the host reads.
pub(crate) fn is_output(place: u64) -> bool {
    place >> (OFFSET_BITS + NUMBER_BITS) == 4
}

/// Launches by step, and what they need. It depends on the plan and the number of multiprocessors alone.
pub struct Lowered {
    /// The launches of each step of the plan.
    pub steps: Vec<Vec<Launch>>,
    /// Packed weights, tables, lists.
    pub constants: Vec<u8>,
    /// Bytes of working memory behind the arena.
    pub scratch: usize,
}

/// Lowers a valid plan for a GPU of so many multiprocessors.
///
/// # Errors
/// [`Unsupported`] names the step and what of it the kernels cannot do.
pub fn lower(plan: &Plan, multiprocessors: u32) -> Result<Lowered, Unsupported> {
    let most = 1 << NUMBER_BITS;
    if plan.inputs.len().max(plan.outputs.len()) > most {
        let problem =
            format!("{} inputs and {} outputs; at most {most} each", plan.inputs.len(), plan.outputs.len());
        return Err(Unsupported { step: "the plan".into(), problem });
    }
    let bases = &Bases::places(plan);
    let mut lowering = Lowering {
        plan,
        bases,
        multiprocessors,
        out: Vec::new(),
        constants: Vec::new(),
        blobs: HashMap::new(),
        scratch: 0,
    };
    let mut steps = Vec::with_capacity(plan.steps.len());
    for (n, step) in plan.steps.iter().enumerate() {
        lowering.step(&step.op).map_err(|problem| {
            let name = step.nodes.first().map_or("", String::as_str);
            Unsupported { step: format!("step {n} ({} {name})", step.op.name()), problem }
        })?;
        steps.push(std::mem::take(&mut lowering.out));
    }
    Ok(Lowered { steps, constants: lowering.constants, scratch: lowering.scratch })
}

/// Multiply-accumulates that a launch issues to the matrix units; `None` where its kernel uses none.
///
/// Fragments that are skipped are not issued: channels count up to a multiple of 16, pixels of 8, k of 16.
pub fn issued_macs(launch: &Launch) -> Option<u64> {
    if !launch.kernel.starts_with("conv_") {
        return None;
    }
    let (p, _) = abi::Conv::read_from_prefix(launch.block.as_bytes()).ok()?;
    let pixels = u64::from(p.pixels.next_multiple_of(8));
    Some(u64::from(p.groups) * u64::from(p.padded) * pixels * u64::from(p.pieces) * 16)
}

struct Lowering<'a> {
    plan: &'a Plan,
    bases: &'a Bases,
    multiprocessors: u32,
    out: Vec<Launch>,
    constants: Vec<u8>,
    blobs: HashMap<Blob, u64>,
    scratch: usize,
}

/// A figure that must fit 32 bits.
fn narrow(what: &str, value: u64) -> Result<u32, String> {
    u32::try_from(value).map_err(|_| format!("{what} is {value}; the kernels count to 2^32"))
}

/// A type as the kernels know it.
fn kind(dtype: DType) -> u32 {
    match dtype {
        DType::U8 => 0,
        DType::I8 => 1,
        DType::I32 => 2,
        DType::I64 => 3,
        DType::F32 => 4,
    }
}

fn range(dtype: DType) -> (i32, i32) {
    dtype.int8_range().unwrap_or((i32::MIN, i32::MAX))
}

impl<'a> Lowering<'a> {
    fn step(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Conv(c) => self.conv(c),
            Op::Gemm(g) => self.gemm(g),
            Op::MatMul(m) => self.matmul(m),
            Op::Pool(p) => self.pool(p),
            Op::Mean(m) => self.mean(m),
            Op::Binary(b) => self.binary(b),
            Op::Table(t) => self.table(t),
            Op::Unary(u) => self.unary(u),
            Op::Remap(r) => self.remap(r),
            Op::Bilinear(b) => self.bilinear(b),
            Op::Softmax(s) => self.softmax(s),
            Op::ArgMax(a) => self.arg_max(a),
            Op::Quantize(c) => self.quantize(c),
            Op::Dequantize(c) => self.dequantize(c),
            Op::Cast(c) => self.cast(c),
        }
    }

    fn tensor(&self, id: TensorId) -> &'a Tensor {
        self.plan.tensor(id)
    }

    /// The place of a tensor's first element.
    fn address(&mut self, id: TensorId) -> u64 {
        let t = self.tensor(id);
        let buffer = self.plan.buffers[t.buffer.0 as usize];
        let base = match buffer.space {
            Space::Arena => self.bases.arena + buffer.offset,
            Space::Input(n) => self.bases.inputs[n as usize] + buffer.offset,
            Space::Output(n) => self.bases.outputs[n as usize] + buffer.offset,
            Space::Weights => self.blob(Blob { offset: buffer.offset, bytes: buffer.bytes }),
        };
        base + t.offset
    }

    /// The place of a blob; a blob used twice is stored once.
    fn blob(&mut self, blob: Blob) -> u64 {
        if let Some(&address) = self.blobs.get(&blob) {
            return address;
        }
        let address = self.constant(self.plan.blob(blob));
        self.blobs.insert(blob, address);
        address
    }

    /// Working memory behind the arena, from `at` on. One step runs at a time, so all steps share it.
    fn scratch(&mut self, at: usize, bytes: usize) -> u64 {
        self.scratch = self.scratch.max(at + bytes + 64);
        self.bases.arena + self.plan.arena_bytes.next_multiple_of(64) + at as u64
    }

    /// Adds constant bytes, aligned to 64.
    fn constant(&mut self, bytes: &[u8]) -> u64 {
        let at = self.constants.len();
        self.constants.extend_from_slice(bytes);
        // Kernels read words; the last one may reach behind the bytes.
        self.constants.resize((self.constants.len() + 16).next_multiple_of(64), 0);
        self.bases.constants + at as u64
    }

    fn constant_i32(&mut self, list: &[i32]) -> u64 {
        self.constant(list.as_bytes())
    }

    fn launch<B: IntoBytes + Immutable + abi::Addresses>(
        &mut self,
        kernel: impl Into<String>,
        grid: [u32; 3],
        shared: u32,
        block: &B,
    ) {
        let words = block.as_bytes().chunks(8).map(|c| {
            let mut word = [0u8; 8];
            word[..c.len()].copy_from_slice(c);
            u64::from_ne_bytes(word)
        });
        let mut addresses = Vec::new();
        B::addresses(0, &mut addresses);
        addresses.iter_mut().for_each(|at| *at /= 8);
        self.out.push(Launch { kernel: kernel.into(), grid, shared, block: words.collect(), addresses });
    }

    /// Launches a kernel of one element a thread.
    fn each<B: IntoBytes + Immutable + abi::Addresses>(
        &mut self,
        kernel: &str,
        total: u64,
        block: &B,
    ) -> Result<(), String> {
        let blocks = narrow("the number of blocks", total.div_ceil(256))?;
        self.launch(kernel, [blocks, 1, 1], 0, block);
        Ok(())
    }

    /// A rule of two 8-bit values.
    fn rule(&self, rule: &BinaryRule, to: DType) -> abi::Rule {
        let (lo, hi) = range(to);
        let empty = abi::Rule { lo, hi, ..abi::Rule::default() };
        match *rule {
            BinaryRule::QLinearAdd { ra, rb, fix } => {
                abi::Rule { kind: abi::RULE_ADD, f0: ra, f1: rb, f2: fix, ..empty }
            }
            BinaryRule::QLinearMul { a_zero, b_zero, r, y_zero } => {
                abi::Rule { kind: abi::RULE_MUL, f0: r, f1: y_zero as f32, za: a_zero, zb: b_zero, ..empty }
            }
            BinaryRule::Dequantised { kind, a, b, output } => abi::Rule {
                kind: float_kind(kind),
                f0: a.scale,
                f1: b.scale,
                f2: output.scale,
                za: a.zero_point,
                zb: b.zero_point,
                zy: output.zero_point,
                ..empty
            },
            BinaryRule::Float(kind) => abi::Rule { kind: float_kind(kind), ..empty },
        }
    }
}

fn float_kind(kind: BinaryKind) -> u32 {
    match kind {
        BinaryKind::Add => abi::RULE_FLOAT_ADD,
        BinaryKind::Sub => abi::RULE_FLOAT_SUB,
        BinaryKind::Mul => abi::RULE_FLOAT_MUL,
    }
}

/// Extents and strides of up to four views in the kernels' six dimensions, the last view's neighbours last.
struct Walk<const N: usize> {
    shape: [u32; abi::RANK],
    strides: [[u32; abi::RANK]; N],
    total: u32,
}

impl<const N: usize> Walk<N> {
    /// Views over `shape`; elements may be visited in any order.
    fn new(shape: &[u32], views: [Vec<u64>; N]) -> Result<Self, String> {
        let mut order: Vec<usize> = (0..shape.len()).filter(|&d| shape[d] > 1).collect();
        order.sort_by_key(|&d| std::cmp::Reverse(views[N - 1][d]));
        Self::ordered(shape, views, &order)
    }

    /// Views visited in row-major order.
    fn row_major(shape: &[u32], views: [Vec<u64>; N]) -> Result<Self, String> {
        let order: Vec<usize> = (0..shape.len()).filter(|&d| shape[d] > 1).collect();
        Self::ordered(shape, views, &order)
    }

    fn ordered(shape: &[u32], views: [Vec<u64>; N], order: &[usize]) -> Result<Self, String> {
        if order.len() > abi::RANK {
            return Err(format!("{} dimensions above 1; the kernels walk {}", order.len(), abi::RANK));
        }
        let first = abi::RANK - order.len();
        let mut walk = Walk { shape: [1; abi::RANK], strides: [[0; abi::RANK]; N], total: 0 };
        for (at, &d) in order.iter().enumerate() {
            walk.shape[first + at] = shape[d];
            for (to, view) in walk.strides.iter_mut().zip(&views) {
                to[first + at] = narrow("a stride", view[d])?;
            }
        }
        let total = shape.iter().map(|&d| u64::from(d)).product::<u64>();
        walk.total = narrow("the number of elements", total).and_then(|t| {
            // Blocks of 256 threads may reach past the end without wrapping.
            if t <= u32::MAX - 256 * abi::QUANTIZE_RUN { Ok(t) } else { Err("too many elements".into()) }
        })?;
        Ok(walk)
    }
}
