//! Convolution and matrix product: how inputs reach the dot-product kernel, and how the work is cut up.
//!
//! The kernel wants rows a fixed distance apart whose sums read the same runs of bytes behind each row's base. A
//! plain 1x1 convolution or a matrix product has that in place. Others copy the input rows that they need into
//! `planes`: padded with the zero point, split by stride into one plane for each phase, so that every output pixel
//! is one pixel further in every plane.

use super::epilogue::{Epilogue, Pixels, natural_order};
use super::kernels::{BLOCK, Gemm, Kernels, ROWS};
use super::linear::{Channels, Packed, Piece, RunPieces, pack};
use super::place::{Bases, Spatial};
use super::step::{Call, Context, Scratch, share};
use crate::LoadError;
use pilotlight_plan::{Conv, DType, Linear, Plan, TensorId, Window};

/// A lowered convolution or matrix product.
pub(super) struct Product {
    packed: Packed,
    epilogue: Epilogue,
    input: Spatial,
    output: Spatial,
    feed: Feed,
    split: Split,
    signed: bool,
}

/// How the rows of the kernel lie.
enum Feed {
    /// In the input itself: output column `x` of row `y` begins at `y * y_stride + x * x_stride`.
    Direct { y_stride: usize, x_stride: usize },
    /// In copied planes.
    Planes(Planes),
}

/// Copies of the input rows that some output rows need.
struct Planes {
    /// Output rows that one copy serves.
    rows: usize,
    /// Pixels of a plane's row.
    width: usize,
    /// Bytes between pixels.
    pixel: usize,
    /// Bytes of a plane.
    bytes: usize,
    /// The phase (row, column) of each plane.
    phases: Vec<[usize; 2]>,
    /// How many plane rows a kernel reaches below its first.
    reach: usize,
    /// Bytes between kernel rows of neighbouring output columns and rows.
    step: [usize; 2],
    window: Window,
    /// Whether one plane holds every input row and column, in spite of a stride.
    whole: bool,
    /// The byte that padding holds, after `flip`.
    zero: u8,
    /// What each input byte is XORed with.
    flip: u8,
    /// Whether whole input rows may be copied at once, unused lanes and all.
    contiguous: bool,
}

/// What is divided among threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Split {
    Rows,
    Blocks,
}

/// One way to feed the kernel, and what it costs.
struct Choice {
    feed: Feed,
    runs: Vec<RunPieces>,
    /// Rows that the kernel computes for one image.
    rows: usize,
}

/// A convolution as the kernels see it; `None` where its layout has no kernel.
pub(super) fn conv(
    plan: &Plan,
    c: &Conv,
    kernels: &Kernels,
    threads: usize,
    apart: bool,
) -> Result<Option<Product>, LoadError> {
    let (Some(x), Some(y)) = (Spatial::new(plan, c.input), Spatial::new(plan, c.output)) else {
        return Ok(None);
    };
    let view = |id: TensorId| Spatial::new(plan, id);
    lower(plan, &c.linear, &c.window, c.groups as usize, (c.input, x), y, view, kernels, threads, apart)
}

/// A matrix product as the kernels see it; `None` where its layout has no kernel.
pub(super) fn gemm(
    plan: &Plan,
    g: &pilotlight_plan::Gemm,
    kernels: &Kernels,
    threads: usize,
    apart: bool,
) -> Result<Option<Product>, LoadError> {
    let (Some(x), Some(y)) = (Spatial::matrix(plan, g.input), Spatial::matrix(plan, g.output)) else {
        return Ok(None);
    };
    let window = Window { kernel: [1; 2], stride: [1; 2], dilation: [1; 2], pads: [0; 4] };
    let view = |id: TensorId| Spatial::matrix(plan, id);
    lower(plan, &g.linear, &window, 1, (g.input, x), y, view, kernels, threads, apart)
}

#[allow(
    clippy::too_many_arguments,
    reason = "one caller for each of the two operations; a struct would name them once more"
)]
fn lower(
    plan: &Plan,
    l: &Linear,
    window: &Window,
    groups: usize,
    (id, input): (TensorId, Spatial),
    output: Spatial,
    view: impl Fn(TensorId) -> Option<Spatial>,
    kernels: &Kernels,
    threads: usize,
    apart: bool,
) -> Result<Option<Product>, LoadError> {
    if input.strides.channel != 1 {
        return Ok(None);
    }
    let signed = plan.tensor(id).dtype == DType::I8;
    let flip = signed && kernels.unsigned_only;
    let shift = match (signed, flip) {
        (true, true) => 128,
        (true, false) => 0,
        (false, _) => kernels.unsigned_shift,
    };
    let inputs = l.group_inputs as usize;
    let taps = window.kernel[0] as usize * window.kernel[1] as usize;
    let channels = Channels { groups, inputs, outputs: l.outputs as usize / groups, k: taps * inputs };
    let choice = choose(window, &input, &output, inputs, l.input_zero, flip, apart, kernels);
    let packed = pack(plan, l, channels, &choice.runs, shift, kernels)?;
    let order = natural_order(&packed.blocks);
    let Some(epilogue) = Epilogue::new(plan, &l.epilogue, output, view, &order, false)? else {
        return Ok(None);
    };
    let split = choose_split(&choice, &packed, &output, threads, kernels);
    Ok(Some(Product { packed, epilogue, input, output, feed: choice.feed, split, signed }))
}

/// The cheapest way to feed the kernel.
#[allow(clippy::too_many_arguments, reason = "all of them are figures of one operation")]
fn choose(
    window: &Window,
    input: &Spatial,
    output: &Spatial,
    inputs: usize,
    zero: i32,
    flip: bool,
    apart: bool,
    kernels: &Kernels,
) -> Choice {
    let padded = window.pads != [0; 4];
    // The weights have no readable bytes behind their end.
    let direct = !padded && !flip && apart && input.place.memory != Bases::WEIGHTS;
    let mut choices = Vec::new();
    if direct {
        choices.push(feed_directly(window, input, output, inputs, kernels));
    }
    if !direct || window.stride != [1, 1] {
        let strided = window.stride != [1, 1];
        for whole in [true, false] {
            if whole || strided {
                choices.push(feed_planes(window, input, output, inputs, zero, flip, apart, whole, kernels));
            }
        }
    }
    // Steps of the kernel, and the bytes that are copied first at 32 a step.
    let cost = |c: &Choice| {
        let granule = kernels.run_units * 4;
        let k: usize = c.runs.iter().map(|r| r.bytes().next_multiple_of(granule)).sum();
        let copied = match &c.feed {
            Feed::Direct { .. } => 0,
            Feed::Planes(p) => {
                (output.height + p.reach)
                    * p.width
                    * p.pixel
                    * p.phases.len()
                    * if p.whole { window.stride[0] as usize } else { 1 }
                    / 32
            }
        };
        let panels = 1 + output.channels / 16;
        c.rows * k * panels / granule / 4 + copied
    };
    let best = (0..choices.len()).min_by_key(|&i| cost(&choices[i])).unwrap_or(0);
    choices.swap_remove(best)
}

/// Rows that the kernel computes for one image: whole tiles of 16 where it has tiles.
fn kernel_rows(kernels: &Kernels, flat: bool, width: usize, output: &Spatial) -> usize {
    let tile = if kernels.flat { 16 } else { 1 };
    if flat {
        ((output.height - 1) * width + output.width).next_multiple_of(tile)
    } else {
        output.height * output.width.next_multiple_of(tile)
    }
}

fn feed_directly(w: &Window, input: &Spatial, output: &Spatial, inputs: usize, kernels: &Kernels) -> Choice {
    let [sy, sx] = w.stride.map(|s| s as usize);
    let (y_stride, x_stride) = (input.strides.y * sy, input.strides.x * sx);
    let flat = y_stride == output.width * x_stride;
    let runs = runs(w, inputs, kernels, input.strides.x, |ky, kx| {
        ky * w.dilation[0] as usize * input.strides.y + kx * w.dilation[1] as usize * input.strides.x
    });
    Choice {
        rows: kernel_rows(kernels, flat, output.width, output),
        feed: Feed::Direct { y_stride, x_stride },
        runs,
    }
}

/// Bytes of planes that one thread fills at a time: what stays in the second-level cache beside the weights.
const PLANE_BYTES: usize = 256 << 10;

#[allow(clippy::too_many_arguments, reason = "all of them are figures of one operation")]
fn feed_planes(
    w: &Window,
    input: &Spatial,
    output: &Spatial,
    inputs: usize,
    zero: i32,
    flip: bool,
    apart: bool,
    whole: bool,
    kernels: &Kernels,
) -> Choice {
    let [sy, sx] = w.stride.map(|s| s as usize);
    let [dy, dx] = w.dilation.map(|d| d as usize);
    let [kh, kw] = w.kernel.map(|k| k as usize);
    let contiguous = apart && input.strides.x <= input.channels.next_multiple_of(16);
    let pixel = if contiguous { input.strides.x } else { input.channels.next_multiple_of(4) };
    let (py, px) = if whole { (1, 1) } else { (sy, sx) };
    let reach = [(kh - 1) * dy / py, (kw - 1) * dx / px];
    let width = if whole { (output.width - 1) * sx + reach[1] + 1 } else { output.width + reach[1] };
    let phase = |k: usize, d: usize, p: usize| k * d % p;
    let mut phases = Vec::new();
    for ky in 0..kh {
        for kx in 0..kw {
            let at = [phase(ky, dy, py), phase(kx, dx, px)];
            if !phases.contains(&at) {
                phases.push(at);
            }
        }
    }
    let per_row = if whole { sy } else { 1 };
    let bytes_of = |rows: usize| ((rows - 1) * per_row + reach[0] + 1) * width * pixel;
    let mut rows = output.height;
    while rows > 1 && bytes_of(rows) * phases.len() > PLANE_BYTES {
        rows = rows.div_ceil(2);
    }
    let bytes = bytes_of(rows);
    let runs = runs(w, inputs, kernels, pixel, |ky, kx| {
        let at = [phase(ky, dy, py), phase(kx, dx, px)];
        let plane = phases.iter().position(|p| *p == at).unwrap_or(0);
        plane * bytes + ((ky * dy / py) * width + kx * dx / px) * pixel
    });
    let step = if whole { [width * sy * pixel, sx * pixel] } else { [width * pixel, pixel] };
    let flat = step[0] == width * step[1];
    let flip = if flip { 0x80 } else { 0 };
    let planes = Planes {
        rows,
        width,
        pixel,
        bytes,
        phases,
        reach: reach[0],
        step,
        window: *w,
        whole,
        zero: zero as u8 ^ flip,
        flip,
        contiguous,
    };
    Choice { rows: kernel_rows(kernels, flat, width, output), feed: Feed::Planes(planes), runs }
}

/// The runs of a kernel whose taps lie at `offset(ky, kx)`: one for each tap, or taps of a row joined where they are
/// neighbours and that costs fewer steps.
fn runs(
    w: &Window,
    inputs: usize,
    kernels: &Kernels,
    pixel: usize,
    offset: impl Fn(usize, usize) -> usize,
) -> Vec<RunPieces> {
    let [kh, kw] = w.kernel.map(|k| k as usize);
    let granule = kernels.run_units * 4;
    let joined = ((kw - 1) * pixel + inputs).next_multiple_of(granule);
    let join = joined <= kw * inputs.next_multiple_of(granule);
    let mut list: Vec<RunPieces> = Vec::new();
    for ky in 0..kh {
        for kx in 0..kw {
            let at = offset(ky, kx);
            let k = (ky * kw + kx) * inputs;
            match list.last_mut() {
                Some(run) if join && kx > 0 && at == run.offset + kx * pixel => {
                    run.pieces.push(Piece { at: kx * pixel, k, len: inputs });
                }
                _ => list.push(RunPieces { offset: at, pieces: vec![Piece { at: 0, k, len: inputs }] }),
            }
        }
    }
    list
}

/// Rows are divided where that leaves no thread with much more than its share, else blocks of output channels.
fn choose_split(c: &Choice, packed: &Packed, output: &Spatial, threads: usize, kernels: &Kernels) -> Split {
    let tile = if kernels.flat { 16 } else { 1 };
    let all: usize = packed.blocks.iter().map(|b| b.panels).sum();
    let rows = match &c.feed {
        Feed::Direct { .. } if output.height == 1 => output.width.div_ceil(threads),
        _ => output.height.div_ceil(threads) * (c.rows / output.height).max(1),
    };
    let by_rows = rows.next_multiple_of(tile) * all;
    let widest = (0..threads)
        .map(|t| {
            packed.blocks[share(packed.blocks.len(), t, threads)].iter().map(|b| b.panels).sum::<usize>()
        })
        .max();
    let by_blocks = c.rows.next_multiple_of(tile) * widest.unwrap_or(all);
    // Every thread copies the planes when blocks are divided.
    if by_blocks + by_blocks / 8 < by_rows { Split::Blocks } else { Split::Rows }
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
                        self.copy(p, job.context, image, y, count, planes);
                        let planes = planes.cast_const();
                        if job.context.kernels.flat && p.step[0] == p.width * p.step[1] {
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

    /// Copies what `count` output rows from `y` on need into planes.
    ///
    /// # Safety
    /// `planes` has room for [`Product::plane_bytes`]; the input is not written meanwhile.
    unsafe fn copy(
        &self,
        p: &Planes,
        context: &Context,
        image: usize,
        y: usize,
        count: usize,
        planes: *mut u8,
    ) {
        let [top, left, ..] = p.window.pads.map(|v| v as usize);
        let [sy, sx] = p.window.stride.map(|s| s as usize);
        let (step_y, step_x, per_row) = if p.whole { (1, 1, sy) } else { (sy, sx, 1) };
        let input = &self.input;
        let base = context.bases.at(input.place).wrapping_add(image * input.strides.image);
        for (i, phase) in p.phases.iter().enumerate() {
            for r in 0..(count - 1) * per_row + p.reach + 1 {
                let row = planes.wrapping_add(i * p.bytes + r * p.width * p.pixel);
                // SAFETY: the row is inside the plane, and so are the columns below.
                let fill = |from: usize, to: usize| unsafe {
                    std::ptr::write_bytes(row.add(from * p.pixel), p.zero, (to - from) * p.pixel);
                };
                let source = (y * sy + r * step_y + phase[0]).checked_sub(top).filter(|&v| v < input.height);
                let Some(source) = source else {
                    fill(0, p.width);
                    continue;
                };
                // Columns `from..to` of the plane's row are input columns `q * step_x + phase - left`.
                let from = left.saturating_sub(phase[1]).div_ceil(step_x).min(p.width);
                let to = (input.width + left).saturating_sub(phase[1]).div_ceil(step_x).clamp(from, p.width);
                fill(0, from);
                fill(to, p.width);
                let first = source * input.strides.y
                    + (from * step_x + phase[1]).saturating_sub(left) * input.strides.x;
                let from_bytes = base.wrapping_add(first).cast_const();
                // SAFETY: the source pixels are inside the input.
                unsafe {
                    copy_pixels(
                        p,
                        input,
                        from_bytes,
                        step_x * input.strides.x,
                        row.add(from * p.pixel),
                        to - from,
                    );
                }
            }
        }
    }
}

/// Copies `count` pixels `stride` apart to neighbouring places.
///
/// # Safety
/// All of them are readable, and writable at the target.
unsafe fn copy_pixels(p: &Planes, x: &Spatial, from: *const u8, stride: usize, to: *mut u8, count: usize) {
    if count == 0 {
        return;
    }
    // SAFETY: the caller's promise. The last pixel's unused lanes may lie outside the input: they are left out.
    unsafe {
        if p.contiguous && stride == p.pixel {
            let bytes = (count - 1) * p.pixel + x.channels;
            copy_bytes(from, to, bytes, p.flip);
        } else {
            for i in 0..count {
                copy_bytes(from.add(i * stride), to.add(i * p.pixel), x.channels, p.flip);
            }
        }
    }
}

/// # Safety
/// `bytes` bytes are readable at `from` and writable at `to`, which do not overlap.
#[inline]
unsafe fn copy_bytes(from: *const u8, to: *mut u8, bytes: usize, flip: u8) {
    // SAFETY: the caller's promise.
    unsafe {
        if flip == 0 {
            std::ptr::copy_nonoverlapping(from, to, bytes);
        } else {
            for i in 0..bytes {
                *to.add(i) = *from.add(i) ^ flip;
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
            // A last run may reach up to 63 bytes past the last pixel.
            Feed::Planes(p) => p.bytes * p.phases.len() + 64,
        }
    }
}
