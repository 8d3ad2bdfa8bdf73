//! Where to go next: constrained expected improvement over the cells.
//!
//! The best cell known to hold the budget is the incumbent. Another cell is worth a visit by the energy it may
//! save (expected improvement over the incumbent under the power belief) times the chance that it holds the
//! budget (from the latency bounds). When no visit promises enough, the governor stays.

use super::grid::Cell;
use super::latency::Medians;
use super::{Governor, Purpose};

/// Latencies after which a cell counts as visited.
const VISITED: u32 = 3;
/// A visit must promise at least this share of the incumbent's power.
const WORTH: f64 = 0.002;
/// The incumbent changes for at least this share.
const HYSTERESIS: f64 = 0.003;
/// Visits to one cell after which its power counts as known.
const VISITS: u8 = 6;
/// Ratio to the fastest median up to which a cell's neighbours may be faster still.
const ABOUT_AS_FAST: f64 = 1.05;
/// Late cycles that a failed visit costs.
const COST_OF_FAILURE: f64 = 1.5;

impl Governor {
    /// Whether a cell is known to hold the budget.
    pub(super) fn safe(&self, index: usize) -> bool {
        let n = self.latency.count(index);
        if n < VISITED || self.cycle < self.banned[index] {
            return false;
        }
        self.miss_rate(index) <= self.allowance(index)
    }

    /// Expected share of late cycles with the margin kept.
    fn miss_rate(&self, index: usize) -> f64 {
        self.latency.miss_rate(index, self.settings.budget.as_f64() / self.margin)
    }

    /// The rate that passes: a little above the target where few cycles were counted, since one unlucky cycle
    /// must not condemn a good cell for ever.
    fn allowance(&self, index: usize) -> f64 {
        let target = self.settings.allowed();
        let n = f64::from(self.latency.count(index));
        if n < 50.0 { target } else { target * (1.0 + 1.0 / libm::sqrt(1.0 + n * target)) }
    }

    /// Chance that a cell holds the budget; `limit` is the median that just does, microseconds.
    fn chance(&self, index: usize, medians: &Medians, limit: f64) -> f64 {
        if self.cycle < self.banned[index] {
            return 0.0;
        }
        if self.latency.count(index) >= VISITED {
            return if self.safe(index) { 1.0 } else { 0.0 };
        }
        let Some(bounds) = medians.bounds(index) else { return 0.0 };
        if bounds.high <= limit {
            1.0
        } else if bounds.low >= limit {
            0.0
        } else {
            (limit - bounds.low) / (bounds.high - bounds.low)
        }
    }

    fn reachable(&self, index: usize) -> bool {
        let cell = self.grid.cell(index);
        self.gpu_reach.holds(cell.gpu) && self.emc_reach.holds(cell.emc) && self.class_allows(cell)
    }

    /// The cheapest reachable cell that is known to hold the budget.
    pub(super) fn incumbent(&self) -> Option<usize> {
        let mut best: Option<usize> = None;
        for index in 0..self.grid.cells() {
            if self.reachable(index)
                && self.safe(index)
                && best.is_none_or(|b| self.power_of(index) < self.power_of(b))
            {
                best = Some(index);
            }
        }
        let here = self.here();
        match best {
            Some(b)
                if self.reachable(here)
                    && self.safe(here)
                    && self.power_of(here) <= self.power_of(b) * (1.0 + HYSTERESIS) =>
            {
                Some(here)
            }
            other => other,
        }
    }

    /// The reachable cell with the lowest median, of those visited; the top reachable cell before that.
    pub(super) fn fastest(&self) -> usize {
        let mut best: Option<(usize, f64)> = None;
        let mut top = 0;
        for index in 0..self.grid.cells() {
            if !self.reachable(index) {
                continue;
            }
            top = index;
            if let Some(t) = self.latency.typical(index)
                && best.is_none_or(|(_, b)| t < b)
            {
                best = Some((index, t));
            }
        }
        match best {
            // A cap, a forced clock or a fresh start: the highest reachable clocks may never have been visited.
            Some((b, t)) => match self.latency.medians(&self.grid).bounds(top) {
                Some(bounds) if self.latency.count(top) == 0 && bounds.low < t => top,
                _ => b,
            },
            None => top,
        }
    }

    /// A reachable cell never visited that lies next to one about as fast as the fastest: before a budget is
    /// called infeasible the clocks around the fastest points are tried, since more is not always faster.
    pub(super) fn untried_neighbour(&self, fastest: usize) -> Option<usize> {
        let limit = self.latency.typical(fastest)? * ABOUT_AS_FAST;
        (0..self.grid.cells())
            .rev()
            .filter(|i| self.latency.typical(*i).is_some_and(|t| t <= limit))
            .find_map(|i| self.untried_beside(self.grid.cell(i)))
    }

    fn untried_beside(&self, cell: Cell) -> Option<usize> {
        let sides = [
            Cell { gpu: cell.gpu, emc: cell.emc.wrapping_sub(1) },
            Cell { gpu: cell.gpu.wrapping_sub(1), emc: cell.emc },
            Cell { gpu: cell.gpu, emc: cell.emc + 1 },
            Cell { gpu: cell.gpu + 1, emc: cell.emc },
        ];
        sides
            .into_iter()
            .filter(|c| c.gpu < self.grid.gpu_clocks().len() && c.emc < self.grid.emc_clocks().len())
            .map(|c| self.grid.index(c))
            .find(|&i| self.reachable(i) && self.latency.count(i) == 0)
    }

    /// The next cell and why.
    pub(super) fn plan(&self) -> (usize, Purpose) {
        let Some(incumbent) = self.incumbent() else { return (self.fastest(), Purpose::Fallback) };
        let medians = self.latency.medians(&self.grid);
        let tail = self.latency.tail_ratio(self.settings.allowed());
        let limit = self.settings.budget.as_f64() / (self.margin * tail);
        let mut best = (incumbent, Purpose::Hold);
        let mut worth = WORTH * self.power_of(incumbent);
        for index in 0..self.grid.cells() {
            if index == incumbent || !self.reachable(index) {
                continue;
            }
            let gain = self.improvement(index, incumbent);
            if gain <= worth {
                continue;
            }
            let chance = self.chance(index, &medians, limit);
            if (1.0 - chance) * COST_OF_FAILURE > self.tokens {
                continue;
            }
            if gain * chance > worth {
                worth = gain * chance;
                best = (index, Purpose::Probe);
            }
        }
        best
    }

    /// Expected improvement of a cell over the incumbent, milliwatts.
    fn improvement(&self, index: usize, incumbent: usize) -> f64 {
        let Some(field) = &self.field else {
            // Without a rail only the prior's order is known.
            return self.power_of(incumbent) - self.power_of(index);
        };
        let difference = field.mean(incumbent) - field.mean(index);
        if !self.rail_usable() || self.visits[index] >= VISITS {
            return difference;
        }
        let spread = field.spread(index, incumbent).max(1e-6);
        let z = difference / spread;
        let density = 0.398_942_280_401_432_7 * libm::exp(-0.5 * z * z);
        let below = 0.5 * libm::erfc(-z * core::f64::consts::FRAC_1_SQRT_2);
        difference * below + spread * density
    }
}
