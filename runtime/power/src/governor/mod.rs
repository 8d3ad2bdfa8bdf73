//! The governor: holds a latency budget at the least energy per period by asking for clocks.
//!
//! | word | meaning |
//! |---|---|
//! | cell | a pair of GPU and memory clock ([`Grid`]) |
//! | budget | the latency, from release to result, that a share of cycles must keep ([`Settings`]) |
//! | visit | a stay in a cell of a few cycles, to learn its latency and power |
//! | incumbent | the cheapest cell known to hold the budget |
//! | settled | the clocks asked for have had time to take hold |
//!
//! One [`Observation`] a cycle goes in, one [`Decision`] comes out; nothing is allocated. It begins in the top
//! cell, knows nothing of the workload, and learns: latency by structure and by count, power by a
//! correlated belief that the module rail corrects , tails by count. It leaves a cell
//! when late cycles gather faster than the percentile allows, follows a workload that becomes slower or faster
//! as a whole, and calls a budget infeasible when the fastest reachable cell and its neighbours miss it.

mod field;
mod grid;
mod latency;
mod plan;
mod rail;
mod reach;
mod settings;
mod tail;

pub use embassy_time::Instant;
pub use grid::{Cell, Grid, GridError, MAX_CELLS, MAX_EMC, MAX_GPU, Point};
pub use rail::{RailHealth, RailReading};
pub use settings::{Settings, SettingsError};

use field::PowerField;
use latency::LatencyModel;
use pilotlight_units::{Hertz, Micros, Milliwatts};
use rail::{RailFilter, Verdict};
use reach::Reach;

/// Cycles at the start that only warm the workload up.
const WARM_UP: u64 = 2;
/// Latencies that a visit takes at least.
const VISIT_CYCLES: u32 = 4;
/// Rail readings that a visit takes, where there is a rail.
const VISIT_READINGS: u32 = 5;
/// A visit ends after this many cycles even if no reading came.
const VISIT_LONGEST: u32 = 120;
/// Cycles between two looks at the plan while holding.
const REPLAN: u32 = 4;
/// Weight of evidence (natural log) that late cycles come five times as often as allowed: leave the cell.
const EVIDENCE: f64 = 4.0;
/// The same, before the budget itself is called infeasible: about five late cycles in a row.
const EVIDENCE_TO_NAME: f64 = 8.0;
/// First ban of a cell that was left, in cycles, and how often it doubles.
const BAN: u64 = 250;
const MOST_BANS: u8 = 3;
/// Late cycles that visits may cost at the start; refills at a share of what the percentile allows.
const TOKENS: f64 = 5.0;
const TOKEN_REFILL: f64 = 0.15;
/// Margin added by a late cycle; on-time cycles take back as much at 70 % of the allowed rate.
const MARGIN_STEP: f64 = 0.001;
const MARGIN_AIM: f64 = 0.7;
const MARGIN_WIDEST: f64 = 0.05;
/// Change of latency, natural log, that can be a change of the workload.
const SHIFT: f64 = 0.03;
/// Cycles in a row that must agree on it.
const SHIFT_RUN: usize = 3;
/// Cycles in a cell after which a change is the workload's and not an old memory of the cell.
const STEADY: u32 = 10;
/// Cycles after which a cell that failed is worth another look.
const STALE: u64 = 2_000;
/// Latencies up to which a failed cell was only looked at.
const GLANCE: u32 = 32;
/// Share of the prior's uncertainty that a changed workload brings back to the power belief.
const DOUBT: f64 = 0.04;

/// What one cycle showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When the result was there. The governor reads no clock: a driver's time, a board's or a test's will do.
    pub now: Instant,
    /// From release to result, waiting for earlier late work included.
    pub latency: Micros,
    /// Clocks read back; `None` where they cannot be read.
    pub readback: Option<Point>,
    /// The latest reading of the rail that covers the whole module; repeat it until there is a newer one.
    pub rail: Option<RailReading>,
}

/// A point in time as the units of this project have it; they saturate where embassy's panic.
pub(crate) fn micros(at: Instant) -> Micros {
    Micros(at.as_micros())
}

/// Whether the budget is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Visiting cells to learn.
    Learning,
    /// Holding the cheapest cell known.
    Holding,
    /// No cell is known to hold the budget; the fastest known is held while that is judged.
    Struggling,
    /// The budget cannot be held; the fastest cell is.
    Infeasible,
}

/// How urgent the work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Urgency {
    /// Hold the budget at the least energy.
    #[default]
    Normal,
    /// Never above a GPU clock, whatever it does to latency.
    Background {
        /// Highest GPU clock allowed.
        cap: Hertz,
    },
    /// The fastest cell at once.
    Urgent,
}

/// Faults the governor works around, reported until they end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Faults {
    /// The GPU clock does not go where it is asked to: a cap, another owner, or a refused write.
    pub gpu_limited: bool,
    /// The memory clock does not.
    pub emc_limited: bool,
    /// Health of the module rail.
    pub rail: RailHealth,
    /// Readings of the rail too far off to be believed, counted.
    pub wild_readings: u32,
}

/// What to do after a cycle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// Clocks to ask the board for; `None` to leave them.
    pub request: Option<Point>,
    /// Whether the budget is held.
    pub state: State,
    /// Whether this cycle was late.
    pub late: bool,
    /// Faults worked around.
    pub faults: Faults,
}

/// Why the governor is where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Hold,
    Probe,
    Search,
    Fallback,
}

/// The state machine. About 60 KiB; it never allocates.
#[derive(Clone, Debug)]
pub struct Governor {
    settings: Settings,
    grid: Grid,
    urgency: Urgency,
    latency: LatencyModel,
    field: Option<PowerField>,
    rail: RailFilter,
    gpu_reach: Reach,
    emc_reach: Reach,
    banned: [u64; MAX_CELLS],
    bans: [u8; MAX_CELLS],
    visits: [u8; MAX_CELLS],
    last_seen: [u64; MAX_CELLS],
    cycle: u64,
    purpose: Purpose,
    infeasible: bool,
    asked: Cell,
    actual: Cell,
    in_force: Micros,
    started: bool,
    cycles_here: u32,
    readings_here: u32,
    evidence: f64,
    held_back: [f64; SHIFT_RUN],
    held: usize,
    tokens: f64,
    margin: f64,
    last_late: Option<(Micros, Micros)>,
    busy: f64,
}

impl Governor {
    /// A governor for a board's clocks, at the top cell.
    ///
    /// # Errors
    /// [`SettingsError`] when a setting is out of range.
    ///
    /// ```
    /// use pilotlight_power::governor::{Governor, Grid, Instant, Observation, Settings};
    /// use pilotlight_units::{Hertz, Micros};
    /// let grid = Grid::new(&[306, 612, 1020].map(Hertz::from_mhz), &[2133, 3199].map(Hertz::from_mhz))?;
    /// let settings = Settings::new(Micros::from_millis(8), 0.99, Micros::from_millis(40))?;
    /// let mut governor = Governor::new(settings, grid)?;
    /// let now = Instant::from_micros(4_300);
    /// let cycle = Observation { now, latency: Micros(4_300), readback: None, rail: None };
    /// let decision = governor.observe(&cycle);
    /// assert!(!decision.late);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(settings: Settings, grid: Grid) -> Result<Self, SettingsError> {
        settings.check()?;
        let top = grid.top();
        Ok(Self {
            gpu_reach: Reach::new(top.gpu),
            emc_reach: Reach::new(top.emc),
            margin: settings.margin,
            settings,
            grid,
            urgency: Urgency::Normal,
            latency: LatencyModel::new(),
            field: None,
            rail: RailFilter::new(),
            banned: [0; MAX_CELLS],
            bans: [0; MAX_CELLS],
            visits: [0; MAX_CELLS],
            last_seen: [0; MAX_CELLS],
            cycle: 0,
            purpose: Purpose::Fallback,
            infeasible: false,
            asked: top,
            actual: top,
            in_force: Micros(0),
            started: false,
            cycles_here: 0,
            readings_here: 0,
            evidence: 0.0,
            held_back: [0.0; SHIFT_RUN],
            held: 0,
            tokens: TOKENS,
            last_late: None,
            busy: 0.0,
        })
    }

    /// The clocks to ask for before the first cycle: the top cell.
    pub fn start(&self) -> Point {
        self.grid.point(self.asked)
    }

    /// The clocks last asked for.
    pub fn asked(&self) -> Point {
        self.grid.point(self.asked)
    }

    /// The clocks believed to be in force.
    pub fn actual(&self) -> Point {
        self.grid.point(self.actual)
    }

    /// Share of the period that the device is busy, smoothed over about 50 cycles.
    pub fn utilisation(&self) -> f64 {
        self.busy
    }

    /// The same at the top clocks, where both latencies are known; otherwise as measured.
    pub fn utilisation_at_top(&self) -> f64 {
        let top = self.latency.typical(self.grid.index(self.grid.top()));
        match top.zip(self.latency.typical(self.here())) {
            Some((top, here)) => self.busy * (top / here).min(1.0),
            None => self.busy,
        }
    }

    /// Module power believed for a pair of clocks, with its standard deviation; `None` before a rail reading.
    ///
    /// An estimate: the rail's readings so far, and for cells never visited the prior they corrected.
    pub fn believed_power(&self, point: Point) -> Option<(Milliwatts, Milliwatts)> {
        let index = self.grid.index(self.grid.nearest(point));
        let field = self.field.as_ref()?;
        Some((Milliwatts(field.mean(index).max(0.0) as u32), Milliwatts(field.deviation(index) as u32)))
    }

    /// Median latency known for a pair of clocks; `None` for clocks never visited.
    pub fn known_latency(&self, point: Point) -> Option<Micros> {
        self.latency.typical(self.grid.index(self.grid.nearest(point))).map(|us| Micros(us as u64))
    }

    /// Changes how urgent the work is, from the next cycle on.
    pub fn set_urgency(&mut self, urgency: Urgency) {
        self.urgency = urgency;
        self.purpose = Purpose::Fallback;
    }

    /// Takes in one cycle and says what to ask for.
    pub fn observe(&mut self, seen: &Observation) -> Decision {
        self.cycle += 1;
        let late = seen.latency > self.settings.budget;
        let service = self.service(seen);
        self.busy += (service.as_f64() / self.settings.period.as_f64() - self.busy) * 0.02;
        self.tokens = (self.tokens + TOKEN_REFILL * self.settings.allowed()).min(2.0 * TOKENS);
        let now = micros(seen.now);
        let began = now - service;
        let settled = began >= self.in_force;
        let mut reach_changed = false;
        if settled {
            reach_changed = self.take_readback(seen.readback);
            self.take_latency(service, late);
        }
        self.take_rail(seen);
        // While infeasible the highest clocks are asked for anyway, so the end of a limit shows by itself.
        if !self.infeasible {
            reach_changed |= self.gpu_reach.retry(self.cycle) | self.emc_reach.retry(self.cycle);
        }
        let request = if settled || reach_changed { self.decide(now, reach_changed) } else { None };
        Decision { request, state: self.state(), late, faults: self.faults() }
    }

    fn state(&self) -> State {
        match self.purpose {
            _ if self.infeasible => State::Infeasible,
            Purpose::Hold => State::Holding,
            Purpose::Probe => State::Learning,
            Purpose::Search | Purpose::Fallback => State::Struggling,
        }
    }

    fn faults(&self) -> Faults {
        Faults {
            gpu_limited: self.gpu_reach.limited(),
            emc_limited: self.emc_reach.limited(),
            rail: self.rail.health(),
            wild_readings: self.rail.wild(),
        }
    }

    /// Latency without the wait for earlier late work.
    fn service(&mut self, seen: &Observation) -> Micros {
        let now = micros(seen.now);
        let release = now - seen.latency;
        let waited = match self.last_late {
            Some((done, _)) if done > release => done - release,
            _ => Micros(0),
        };
        self.last_late = Some((now, release));
        Micros((seen.latency - waited).0.max(1))
    }

    /// Widens the margin by a late cycle in a cell that was counted safe, narrows it by one in time.
    fn adapt_margin(&mut self, late: bool) {
        let step = if late { MARGIN_STEP } else { -MARGIN_STEP * MARGIN_AIM * self.settings.allowed() };
        let least = self.settings.margin;
        self.margin = (self.margin + step).clamp(least, least + MARGIN_WIDEST);
    }

    fn here(&self) -> usize {
        self.grid.index(self.actual)
    }

    fn rail_usable(&self) -> bool {
        self.rail.health() == RailHealth::Good
    }

    /// Power believed for a cell; before any reading, the prior's shape alone.
    fn power_of(&self, index: usize) -> f64 {
        match &self.field {
            Some(field) => field.mean(index),
            None => 1_000.0 * (0.5 + 0.2 * self.grid.gpu_share(index) + 0.3 * self.grid.emc_share(index)),
        }
    }

    fn class_allows(&self, cell: Cell) -> bool {
        match self.urgency {
            Urgency::Background { cap } => cell.gpu == 0 || self.grid.point(cell).gpu <= cap,
            _ => true,
        }
    }

    /// Takes the cell in force from the readback; true when the reachable range changed.
    fn take_readback(&mut self, readback: Option<Point>) -> bool {
        let Some(point) = readback else { return false };
        let read = self.grid.nearest(point);
        let changed = self.gpu_reach.compare(self.cycle, self.asked.gpu, read.gpu)
            | self.emc_reach.compare(self.cycle, self.asked.emc, read.emc);
        if read != self.actual {
            self.enter(read);
        }
        changed
    }

    fn enter(&mut self, cell: Cell) {
        let expected = self
            .field
            .as_ref()
            .map_or(0.0, |f| f.mean(self.grid.index(cell)) - f.mean(self.grid.index(self.actual)));
        self.rail.moved(expected);
        let here = self.here();
        self.release_held(here);
        self.actual = cell;
        self.cycles_here = 0;
        self.readings_here = 0;
        self.evidence = 0.0;
    }

    fn take_latency(&mut self, service: Micros, late: bool) {
        if self.cycle <= WARM_UP {
            return;
        }
        let index = self.here();
        let us = service.as_f64();
        self.cycles_here += 1;
        self.last_seen[index] = self.cycle;
        if self.purpose == Purpose::Hold && (!late || self.safe(index)) {
            self.adapt_margin(late);
        }
        match self.latency.surprise(index, us) {
            Some(surprise) if surprise.abs() > SHIFT => self.hold_back(index, us, surprise),
            _ => {
                self.release_held(index);
                self.latency.record(index, us);
            }
        }
        // A sequential test: late cycles at the allowed rate against five times that rate.
        let p0 = self.settings.allowed();
        let p1 = (5.0 * p0).min(0.5 + 0.5 * p0);
        let step = if late { libm::log(p1 / p0) } else { libm::log((1.0 - p1) / (1.0 - p0)) };
        self.evidence = (self.evidence + step).max(0.0);
    }

    /// Keeps a latency far off what the cell is known for until it is clear whether it is an outlier or the
    /// workload changed, so that a change does not pass for a tail.
    fn hold_back(&mut self, index: usize, us: f64, surprise: f64) {
        if self.held > 0
            && let Some(first) = self.latency.surprise(index, self.held_back[0])
            && (first > 0.0) != (surprise > 0.0)
        {
            self.release_held(index);
        }
        self.held_back[self.held] = us;
        self.held += 1;
        if self.held == SHIFT_RUN {
            self.follow_shift(index);
        }
    }

    fn release_held(&mut self, index: usize) {
        for i in 0..self.held {
            self.latency.record(index, self.held_back[i]);
        }
        self.held = 0;
    }

    /// The latest cycles all lie off to one side: the workload changed, or the cell is not what it was.
    fn follow_shift(&mut self, index: usize) {
        let mut sorted = self.held_back;
        sorted.sort_unstable_by(f64::total_cmp);
        let ratio = self.latency.surprise(index, sorted[SHIFT_RUN / 2]).unwrap_or(0.0);
        self.evidence = 0.0;
        if self.cycles_here < STEADY {
            self.forget_failures(0);
            self.latency.forget(index);
        } else {
            self.latency.shift(ratio);
            self.banned = [0; MAX_CELLS];
            self.visits = [0; MAX_CELLS];
            if let Some(field) = &mut self.field {
                field.doubt(&self.grid, DOUBT);
            }
        }
        self.release_held(index);
    }

    /// Forgets cells that failed at a glance at least `age` cycles ago: what they showed may be past.
    fn forget_failures(&mut self, age: u64) {
        for index in 0..self.grid.cells() {
            let n = self.latency.count(index);
            let stale = self.cycle - self.last_seen[index] >= age;
            if index != self.here() && n > 0 && n < GLANCE && stale && !self.safe(index) {
                self.latency.forget(index);
            }
        }
    }

    fn take_rail(&mut self, seen: &Observation) {
        let index = self.here();
        let believed = self.field.as_ref().map(|f| f.mean(index));
        let verdict = self.rail.judge(seen.rail, micros(seen.now), self.in_force, believed, &self.settings);
        if let Verdict::Use { milliwatts, noise } = verdict {
            self.readings_here += 1;
            match &mut self.field {
                Some(field) => field.record(index, milliwatts, noise),
                None => {
                    let mut field = PowerField::new(&self.grid, milliwatts);
                    field.record(index, milliwatts, noise);
                    self.field = Some(field);
                }
            }
        }
    }

    fn decide(&mut self, now: Micros, reach_changed: bool) -> Option<Point> {
        if self.cycle <= WARM_UP {
            return None;
        }
        if self.urgency == Urgency::Urgent {
            self.purpose = Purpose::Fallback;
            return self.go(now, self.grid.index(self.grid.top()), Purpose::Fallback);
        }
        let here = self.here();
        let tripped = self.evidence >= EVIDENCE;
        if tripped && !self.infeasible && self.cycle >= self.banned[here] {
            self.ban(here);
        }
        let failed = self.purpose == Purpose::Probe && self.probe_failed(here);
        if failed {
            self.tokens -= 1.0;
        }
        let visiting = matches!(self.purpose, Purpose::Probe | Purpose::Search) && !tripped && !failed;
        if visiting && !self.visit_over() && !reach_changed {
            return None;
        }
        if self.purpose == Purpose::Probe {
            self.visits[here] = self.visits[here].saturating_add(1);
        }
        let idle = self.purpose == Purpose::Hold && !tripped && !reach_changed;
        if idle && !self.cycles_here.is_multiple_of(REPLAN) && self.safe(here) {
            return None;
        }
        if self.incumbent().is_none() {
            return self.without_incumbent(now, tripped);
        }
        self.infeasible = false;
        if self.cycle.is_multiple_of(64) {
            self.forget_failures(STALE);
        }
        let (cell, purpose) = self.plan();
        self.go(now, cell, purpose)
    }

    /// No cell is known to hold the budget: hold the fastest, try its neighbours, then say so.
    fn without_incumbent(&mut self, now: Micros, tripped: bool) -> Option<Point> {
        let fastest = self.fastest();
        if (tripped || self.purpose == Purpose::Search) && !self.infeasible {
            if let Some(neighbour) = self.untried_neighbour(fastest) {
                return self.go(now, neighbour, Purpose::Search);
            }
            if self.evidence >= EVIDENCE_TO_NAME && self.here() == fastest {
                self.infeasible = true;
            }
        }
        self.go(now, fastest, Purpose::Fallback)
    }

    fn ban(&mut self, index: usize) {
        let n = self.bans[index];
        self.bans[index] = (n + 1).min(MOST_BANS);
        self.banned[index] = self.cycle + (BAN << n);
    }

    fn probe_failed(&self, index: usize) -> bool {
        self.latency.count(index) > 0
            && self.latency.typical(index).is_some_and(|t| t * self.margin > self.settings.budget.as_f64())
    }

    fn visit_over(&self) -> bool {
        if self.purpose == Purpose::Search {
            return self.evidence > 0.0 || self.cycles_here >= VISIT_CYCLES;
        }
        let readings = if self.rail_usable() { VISIT_READINGS } else { 0 };
        self.cycles_here >= VISIT_CYCLES
            && (self.readings_here >= readings || self.cycles_here >= VISIT_LONGEST)
    }

    /// Asks for a cell, unless it is asked for already.
    fn go(&mut self, now: Micros, index: usize, purpose: Purpose) -> Option<Point> {
        self.purpose = purpose;
        let cell = self.grid.cell(index);
        let fastest = purpose == Purpose::Fallback;
        let asked = Cell {
            gpu: if self.class_allows(self.grid.top()) {
                self.gpu_reach.ask(cell.gpu, fastest)
            } else {
                cell.gpu
            },
            emc: self.emc_reach.ask(cell.emc, fastest),
        };
        // Already asked for; a limited domain stays where the board lets it.
        if asked == self.asked && self.started {
            return None;
        }
        self.started = true;
        let hold = if asked.emc != self.asked.emc {
            self.settings.emc_hold.max(self.settings.gpu_hold)
        } else {
            self.settings.gpu_hold
        };
        self.in_force = now + hold;
        self.asked = asked;
        self.enter(cell);
        Some(self.grid.point(asked))
    }
}
