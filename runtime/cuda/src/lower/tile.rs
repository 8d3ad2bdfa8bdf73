//! Which tile a convolution gets: the cheapest by a model that sees the multiprocessors.
//!
//! The model counts clocks of one multiprocessor in whole numbers, so every machine chooses alike. Its constants
//! are estimates from published rates; they order tiles, and no time that is shown anywhere comes from them.

use pilotlight_kernels::Tile;

/// A convolution as the kernels see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    /// Output pixels of all images.
    pub(super) pixels: u32,
    /// Output channels of a group, up to a multiple of 16.
    pub(super) channels: u32,
    /// 16-byte pieces of k.
    pub(super) pieces: u32,
    /// Groups.
    pub(super) groups: u32,
}

/// A tile and its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiling {
    /// The kernel.
    pub(super) tile: Tile,
    /// Channels of a tile: a multiple of 16.
    pub(super) channels: u32,
    /// Pixels of a tile: a multiple of 8.
    pub(super) pixels: u32,
    /// Ranges of k that are summed apart.
    pub(super) splits: u32,
    /// Steps of k in such a range.
    pub(super) split_steps: u32,
}

/// A block's start: addresses, first loads, and their way from memory.
const START: u64 = 800;
/// A step's barrier and the wait behind it.
const SYNC: u64 = 40;
/// Instructions of a step besides matrices and their loads, by warp.
const AROUND: u64 = 45;
/// Bytes that a multiprocessor gets from L2 in a clock.
const L2: u64 = 32;
/// Bytes that shared memory moves in a clock.
const SHARED: u64 = 128;
/// Clocks of one 16x8x32 product on a quarter of the multiprocessor.
const PRODUCT: u64 = 8;
/// Results that a multiprocessor finishes in 16 clocks, and partial sums.
const RESULTS: u64 = 150;
const SUMS: u64 = 400;
/// A further launch.
const LAUNCH: u64 = 3000;
/// The most ranges of k.
const MOST_SPLITS: u32 = 16;

impl Work {
    /// The cheapest of the tiles' uses on so many multiprocessors; of equals the first.
    pub(super) fn tiling(&self, tiles: &[Tile], multiprocessors: u32) -> Option<Tiling> {
        let uses = tiles.iter().flat_map(|tile| {
            let channels = (16..=tile.channels.min(self.channels)).rev().step_by(16);
            channels.flat_map(move |c| {
                let most = tile.pixels.min(self.pixels.next_multiple_of(8));
                (8..=most).rev().step_by(8).map(move |p| (tile, c, p))
            })
        });
        let all = uses.flat_map(|(tile, channels, pixels)| {
            let steps = self.pieces.div_ceil(tile.pieces());
            // Groups have channels enough to fill the machine.
            let most = if self.groups == 1 { MOST_SPLITS.min(steps) } else { 1 };
            (1..=most).map(move |n| {
                let split_steps = steps.div_ceil(n);
                Tiling { tile: *tile, channels, pixels, splits: steps.div_ceil(split_steps), split_steps }
            })
        });
        all.min_by_key(|tiling| self.cost(tiling, multiprocessors))
    }

    /// Clocks until the last multiprocessor is done.
    fn cost(&self, t: &Tiling, multiprocessors: u32) -> u64 {
        let [over_channels, over_pixels, over_k] = t.tile.warps.map(u64::from);
        let row = u64::from(t.tile.pieces()) * 16;
        // The busiest warp's fragments, and halves of a step.
        let m = u64::from(t.channels / 16).div_ceil(over_channels);
        let n = 2 * u64::from(t.pixels).div_ceil(16).div_ceil(over_pixels);
        let halves = row / 32 / over_k;
        let products = m * n * halves;
        let loads = (m + n / 2) * halves;
        let side = u64::from(t.channels + t.pixels);
        let step = [
            2 * products * PRODUCT,
            (8 * loads * 512 + side * row) / SHARED,
            2 * (products + loads + AROUND),
            side * row / L2,
        ];
        let step = step.into_iter().max().unwrap_or(0) + SYNC;
        let results = u64::from(t.channels) * u64::from(t.pixels);
        let rate = if t.splits > 1 { SUMS } else { RESULTS };
        let block = START + u64::from(t.split_steps) * step + results * 16 / rate;
        let blocks = u64::from(self.pixels.div_ceil(t.pixels))
            * u64::from(self.channels.div_ceil(t.channels))
            * u64::from(self.groups * t.splits);
        let machine = u64::from(multiprocessors.max(1));
        let all = u64::from(self.pixels) * u64::from(self.channels);
        let finish = if t.splits > 1 { LAUNCH + all * 16 / RESULTS / machine } else { 0 };
        blocks.div_ceil(machine) * block + finish
    }
}

/// Multiplier and shift by which the kernels divide numbers below 2^31 by `d`: with `l` bits above `d`,
/// `n / d = (n + (n * multiplier >> 32)) >> l` (Granlund and Montgomery, "Division by invariant integers using
/// multiplication").
pub(super) fn divisor(d: u32) -> [u32; 2] {
    let d = u64::from(d.max(1));
    let l = u64::from(d.next_power_of_two().trailing_zeros());
    [((((1u64 << l) - d) << 32) / d + 1) as u32, l as u32]
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilotlight_kernels::{GATHER, TILES};

    #[test]
    fn division_is_exact() {
        for d in (1..300).chain([1 << 14, (1 << 14) - 1, (1 << 30) + 1, (1 << 31) - 1]) {
            let [multiplier, shift] = divisor(d);
            let divide = |n: u32| (((u64::from(n) * u64::from(multiplier)) >> 32) as u32 + n) >> shift;
            for k in [0, 1, 2, 77, 12_543] {
                for n in [k * u64::from(d), (k + 1) * u64::from(d) - 1] {
                    if let Ok(n) = u32::try_from(n)
                        && n < 1 << 31
                    {
                        assert_eq!(divide(n), n / d, "{n} / {d}");
                    }
                }
            }
            assert_eq!(divide(i32::MAX as u32), i32::MAX as u32 / d);
        }
    }

    #[test]
    fn every_use_covers_the_work_and_fits_its_tile() {
        for multiprocessors in [1, 4, 8, 14, 16] {
            for (pixels, channels, pieces) in
                [(1, 16, 1), (49, 1152, 12), (49, 192, 72), (196, 112, 42), (12_544, 32, 2), (3136, 256, 36)]
            {
                for tiles in [&TILES[..], &[GATHER]] {
                    let work = Work { pixels, channels, pieces, groups: 1 };
                    let t = work.tiling(tiles, multiprocessors).expect("there are tiles");
                    assert!(
                        t.channels.is_multiple_of(16) && (16..=t.tile.channels).contains(&t.channels),
                        "{t:?}"
                    );
                    assert!(t.pixels.is_multiple_of(8) && (8..=t.tile.pixels).contains(&t.pixels), "{t:?}");
                    let steps = pieces.div_ceil(t.tile.pieces());
                    assert!(
                        t.splits * t.split_steps >= steps && (t.splits - 1) * t.split_steps < steps,
                        "{t:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn few_tiles_with_much_to_sum_are_split_and_many_are_not() {
        let few = Work { pixels: 49, channels: 192, pieces: 288, groups: 1 };
        assert!(few.tiling(&TILES, 16).expect("there are tiles").splits > 1);
        let many = Work { pixels: 12_544, channels: 64, pieces: 4, groups: 1 };
        assert_eq!(many.tiling(&TILES, 16).expect("there are tiles").splits, 1);
    }
}
