//! The plant: periodic releases, recorded latencies, clocks that take time to settle, a slow coarse rail.

use pilotlight_units::{Hertz, Micros, Milliwatts};

use super::baselines::{POLL_US, Podgov};
use super::data::{BLOCK, Workload};
use super::rng::Rng;
use super::world::World;
use crate::governor::{Cell, Instant, Observation, Point, RailReading};

/// How the plant is run.
#[derive(Clone, Copy, Debug)]
pub struct PlantSettings {
    /// Time between releases, microseconds.
    pub period_us: f64,
    /// Seed of every draw.
    pub seed: u64,
    /// Time between two rail readings, microseconds.
    pub rail_every_us: f64,
    /// How much of a change the next reading shows (1: all of it).
    pub rail_follows: f64,
    /// Step of the rail, mW.
    pub rail_step_mw: f64,
    /// Deviation of the rail's noise, mW; the traces show 25 to 80.
    pub rail_noise_mw: f64,
}

impl PlantSettings {
    /// The plant as the measurements describe it.
    pub fn new(period_us: f64, seed: u64) -> Self {
        Self {
            period_us,
            seed,
            rail_every_us: 100_000.0,
            rail_follows: 0.6,
            rail_step_mw: 40.0,
            rail_noise_mw: 45.0,
        }
    }
}

/// Something that goes wrong for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Disturbance {
    /// Every inference takes this much longer.
    Slower(f64),
    /// The memory clock is at an index of the grid, whatever is asked.
    EmcForced(usize),
    /// GPU writes do nothing; the readback shows the true clock.
    GpuNotHeld,
    /// GPU writes do nothing, and the readback repeats what was asked.
    GpuNotHeldUnseen,
    /// The GPU clock is capped at an index of the grid.
    GpuCap(usize),
    /// The rail repeats its last reading.
    RailStuck,
    /// The rail gives nothing.
    RailLost,
}

/// What one cycle was.
#[derive(Clone, Copy, Debug)]
pub struct Cycle {
    /// What a governor may see of it.
    pub seen: Observation,
    /// Energy spent since the previous cycle ended, mJ (modelled).
    pub energy_mj: f64,
    /// The cell in force when the work was done.
    pub cell: Cell,
}

/// A change of one clock domain on its way.
#[derive(Clone, Copy, Debug)]
struct Change {
    force_at: f64,
    read_at: f64,
    index: usize,
}

/// One clock domain: what is in force, what a readback shows, and changes under way.
#[derive(Clone, Debug)]
struct Domain {
    now: usize,
    read: usize,
    changes: Vec<Change>,
    asked: usize,
}

impl Domain {
    fn at(index: usize) -> Self {
        Self { now: index, read: index, changes: Vec::new(), asked: index }
    }

    /// Brings the domain to time `t`.
    fn advance(&mut self, t: f64) {
        for change in &self.changes {
            if change.force_at <= t {
                self.now = change.index;
            }
            if change.read_at <= t {
                self.read = change.index;
            }
        }
        self.changes.retain(|c| c.read_at > t || c.force_at > t);
    }

    fn next(&self, t: f64) -> f64 {
        self.changes.iter().map(|c| c.force_at).filter(|at| *at > t).fold(f64::INFINITY, f64::min)
    }
}

/// A board that exists in recordings.
pub struct Plant<'a> {
    workload: &'a Workload,
    world: &'a World,
    settings: PlantSettings,
    rng: Rng,
    time: f64,
    done: f64,
    cycle: u64,
    draw: usize,
    left_in_block: usize,
    gpu: Domain,
    emc: Domain,
    disturbance: Option<Disturbance>,
    stock: Option<Podgov>,
    clocks_mhz: Vec<f64>,
    poll_at: f64,
    rail_at: f64,
    rail_sum: f64,
    rail_value: f64,
    rail_shown: Option<RailReading>,
    energy: f64,
}

impl<'a> Plant<'a> {
    /// A plant at rest in the top cell.
    pub fn new(workload: &'a Workload, world: &'a World, settings: PlantSettings) -> Self {
        let top = workload.grid.top();
        let mut plant = Self {
            workload,
            world,
            settings,
            rng: Rng::new(settings.seed),
            time: 0.0,
            done: 0.0,
            cycle: 0,
            draw: 0,
            left_in_block: 0,
            gpu: Domain::at(top.gpu),
            emc: Domain::at(top.emc),
            disturbance: None,
            stock: None,
            clocks_mhz: workload.grid.gpu_clocks().iter().map(|c| mhz(*c)).collect(),
            poll_at: f64::INFINITY,
            rail_at: settings.rail_every_us,
            rail_sum: 0.0,
            rail_value: 0.0,
            rail_shown: None,
            energy: 0.0,
        };
        plant.rail_value = plant.power(false);
        plant
    }

    /// A plant under the stock GPU governor, capped at a cell, with the memory clock held there.
    pub(crate) fn with_stock_governor(
        workload: &'a Workload,
        world: &'a World,
        settings: PlantSettings,
        cap: Cell,
    ) -> Self {
        let mut plant = Self::new(workload, world, settings);
        plant.gpu = Domain::at(cap.gpu);
        plant.emc = Domain::at(cap.emc);
        plant.stock = Some(Podgov::new(cap.gpu, plant.clocks_mhz[cap.gpu]));
        plant.poll_at = POLL_US;
        plant
    }

    /// Starts or ends a disturbance.
    pub fn disturb(&mut self, disturbance: Option<Disturbance>) {
        let ended = self.disturbance;
        self.disturbance = disturbance;
        // A domain that was kept from following goes where it was last asked.
        if disturbance.is_none() && ended.is_some() {
            for asked in [(true, self.gpu.asked), (false, self.emc.asked)] {
                self.change(asked.0, asked.1);
            }
        }
        if let Some(Disturbance::EmcForced(index)) = disturbance {
            self.change(false, index);
        }
        if let Some(Disturbance::GpuCap(cap)) = disturbance
            && self.gpu.now > cap
        {
            self.change(true, cap);
        }
    }

    /// Requests clocks now.
    pub fn request(&mut self, point: Point) {
        let cell = self.workload.grid.nearest(point);
        let gpu = match self.disturbance {
            Some(Disturbance::GpuCap(cap)) => Some(cell.gpu.min(cap)),
            Some(Disturbance::GpuNotHeld) => None,
            Some(Disturbance::GpuNotHeldUnseen) => {
                self.gpu.read = cell.gpu;
                None
            }
            _ => Some(cell.gpu),
        };
        self.gpu.asked = cell.gpu;
        self.emc.asked = cell.emc;
        if let Some(index) = gpu {
            self.change(true, index);
        }
        if !matches!(self.disturbance, Some(Disturbance::EmcForced(_))) {
            self.change(false, cell.emc);
        }
    }

    fn change(&mut self, gpu: bool, index: usize) {
        // Settle and readback times of the two domains: median and 95th percentile as measured, ms.
        let (settle, readback) = if gpu {
            (self.rng.within(4_700.0, 6_300.0), self.rng.within(6_400.0, 7_200.0))
        } else {
            (self.rng.within(7_400.0, 9_700.0), self.rng.within(12_800.0, 14_000.0))
        };
        let time = self.time;
        let domain = if gpu { &mut self.gpu } else { &mut self.emc };
        let heading = domain.changes.last().map_or(domain.now, |c| c.index);
        if heading != index || domain.read != index {
            domain.changes.push(Change { force_at: time + settle, read_at: time + readback, index });
        }
    }

    /// The cell in force.
    pub fn cell(&self) -> Cell {
        Cell { gpu: self.gpu.now, emc: self.emc.now }
    }

    /// Runs one release to its result.
    pub fn step(&mut self) -> Cycle {
        let release = self.cycle as f64 * self.settings.period_us;
        self.cycle += 1;
        self.advance(release.max(self.done), false);
        if self.left_in_block == 0 {
            self.left_in_block = BLOCK;
            self.draw = self.rng.bits() as usize;
        }
        self.left_in_block -= 1;
        self.draw = self.draw.wrapping_add(1);
        let cell = self.run();
        self.done = self.time;
        let energy_mj = std::mem::take(&mut self.energy);
        let readback = self.workload.grid.point(Cell { gpu: self.gpu.read, emc: self.emc.read });
        let seen = Observation {
            now: Instant::from_micros(self.time as u64),
            latency: Micros((self.time - release) as u64),
            readback: Some(readback),
            rail: self.rail_shown.filter(|_| self.disturbance != Some(Disturbance::RailLost)),
        };
        Cycle { seen, energy_mj, cell }
    }

    /// Does the work of one inference; a change of clocks in its middle changes its pace.
    fn run(&mut self) -> Cell {
        let mut left = 1.0;
        loop {
            let cell = self.cell();
            let measured = &self.workload.cell(cell).latency_us;
            let mut takes = measured[self.draw % measured.len()];
            if let Some(Disturbance::Slower(factor)) = self.disturbance {
                takes *= factor;
            }
            let end = self.time + left * takes;
            let change = self.gpu.next(self.time).min(self.emc.next(self.time));
            if end <= change {
                self.advance(end, true);
                return cell;
            }
            left -= (change - self.time) / takes;
            self.advance(change, true);
        }
    }

    fn power(&self, busy: bool) -> f64 {
        let point = self.workload.grid.point(self.cell());
        let (gpu, emc) = (mhz(point.gpu), mhz(point.emc));
        let idle = self.world.idle_mw(gpu, emc);
        if !busy {
            return idle;
        }
        let median_ms = self.workload.cell(self.cell()).quantile(0.5) / 1_000.0;
        idle + self.world.inference_mj(&self.workload.name, gpu, median_ms) / median_ms * 1_000.0
    }

    fn advance(&mut self, to: f64, busy: bool) {
        while self.time < to {
            let next = to
                .min(self.rail_at)
                .min(self.poll_at)
                .min(self.gpu.next(self.time))
                .min(self.emc.next(self.time));
            let power = self.power(busy);
            let span = next - self.time;
            self.energy += power * span * 1e-6;
            self.rail_sum += power * span;
            if let Some(stock) = &mut self.stock
                && busy
            {
                stock.busy(span);
            }
            self.time = next;
            self.gpu.advance(next);
            self.emc.advance(next);
            if next >= self.rail_at {
                self.sample();
            }
            if next >= self.poll_at {
                self.poll_at += POLL_US;
                if let Some(stock) = &mut self.stock
                    && let Some(index) = stock.poll(&self.clocks_mhz, self.gpu.now)
                {
                    self.change(true, index);
                }
            }
        }
        self.gpu.advance(self.time);
        self.emc.advance(self.time);
    }

    /// The sensor averages over its interval, follows with a lag, and rounds.
    fn sample(&mut self) {
        let mean = self.rail_sum / self.settings.rail_every_us;
        self.rail_sum = 0.0;
        self.rail_value += self.settings.rail_follows * (mean - self.rail_value);
        let noisy = self.rail_value + self.settings.rail_noise_mw * self.rng.normal();
        let step = self.settings.rail_step_mw;
        let mut power = Milliwatts(((noisy / step).round() * step).max(0.0) as u32);
        if self.disturbance == Some(Disturbance::RailStuck)
            && let Some(shown) = self.rail_shown
        {
            power = shown.power;
        }
        self.rail_shown = Some(RailReading { at: Instant::from_micros(self.rail_at as u64), power });
        self.rail_at += self.settings.rail_every_us;
    }
}

pub(crate) fn mhz(clock: Hertz) -> f64 {
    clock.as_f64() / 1e6
}
