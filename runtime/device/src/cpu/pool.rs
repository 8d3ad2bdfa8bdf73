//! Maximum over windows and mean over images, channels last.

use super::kernels::{BLOCK, Grid, Source, Target};
use super::place::{Spatial, strides};
use super::step::{Call, Context, Scratch, share};
use pilotlight_plan::{DType, Mean, MeanRule, Plan, Pool, PoolRule, Window, math};

/// A lowered maximum pool of bytes: first down the rows of the window, then along them.
pub(super) struct MaxPool {
    input: Spatial,
    output: Spatial,
    window: Window,
    /// What turns bytes into u8 of the same order; it is also the smallest value.
    flip: u8,
}

/// A maximum pool whose channels are neighbours.
pub(super) fn max_pool(plan: &Plan, p: &Pool) -> Option<MaxPool> {
    let (input, output) = (Spatial::new(plan, p.input)?, Spatial::new(plan, p.output)?);
    let dtype = plan.tensor(p.input).dtype;
    let fits = p.rule == PoolRule::Max
        && dtype.is_int8()
        && input.strides.channel == 1
        && output.strides.channel == 1;
    let flip = if dtype == DType::I8 { 0x80 } else { 0 };
    fits.then_some(MaxPool { input, output, window: p.window, flip })
}

impl MaxPool {
    /// # Safety
    /// As [`Call::run`]; the output row is this thread's alone.
    unsafe fn row(&self, context: &Context, image: usize, y: usize, down: *mut u8) {
        let (x, out, w) = (&self.input, &self.output, &self.window);
        let channels = x.channels;
        let max = context.kernels.max;
        let [top, left, ..] = w.pads.map(|v| v as usize);
        let base = context.bases.at(x.place).wrapping_add(image * x.strides.image);
        // SAFETY: `down` holds a row of the input without gaps; rows and columns below are inside the tensors.
        unsafe {
            std::ptr::write_bytes(down, self.flip, x.width * channels);
            for ky in 0..w.kernel[0] as usize {
                let at = y * w.stride[0] as usize + ky * w.dilation[0] as usize;
                let Some(row) = at.checked_sub(top).filter(|&r| r < x.height) else { continue };
                let from = Source { at: base.add(row * x.strides.y), stride: x.strides.x };
                max(
                    self.flip,
                    Grid { rows: x.width, cols: channels },
                    from,
                    Target { at: down, stride: channels },
                );
            }
            let to = context.bases.at(out.place).add(out.at(image, 0, y, 0));
            for column in 0..out.width {
                std::ptr::write_bytes(to.add(column * out.strides.x), self.flip, channels);
            }
            let step = w.stride[1] as usize;
            for kx in 0..w.kernel[1] as usize {
                // Output columns `first..end` read inside the input.
                let shift = kx * w.dilation[1] as usize;
                let first = left.saturating_sub(shift).div_ceil(step);
                let end = (x.width + left).saturating_sub(shift).div_ceil(step).min(out.width);
                if first >= end {
                    continue;
                }
                let from = Source {
                    at: down.add((first * step + shift - left) * channels),
                    stride: step * channels,
                };
                let target = Target { at: to.add(first * out.strides.x), stride: out.strides.x };
                max(self.flip, Grid { rows: end - first, cols: channels }, from, target);
            }
        }
    }
}

impl Call for MaxPool {
    unsafe fn run(&self, context: &Context, thread: usize, scratch: &mut Scratch) {
        let rows = self.output.height;
        for job in share(self.output.images * rows, thread, context.threads) {
            let down = scratch.planes.as_bytes_mut().as_mut_ptr();
            // SAFETY: each job is one thread's; the scratch has `plane_bytes`.
            unsafe { self.row(context, job / rows, job % rows, down) };
        }
    }

    fn plane_bytes(&self) -> usize {
        self.input.width * self.input.channels
    }
}

/// A lowered mean over height and width by the integer rule.
pub(super) struct ImageMean {
    input: Spatial,
    output: super::place::Place,
    /// Bytes between images and channels of the output.
    steps: [usize; 2],
    signed: bool,
    scale: f32,
    input_zero: i32,
    zero: i32,
    range: (i32, i32),
}

/// A mean over all of height and width whose channels are neighbours.
pub(super) fn image_mean(plan: &Plan, m: &Mean) -> Option<ImageMean> {
    let input = Spatial::new(plan, m.input)?;
    let (x, y) = (plan.tensor(m.input), plan.tensor(m.output));
    let MeanRule::Integer { scale, input_zero, zero } = m.rule else { return None };
    let all: Vec<u32> = (2..x.shape.len() as u32).collect();
    let range = y.dtype.int8_range()?;
    if m.axes != all || !x.dtype.is_int8() || input.strides.channel != 1 {
        return None;
    }
    let s = strides(y);
    let output = super::place::place(plan, y);
    let signed = x.dtype == DType::I8;
    Some(ImageMean { input, output, steps: [s[0], s[1]], signed, scale, input_zero, zero, range })
}

impl Call for ImageMean {
    unsafe fn run(&self, context: &Context, thread: usize, _: &mut Scratch) {
        let x = &self.input;
        let blocks = x.channels.div_ceil(BLOCK);
        let ones = [1_i16; BLOCK];
        for job in share(x.images * blocks, thread, context.threads) {
            let (image, first) = (job / blocks, job % blocks * BLOCK);
            let count = (x.channels - first).min(BLOCK);
            let mut sums = [0_i32; BLOCK];
            for y in 0..x.height {
                for column in 0..x.width {
                    // SAFETY: the pixel is inside the input.
                    unsafe {
                        let pixel = context.bases.at(x.place).add(x.at(image, first, y, column));
                        (context.kernels.accumulate)(
                            pixel,
                            self.signed,
                            self.input_zero,
                            &ones[..count],
                            &mut sums,
                        );
                    }
                }
            }
            for (i, &sum) in sums[..count].iter().enumerate() {
                let value = math::round_to(sum as f32 * self.scale, self.zero, self.range.0, self.range.1);
                let at = image * self.steps[0] + (first + i) * self.steps[1];
                // SAFETY: the element is inside the output and this job's alone.
                unsafe { *context.bases.at(self.output).add(at) = value as u8 };
            }
        }
    }
}
