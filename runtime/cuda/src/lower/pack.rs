//! Weights as the kernels read them: signed, in fragment order, with the border's share in the bias.

use pilotlight_plan::{DType, Window};

/// The valid taps along one dimension, by output index: distinct sets, and which set each index has.
pub(super) struct Borders {
    /// Valid taps of each set.
    pub(super) sets: Vec<Vec<bool>>,
    /// The set of each output row or column.
    pub(super) of: Vec<u8>,
}

impl Borders {
    /// One set for all outputs, with every tap.
    pub(super) fn none(window: &Window, d: usize, outputs: u32) -> Self {
        Borders { sets: vec![vec![true; window.kernel[d] as usize]], of: vec![0; outputs as usize] }
    }
}

/// Border sets along dimension `d` (0: rows) of a window over `extent` inputs and `outputs` outputs; `None` if
/// there are more than a byte counts.
pub(super) fn borders(window: &Window, d: usize, extent: u32, outputs: u32) -> Option<Borders> {
    let mut borders = Borders { sets: Vec::new(), of: Vec::new() };
    for o in 0..outputs {
        let set: Vec<bool> = (0..window.kernel[d])
            .map(|t| {
                let at = i64::from(o) * i64::from(window.stride[d])
                    + i64::from(t) * i64::from(window.dilation[d])
                    - i64::from(window.pads[d]);
                (0..i64::from(extent)).contains(&at)
            })
            .collect();
        let found = borders.sets.iter().position(|s| *s == set).unwrap_or_else(|| {
            borders.sets.push(set);
            borders.sets.len() - 1
        });
        borders.of.push(u8::try_from(found).ok()?);
    }
    Some(borders)
}

/// Signed weights `[channel][tap][input]` and their zero points: unsigned ones are moved down by 128, which
/// changes neither differences nor sums of differences.
pub(super) struct Signed {
    pub(super) weights: Vec<i8>,
    pub(super) zero: Vec<i32>,
    pub(super) channels: usize,
    pub(super) taps: usize,
    pub(super) inputs: usize,
}

impl Signed {
    pub(super) fn new(
        raw: &[u8],
        dtype: DType,
        zero: &[i32],
        channels: usize,
        taps: usize,
        inputs: usize,
    ) -> Self {
        let shift = if dtype == DType::U8 { 128 } else { 0 };
        let weights = raw.iter().map(|&b| (b ^ shift as u8) as i8).collect();
        let zero = (0..channels).map(|c| if zero.len() == 1 { zero[0] } else { zero[c] } - shift).collect();
        Self { weights, zero, channels, taps, inputs }
    }

    fn at(&self, channel: usize, tap: usize, input: usize) -> i8 {
        self.weights[(channel * self.taps + tap) * self.inputs + input]
    }

    /// Sum over a tap's inputs of weight less zero point.
    fn tap_sum(&self, channel: usize, tap: usize) -> i32 {
        let less = |i| i32::from(self.at(channel, tap, i)) - self.zero[channel];
        (0..self.inputs).fold(0i32, |sum, i| sum.wrapping_add(less(i)))
    }

    /// `bias - x_zero * sum of valid (w - w_zero)` by group, border class (rows before columns) and channel,
    /// channels of a group up to `padded`.
    pub(super) fn bias(
        &self,
        bias: Option<&[i32]>,
        x_zero: i32,
        rows: &Borders,
        columns: &Borders,
        groups: usize,
        padded: usize,
    ) -> Vec<i32> {
        let per_group = self.channels / groups;
        let sums: Vec<i32> = (0..self.channels)
            .flat_map(|c| (0..self.taps).map(move |t| (c, t)))
            .map(|(c, t)| self.tap_sum(c, t))
            .collect();
        let kw = columns.sets.first().map_or(1, Vec::len);
        let mut out = Vec::with_capacity(groups * rows.sets.len() * columns.sets.len() * padded);
        for g in 0..groups {
            for r in &rows.sets {
                for c in &columns.sets {
                    for k in 0..padded {
                        if k >= per_group {
                            out.push(0);
                            continue;
                        }
                        let channel = g * per_group + k;
                        let valid = (0..self.taps).filter(|t| r[t / kw] && c[t % kw]);
                        let sum = valid.fold(0i32, |s, t| s.wrapping_add(sums[channel * self.taps + t]));
                        let start = bias.map_or(0, |b| b[channel]);
                        out.push(start.wrapping_sub(x_zero.wrapping_mul(sum)));
                    }
                }
            }
        }
        out
    }

    /// Fragment order of mma.m16n8k32's A: for each group, each 16 channels, each 32 of k, each lane the words
    /// (channel lane / 4, k 4t..), (channel + 8, k 4t..), (channel, k 16 + 4t..), (channel + 8, k 16 + 4t..), with
    /// t = lane % 4. k counts `of_tap` inputs for each tap, those that there are not with weights of 0.
    pub(super) fn fragments(&self, groups: usize, padded: usize, of_tap: usize) -> Vec<u8> {
        let per_group = self.channels / groups;
        let halves = (self.taps * of_tap).div_ceil(32);
        let mut out = Vec::with_capacity(groups * padded * halves * 32);
        for g in 0..groups {
            for block in 0..padded / 16 {
                for half in 0..halves {
                    for lane in 0..32 {
                        for word in 0..4 {
                            let channel = block * 16 + word % 2 * 8 + lane / 4;
                            for byte in 0..4 {
                                let k = half * 32 + word / 2 * 16 + lane % 4 * 4 + byte;
                                let (tap, input) = (k / of_tap, k % of_tap);
                                let exists = channel < per_group && tap < self.taps && input < self.inputs;
                                let w = if exists { self.at(g * per_group + channel, tap, input) } else { 0 };
                                out.push(w as u8);
                            }
                        }
                    }
                }
            }
        }
        out
    }

    /// For each four taps, each channel up to `padded`: four taps in a word.
    pub(super) fn quads(&self, padded: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.taps.div_ceil(4) * padded * 4);
        for quad in 0..self.taps.div_ceil(4) {
            for channel in 0..padded {
                for tap in quad * 4..quad * 4 + 4 {
                    let exists = channel < self.channels && tap < self.taps;
                    out.push(if exists { self.at(channel, tap, 0) as u8 } else { 0 });
                }
            }
        }
        out
    }
}
