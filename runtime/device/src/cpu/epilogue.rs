//! From a block of accumulators to the output tensor: requantisation and what follows it.

use super::kernels::{BLOCK, Combine, CombineRule, Grid, PANEL, ROWS, Requant, Source, Target};
use super::linear::Block;
use super::place::Spatial;
use super::step::Context;
use crate::{LoadError, Memory};
use pilotlight_plan::{self as plan, BinaryRule, DType, Plan, Post};

/// What happens to accumulators.
pub(super) struct Epilogue {
    kind: Kind,
    /// f32 scales as the blocks lie, [`BLOCK`] for each.
    scale: Memory,
    output: Spatial,
}

enum Kind {
    Raw,
    Float,
    Requant { rule: Requant, post: Vec<Step> },
}

enum Step {
    Table(Box<[u8; 256]>),
    Combine { other: Spatial, value_is_a: bool, rule: Combine },
}

/// Bytes of one thread's working memory for [`Epilogue::store`].
pub(super) const SCRATCH_BYTES: usize = ROWS * BLOCK;

/// The place of a row of outputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pixels {
    /// Image of the batch.
    pub image: usize,
    /// Output row.
    pub y: usize,
    /// First output column.
    pub x: usize,
    /// Number of columns.
    pub count: usize,
}

impl Epilogue {
    /// The epilogue of an operation that writes `output`; `None` where an operand's layout has no kernel.
    ///
    /// `order` gives for each place of the padded scales its output channel.
    pub(super) fn new(
        plan: &Plan,
        e: &plan::Epilogue,
        output: Spatial,
        view: impl Fn(plan::TensorId) -> Option<Spatial>,
        order: &[Option<usize>],
        interleaved: bool,
    ) -> Result<Option<Self>, LoadError> {
        let mut scale = Memory::new("scales", order.len() * 4)?;
        if let plan::Epilogue::Float { scale: blob }
        | plan::Epilogue::Requant(plan::Requant { scale: blob, .. }) = e
        {
            let list = plan.blob_f32(*blob);
            for (to, channel) in scale.as_bytes_mut().chunks_exact_mut(4).zip(order) {
                if let Some(c) = channel {
                    to.copy_from_slice(&list[if list.len() == 1 { 0 } else { *c }].to_ne_bytes());
                }
            }
        }
        let kind = match e {
            plan::Epilogue::Raw => Kind::Raw,
            plan::Epilogue::Float { .. } => Kind::Float,
            plan::Epilogue::Requant(r) => {
                let mut post = Vec::new();
                let mut value = r.dtype;
                for p in &r.post {
                    let (step, dtype) = match p {
                        Post::Table { table, dtype } => {
                            (Some(Step::Table(table_bytes(plan, *table))), *dtype)
                        }
                        Post::Binary { other, value_is_a, rule, dtype } => {
                            (combine_step(plan, &view, *other, *value_is_a, rule, value, *dtype), *dtype)
                        }
                    };
                    let Some(step) = step else { return Ok(None) };
                    post.push(step);
                    value = dtype;
                }
                Kind::Requant { rule: requant(r, &plan.blob_f32(r.scale), interleaved), post }
            }
        };
        Ok(Some(Self { kind, scale, output }))
    }

    /// Whether the end of an output row continues in the next one, for every operand.
    pub(super) fn rows_join(&self) -> bool {
        let joins = |s: &Spatial| s.height == 1 || s.strides.y == s.width * s.strides.x;
        joins(&self.output)
            && match &self.kind {
                Kind::Requant { post, .. } => post.iter().all(|p| match p {
                    Step::Combine { other, .. } => joins(other),
                    Step::Table(_) => true,
                }),
                _ => true,
            }
    }

    /// Writes the results of `pixels` for the channels of a block, whose scales lie at `scales`.
    ///
    /// # Safety
    /// `acc` holds `pixels.count` rows of 64 sums, the count is at most [`ROWS`]; pixels and channels are inside
    /// the output; no other thread touches them; `scratch` has [`SCRATCH_BYTES`].
    pub(super) unsafe fn store(
        &self,
        context: &Context,
        acc: *const i32,
        scales: usize,
        block: &Block,
        pixels: Pixels,
        scratch: *mut u8,
    ) {
        let Context { kernels, bases, .. } = context;
        let output = &self.output;
        let place = |s: &Spatial| s.at(pixels.image, block.channel, pixels.y, pixels.x);
        // SAFETY: the lowering has checked that every pixel and channel of `output` lies in its buffer.
        let out = unsafe { bases.at(output.place).add(place(output)) };
        let scale = self.scale.as_bytes().as_ptr().cast::<f32>().wrapping_add(scales);
        match &self.kind {
            // SAFETY: as above; four bytes an element.
            Kind::Raw => unsafe { self.store_words(acc, block, pixels, out, |sum, _| sum as u32) },
            // SAFETY: as above; scales hold a whole block.
            Kind::Float => unsafe {
                self.store_words(acc, block, pixels, out, |sum, c| (sum as f32 * *scale.add(c)).to_bits());
            },
            Kind::Requant { rule, post } => {
                let grid = Grid { rows: pixels.count, cols: block.channels };
                let dense = output.strides.channel == 1;
                let to = Target { at: out, stride: output.strides.x };
                // Narrow rows without gaps, so that a kernel can take several at a time.
                let stride = if block.panels <= 2 { block.panels * PANEL } else { BLOCK };
                let tmp = Target { at: scratch, stride };
                let first = if dense && post.is_empty() { to } else { tmp };
                // SAFETY: as above; `scratch` holds 64 rows of 64 bytes; other operands have the output's shape and
                // were checked like it.
                unsafe {
                    (kernels.requant)(acc, scale, rule, grid, first);
                    let value = Source { at: scratch, stride };
                    for (i, step) in post.iter().enumerate() {
                        let to = if dense && i + 1 == post.len() { to } else { tmp };
                        match step {
                            Step::Table(t) => (kernels.table)(t, grid, value, to),
                            Step::Combine { other, value_is_a, rule } => {
                                let at = bases.at(other.place).add(place(other));
                                let other = Source { at, stride: other.strides.x };
                                let (a, b) = if *value_is_a { (value, other) } else { (other, value) };
                                (kernels.combine)(rule, grid, a, b, to);
                            }
                        }
                    }
                    if !dense {
                        for i in 0..grid.rows {
                            for c in 0..grid.cols {
                                let y = out.add(i * output.strides.x + c * output.strides.channel);
                                *y = *scratch.add(i * stride + c);
                            }
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`Epilogue::store`], for outputs of four bytes.
    unsafe fn store_words(
        &self,
        acc: *const i32,
        block: &Block,
        pixels: Pixels,
        out: *mut u8,
        f: impl Fn(i32, usize) -> u32,
    ) {
        for i in 0..pixels.count {
            for c in 0..block.channels {
                // SAFETY: the caller's promise.
                unsafe {
                    let y =
                        out.add(i * self.output.strides.x + c * self.output.strides.channel).cast::<u32>();
                    y.write_unaligned(f(*acc.add(i * BLOCK + c), c));
                }
            }
        }
    }
}

/// A table's bytes.
pub(super) fn table_bytes(plan: &Plan, table: plan::Blob) -> Box<[u8; 256]> {
    let mut bytes = Box::new([0; 256]);
    bytes.copy_from_slice(plan.blob(table));
    bytes
}

fn combine_step(
    plan: &Plan,
    view: impl Fn(plan::TensorId) -> Option<Spatial>,
    other: plan::TensorId,
    value_is_a: bool,
    rule: &BinaryRule,
    value: DType,
    result: DType,
) -> Option<Step> {
    let second = plan.tensor(other).dtype;
    let (a, b) = if value_is_a { (value, second) } else { (second, value) };
    let other = view(other).filter(|s| s.strides.channel == 1)?;
    Some(Step::Combine { other, value_is_a, rule: combine(rule, a, b, result)? })
}

/// The kernel's form of an integer rule; `None` for one that has no kernel.
pub(super) fn combine(rule: &BinaryRule, a: DType, b: DType, result: DType) -> Option<Combine> {
    let signed = [a, b, result].map(|d| d == DType::I8);
    let rule = match *rule {
        BinaryRule::QLinearAdd { ra, rb, fix } => CombineRule::Add { ra, rb, fix },
        BinaryRule::QLinearMul { a_zero, b_zero, r, y_zero } => {
            CombineRule::Mul { a_zero, b_zero, r, y_zero: y_zero as f32 }
        }
        BinaryRule::Dequantised { kind, a, b, output } => CombineRule::Real { kind, a, b, output },
        BinaryRule::Float(_) => return None,
    };
    Some(Combine { signed, rule })
}

/// The kernel's form of a requantisation.
fn requant(r: &plan::Requant, scales: &[f32], interleaved: bool) -> Requant {
    // i8 results are computed as u8 around a zero point 128 higher.
    let (shift, flip) = if r.dtype == DType::I8 { (128, 0x80) } else { (0, 0) };
    // A sum is at most 2^31 in size, so less than that when scaled down; false for NaN.
    let small = scales.iter().all(|s| s.abs() < 0.99);
    Requant {
        full: small && r.dtype.int8_range() == Some((r.lo, r.hi)),
        max: (r.hi - r.zero) as f32,
        zero: (r.zero + shift) as i16,
        lo: (r.lo + shift) as u8,
        hi: (r.hi + shift) as u8,
        flip,
        interleaved,
    }
}

/// Where a block's sums lie by place: the output channel of each of its [`BLOCK`] places.
pub(super) fn natural_order(blocks: &[Block]) -> Vec<Option<usize>> {
    let place = |b: &Block, j: usize| (j < b.channels).then_some(b.channel + j);
    blocks.iter().flat_map(|b| (0..BLOCK).map(move |j| place(b, j))).collect()
}
