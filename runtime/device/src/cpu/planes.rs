//! Copies of input rows, padded and cut into planes, so that every output pixel is one pixel further in each.

use super::conv::{Shape, runs};
use super::linear::RunPieces;
use super::place::{Bases, Spatial};
use pilotlight_plan::Window;

/// Copies of the input rows that some output rows need.
pub(super) struct Planes {
    /// Output rows that one copy serves.
    pub rows: usize,
    /// Pixels of a plane's row.
    pub width: usize,
    /// Bytes between kernel rows of neighbouring output rows and columns.
    pub step: [usize; 2],
    /// How many plane rows a kernel reaches below its first.
    reach: usize,
    /// Bytes between pixels.
    pixel: usize,
    /// Bytes of a plane.
    bytes: usize,
    /// The phase (row, column) of each plane.
    phases: Vec<[usize; 2]>,
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

/// Bytes of planes that one thread fills at a time: what stays in the second-level cache beside the weights.
const GOOD_BYTES: usize = 256 << 10;
/// Bytes of planes that are too many even for one output row: only absurd dilations and pads need them.
const MAX_BYTES: usize = 64 << 20;

impl Planes {
    /// Planes for a convolution and the runs in them; `None` where they would be larger than any network needs.
    pub(super) fn new(s: &Shape<'_>, whole: bool) -> Option<(Self, Vec<RunPieces>)> {
        let (w, input, output) = (s.window, s.input, s.output);
        let [sy, sx] = w.stride.map(|s| s as usize);
        let [dy, dx] = w.dilation.map(|d| d as usize);
        let [kh, kw] = w.kernel.map(|k| k as usize);
        let contiguous = s.apart && input.strides.x <= input.channels.next_multiple_of(16);
        let pixel = if contiguous { input.strides.x } else { input.channels.next_multiple_of(4) };
        let (py, px) = if whole { (1, 1) } else { (sy, sx) };
        let reach = [(kh - 1) * dy / py, (kw - 1) * dx / px];
        let width = if whole { (output.width - 1) * sx + reach[1] + 1 } else { output.width + reach[1] };
        let phase = |ky: usize, kx: usize| [ky * dy % py, kx * dx % px];
        let mut phases = Vec::new();
        for ky in 0..kh {
            for kx in 0..kw {
                if !phases.contains(&phase(ky, kx)) {
                    phases.push(phase(ky, kx));
                }
            }
        }
        let per_row = if whole { sy } else { 1 };
        let bytes_of =
            |rows: usize| ((rows - 1) * per_row + reach[0] + 1).checked_mul(width)?.checked_mul(pixel);
        let all = |rows: usize| bytes_of(rows)?.checked_mul(phases.len());
        let mut rows = output.height;
        while rows > 1 && all(rows).is_none_or(|b| b > GOOD_BYTES) {
            rows = rows.div_ceil(2);
        }
        all(rows).filter(|&b| b <= MAX_BYTES)?;
        let bytes = bytes_of(rows)?;
        let runs = runs(w, s.inputs, s.kernels, pixel, |ky, kx| {
            let plane = phases.iter().position(|p| *p == phase(ky, kx)).unwrap_or(0);
            plane * bytes + ((ky * dy / py) * width + kx * dx / px) * pixel
        });
        let flip = if s.flip { 0x80 } else { 0 };
        let planes = Self {
            rows,
            width,
            step: if whole { [width * sy * pixel, sx * pixel] } else { [width * pixel, pixel] },
            reach: reach[0],
            pixel,
            bytes,
            phases,
            window: *w,
            whole,
            zero: s.zero as u8 ^ flip,
            flip,
            contiguous,
        };
        Some((planes, runs))
    }

    /// Bytes that one thread needs.
    pub(super) fn total_bytes(&self) -> usize {
        // A last run may reach up to 63 bytes past the last pixel.
        self.bytes * self.phases.len() + 64
    }

    /// Bytes that are copied for one image.
    pub(super) fn copied_bytes(&self, output: &Spatial) -> usize {
        let per_row = if self.whole { self.window.stride[0] as usize } else { 1 };
        (output.height * per_row + self.reach) * self.width * self.pixel * self.phases.len()
    }

    /// Whether the positions of all rows are one distance apart.
    pub(super) fn is_flat(&self) -> bool {
        self.step[0] == self.width * self.step[1]
    }

    /// Copies what `count` output rows from `y` on need.
    ///
    /// # Safety
    /// 1. `out` has room for [`Planes::total_bytes`]; `count` is at most `rows`.
    /// 2. The bases are bound, and the input is not written meanwhile.
    pub(super) unsafe fn copy(
        &self,
        input: &Spatial,
        bases: &Bases,
        image: usize,
        y: usize,
        count: usize,
        out: *mut u8,
    ) {
        let [top, left, ..] = self.window.pads.map(|v| v as usize);
        let [sy, sx] = self.window.stride.map(|s| s as usize);
        let (step_y, step_x, per_row) = if self.whole { (1, 1, sy) } else { (sy, sx, 1) };
        let base = bases.at(input.place).wrapping_add(image * input.strides.image);
        let (width, pixel) = (self.width, self.pixel);
        for (i, phase) in self.phases.iter().enumerate() {
            for r in 0..(count - 1) * per_row + self.reach + 1 {
                let row = out.wrapping_add(i * self.bytes + r * width * pixel);
                // SAFETY: the row is inside the plane, and so are the columns below.
                let fill = |from: usize, to: usize| unsafe {
                    std::ptr::write_bytes(row.add(from * pixel), self.zero, (to - from) * pixel);
                };
                let source = (y * sy + r * step_y + phase[0]).checked_sub(top).filter(|&v| v < input.height);
                let Some(source) = source else {
                    fill(0, width);
                    continue;
                };
                // Columns `from..to` of the plane's row are input columns `q * step_x + phase - left`.
                let from = left.saturating_sub(phase[1]).div_ceil(step_x).min(width);
                let to = (input.width + left).saturating_sub(phase[1]).div_ceil(step_x).clamp(from, width);
                fill(0, from);
                fill(to, width);
                let first = (from * step_x + phase[1]).saturating_sub(left);
                let pixels = base.wrapping_add(source * input.strides.y + first * input.strides.x);
                // SAFETY: the source pixels are inside the input, the targets inside the row.
                unsafe {
                    let to_pixels = row.add(from * pixel);
                    self.copy_pixels(
                        input,
                        pixels.cast_const(),
                        step_x * input.strides.x,
                        to_pixels,
                        to - from,
                    );
                }
            }
        }
    }

    /// Copies `count` pixels `stride` apart to neighbouring places.
    ///
    /// # Safety
    /// All of them are readable, and writable at the target.
    unsafe fn copy_pixels(&self, x: &Spatial, from: *const u8, stride: usize, to: *mut u8, count: usize) {
        if count == 0 {
            return;
        }
        // SAFETY: the caller's promise. The last pixel's unused lanes may lie outside the input: they are left out.
        unsafe {
            if self.contiguous && stride == self.pixel {
                copy_bytes(from, to, (count - 1) * self.pixel + x.channels, self.flip);
            } else {
                for i in 0..count {
                    copy_bytes(from.add(i * stride), to.add(i * self.pixel), x.channels, self.flip);
                }
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
