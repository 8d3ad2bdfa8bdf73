//! Convolution and matrix product: how inputs reach the dot-product kernel, and how the work is cut up.
//!
//! The kernel wants rows a fixed distance apart whose sums read the same runs of bytes behind each row's base. A
//! plain 1x1 convolution or a matrix product has that in place. Others copy the input rows that they need into
//! [`Planes`]: padded with the zero point, split by stride into one plane for each phase, so that every output pixel
//! is one pixel further in every plane.

use super::epilogue::{Epilogue, natural_order};
use super::kernels::Kernels;
use super::linear::{Channels, Packed, Piece, RunPieces, pack};
use super::place::{Bases, Spatial};
use super::planes::Planes;
use super::product::Product;
use super::step::share;
use crate::LoadError;
use pilotlight_plan::{Conv, DType, Gemm, Linear, Plan, TensorId, Window};

/// How the rows of the kernel lie.
pub(super) enum Feed {
    /// In the input itself: output column `x` of row `y` begins at `y * y_stride + x * x_stride`.
    Direct { y_stride: usize, x_stride: usize },
    /// In copied planes.
    Planes(Planes),
}

/// What is divided among threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    Rows,
    Blocks,
}

/// What the choice of a feed depends on.
pub(super) struct Shape<'a> {
    pub window: &'a Window,
    pub input: &'a Spatial,
    pub output: &'a Spatial,
    /// Input channels of a group.
    pub inputs: usize,
    /// Zero point of the input.
    pub zero: i32,
    /// Whether inputs change from i8 to u8 on the way.
    pub flip: bool,
    /// Whether input and output lie in different buffers.
    pub apart: bool,
    pub kernels: &'a Kernels,
}

/// One way to feed the kernel, and what it costs.
struct Choice {
    feed: Feed,
    runs: Vec<RunPieces>,
    /// Rows that the kernel computes for one image.
    rows: usize,
}

/// What all products of a plan share.
pub(super) struct Lowering<'a> {
    pub plan: &'a Plan,
    pub kernels: &'a Kernels,
    pub threads: usize,
}

impl Lowering<'_> {
    /// A convolution as the kernels see it; `None` where its layout has no kernel.
    pub(super) fn conv(&self, c: &Conv) -> Result<Option<Product>, LoadError> {
        let view = |id: TensorId| Spatial::new(self.plan, id);
        self.product(&c.linear, &c.window, c.groups as usize, [c.input, c.output], view)
    }

    /// A matrix product as the kernels see it; `None` where its layout has no kernel.
    pub(super) fn gemm(&self, g: &Gemm) -> Result<Option<Product>, LoadError> {
        let window = Window { kernel: [1; 2], stride: [1; 2], dilation: [1; 2], pads: [0; 4] };
        let view = |id: TensorId| Spatial::matrix(self.plan, id);
        self.product(&g.linear, &window, 1, [g.input, g.output], view)
    }

    fn product(
        &self,
        l: &Linear,
        window: &Window,
        groups: usize,
        [x, y]: [TensorId; 2],
        view: impl Fn(TensorId) -> Option<Spatial>,
    ) -> Result<Option<Product>, LoadError> {
        let Self { plan, kernels, threads } = *self;
        let (Some(input), Some(output)) = (view(x), view(y)) else { return Ok(None) };
        if input.strides.channel != 1 {
            return Ok(None);
        }
        let signed = plan.tensor(x).dtype == DType::I8;
        let flip = signed && kernels.unsigned_only;
        let shift = match (signed, flip) {
            (true, true) => 128,
            (true, false) => 0,
            (false, _) => kernels.unsigned_shift,
        };
        let inputs = l.group_inputs as usize;
        let apart = plan.tensor(x).buffer != plan.tensor(y).buffer;
        let shape = Shape {
            window,
            input: &input,
            output: &output,
            inputs,
            zero: l.input_zero,
            flip,
            apart,
            kernels,
        };
        let Some(choice) = choose(&shape) else { return Ok(None) };
        let k = window.kernel[0] as usize * window.kernel[1] as usize * inputs;
        let channels = Channels { groups, inputs, outputs: l.outputs as usize / groups, k };
        let Some(packed) = pack(plan, l, channels, &choice.runs, shift, kernels)? else { return Ok(None) };
        let order = natural_order(&packed.blocks);
        let Some(epilogue) = Epilogue::new(plan, &l.epilogue, output, view, &order, false)? else {
            return Ok(None);
        };
        let split = choose_split(&choice, &packed, &output, threads, kernels);
        Ok(Some(Product { packed, epilogue, input, output, feed: choice.feed, split, signed }))
    }
}

/// The cheapest way to feed the kernel; `None` where every way needs too much memory.
fn choose(s: &Shape<'_>) -> Option<Choice> {
    // The weights have no readable bytes behind their end.
    let direct = s.window.pads == [0; 4] && !s.flip && s.apart && s.input.place.memory != Bases::WEIGHTS;
    let strided = s.window.stride != [1, 1];
    let mut choices = Vec::new();
    if direct {
        choices.push(feed_directly(s));
    }
    if !direct || strided {
        choices.extend(feed_planes(s, true));
        if strided {
            choices.extend(feed_planes(s, false));
        }
    }
    // Steps of the kernel, and the bytes that are copied first at 32 a step.
    let cost = |c: &Choice| {
        let granule = s.kernels.run_units * 4;
        let k: usize = c.runs.iter().map(|r| r.bytes().next_multiple_of(granule)).sum();
        let copied = match &c.feed {
            Feed::Direct { .. } => 0,
            Feed::Planes(p) => p.copied_bytes(s.output) / 32,
        };
        let panels = 1 + s.output.channels / 16;
        c.rows * k * panels / granule / 4 + copied
    };
    choices.into_iter().min_by_key(cost)
}

/// Rows that the kernel computes for one image: whole tiles of 16 where it has tiles.
fn kernel_rows(kernels: &Kernels, flat: bool, width: usize, output: &Spatial) -> usize {
    let tile = if kernels.flat { 16 } else { 1 };
    if flat && kernels.flat {
        ((output.height - 1) * width + output.width).next_multiple_of(tile)
    } else {
        output.height * output.width.next_multiple_of(tile)
    }
}

fn feed_directly(s: &Shape<'_>) -> Choice {
    let (w, strides) = (s.window, &s.input.strides);
    let [sy, sx] = w.stride.map(|s| s as usize);
    let (y_stride, x_stride) = (strides.y * sy, strides.x * sx);
    let flat = y_stride == s.output.width * x_stride;
    let runs = runs(w, s.inputs, s.kernels, strides.x, |ky, kx| {
        ky * w.dilation[0] as usize * strides.y + kx * w.dilation[1] as usize * strides.x
    });
    let rows = kernel_rows(s.kernels, flat, s.output.width, s.output);
    Choice { rows, feed: Feed::Direct { y_stride, x_stride }, runs }
}

fn feed_planes(s: &Shape<'_>, whole: bool) -> Option<Choice> {
    let (planes, runs) = Planes::new(s, whole)?;
    let rows = kernel_rows(s.kernels, planes.is_flat(), planes.width, s.output);
    Some(Choice { rows, feed: Feed::Planes(planes), runs })
}

/// The runs of a kernel whose taps lie at `offset(ky, kx)`: one for each tap, or taps of a row joined where they are
/// neighbours and that costs fewer steps.
pub(super) fn runs(
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
