//! What is known of each cell's latency, and what follows for cells never visited.
//!
//! The model is the structure, not a fit. A network is a sum of parts, each bound by the GPU clock, by the
//! memory clock, or by neither. Whatever the parts are, between two cells latency then
//! - rises at most by the larger of the two clock ratios, and falls at most by it;
//! - is convex in the GPU period at one memory clock: chords bound it from above, their prolongations from
//!   below;
//! - reacts less to the GPU clock where memory is slower.
//!
//! These bounds need no shape for memory, so a table of memory clocks is enough, and they tighten with every
//! cell visited.

use super::grid::{Cell, Grid, MAX_CELLS};
use super::tail::{SharedTail, Tail};

/// Cycles of the shared tail that a cell's own count is mixed with.
const SHARED_WEIGHT: f64 = 40.0;
/// Latencies after which a cell's median is trusted for the shared tail.
const TRUSTED: u32 = 8;
/// A real board strays a little from the structure: bounds are this much wider.
const SLACK: f64 = 0.01;

#[derive(Clone, Debug)]
pub(crate) struct LatencyModel {
    cells: [Tail; MAX_CELLS],
    shared: SharedTail,
    /// ln of a factor common to all cells: the workload became slower or faster since a cell was measured.
    scale: f64,
}

/// Bounds of a cell's median latency in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub low: f64,
    pub high: f64,
}

impl LatencyModel {
    pub(crate) fn new() -> Self {
        Self { cells: [Tail::EMPTY; MAX_CELLS], shared: SharedTail::new(), scale: 0.0 }
    }

    pub(crate) fn count(&self, cell: usize) -> u32 {
        self.cells[cell].count()
    }

    /// Median latency of a visited cell, microseconds.
    pub(crate) fn typical(&self, cell: usize) -> Option<f64> {
        (self.cells[cell].count() > 0).then(|| libm::exp(self.cells[cell].median() + self.scale))
    }

    /// ln(latency / what the cell was known for); `None` for a cell not yet known.
    pub(crate) fn surprise(&self, cell: usize, latency_us: f64) -> Option<f64> {
        (self.cells[cell].count() > 0).then(|| libm::log(latency_us) - self.scale - self.cells[cell].median())
    }

    pub(crate) fn record(&mut self, cell: usize, latency_us: f64) {
        let ln = libm::log(latency_us.max(1.0)) - self.scale;
        self.cells[cell].record(ln);
        if self.cells[cell].count() >= TRUSTED {
            self.shared.record(ln - self.cells[cell].median());
        }
    }

    /// Forgets one cell.
    pub(crate) fn forget(&mut self, cell: usize) {
        self.cells[cell] = Tail::EMPTY;
    }

    /// Everything became slower by exp(`ln_ratio`) (faster when negative); what was counted fades.
    pub(crate) fn shift(&mut self, ln_ratio: f64) {
        self.scale += ln_ratio;
        for cell in &mut self.cells {
            let n = cell.count();
            if n > 32 {
                cell.fade((n / 16).min(1_000) as u16);
            }
        }
    }

    /// Expected share of cycles above `limit_us` in a visited cell: its own count mixed with the shared tail.
    pub(crate) fn miss_rate(&self, cell: usize, limit_us: f64) -> f64 {
        let own = &self.cells[cell];
        let limit = libm::log(limit_us) - self.scale;
        let shared = self.shared.above(limit - own.median());
        (own.above(limit) + SHARED_WEIGHT * shared) / (f64::from(own.count()) + SHARED_WEIGHT)
    }

    /// The ratio of a latency that a share `rate` of cycles exceeds to the median, for cells in general.
    pub(crate) fn tail_ratio(&self, rate: f64) -> f64 {
        libm::exp(self.shared.excess(rate))
    }

    /// The median of every visited cell.
    pub(crate) fn medians(&self, grid: &Grid) -> Medians {
        let mut medians = Medians { us: [None; MAX_CELLS], grid: grid.clone() };
        for cell in 0..grid.cells() {
            medians.us[cell] = self.typical(cell);
        }
        medians
    }
}

/// Median latencies of the visited cells, microseconds, and what follows for the others.
pub(crate) struct Medians {
    us: [Option<f64>; MAX_CELLS],
    grid: Grid,
}

impl Medians {
    /// Bounds of the median of any cell; `None` before the first cell was visited.
    pub(crate) fn bounds(&self, cell: usize) -> Option<Bounds> {
        if let Some(t) = self.us[cell] {
            return Some(Bounds { low: t, high: t });
        }
        let mut bounds = Bounds { low: 0.0, high: f64::INFINITY };
        for known in 0..self.grid.cells() {
            if let Some(t) = self.us[known] {
                self.scaled(cell, known, t, &mut bounds);
                if self.grid.cell(known).emc == self.grid.cell(cell).emc {
                    self.along_row(cell, known, t, &mut bounds);
                }
            }
        }
        bounds.high.is_finite().then(|| Bounds {
            low: bounds.low * (1.0 - SLACK),
            high: (bounds.high * (1.0 + SLACK)).max(bounds.low),
        })
    }

    /// Each part of the latency scales at most with its clock.
    fn scaled(&self, cell: usize, known: usize, t: f64, bounds: &mut Bounds) {
        let gpu = self.grid.gpu_share(known) / self.grid.gpu_share(cell);
        let emc = self.grid.emc_share(known) / self.grid.emc_share(cell);
        bounds.high = bounds.high.min(t * gpu.max(emc).max(1.0));
        bounds.low = bounds.low.max(t * gpu.min(emc).min(1.0));
    }

    /// Convexity in the GPU period along a row, and the weaker reaction of slower memory.
    fn along_row(&self, cell: usize, known: usize, t: f64, bounds: &mut Bounds) {
        let (c, a) = (self.grid.cell(cell), self.grid.cell(known));
        let period = |index: usize| 1.0 / self.grid.gpu_share(index);
        let median = |gpu, emc| self.us[self.grid.index(Cell { gpu, emc })];
        for gpu in a.gpu + 1..self.grid.gpu_clocks().len() {
            let Some(u) = median(gpu, c.emc) else { continue };
            let other = self.grid.index(Cell { gpu, emc: c.emc });
            let line = t + (u - t) * (period(cell) - period(known)) / (period(other) - period(known));
            let between = (gpu < c.gpu) != (a.gpu < c.gpu);
            if between {
                bounds.high = bounds.high.min(line);
            } else {
                bounds.low = bounds.low.max(line);
            }
        }
        // From `known` to a lower GPU clock in this row, latency rises no more than with faster memory.
        if c.gpu < a.gpu {
            for emc in c.emc + 1..self.grid.emc_clocks().len() {
                if let (Some(from), Some(to)) = (median(a.gpu, emc), median(c.gpu, emc)) {
                    bounds.high = bounds.high.min(t + (to - from).max(0.0));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilotlight_units::Hertz;

    fn grid() -> Grid {
        let gpu = [306, 408, 510, 612, 714, 816, 918, 1020].map(Hertz::from_mhz);
        Grid::new(&gpu, &[665, 2133, 3199].map(Hertz::from_mhz)).unwrap()
    }

    /// A network of parts: fixed, GPU-bound, memory-bound, and both overlapped.
    fn truth(grid: &Grid, cell: usize) -> f64 {
        let (f, e) = (grid.gpu_share(cell), grid.emc_share(cell));
        400.0 + 1_500.0 / f + 300.0 / e + (900.0 / f).max(1_100.0 / e)
    }

    #[test]
    fn bounds_hold_for_every_cell_whatever_was_visited() {
        let grid = grid();
        for seed in 0..200u64 {
            let mut model = LatencyModel::new();
            let mut state = seed;
            for _ in 0..5 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let cell = (state >> 33) as usize % grid.cells();
                model.record(cell, truth(&grid, cell));
            }
            for cell in 0..grid.cells() {
                let bounds = model.medians(&grid).bounds(cell).unwrap();
                let t = truth(&grid, cell);
                assert!(
                    bounds.low <= t * 1.003 && t <= bounds.high * 1.003,
                    "{:?} {bounds:?} {t}",
                    grid.cell(cell)
                );
            }
        }
    }

    #[test]
    fn two_cells_of_a_row_bracket_the_one_between() {
        let grid = grid();
        let mut model = LatencyModel::new();
        for gpu in [0, 7] {
            let cell = grid.index(Cell { gpu, emc: 2 });
            model.record(cell, truth(&grid, cell));
        }
        let mid = grid.index(Cell { gpu: 3, emc: 2 });
        let bounds = model.medians(&grid).bounds(mid).unwrap();
        assert!(bounds.high / bounds.low < 2.0, "{bounds:?}");
    }

    #[test]
    fn a_common_slow_down_moves_every_cell() {
        let grid = grid();
        let mut model = LatencyModel::new();
        let top = grid.index(grid.top());
        for _ in 0..20 {
            model.record(top, 4_000.0);
        }
        model.shift(libm::log(1.5));
        assert!((model.typical(top).unwrap() / 6_000.0 - 1.0).abs() < 0.005);
        assert!(model.miss_rate(top, 6_300.0) < 0.01 && model.miss_rate(top, 5_900.0) > 0.9);
    }
}
