//! A Gaussian belief about the module power of every cell, corrected by the rail.
//!
//! Before the first reading all cells hang together: an unknown level, an unknown slope over the GPU clock, an
//! unknown step per memory clock, a smooth remainder, and a little of each cell's own. A reading in one cell
//! then moves the others as far as those parts are shared. The prior's numbers are shares of the power first
//! read, and coarse on purpose; the readings decide.

use super::grid::{Grid, MAX_CELLS};

/// Share of the top cell's power that the whole range of GPU clocks is expected to move.
const GPU_RANGE: f64 = 0.18;
/// Share that one step of the memory clock is expected to move.
const EMC_STEP: f64 = 0.06;
/// Standard deviations of the belief, as shares of the top cell's power.
const SIGMA_LEVEL: f64 = 0.30;
const SIGMA_GPU: f64 = 0.12;
const SIGMA_EMC: f64 = 0.05;
const SIGMA_SMOOTH: f64 = 0.03;
const SIGMA_CROSS: f64 = 0.02;
const SIGMA_OWN: f64 = 0.005;
/// Range over which the smooth remainder hangs together, as a share of the highest GPU clock.
const SMOOTH_OVER: f64 = 0.25;
/// Growth of the common level's deviation per reading (temperature, other loads), as a share.
const DRIFT: f64 = 0.001;

/// Mean and covariance of module power, milliwatts.
#[derive(Clone, Debug)]
pub(crate) struct PowerField {
    cells: usize,
    mean: [f64; MAX_CELLS],
    cov: [[f64; MAX_CELLS]; MAX_CELLS],
    level: f64,
}

impl PowerField {
    /// The belief before any reading, for a board that draws about `level` milliwatts in its top cell.
    pub(crate) fn new(grid: &Grid, level: f64) -> Self {
        let mut field =
            Self { cells: grid.cells(), mean: [0.0; MAX_CELLS], cov: [[0.0; MAX_CELLS]; MAX_CELLS], level };
        field.restart(grid, level);
        field
    }

    /// Falls back to the prior around a level.
    pub(crate) fn restart(&mut self, grid: &Grid, level: f64) {
        self.level = level;
        let steps = grid.emc_clocks().len();
        for a in 0..self.cells {
            let below = (steps - 1 - grid.cell(a).emc) as f64;
            let gpu = GPU_RANGE * (1.0 - grid.gpu_share(a));
            self.mean[a] = level * (1.0 - gpu - EMC_STEP * below);
            for b in 0..self.cells {
                self.cov[a][b] = prior(grid, a, b) * level * level;
            }
        }
    }

    pub(crate) fn mean(&self, cell: usize) -> f64 {
        self.mean[cell]
    }

    /// Standard deviation of the difference between two cells.
    pub(crate) fn spread(&self, a: usize, b: usize) -> f64 {
        libm::sqrt((self.cov[a][a] + self.cov[b][b] - 2.0 * self.cov[a][b]).max(0.0))
    }

    /// Standard deviation of one cell's power.
    pub(crate) fn deviation(&self, cell: usize) -> f64 {
        libm::sqrt(self.cov[cell][cell].max(0.0))
    }

    /// Takes in one reading of the rail in `cell` with the variance of its noise.
    pub(crate) fn record(&mut self, cell: usize, milliwatts: f64, noise: f64) {
        let drift = (DRIFT * self.level) * (DRIFT * self.level);
        for row in &mut self.cov[..self.cells] {
            for value in &mut row[..self.cells] {
                *value += drift;
            }
        }
        let column = self.cov[cell];
        let total = column[cell] + noise;
        let error = (milliwatts - self.mean[cell]) / total;
        for a in 0..self.cells {
            self.mean[a] += column[a] * error;
            let gain = column[a] / total;
            for (value, c) in self.cov[a].iter_mut().zip(&column[..self.cells]) {
                *value -= gain * c;
            }
        }
    }

    /// The workload changed: keep the means, but believe them less.
    pub(crate) fn doubt(&mut self, grid: &Grid, share: f64) {
        for a in 0..self.cells {
            for b in 0..self.cells {
                self.cov[a][b] += share * prior(grid, a, b) * self.level * self.level;
            }
        }
    }
}

fn prior(grid: &Grid, a: usize, b: usize) -> f64 {
    let (fa, fb) = (grid.gpu_share(a), grid.gpu_share(b));
    let (ea, eb) = (grid.cell(a).emc, grid.cell(b).emc);
    let near = (fa - fb) / SMOOTH_OVER;
    let smooth = libm::exp(-0.5 * near * near);
    let square = |x: f64| x * x;
    square(SIGMA_LEVEL)
        + square(SIGMA_GPU) * fa * fb
        + square(SIGMA_EMC) * ea.min(eb) as f64
        + square(SIGMA_SMOOTH) * smooth
        + if ea == eb { square(SIGMA_CROSS) * smooth } else { 0.0 }
        + if a == b { square(SIGMA_OWN) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilotlight_units::Hertz;

    fn grid() -> Grid {
        let gpu = [306, 408, 510, 612, 714, 816, 918, 1020].map(Hertz::from_mhz);
        Grid::new(&gpu, &[665, 2133, 3199].map(Hertz::from_mhz)).unwrap()
    }

    #[test]
    fn a_few_cells_tell_the_rest() {
        let grid = grid();
        // Another slope and other steps than the prior's.
        let truth = |i: usize| 4_000.0 + 900.0 * grid.gpu_share(i) + [0.0, 250.0, 1_300.0][grid.cell(i).emc];
        let mut field = PowerField::new(&grid, truth(grid.cells() - 1));
        for cell in [23, 15, 7, 12, 2] {
            for k in 0..20 {
                field.record(cell, truth(cell) + f64::from(k % 5 - 2) * 40.0, 60.0 * 60.0);
            }
        }
        for cell in 0..grid.cells() {
            let error = (field.mean(cell) - truth(cell)).abs();
            assert!(error < 3.0 * field.deviation(cell) + 20.0, "{cell}: {error}");
            assert!(error / truth(cell) < 0.04, "{cell}: {error}");
        }
    }

    #[test]
    fn readings_narrow_the_belief_and_doubt_widens_it() {
        let grid = grid();
        let mut field = PowerField::new(&grid, 7_000.0);
        let before = field.spread(0, 23);
        for _ in 0..10 {
            field.record(0, 5_000.0, 3_600.0);
            field.record(23, 7_000.0, 3_600.0);
        }
        let after = field.spread(0, 23);
        assert!(after < 0.1 * before);
        field.doubt(&grid, 0.25);
        assert!(field.spread(0, 23) > 0.4 * before);
    }
}
