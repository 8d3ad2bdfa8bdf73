//! Convolutions and matrix products.

use super::element::{four, image};
use super::pack::{Borders, Signed, borders};
use super::taps::tap_list;
use super::{Lowering, narrow};
use pilotlight_kernels::abi;
use pilotlight_plan::{BinaryRule, Conv, DType, Epilogue, Gemm, Linear, Post, Tensor, TensorId, Window};

/// A convolution, or a matrix product as one: rows are the pixels of an image.
pub(super) struct Shape {
    /// Batch, rows, columns of the input and of the output.
    pub(super) input: [u32; 3],
    pub(super) output: [u32; 3],
    /// Strides over batch, channel, row, column.
    pub(super) x_strides: [u32; 4],
    pub(super) y_strides: [u32; 4],
    pub(super) window: Window,
    pub(super) groups: u32,
}

impl Shape {
    pub(super) fn pixels(&self) -> u64 {
        self.output.iter().map(|&d| u64::from(d)).product()
    }

    /// One class for all outputs.
    fn no_borders(&self) -> (Borders, Borders) {
        let [_, oh, ow] = self.output;
        (Borders::none(&self.window, 0, oh), Borders::none(&self.window, 1, ow))
    }

    /// Whether the output's pixels lie one behind the other by these strides.
    fn is_flat(&self, strides: [u32; 4]) -> bool {
        let ([images, rows, columns], [n, _, y, x]) = (self.output, strides.map(u64::from));
        let row = u64::from(columns) * x;
        (rows == 1 || y == row) && (images == 1 || n == u64::from(rows) * row)
    }
}

const POINT: Window = Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: [0; 4] };

/// The three dimensions that a product's rows lie in, and their strides.
fn leading(t: &Tensor) -> Result<([u32; 3], [u32; 4]), String> {
    let last = t.shape.len() - 1;
    let wide: Vec<usize> = (0..last).filter(|&d| t.shape[d] > 1).collect();
    if wide.len() > 3 {
        return Err(format!("{} row dimensions above 1; the kernels take 3", wide.len()));
    }
    let (mut extents, mut strides) = ([1; 3], [0; 4]);
    for (at, &d) in wide.iter().enumerate() {
        let to = 3 - wide.len() + at;
        extents[to] = t.shape[d];
        strides[if to == 0 { 0 } else { to + 1 }] = narrow("a stride", t.strides[d])?;
    }
    strides[1] = narrow("a stride", t.strides[last])?;
    Ok((extents, strides))
}

impl Lowering<'_> {
    pub(super) fn conv(&mut self, c: &Conv) -> Result<(), String> {
        let (tx, ty) = (self.tensor(c.input), self.tensor(c.output));
        let ([n, _, h, w], [_, _, oh, ow]) = (image(&tx.shape), image(&ty.shape));
        let shape = Shape {
            input: [n, h, w],
            output: [n, oh, ow],
            x_strides: four(&tx.strides)?,
            y_strides: four(&ty.strides)?,
            window: c.window,
            groups: c.groups,
        };
        self.linear(c.input, c.output, &shape, &c.linear, |t| four(&t.strides))
    }

    pub(super) fn gemm(&mut self, g: &Gemm) -> Result<(), String> {
        let (rows, x_strides) = leading(self.tensor(g.input))?;
        let (_, y_strides) = leading(self.tensor(g.output))?;
        let shape = Shape { input: rows, output: rows, x_strides, y_strides, window: POINT, groups: 1 };
        self.linear(g.input, g.output, &shape, &g.linear, |t| leading(t).map(|l| l.1))
    }

    fn linear(
        &mut self,
        input: TensorId,
        output: TensorId,
        shape: &Shape,
        l: &Linear,
        strides: impl Fn(&Tensor) -> Result<[u32; 4], String>,
    ) -> Result<(), String> {
        let per_group = l.outputs / shape.groups;
        let by_channel = l.group_inputs == 1 && per_group == 1 && shape.groups > 1;
        let channels = if by_channel { l.outputs } else { per_group };
        let plain = channels.is_multiple_of(4) && self.plain(output, shape, l, &strides)?;
        let epilogue = self.epilogue(&l.epilogue, output, shape.y_strides, strides)?;
        let x = self.address(input);
        let signed = self.tensor(input).dtype == DType::I8;
        let window = &shape.window;
        let [_, h, w] = shape.input;
        let [_, oh, ow] = shape.output;
        // Zeros stand for what is outside: where that is the zero point, borders have the middle's bias.
        let none = (l.input_zero == 0).then(|| shape.no_borders());
        let classes = none.or_else(|| borders(window, 0, h, oh).zip(borders(window, 1, w, ow)));
        // Offsets and taps must fit their halves of a word.
        let small = h < 1 << 14
            && w < 1 << 14
            && (0..2).all(|d| window.kernel[d] * window.dilation[d] < 1 << 14 && window.pads[d] < 1 << 13);
        let aligned = |to: u32| {
            let [n, c, y, x_] = shape.x_strides;
            x.is_multiple_of(to.into()) && c == 1 && [n, y, x_].iter().all(|s| s.is_multiple_of(to))
        };
        // The kernels' division takes 31 bits, and so do their offsets into the input.
        let [n, _, y, x_] = shape.x_strides.map(u64::from);
        let far = [(shape.input[0], n), (h + window.pads[0], y), (w + window.pads[1], x_)];
        let reach: u64 = far.iter().map(|&(extent, stride)| u64::from(extent) * stride).sum();
        let countable = shape.pixels() < 1 << 31 && reach + u64::from(l.group_inputs) < 1 << 31;
        if let Some((rows, columns)) = classes.filter(|_| small && countable) {
            if by_channel && aligned(4) {
                return self.depthwise(x, signed, shape, l, epilogue, plain, &rows, &columns);
            }
            // Whole words are read, the bytes behind the channels with them.
            if shape.groups == 1 && l.group_inputs <= 4 && aligned(4) && x.is_multiple_of(4) {
                return self.implicit(x, signed, shape, l, epilogue, plain, &rows, &columns);
            }
            // A channel dimension of one element may have any stride.
            let whole = shape.groups == 1 || l.group_inputs.is_multiple_of(16);
            if whole && aligned(16) {
                return self.implicit(x, signed, shape, l, epilogue, plain, &rows, &columns);
            }
        }
        self.direct(x, signed, shape, l, epilogue)
    }

    /// Whether results are 8-bit and go, with what is added to them, by words of four channels, pixel behind pixel.
    fn plain(
        &mut self,
        output: TensorId,
        shape: &Shape,
        l: &Linear,
        strides: impl Fn(&Tensor) -> Result<[u32; 4], String>,
    ) -> Result<bool, String> {
        let Epilogue::Requant(r) = &l.epilogue else { return Ok(false) };
        let words = |at: u64, strides: [u32; 4]| {
            let aligned = at.is_multiple_of(4) && strides[3].is_multiple_of(4);
            aligned && strides[1] == 1 && shape.is_flat(strides)
        };
        let mut plain = words(self.address(output), shape.y_strides);
        for (n, post) in r.post.iter().enumerate() {
            if let Post::Binary { other, rule, .. } = post {
                plain &= words(self.address(*other), strides(self.tensor(*other))?);
                plain &= n > 0 || matches!(rule, BinaryRule::QLinearAdd { .. });
            }
        }
        Ok(plain)
    }

    pub(super) fn signed(&self, l: &Linear, taps: usize) -> Signed {
        let (channels, inputs) = (l.outputs as usize, l.group_inputs as usize);
        Signed::new(self.plan.blob(l.weights), l.weights_dtype, &l.weights_zero, channels, taps, inputs)
    }

    #[allow(clippy::too_many_arguments, reason = "what both packed kernels need of a layer")]
    fn depthwise(
        &mut self,
        x: u64,
        signed: bool,
        shape: &Shape,
        l: &Linear,
        epilogue: abi::Epilogue,
        plain: bool,
        rows: &Borders,
        columns: &Borders,
    ) -> Result<(), String> {
        let window = &shape.window;
        let taps = (window.kernel[0] * window.kernel[1]) as usize;
        let weights = self.signed(l, taps);
        let padded = l.outputs.next_multiple_of(4);
        let [n, _, ys, xs] = shape.x_strides;
        let mut list = tap_list(window, ys, xs, 1)?;
        // Taps that fill the last four lie outside every image; where that is not looked at, they read the first tap.
        for _ in taps..taps.next_multiple_of(4) {
            list.extend([0, 0x7FFF_7FFF]);
        }
        let one_class = rows.sets.len() * columns.sets.len() == 1;
        let bias = l.bias.map(|b| self.plan.blob_i32(b));
        let bias = weights.bias(bias.as_deref(), l.input_zero, rows, columns, 1, padded as usize);
        let mut zeros = weights.zero.clone();
        zeros.resize(padded as usize, 0);
        let classes: Vec<u8> = rows.of.iter().chain(&columns.of).copied().collect();
        let pixels = narrow("the number of pixels", shape.pixels())?;
        let reach = [0, 1].map(|d| (window.kernel[d] - 1) * window.dilation[d]);
        let block = abi::Depthwise {
            x,
            w: self.constant(&weights.quads(padded as usize)),
            taps: self.constant_i32(&list),
            bias: self.constant_i32(&bias),
            classes: if plain && one_class { 0 } else { self.constant(&classes) },
            w_zero: if zeros.iter().any(|&z| z != 0) { self.constant_i32(&zeros) } else { 0 },
            x_strides: [n, ys, xs],
            h: shape.input[1],
            width: shape.input[2],
            oh: shape.output[1],
            ow: shape.output[2],
            stride_y: window.stride[0],
            stride_x: window.stride[1],
            pad_y: window.pads[0],
            pad_x: window.pads[1],
            pixels,
            channels: l.outputs,
            padded,
            quads: taps.div_ceil(4) as u32,
            x_signed: signed.into(),
            column_classes: columns.sets.len() as u32,
            reach: (reach[0] << 16) | reach[1],
            epilogue: self.spread_scale(epilogue, l, l.outputs, padded),
        };
        let threads = |each: u32| u64::from(pixels.div_ceil(each)) * u64::from(padded / 4);
        // Counted in 32 bits by the kernel, its last block's idle threads too.
        narrow("the number of threads", threads(1) + 256)?;
        // Four pixels a thread, unless that leaves multiprocessors without a block.
        let (kernel, each) = if threads(4) > u64::from(self.multiprocessors - 1) * 256 {
            ("depthwise4", 4)
        } else {
            ("depthwise", 1)
        };
        self.each(kernel, threads(each), &block)
    }

    fn direct(
        &mut self,
        x: u64,
        signed: bool,
        shape: &Shape,
        l: &Linear,
        epilogue: abi::Epilogue,
    ) -> Result<(), String> {
        let window = &shape.window;
        let zeros: Vec<i32> = (0..l.outputs as usize)
            .map(|c| if l.weights_zero.len() == 1 { l.weights_zero[0] } else { l.weights_zero[c] })
            .collect();
        let pixels = narrow("the number of pixels", shape.pixels())?;
        let block = abi::Direct {
            x,
            w: self.blob(l.weights),
            bias: l.bias.map_or(0, |b| self.blob(b)),
            w_zero: self.constant_i32(&zeros),
            x_strides: shape.x_strides,
            h: shape.input[1],
            width: shape.input[2],
            oh: shape.output[1],
            ow: shape.output[2],
            kh: window.kernel[0],
            kw: window.kernel[1],
            stride_y: window.stride[0],
            stride_x: window.stride[1],
            dilation_y: window.dilation[0],
            dilation_x: window.dilation[1],
            pad_y: window.pads[0],
            pad_x: window.pads[1],
            pixels,
            channels: l.outputs,
            group_channels: l.outputs / shape.groups,
            group_inputs: l.group_inputs,
            x_signed: signed.into(),
            w_signed: u32::from(l.weights_dtype == DType::I8),
            x_zero: l.input_zero,
            unused: 0,
            epilogue,
        };
        self.each("direct", u64::from(pixels) * u64::from(l.outputs), &block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_that_lie_one_behind_the_other() {
        let of = |output, strides| {
            Shape { input: output, output, x_strides: strides, y_strides: strides, window: POINT, groups: 1 }
                .is_flat(strides)
        };
        assert!(of([2, 3, 5], [15 * 8, 1, 5 * 8, 8]));
        // Channels of a wider tensor, and single rows and images of any stride.
        assert!(of([2, 3, 5], [15 * 24, 1, 5 * 24, 24]));
        assert!(of([1, 1, 5], [7, 1, 9, 8]));
        assert!(of([4, 1, 5], [5 * 8, 1, 9, 8]));
        // Rows or images that are apart.
        assert!(!of([1, 3, 5], [15 * 8, 1, 6 * 8, 8]));
        assert!(!of([2, 3, 5], [16 * 8, 1, 5 * 8, 8]));
        assert!(!of([4, 1, 5], [6 * 8, 1, 5 * 8, 8]));
    }
}
