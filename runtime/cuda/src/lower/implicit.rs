//! Convolutions as matrix products over the taps of their windows.

use super::epilogue::spread;
use super::linear::Shape;
use super::pack::Borders;
use super::taps::{tap_list, word_list};
use super::tile::{Work, divisor};
use super::{Lowering, narrow};
use pilotlight_kernels::{GATHER, TILES, abi};
use pilotlight_plan::Linear;

impl Lowering<'_> {
    #[allow(clippy::too_many_arguments, reason = "what both packed kernels need of a layer")]
    pub(super) fn implicit(
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
        let Shape { window, groups, .. } = shape;
        let taps = (window.kernel[0] * window.kernel[1]) as usize;
        let weights = self.signed(l, taps);
        let channels = l.outputs / groups;
        let padded = channels.next_multiple_of(16);
        let [n, _, ys, xs] = shape.x_strides;
        let gathered = l.group_inputs <= 4 && shape.groups == 1;
        // A gathered word has bytes of two pixels, so a pixel gives at least two.
        let of_tap = if gathered { l.group_inputs.max(2) } else { l.group_inputs.next_multiple_of(16) };
        let pieces = (taps as u32 * of_tap).div_ceil(16);
        let list = if gathered {
            word_list(window, ys, xs, of_tap)?
        } else {
            tap_list(window, ys, xs, of_tap / 16)?
        };
        let pixels = narrow("the number of pixels", shape.pixels())?;
        let work = Work { pixels, channels: padded, pieces, groups: *groups };
        let tiles: &[_] = if gathered { &[GATHER] } else { &TILES };
        let tiling = work.tiling(tiles, self.multiprocessors).ok_or("no tile fits")?;
        let has_zero = weights.zero.iter().any(|&z| z != 0);
        let (mut sums, mut used) = (0, 0);
        if has_zero {
            (sums, used) = self.window_sums(x, signed, shape, l, pixels)?;
        }
        let partial = if tiling.splits > 1 {
            let words = tiling.splits as usize * *groups as usize * pixels as usize * padded as usize;
            self.scratch(used, words * 4)
        } else {
            0
        };
        let bias = l.bias.map(|b| self.plan.blob_i32(b));
        let bias =
            weights.bias(bias.as_deref(), l.input_zero, rows, columns, *groups as usize, padded as usize);
        let classes: Vec<u8> = rows.of.iter().chain(&columns.of).copied().collect();
        let spread = |list: &[i32]| spread(list, channels as usize, padded as usize);
        let one_class = rows.sets.len() * columns.sets.len() == 1;
        let block = abi::Conv {
            x,
            w: self.constant(&weights.fragments(*groups as usize, padded as usize, of_tap as usize)),
            taps: self.constant_i32(&list),
            bias: self.constant_i32(&bias),
            classes: self.constant(&classes),
            w_zero: if has_zero { self.constant_i32(&spread(&weights.zero)) } else { 0 },
            sums,
            partial,
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
            channels,
            padded,
            pieces,
            group_x: l.group_inputs,
            column_classes: columns.sets.len() as u32,
            all_classes: (rows.sets.len() * columns.sets.len()) as u32,
            groups: *groups,
            tile_channels: tiling.channels,
            tile_pixels: tiling.pixels,
            splits: tiling.splits,
            split_steps: tiling.split_steps,
            divide_ow: divisor(shape.output[2]),
            divide_oh: divisor(shape.output[1]),
            plain: (plain && one_class && !has_zero && tiling.splits == 1).into(),
            epilogue: self.spread_scale(epilogue, l, channels, padded),
        };
        let grid = [pixels.div_ceil(tiling.pixels), padded.div_ceil(tiling.channels), groups * tiling.splits];
        self.launch(tiling.tile.kernel(signed), grid, tiling.tile.shared(), &block);
        if tiling.splits > 1 {
            let results = u64::from(*groups) * u64::from(pixels) * u64::from(padded);
            self.each("finish", results / 4, &block)?;
        }
        Ok(())
    }

    /// Launches the sums of the input under each window: where they lie, and how many bytes they take.
    fn window_sums(
        &mut self,
        x: u64,
        signed: bool,
        shape: &Shape,
        l: &Linear,
        pixels: u32,
    ) -> Result<(u64, usize), String> {
        let total = u64::from(shape.groups) * u64::from(pixels);
        let bytes = (total as usize * 4).next_multiple_of(64);
        let out = self.scratch(0, bytes);
        let window = &shape.window;
        let block = abi::Sums {
            x,
            out,
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
            groups: shape.groups,
            group_inputs: l.group_inputs,
            x_signed: signed.into(),
        };
        self.each("window_sums", total, &block)?;
        Ok((out, bytes))
    }
}
