//! What the governor is compared with: top clocks, the stock governor in each power mode, a fit that does not
//! know the memory clock, and the oracle (in `score`).

use super::data::Workload;
use super::plant::{Plant, PlantSettings, mhz};
use super::world::World;
use crate::governor::Cell;

/// The stock GPU governor (`nvhost_podgov`): constants and rule as its public source gives them.
#[derive(Clone, Debug)]
pub(crate) struct Podgov {
    /// Highest GPU clock of the mode, index of the grid.
    cap: usize,
    polls: u32,
    busy_us: f64,
    busy_average: f64,
    clock_average: f64,
}

/// Time between two looks at the load.
pub(crate) const POLL_US: f64 = 25_000.0;
/// Looks between two changes (a block window of 50 ms).
const BLOCK_POLLS: u32 = 2;
const LOAD_MAX: f64 = 0.90;
const LOAD_TARGET: f64 = 0.70;
const DAMP: f64 = 0.7;
const BIAS: f64 = 0.80;

impl Podgov {
    pub(crate) fn new(cap: usize, cap_mhz: f64) -> Self {
        Self { cap, polls: 0, busy_us: 0.0, busy_average: 0.0, clock_average: cap_mhz }
    }

    pub(crate) fn busy(&mut self, us: f64) {
        self.busy_us += us;
    }

    /// One look at the load; the index to go to when it acts.
    pub(crate) fn poll(&mut self, clocks_mhz: &[f64], now: usize) -> Option<usize> {
        let load = self.busy_us / POLL_US;
        self.busy_us = 0.0;
        self.busy_average = (10.0 * self.busy_average + load) / 11.0;
        self.polls += 1;
        if !self.polls.is_multiple_of(BLOCK_POLLS) {
            return None;
        }
        let (clock, max) = (clocks_mhz[now], clocks_mhz[self.cap]);
        let wanted = if load > LOAD_MAX {
            clock + max / 3.0
        } else {
            let step = BIAS * clock * (self.busy_average - LOAD_TARGET) / LOAD_TARGET;
            let new = clock + step.min(max / 3.0);
            DAMP * new + (1.0 - DAMP) * self.clock_average
        };
        self.clock_average = (10.0 * self.clock_average + clock) / 11.0;
        Some(clocks_mhz.iter().position(|c| *c >= wanted).unwrap_or(self.cap).min(self.cap))
    }
}

/// What a rival did: its late cycles and energy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Baseline {
    /// Share of late cycles.
    pub late: f64,
    /// Energy per period, mJ (modelled).
    pub energy_mj: f64,
}

/// The power modes of the board the data comes from: clock caps, with the memory clock seen under them.
#[derive(Clone, Copy, Debug)]
pub struct Modes {
    /// Name of the mode.
    pub name: &'static str,
    gpu_mhz: f64,
    emc_mhz: f64,
}

impl Modes {
    /// Orin Nano 8 GB, super: 15 W, 25 W, and MAXN_SUPER, where the stock memory governor held 2133 MHz.
    pub const ORIN_NANO_SUPER: [Self; 3] = [
        Self { name: "15W", gpu_mhz: 612.0, emc_mhz: 2_133.0 },
        Self { name: "25W", gpu_mhz: 918.0, emc_mhz: 3_199.0 },
        Self { name: "MAXN", gpu_mhz: 1_020.0, emc_mhz: 2_133.0 },
    ];

    /// Runs the stock governor in this mode on the plant.
    pub fn run(
        &self,
        workload: &Workload,
        world: &World,
        settings: PlantSettings,
        budget_us: f64,
        cycles: u64,
    ) -> Baseline {
        let grid = &workload.grid;
        let find = |list: &[pilotlight_units::Hertz], wanted: f64| {
            list.iter().position(|c| mhz(*c) >= wanted).unwrap_or(list.len() - 1)
        };
        let cell =
            Cell { gpu: find(grid.gpu_clocks(), self.gpu_mhz), emc: find(grid.emc_clocks(), self.emc_mhz) };
        let mut plant = Plant::with_stock_governor(workload, world, settings, cell);
        let (mut late, mut energy) = (0u64, 0.0);
        for _ in 0..cycles {
            let cycle = plant.step();
            late += u64::from(cycle.seen.latency.as_f64() > budget_us);
            energy += cycle.energy_mj;
        }
        Baseline { late: late as f64 / cycles as f64, energy_mj: energy / cycles as f64 }
    }
}

/// The published failure: latency fitted as k / GPU clock + b at one memory clock, the lowest clock that the
/// fit allows with three deviations of margin, while the stock memory governor holds another.
pub struct Blind;

impl Blind {
    /// The cell it settles in.
    pub fn cell(workload: &Workload, budget_us: f64) -> Cell {
        let grid = &workload.grid;
        let top = grid.top();
        let at = |gpu: usize| workload.cell(Cell { gpu, emc: top.emc });
        let clock = |gpu: usize| mhz(grid.gpu_clocks()[gpu]);
        let (slow, fast) = (at(0).mean(), at(top.gpu).mean());
        let k = (slow - fast) / (1.0 / clock(0) - 1.0 / clock(top.gpu));
        let b = fast - k / clock(top.gpu);
        let deviation = {
            let m = at(top.gpu);
            let mean = m.mean();
            let var =
                m.latency_us.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / m.latency_us.len() as f64;
            3.0 * var.sqrt()
        };
        let gpu = (0..=top.gpu).find(|g| k / clock(*g) + b + deviation <= budget_us).unwrap_or(top.gpu);
        // The stock memory governor holds the second highest point under this load.
        Cell { gpu, emc: top.emc.saturating_sub(1) }
    }
}
