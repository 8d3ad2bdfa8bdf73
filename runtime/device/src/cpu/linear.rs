//! Weights packed for the kernels: blocks of 64 output channels, panels of 16, and where each sum starts.

use super::kernels::{BLOCK, BLOCK_PANELS, Kernels, PANEL, Packing, Run};
use crate::{LoadError, Memory};
use pilotlight_plan::{DType, Linear, Plan};

/// A contiguous piece of one run that holds real inputs; what lies between pieces meets zero weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Bytes from the start of the run.
    pub at: usize,
    /// The first value of k, in the plan's order `[kernel y][kernel x][channel]`.
    pub k: usize,
    /// Number of values.
    pub len: usize,
}

/// A run of input bytes before packing.
#[derive(Clone, Debug)]
pub(super) struct RunPieces {
    /// Bytes from the row's base.
    pub offset: usize,
    /// The pieces, in order of place.
    pub pieces: Vec<Piece>,
}

impl RunPieces {
    /// The run's length in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.last().map_or(0, |p| p.at + p.len)
    }
}

/// Up to 64 output channels of one group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// First output channel.
    pub channel: usize,
    /// Output channels.
    pub channels: usize,
    /// Panels of weights.
    pub panels: usize,
    /// Bytes from the start of the packed weights.
    pub weights: usize,
    /// Bytes from a pixel's base to the group's first channel.
    pub input: usize,
}

/// Packed weights with everything that the sums need.
pub(super) struct Packed {
    /// Blocks in order of output channels; block `i`'s starts and scales lie at `i * BLOCK`.
    pub blocks: Vec<Block>,
    /// The runs of the sum.
    pub runs: Vec<Run>,
    /// Bytes between panels.
    pub panel_bytes: usize,
    /// Packed weights.
    pub weights: Memory,
    /// i32 starts: bias less the input's zero point times the sum of the weights.
    pub start: Memory,
}

/// The sizes that decide how weights are cut into blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channels {
    /// Groups.
    pub groups: usize,
    /// Input channels of a group.
    pub inputs: usize,
    /// Output channels of a group.
    pub outputs: usize,
    /// Values of k for each output channel.
    pub k: usize,
}

/// Cuts each group's output channels into blocks of nearly equal numbers of panels.
pub(super) fn blocks(c: Channels, panel_bytes: usize) -> Vec<Block> {
    let panels = c.outputs.div_ceil(PANEL);
    let count = panels.div_ceil(BLOCK_PANELS);
    let mut list = Vec::with_capacity(c.groups * count);
    let mut weights = 0;
    for g in 0..c.groups {
        let mut panel = 0;
        for b in 0..count {
            let own = panels / count + usize::from(b < panels % count);
            list.push(Block {
                channel: g * c.outputs + panel * PANEL,
                channels: (own * PANEL).min(c.outputs - panel * PANEL),
                panels: own,
                weights,
                input: g * c.inputs,
            });
            panel += own;
            weights += own * panel_bytes;
        }
    }
    list
}

/// Bytes that packed weights may have beside 64 for each byte of the plan's.
const MAX_BYTES: usize = 64 << 20;

/// Packs weights for `kernels`; `None` where many small groups would take far more memory than the plan's weights.
///
/// `shift` is what the kernel's inputs are larger by than the plan's (128 for i8 seen as u8).
pub(super) fn pack(
    plan: &Plan,
    l: &Linear,
    c: Channels,
    pieces: &[RunPieces],
    shift: i32,
    kernels: &Kernels,
) -> Result<Option<Packed>, LoadError> {
    let source = Source::new(plan, l, c.k);
    let unit = kernels.packing.unit_bytes();
    let granule = kernels.run_units;
    let units = |r: &RunPieces| r.bytes().div_ceil(4).next_multiple_of(granule);
    // Weights that exceed i8 once their zero point is off are the sum of several i8 terms: as many passes.
    let passes = if kernels.packing == Packing::Quads { source.terms() } else { 1 };
    let mut runs = Vec::with_capacity(pieces.len() * passes);
    for _ in 0..passes {
        runs.extend(pieces.iter().map(|r| Run { offset: r.offset as u32, units: units(r) as u32 }));
    }
    let panel_bytes = runs.iter().map(|r| r.units as usize).sum::<usize>() * unit;
    let blocks = blocks(c, panel_bytes);
    let panels: usize = blocks.iter().map(|b| b.panels).sum();
    if panels * panel_bytes > MAX_BYTES + 64 * source.bytes.len() {
        return Ok(None);
    }
    let mut weights = Memory::new("packed weights", panels * panel_bytes)?;
    let mut start = Memory::new("starts of sums", blocks.len() * BLOCK * 4)?;

    let bias = l.bias.map(|b| plan.blob_i32(b));
    let zero = l.input_zero + shift;
    for (i, block) in blocks.iter().enumerate() {
        for j in 0..block.channels {
            let channel = block.channel + j;
            let sum = source.sum(channel);
            let value = bias.as_ref().map_or(0, |b| b[channel]).wrapping_sub(zero.wrapping_mul(sum));
            let at = (i * BLOCK + j) * 4;
            start.as_bytes_mut()[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        for panel in 0..block.panels {
            let begin = block.weights + panel * panel_bytes;
            let out = &mut weights.as_bytes_mut()[begin..begin + panel_bytes];
            let first = block.channel + panel * PANEL;
            let count = (block.channels - panel * PANEL).min(PANEL);
            match kernels.packing {
                Packing::Quads => {
                    for (pass, out) in out.chunks_exact_mut((panel_bytes / passes).max(1)).enumerate() {
                        pack_quads(&source, first, count, pieces, &units, pass, out);
                    }
                }
                Packing::Pairs => pack_pairs(&source, first, count, pieces, &units, out),
            }
        }
    }
    Ok(Some(Packed { blocks, runs, panel_bytes, weights, start }))
}

/// The plan's weights of one operation.
pub(super) struct Source<'a> {
    bytes: &'a [u8],
    signed: bool,
    zero: &'a [i32],
    k: usize,
}

impl<'a> Source<'a> {
    /// Weights of `l`, `k` for each output channel.
    pub(super) fn new(plan: &'a Plan, l: &'a Linear, k: usize) -> Self {
        Self { bytes: plan.blob(l.weights), signed: l.weights_dtype == DType::I8, zero: &l.weights_zero, k }
    }

    fn zero(&self, channel: usize) -> i32 {
        if self.zero.len() == 1 { self.zero[0] } else { self.zero[channel] }
    }

    fn row(&self, channel: usize) -> &'a [u8] {
        &self.bytes[channel * self.k..(channel + 1) * self.k]
    }

    /// The weight less its zero point.
    #[inline]
    pub(super) fn weight(&self, channel: usize, k: usize) -> i32 {
        let b = self.bytes[channel * self.k + k];
        (if self.signed { i32::from(b as i8) } else { i32::from(b) }) - self.zero(channel)
    }

    /// The sum of a channel's weights, modulo 2^32.
    pub(super) fn sum(&self, channel: usize) -> i32 {
        let row = self.row(channel);
        // As unsigned bytes: the compiler has an instruction for their sum.
        let sum = |flip: u8| row.iter().map(|&b| u32::from(b ^ flip)).fold(0_u32, u32::wrapping_add) as i32;
        let raw = if self.signed { sum(0x80).wrapping_sub(128 * row.len() as i32) } else { sum(0) };
        raw.wrapping_sub(self.zero(channel).wrapping_mul(self.k as i32))
    }

    /// How many i8 terms the weights need.
    pub(super) fn terms(&self) -> usize {
        if self.signed && self.zero.iter().all(|&z| z == 0) {
            return 1;
        }
        let (mut lo, mut hi) = (0, 0);
        for channel in 0..self.bytes.len() / self.k {
            for k in 0..self.k {
                let w = self.weight(channel, k);
                (lo, hi) = (lo.min(w), hi.max(w));
            }
        }
        (1..).find(|t| -128 * t <= lo && hi <= 127 * t).unwrap_or(1) as usize
    }

    /// Term `pass` of a weight: the terms add up to it, each an i8.
    pub(super) fn term(&self, channel: usize, k: usize, pass: usize) -> i8 {
        let mut w = self.weight(channel, k);
        for _ in 0..pass {
            w -= w.clamp(-128, 127);
        }
        w.clamp(-128, 127) as i8
    }
}

fn pack_quads(
    source: &Source,
    first: usize,
    count: usize,
    pieces: &[RunPieces],
    units: &impl Fn(&RunPieces) -> usize,
    pass: usize,
    out: &mut [u8],
) {
    let plain = source.signed && source.zero.iter().all(|&z| z == 0);
    let mut begin = 0;
    for run in pieces {
        let out = &mut out[begin..begin + units(run) * 64];
        begin += out.len();
        for piece in &run.pieces {
            for j in 0..count {
                if plain {
                    let w = &source.row(first + j)[piece.k..piece.k + piece.len];
                    // Whole quads where the piece begins on one, which it does but for few channels.
                    let whole = if piece.at % 4 == 0 { w.len() / 4 } else { 0 };
                    let (quads, _) = w.as_chunks::<4>();
                    let to = out[piece.at / 4 * 64..].chunks_mut(64);
                    for (to, quad) in to.zip(&quads[..whole]) {
                        to[j * 4..j * 4 + 4].copy_from_slice(quad);
                    }
                    for (i, &w) in w.iter().enumerate().skip(whole * 4) {
                        let at = piece.at + i;
                        out[at / 4 * 64 + j * 4 + at % 4] = w;
                    }
                } else {
                    for i in 0..piece.len {
                        let at = piece.at + i;
                        let w = source.term(first + j, piece.k + i, pass);
                        out[at / 4 * 64 + j * 4 + at % 4] = w as u8;
                    }
                }
            }
        }
    }
}

fn pack_pairs(
    source: &Source,
    first: usize,
    count: usize,
    pieces: &[RunPieces],
    units: &impl Fn(&RunPieces) -> usize,
    out: &mut [u8],
) {
    let mut begin = 0;
    for run in pieces {
        let out = &mut out[begin..begin + units(run) * 128];
        begin += out.len();
        for piece in &run.pieces {
            for j in 0..count {
                for i in 0..piece.len {
                    let at = piece.at + i;
                    let w = source.weight(first + j, piece.k + i) as i16;
                    let place = at / 2 * 64 + j * 4 + at % 2 * 2;
                    out[place..place + 2].copy_from_slice(&w.to_ne_bytes());
                }
            }
        }
    }
}
