//! Scores: one run of the governor, the oracle it is measured against, and the bars.

use pilotlight_units::Micros;

use super::data::Workload;
use super::plant::{Disturbance, Plant, PlantSettings, mhz};
use super::world::World;
use crate::governor::{Cell, Governor, Settings, SettingsError, State};

/// Cycles at the start in which the governor learns; they are scored apart.
pub const LEARNING: u64 = 200;

/// One run to make.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// Budget, microseconds.
    pub budget_us: f64,
    /// Share of cycles that must be in time.
    pub percentile: f64,
    /// Time between releases, microseconds.
    pub period_us: f64,
    /// Cycles.
    pub cycles: u64,
    /// Seed of the plant.
    pub seed: u64,
    /// Something that goes wrong from one cycle to another.
    pub disturbance: Option<(u64, u64, Disturbance)>,
}

/// What one run showed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Late cycles among the first [`LEARNING`].
    pub late_learning: u64,
    /// Late cycles after.
    pub late: u64,
    /// Energy per period after the learning cycles, mJ (modelled).
    pub energy_mj: f64,
    /// First cycle at which the budget was called infeasible.
    pub named: Option<u64>,
    /// Cycles with the budget called infeasible.
    pub infeasible_cycles: u64,
    /// Largest ratio, over cycles from 100 on, of the held cell's median to the fastest cell's.
    pub held_over_fastest: f64,
    /// Requests made.
    pub requests: u64,
    /// Late cycles of a disturbance from its 100th on, with the budget not called infeasible.
    pub late_disturbed: u64,
    /// Cycles from the start of a disturbance until three late, unnamed cycles within 50 were seen no more.
    pub recovered: Option<u64>,
}

/// Every cycle of a run, for traces and plots.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Cycle, from 0.
    pub cycle: u64,
    /// What the plant showed.
    pub seen: crate::governor::Observation,
    /// Cell in force.
    pub cell: Cell,
    /// Energy since the previous result, mJ (modelled).
    pub energy_mj: f64,
    /// State after the cycle.
    pub state: State,
}

/// Runs the governor on the plant.
///
/// # Errors
/// [`SettingsError`] when the task is out of range.
pub fn run_governor(
    workload: &Workload,
    world: &World,
    settings: PlantSettings,
    task: &Task,
    mut each: impl FnMut(&Row),
) -> Result<Outcome, SettingsError> {
    let budget = Micros(task.budget_us as u64);
    let mut governor = Governor::new(
        Settings::new(budget, task.percentile, Micros(task.period_us as u64))?,
        workload.grid.clone(),
    )?;
    let mut plant = Plant::new(workload, world, settings);
    plant.request(governor.start());
    let fastest = workload.cells().map(|(_, m)| m.quantile(0.5)).fold(f64::INFINITY, f64::min);
    let mut outcome = Outcome::default();
    let mut energy = 0.0;
    let mut recovery = Recovery::default();
    for cycle in 0..task.cycles {
        if let Some((from, to, disturbance)) = task.disturbance {
            if cycle == from {
                plant.disturb(Some(disturbance));
            } else if cycle == to {
                plant.disturb(None);
            }
        }
        let done = plant.step();
        let decision = governor.observe(&done.seen);
        if let Some(point) = decision.request {
            plant.request(point);
            outcome.requests += 1;
        }
        let infeasible = decision.state == State::Infeasible;
        if infeasible {
            outcome.infeasible_cycles += 1;
            outcome.named = outcome.named.or(Some(cycle));
        }
        if cycle < LEARNING {
            outcome.late_learning += u64::from(decision.late);
        } else {
            outcome.late += u64::from(decision.late);
            energy += done.energy_mj;
        }
        if cycle >= 100 {
            let held = workload.cell(done.cell).quantile(0.5) / fastest;
            outcome.held_over_fastest = outcome.held_over_fastest.max(held);
        }
        if let Some((from, to, _)) = task.disturbance
            && (from..to).contains(&cycle)
        {
            let bad = decision.late && !infeasible;
            outcome.late_disturbed += u64::from(bad && cycle - from >= 100);
            recovery.take(cycle - from, bad);
        }
        each(&Row {
            cycle,
            seen: done.seen,
            cell: done.cell,
            energy_mj: done.energy_mj,
            state: decision.state,
        });
    }
    outcome.energy_mj = energy / (task.cycles.saturating_sub(LEARNING)).max(1) as f64;
    outcome.recovered = recovery.at();
    Ok(outcome)
}

/// Finds the cycle of a disturbance after which late cycles, with the budget not called infeasible, are rare.
#[derive(Default)]
struct Recovery {
    bad: Vec<u64>,
    seen: u64,
}

impl Recovery {
    fn take(&mut self, cycle: u64, bad: bool) {
        self.seen = cycle + 1;
        if bad {
            self.bad.push(cycle);
        }
    }

    /// One past the last cycle that ends a stretch of 50 with more than two bad ones.
    fn at(&self) -> Option<u64> {
        let crowded = self.bad.windows(3).filter(|w| w[2] - w[0] < 50).map(|w| w[2] + 1).max();
        (self.seen > 0).then(|| crowded.unwrap_or(0))
    }
}

/// Mean energy per period of a cell, mJ, from its recorded latencies and a world.
pub fn cell_energy(workload: &Workload, world: &World, cell: Cell, period_us: f64) -> f64 {
    let point = workload.grid.point(cell);
    let (gpu, emc) = (mhz(point.gpu), mhz(point.emc));
    let measured = workload.cell(cell);
    let median_ms = measured.quantile(0.5) / 1_000.0;
    world.idle_mw(gpu, emc) * period_us * 1e-6
        + world.inference_mj(&workload.name, gpu, median_ms) * measured.mean() / 1_000.0 / median_ms
}

/// The oracle: the cheapest cell whose measured percentile holds the budget and that keeps up with the period.
pub fn oracle(
    workload: &Workload,
    world: &World,
    budget_us: f64,
    percentile: f64,
    period_us: f64,
) -> Option<(Cell, f64)> {
    workload
        .cells()
        .filter(|(_, m)| m.quantile(percentile) <= budget_us && m.mean() < period_us)
        .map(|(cell, _)| (cell, cell_energy(workload, world, cell, period_us)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

/// Means and bounds over the seeds of one budget in one world.
#[derive(Clone, Copy, Debug, Default)]
pub struct Score {
    /// Mean share of late cycles after learning.
    pub late: f64,
    /// One-sided 95 % upper bound of it, clustered by seed (Student's t).
    pub late_upper: f64,
    /// Most late cycles in the learning phase of any seed.
    pub late_learning: u64,
    /// Mean energy per period, mJ.
    pub energy_mj: f64,
    /// Latest cycle at which a run called the budget infeasible; `None` when some run never did.
    pub named_by: Option<u64>,
    /// Runs that called it infeasible.
    pub named: u64,
    /// Largest ratio of a held cell to the fastest from cycle 100 on.
    pub held_over_fastest: f64,
}

/// Student's t, one-sided 95 %, for 1 to 30 degrees of freedom.
const T95: [f64; 30] = [
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753,
    1.746, 1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697,
];

impl Score {
    /// From the outcomes of several seeds.
    pub fn of(outcomes: &[Outcome], cycles: u64) -> Self {
        let n = outcomes.len() as f64;
        let after = cycles.saturating_sub(LEARNING).max(1) as f64;
        let rates: Vec<f64> = outcomes.iter().map(|o| o.late as f64 / after).collect();
        let late = rates.iter().sum::<f64>() / n;
        let variance = rates.iter().map(|r| (r - late) * (r - late)).sum::<f64>() / (n - 1.0).max(1.0);
        let t = T95[outcomes.len().saturating_sub(2).min(29)];
        Self {
            late,
            late_upper: late + t * (variance / n).sqrt(),
            late_learning: outcomes.iter().map(|o| o.late_learning).max().unwrap_or(0),
            energy_mj: outcomes.iter().map(|o| o.energy_mj).sum::<f64>() / n,
            named_by: outcomes.iter().map(|o| o.named).try_fold(0, |a, b| b.map(|b| a.max(b))),
            named: outcomes.iter().filter(|o| o.named.is_some()).count() as u64,
            held_over_fastest: outcomes.iter().map(|o| o.held_over_fastest).fold(0.0, f64::max),
        }
    }
}
