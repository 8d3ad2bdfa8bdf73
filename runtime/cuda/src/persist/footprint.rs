//! Which bytes some blocks of a launch read and write: the kernels' index arithmetic, from their own parameters.
//!
//! A footprint may be larger than the truth, never smaller: an order too many costs time, one too few is a race.
//! Constants are left out, as nothing writes them (the checker sees to that).
//!
//! Blocks of a launch are counted along y, then x, then z: blocks that share output pixels are neighbours.

use crate::lower::Launch;
use pilotlight_kernels::abi;
use std::ops::Range;
use zerocopy::{FromBytes, IntoBytes};

/// Bytes that are touched, as places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Touch {
    pub(crate) bytes: Range<u64>,
    pub(crate) writes: bool,
}

impl Touch {
    /// Whether the order of the two accesses matters.
    pub(crate) fn conflicts(&self, other: &Touch) -> bool {
        (self.writes || other.writes)
            && self.bytes.start < other.bytes.end
            && other.bytes.start < self.bytes.end
    }
}

/// Smallest and largest value of sums of index times stride.
type Span = (i64, i64);

/// The span over the row-major indices `first..=last` of a shape.
fn span<const N: usize>(first: u64, last: u64, shape: [u32; N], strides: [u32; N]) -> Span {
    let digits = |mut at: u64| {
        let mut out = [0i64; N];
        for d in (0..N).rev() {
            let extent = u64::from(shape[d].max(1));
            out[d] = (at % extent) as i64;
            at /= extent;
        }
        out
    };
    let (low, high) = (digits(first), digits(last));
    let dot = |index: [i64; N]| index.iter().zip(strides).map(|(&i, s)| i * i64::from(s)).sum::<i64>();
    // Where every stride steps over all that is inside, values only grow along the indices.
    let mut inside = 0;
    let mut grows = true;
    for d in (0..N).rev().filter(|&d| shape[d] > 1) {
        grows &= i64::from(strides[d]) >= inside;
        inside += i64::from(strides[d]) * (i64::from(shape[d]) - 1);
    }
    if grows {
        return (dot(low), dot(high));
    }
    let (mut from, mut to) = (low, high);
    if let Some(split) = (0..N).find(|&d| low[d] != high[d]) {
        for d in split + 1..N {
            (from[d], to[d]) = (0, i64::from(shape[d].max(1)) - 1);
        }
    }
    (dot(from), dot(to))
}

/// The span over all indices of a shape.
fn whole<const N: usize>(shape: [u32; N], strides: [u32; N]) -> Span {
    let last = shape.iter().zip(strides).map(|(&e, s)| (i64::from(e) - 1).max(0) * i64::from(s)).sum();
    (0, last)
}

fn plus(a: Span, b: Span) -> Span {
    (a.0 + b.0, a.1 + b.1)
}

/// Bytes of an element by its kind.
fn size(kind: u32) -> i64 {
    match kind {
        3 => 8,
        2 | 4 => 4,
        _ => 1,
    }
}

struct Touches<'a> {
    found: Vec<Touch>,
    constants: &'a [u8],
}

impl Touches<'_> {
    fn add(&mut self, base: u64, elements: Span, size: i64, writes: bool) {
        let start = base.saturating_add_signed(elements.0 * size);
        let end = base.saturating_add_signed((elements.1 + 1) * size);
        self.found.push(Touch { bytes: start..end, writes });
    }

    fn reads(&mut self, base: u64, elements: Span, size: i64) {
        self.add(base, elements, size, false);
    }

    fn writes(&mut self, base: u64, elements: Span, size: i64) {
        self.add(base, elements, size, true);
    }

    /// Reads that the kernel keeps inside a tensor of these elements: none, where a window is all padding.
    fn reads_inside(&mut self, base: u64, elements: Span, tensor: Span, size: i64) {
        let (low, high) = (elements.0.max(tensor.0), elements.1.min(tensor.1));
        if low <= high {
            self.reads(base, (low, high), size);
        }
    }

    /// Words of a constant list.
    fn list(&self, place: u64, words: Range<usize>) -> Option<impl Iterator<Item = i32>> {
        let at = crate::lower::offset(place) + words.start * 4;
        let bytes = self.constants.get(at..at + words.len() * 4)?;
        Some(bytes.chunks_exact(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]])))
    }

    /// What an epilogue does for the output pixels `first..=last`, all channels.
    fn epilogue(
        &mut self,
        e: &abi::Epilogue,
        first: u64,
        last: u64,
        shape: [u32; 3],
        channels: u32,
    ) -> Option<()> {
        let over = |[n, c, y, x]: [u32; 4]| plus(span(first, last, shape, [n, y, x]), whole([channels], [c]));
        self.writes(e.out, over(e.strides), if e.mode == 2 { 1 } else { 4 });
        for (n, &other) in e.other.iter().enumerate().take(e.posts as usize) {
            match self.post(e.post, n)? {
                post if post.kind == 2 => self.reads(other, over(post.strides), 1),
                _ => {}
            }
        }
        Some(())
    }

    /// A post of a constant list.
    fn post(&self, place: u64, n: usize) -> Option<abi::Post> {
        let at = crate::lower::offset(place) + n * size_of::<abi::Post>();
        abi::Post::read_from_prefix(self.constants.get(at..)?).ok().map(|(post, _)| post)
    }

    /// What the results of a convolution's output pixels `first..=last` take, all groups and channels.
    fn finished(&mut self, p: &abi::Conv, first: u64, last: u64) -> Option<()> {
        if p.w_zero != 0 {
            let own = whole([p.groups], [p.pixels]);
            self.reads(p.sums, plus(own, (first as i64, last as i64)), 4);
        }
        let output = [images(p.pixels, p.oh, p.ow), p.oh, p.ow];
        self.epilogue(&p.epilogue, first, last, output, p.channels * p.groups)
    }

    /// As [`Touches::taps`], of a list of gathered words.
    fn words(&self, place: u64, count: u32, row: u32, column: u32) -> Option<(Span, Span)> {
        let words: Vec<i32> = self.list(place, 0..count as usize * 8)?.collect();
        spans(words.chunks_exact(8).flat_map(|w| [[w[0], w[1]], [w[2], w[3]]]), row, column)
    }

    /// Offsets and rows and columns of a tap list: spans of the offset, and of what is left of it without rows
    /// and columns. Taps outside every image are left out.
    fn taps(&self, place: u64, count: u32, row: u32, column: u32) -> Option<(Span, Span)> {
        let words: Vec<i32> = self.list(place, 0..count as usize * 2)?.collect();
        spans(words.chunks_exact(2).map(|t| [t[0], t[1]]), row, column)
    }
}

fn spans(taps: impl Iterator<Item = [i32; 2]>, row: u32, column: u32) -> Option<(Span, Span)> {
    let inside = taps.filter(|t| t[1] != 0x7FFF_7FFF).map(|t| {
        let (dy, dx) = (i64::from(t[1] >> 16), i64::from(t[1] & 0xFFFF));
        let at = i64::from(t[0]);
        (at, at - dy * i64::from(row) - dx * i64::from(column))
    });
    let both = |(a, b): (Span, Span), (at, rest): (i64, i64)| {
        ((a.0.min(at), a.1.max(at)), (b.0.min(rest), b.1.max(rest)))
    };
    inside.fold(None, |all, t| Some(both(all.unwrap_or(((t.0, t.0), (t.1, t.1))), t)))
}

/// A window over an image, as all window kernels walk it.
struct Window {
    /// Batch, row and column strides of the input.
    strides: [u32; 3],
    /// Batches, height, width of the input.
    input: [u32; 3],
    /// Batches, height, width of the output.
    output: [u32; 3],
    stride: [u32; 2],
    pad: [u32; 2],
}

impl Window {
    /// Where the windows of output pixels `first..=last` begin, before padding is cut off.
    fn origins(&self, first: u64, last: u64) -> Span {
        let [n, y, x] = self.strides;
        let back = i64::from(self.pad[0]) * i64::from(y) + i64::from(self.pad[1]) * i64::from(x);
        let steps = [n, self.stride[0].saturating_mul(y), self.stride[1].saturating_mul(x)];
        let (low, high) = span(first, last, self.output, steps);
        (low - back, high - back)
    }

    fn tensor(&self) -> Span {
        whole(self.input, self.strides)
    }
}

/// The launch's parameter block.
fn block<T: FromBytes>(launch: &Launch) -> Option<T> {
    T::read_from_prefix(launch.block.as_bytes()).ok().map(|(block, _)| block)
}

fn images(pixels: u32, oh: u32, ow: u32) -> u32 {
    pixels / oh.max(1).saturating_mul(ow.max(1)).max(1)
}

/// What the `blocks` of a launch touch; `None` for a kernel or block that is not known.
pub(crate) fn touches(launch: &Launch, blocks: Range<u32>, constants: &[u8]) -> Option<Vec<Touch>> {
    let mut t = Touches { found: Vec::with_capacity(4), constants };
    // Of kernels with one element a thread.
    let first = u64::from(blocks.start) * 256;
    let last = |total: u64| (u64::from(blocks.end) * 256).min(total).checked_sub(1);
    match launch.kernel.as_str() {
        name if name.starts_with("conv_") => {
            let [gx, gy, _] = launch.grid;
            let p: abi::Conv = block(launch)?;
            let columns = blocks.start / gy.max(1)..blocks.end.div_ceil(gy.max(1));
            // A range over several groups or splits starts anew at the first pixel.
            let (z_first, z_last) = (columns.start / gx, (columns.end - 1) / gx);
            let (from, to) =
                if z_first == z_last { (columns.start % gx, (columns.end - 1) % gx) } else { (0, gx - 1) };
            let first = u64::from(from) * u64::from(p.tile_pixels);
            let last = (u64::from(to + 1) * u64::from(p.tile_pixels)).min(p.pixels.into()).checked_sub(1)?;
            let [_, y, x] = p.x_strides;
            let output = [images(p.pixels, p.oh, p.ow), p.oh, p.ow];
            let window = Window {
                strides: p.x_strides,
                input: [output[0], p.h, p.width],
                output,
                stride: [p.stride_y, p.stride_x],
                pad: [p.pad_y, p.pad_x],
            };
            let (offsets, rest) = if name.ends_with("_gather") {
                t.words(p.taps, p.pieces * 4, y, x)?
            } else {
                t.taps(p.taps, p.pieces, y, x)?
            };
            let group = (0, i64::from(p.groups - 1) * i64::from(p.group_x) + 15);
            let read = plus(plus(window.origins(first, last), offsets), group);
            t.reads_inside(p.x, read, plus(plus(window.tensor(), rest), group), 1);
            if p.partial == 0 {
                t.finished(&p, first, last)?;
            } else {
                // One group, so z is the split.
                let image = i64::from(p.pixels) * i64::from(p.padded);
                let at = |z: u32, pixel: u64| i64::from(z) * image + pixel as i64 * i64::from(p.padded);
                t.writes(p.partial, (at(z_first, first), at(z_last, last + 1) - 1), 4);
            }
        }
        "finish" => {
            let p: abi::Conv = block(launch)?;
            let fours = u64::from(p.padded / 4).max(1);
            let last = last(u64::from(p.groups) * u64::from(p.pixels) * fours)?;
            let (first, last) = (first / fours, last / fours);
            let sums = plus(
                whole([p.splits], [p.groups * p.pixels * p.padded]),
                (first as i64 * i64::from(p.padded), (last as i64 + 1) * i64::from(p.padded) - 1),
            );
            t.reads(p.partial, sums, 4);
            t.finished(&p, first % u64::from(p.pixels.max(1)), last % u64::from(p.pixels.max(1)))?;
        }
        name @ ("depthwise" | "depthwise4") => {
            let p: abi::Depthwise = block(launch)?;
            let words = u64::from(p.padded / 4).max(1);
            let each = if name == "depthwise" { 1 } else { 4 };
            let last = last(u64::from(p.pixels).div_ceil(each) * words)?;
            let (first, last) =
                (first / words * each, (last / words * each + each).min(p.pixels.into()).checked_sub(1)?);
            let output = [images(p.pixels, p.oh, p.ow), p.oh, p.ow];
            let window = Window {
                strides: p.x_strides,
                input: [output[0], p.h, p.width],
                output,
                stride: [p.stride_y, p.stride_x],
                pad: [p.pad_y, p.pad_x],
            };
            let (offsets, rest) = t.taps(p.taps, p.quads * 4, p.x_strides[1], p.x_strides[2])?;
            let channels = (0, i64::from(p.padded) - 1);
            let read = plus(plus(window.origins(first, last), offsets), channels);
            t.reads_inside(p.x, read, plus(plus(window.tensor(), rest), channels), 1);
            t.epilogue(&p.epilogue, first, last, output, p.channels)?;
        }
        "direct" => {
            let p: abi::Direct = block(launch)?;
            let channels = u64::from(p.channels).max(1);
            let last = last(u64::from(p.pixels) * channels)?;
            let (first, last) = (first / channels, last / channels);
            let output = [images(p.pixels, p.oh, p.ow), p.oh, p.ow];
            let [n, c, y, x] = p.x_strides;
            let window = Window {
                strides: [n, y, x],
                input: [output[0], p.h, p.width],
                output,
                stride: [p.stride_y, p.stride_x],
                pad: [p.pad_y, p.pad_x],
            };
            let taps = whole([p.kh, p.kw], [p.dilation_y * y, p.dilation_x * x]);
            let groups = p.channels / p.group_channels.max(1);
            let inputs = whole([groups * p.group_inputs], [c]);
            let read = plus(plus(window.origins(first, last), taps), inputs);
            t.reads_inside(p.x, read, plus(window.tensor(), inputs), 1);
            t.epilogue(&p.epilogue, first, last, output, p.channels)?;
        }
        "window_sums" => {
            let p: abi::Sums = block(launch)?;
            let last = last(u64::from(p.pixels) * u64::from(p.groups))?;
            t.writes(p.out, (first as i64, last as i64), 4);
            let pixels = u64::from(p.pixels).max(1);
            let (from, to) = if first / pixels == last / pixels {
                (first % pixels, last % pixels)
            } else {
                (0, pixels - 1)
            };
            let output = [images(p.pixels, p.oh, p.ow), p.oh, p.ow];
            let [n, c, y, x] = p.x_strides;
            let window = Window {
                strides: [n, y, x],
                input: [output[0], p.h, p.width],
                output,
                stride: [p.stride_y, p.stride_x],
                pad: [p.pad_y, p.pad_x],
            };
            let taps = whole([p.kh, p.kw], [p.dilation_y * y, p.dilation_x * x]);
            let inputs = whole([p.groups * p.group_inputs], [c]);
            let read = plus(plus(window.origins(from, to), taps), inputs);
            t.reads_inside(p.x, read, plus(window.tensor(), inputs), 1);
        }
        "matmul" => {
            let p: abi::MatMul = block(launch)?;
            let over = |batch, [a, b]: [u32; 2], shape| plus(whole(p.batch, batch), whole(shape, [a, b]));
            t.reads(p.a, over(p.a_batch, p.a_strides, [p.rows, p.k]), 1);
            t.reads(p.b, over(p.b_batch, p.b_strides, [p.k, p.columns]), 1);
            let size = if p.epilogue.mode == 2 { 1 } else { 4 };
            t.writes(p.epilogue.out, over(p.y_batch, p.y_strides, [p.rows, p.columns]), size);
        }
        name @ ("table8" | "table_f32" | "unary" | "quantize" | "dequantize" | "cast") => {
            let p: abi::Map = block(launch)?;
            let run = if name == "quantize" { u64::from(abi::QUANTIZE_RUN) } else { 1 };
            let last = last(u64::from(p.total).div_ceil(run))?;
            let (first, last) = (first * run, (last * run + run).min(p.total.into()).checked_sub(1)?);
            let (from, to) = match name {
                "table8" => (1, 1),
                "table_f32" => (1, 4),
                "unary" => (4, 4),
                "quantize" => (4, 1),
                "dequantize" => (size(p.from), 4),
                _ => (size(p.from), size(p.to)),
            };
            t.reads(p.x, span(first, last, p.shape, p.x_strides), from);
            t.writes(p.y, span(first, last, p.shape, p.y_strides), to);
        }
        "zip" => {
            let p: abi::Zip = block(launch)?;
            let last = last(p.total.into())?;
            let size = if p.float_in != 0 { 4 } else { 1 };
            t.reads(p.a, span(first, last, p.shape, p.a_strides), size);
            t.reads(p.b, span(first, last, p.shape, p.b_strides), size);
            t.writes(p.y, span(first, last, p.shape, p.y_strides), size);
        }
        "remap" => {
            let p: abi::Remap = block(launch)?;
            let last = last(p.total.into())?;
            let mut read = (0, 0);
            for d in 0..abi::RANK {
                let extent = p.shape[d].max(1) as usize;
                let (low, high) = if p.lists[d] == 0 {
                    (0, extent as i64 - 1)
                } else {
                    let list: Vec<i32> = t.list(p.lists[d], 0..extent)?.map(|k| k.max(0)).collect();
                    (i64::from(*list.iter().min()?), i64::from(*list.iter().max()?))
                };
                let stride = i64::from(p.x_strides[d]);
                read = plus(read, (low * stride, high * stride));
            }
            // Without lists the elements keep their order.
            if p.lists == [0; abi::RANK] {
                read = span(first, last, p.shape, p.x_strides);
            }
            t.reads(p.x, read, p.size.into());
            t.writes(p.y, span(first, last, p.shape, p.y_strides), p.size.into());
        }
        "bilinear" => {
            let p: abi::Bilinear = block(launch)?;
            let last = last(p.total.into())?;
            let most = |place, count: u32| {
                let list: Vec<i32> = t.list(place, 0..count as usize * 4)?.collect();
                list.chunks_exact(4).map(|c| c[0].max(c[1])).max()
            };
            let (rows, columns) = (most(p.rows, p.shape[2])?, most(p.columns, p.shape[3])?);
            let input = [p.shape[0], p.shape[1], rows.max(0) as u32 + 1, columns.max(0) as u32 + 1];
            t.reads(p.x, whole(input, p.x_strides), size(p.kind));
            t.writes(p.y, span(first, last, p.shape, p.y_strides), size(p.kind));
        }
        "pool" => {
            let p: abi::Pool = block(launch)?;
            let each = if p.words != 0 { 4 } else { 1 };
            let last = last(p.total.into())? * each + each - 1;
            let first = first * each;
            let ([n, c, oh, ow], [xn, xc, xy, xx], [yn, yc, yy, yx]) = (p.shape, p.x_strides, p.y_strides);
            t.writes(p.y, span(first, last, [n, oh, ow, c], [yn, yy, yx, yc]), size(p.kind));
            let channels = u64::from(c).max(1);
            let window = Window {
                strides: [xn, xy, xx],
                input: [n, p.h, p.width],
                output: [n, oh, ow],
                stride: [p.stride_y, p.stride_x],
                pad: [p.pads[0], p.pads[1]],
            };
            let taps = whole([p.kh, p.kw], [p.dilation_y * xy, p.dilation_x * xx]);
            let inside = whole([c], [xc]);
            let read = plus(plus(window.origins(first / channels, last / channels), taps), inside);
            t.reads_inside(p.x, read, plus(window.tensor(), inside), size(p.kind));
        }
        name @ ("mean" | "softmax" | "softmax8" | "arg_max") => {
            let p: abi::Line = block(launch)?;
            let last = last(p.total.into())?;
            let lines = span(first, last, p.shape, p.x_strides);
            t.reads(p.x, plus(lines, whole(p.inner, p.inner_strides)), size(p.kind));
            let along = if name.starts_with("softmax") { whole([p.length], [p.y_inner]) } else { (0, 0) };
            let to = match name {
                "arg_max" => 8,
                "softmax" => 4,
                "mean" if p.rule == 2 => 4,
                _ => 1,
            };
            t.writes(p.y, plus(span(first, last, p.shape, p.y_strides), along), to);
        }
        _ => return None,
    }
    Some(t.found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_ordered_and_of_permuted_strides() {
        // Rows of 10, 12 apart: elements 5..=23 lie at 5..=27.
        assert_eq!(span(5, 23, [4, 10], [12, 1]), (5, 27));
        // Column-major: rows 0..=2 as a whole.
        assert_eq!(span(5, 23, [4, 10], [1, 4]), (0, 2 + 9 * 4));
        // Within one row.
        assert_eq!(span(11, 13, [4, 10], [1, 4]), (1 + 4, 1 + 12));
        // A repeated dimension.
        assert_eq!(span(0, 7, [2, 4], [0, 1]), (0, 3));
    }

    #[test]
    fn every_element_is_inside_its_span() {
        let mut state = 1u64;
        let mut next = |n: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32 % n
        };
        for _ in 0..2000 {
            let shape: [u32; 4] = std::array::from_fn(|_| 1 + next(4));
            let strides: [u32; 4] = std::array::from_fn(|_| next(20));
            let total = shape.iter().product::<u32>();
            let first = next(total);
            let last = first + next(total - first);
            let (low, high) = span(first.into(), last.into(), shape, strides);
            for i in first..=last {
                let (mut left, mut at) = (i, 0);
                for d in (0..4).rev() {
                    at += i64::from(left % shape[d]) * i64::from(strides[d]);
                    left /= shape[d];
                }
                assert!(
                    low <= at && at <= high,
                    "{i} of {shape:?} {strides:?}: {at} is outside {low}..={high}"
                );
            }
        }
    }
}
