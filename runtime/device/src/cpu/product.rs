//! Running a lowered convolution or matrix product.

use super::conv::{Feed, Split};
use super::epilogue::{Epilogue, Pixels};
use super::kernels::{BLOCK, Gemm, ROWS};
use super::linear::Packed;
use super::place::Spatial;
use super::step::{Call, Context, Scratch, share};

/// A lowered convolution or matrix product.
pub(super) struct Product {
    pub packed: Packed,
    pub epilogue: Epilogue,
    pub input: Spatial,
    pub output: Spatial,
    pub feed: Feed,
    pub split: Split,
    /// Whether inputs are i8.
    pub signed: bool,
}

/// What a thread needs to compute some rows by some blocks.
struct Job<'a> {
    context: &'a Context,
    scratch: &'a mut Scratch,
    blocks: std::ops::Range<usize>,
}

/// A block of sums that waits for its epilogue.
struct Pending {
    half: usize,
    block: usize,
    /// The position of the first row.
    first: usize,
    count: usize,
}

/// The rows of the kernel, as positions: `width` of them to an output row, of which the first ones are pixels.
struct Positions {
    image: usize,
    /// The output row of position 0.
    y: usize,
    /// The output column of position 0; 0 where several rows follow each other.
    x: usize,
    width: usize,
    input: *const u8,
    stride: usize,
}

impl Product {
    /// Computes output rows `rows` of an image, all columns.
    ///
    /// # Safety
    /// As [`Call::run`]; no other thread computes these rows of these blocks.
    unsafe fn rows(&self, job: &mut Job<'_>, image: usize, rows: std::ops::Range<usize>) {
        let (width, height) = (self.output.width, rows.len());
        match &self.feed {
            Feed::Direct { y_stride, x_stride } => {
                let base =
                    job.context.bases.at(self.input.place).wrapping_add(image * self.input.strides.image);
                let first = |y: usize| base.wrapping_add(y * y_stride).cast_const();
                let at = |y: usize| Positions { image, y, x: 0, width, input: first(y), stride: *x_stride };
                // SAFETY: the rows' taps are inside the input, which the plan's validation checks by shape.
                unsafe {
                    if *y_stride == width * x_stride {
                        self.positions(job, &at(rows.start), height * width);
                    } else {
                        for y in rows {
                            self.positions(job, &at(y), width);
                        }
                    }
                }
            }
            Feed::Planes(p) => {
                let mut y = rows.start;
                while y < rows.end {
                    let count = p.rows.min(rows.end - y);
                    let planes = job.scratch.planes.as_bytes_mut().as_mut_ptr();
                    // SAFETY: the scratch has `plane_bytes`; positions stay inside the planes.
                    unsafe {
                        p.copy(&self.input, &job.context.bases, image, y, count, planes);
                        let planes = planes.cast_const();
                        if job.context.kernels.flat && p.is_flat() {
                            let at = Positions {
                                image,
                                y,
                                x: 0,
                                width: p.width,
                                input: planes,
                                stride: p.step[1],
                            };
                            self.positions(job, &at, (count - 1) * p.width + width);
                        } else {
                            for r in 0..count {
                                let input = planes.add(r * p.step[0]);
                                let at = Positions { image, y: y + r, x: 0, width, input, stride: p.step[1] };
                                self.positions(job, &at, width);
                            }
                        }
                    }
                    y += count;
                }
            }
        }
    }

    /// Computes `count` positions by the job's blocks.
    ///
    /// # Safety
    /// The runs of every position are readable; pixels among the positions are inside the output and no other
    /// thread computes them for these blocks.
    unsafe fn positions(&self, job: &mut Job<'_>, p: &Positions, count: usize) {
        let kernels = &job.context.kernels;
        let gemm = if self.signed && !kernels.unsigned_only { kernels.gemm_signed } else { kernels.gemm };
        let acc = job.scratch.acc.as_bytes_mut().as_mut_ptr().cast::<i32>();
        let mut pending: Option<Pending> = None;
        let mut half = 0;
        let mut first = 0;
        while first < count {
            let rows = (count - first).min(kernels.rows);
            for index in job.blocks.clone() {
                let block = &self.packed.blocks[index];
                // SAFETY: as promised; `acc` has two halves of `ROWS` by `BLOCK` sums.
                unsafe {
                    let call = Gemm {
                        input: p.input.add(first * p.stride + block.input),
                        input_stride: p.stride,
                        rows,
                        runs: &self.packed.runs,
                        weights: self.packed.weights.as_bytes().as_ptr().add(block.weights),
                        panel_bytes: self.packed.panel_bytes,
                        panels: block.panels,
                        start: self.packed.start.as_bytes().as_ptr().cast::<i32>().add(index * BLOCK),
                        acc: acc.add(half * ROWS * BLOCK),
                    };
                    gemm(&call, &mut job.scratch.tiles);
                    // One call late, so that the tile unit works on the next sums meanwhile.
                    if let Some(done) = pending.replace(Pending { half, block: index, first, count: rows }) {
                        self.finish(job.context, job.scratch, p, &done);
                    }
                }
                half ^= 1;
            }
            first += rows;
        }
        if let Some(done) = pending {
            // SAFETY: as above.
            unsafe { self.finish(job.context, job.scratch, p, &done) };
        }
    }

    /// Runs the epilogue on the pixels among the positions of a block of sums.
    ///
    /// # Safety
    /// As [`Product::positions`].
    unsafe fn finish(&self, context: &Context, scratch: &mut Scratch, p: &Positions, done: &Pending) {
        let acc = scratch.acc.as_bytes().as_ptr().cast::<i32>().wrapping_add(done.half * ROWS * BLOCK);
        let block = &self.packed.blocks[done.block];
        let out = &self.output;
        // Neighbouring rows that continue each other are one long row.
        let joined = p.width == out.width && self.epilogue.rows_join();
        let mut i = 0;
        while i < done.count {
            let position = done.first + i;
            let (y, x) =
                if joined { (p.y, position) } else { (p.y + position / p.width, position % p.width) };
            let wide = if joined { usize::MAX } else { out.width };
            if x < wide {
                let count = (wide - x).min(done.count - i);
                let pixels = Pixels { image: p.image, y, x: x + p.x, count };
                let tmp = scratch.bytes.as_bytes_mut().as_mut_ptr();
                // SAFETY: these are pixels of the output.
                unsafe {
                    self.epilogue.store(context, acc.add(i * BLOCK), done.block * BLOCK, block, pixels, tmp);
                }
                i += count;
            } else {
                i += p.width - x;
            }
        }
    }
}

impl Call for Product {
    unsafe fn run(&self, context: &Context, thread: usize, scratch: &mut Scratch) {
        let (all, threads) = (self.packed.blocks.len(), context.threads);
        let blocks = if self.split == Split::Blocks { share(all, thread, threads) } else { 0..all };
        let mut job = Job { context, scratch, blocks };
        let (height, width) = (self.output.height, self.output.width);
        for image in 0..self.output.images {
            // SAFETY: threads have different blocks, rows or columns.
            unsafe {
                match (&self.feed, self.split) {
                    (_, Split::Blocks) => self.rows(&mut job, image, 0..height),
                    (Feed::Direct { x_stride, .. }, Split::Rows) if height == 1 => {
                        let own = share(width.div_ceil(16), thread, threads);
                        let (from, to) = ((own.start * 16).min(width), (own.end * 16).min(width));
                        let base = context.bases.at(self.input.place);
                        let at = image * self.input.strides.image + from * x_stride;
                        let input = base.wrapping_add(at).cast_const();
                        let p =
                            Positions { image, y: 0, x: from, width: usize::MAX, input, stride: *x_stride };
                        self.positions(&mut job, &p, to - from);
                    }
                    (_, Split::Rows) => self.rows(&mut job, image, share(height, thread, threads)),
                }
            }
        }
    }

    fn plane_bytes(&self) -> usize {
        match &self.feed {
            Feed::Direct { .. } => 0,
            Feed::Planes(p) => p.total_bytes(),
        }
    }
}
