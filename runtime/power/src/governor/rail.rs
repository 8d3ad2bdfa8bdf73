//! Which readings of the module rail tell something about the present cell, and how noisy they are.

use pilotlight_units::{Micros, Milliwatts};

use super::{Instant, micros, settings::Settings};

/// One reading of the rail that covers the whole module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RailReading {
    /// When the sensor was read.
    pub at: Instant,
    /// What it said.
    pub power: Milliwatts,
}

/// Noise assumed before enough readings, as a share of the reading.
const NOISE_SHARE: f64 = 0.012;
/// Least noise, milliwatts: the sensor's step of 40 mW over the square root of 12.
const NOISE_FLOOR: f64 = 12.0;
/// Readings of one visit follow each other closely, so their noise is not independent.
const CORRELATED: f64 = 2.0;
/// No reading for this long: the sensor is lost.
const LOST_AFTER: Micros = Micros(1_500_000);
/// Equal readings, since a change that should have moved them, that say the sensor is stuck.
const STUCK_RUN: u32 = 10;
/// A change that must show: milliwatts.
const MUST_SHOW: f64 = 150.0;
/// A reading this many times above or below what is believed is wild.
const WILD: f64 = 4.0;

/// Health of the rail as the governor sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RailHealth {
    /// No reading has arrived yet.
    #[default]
    Absent,
    /// Readings arrive and move.
    Good,
    /// The value does not change where it must: readings are not used.
    Stuck,
    /// Readings stopped.
    Lost,
}

/// What the filter makes of a reading.
pub(crate) enum Verdict {
    /// Not for the belief: old, too soon after a change, repeated, or wild.
    Skip,
    /// A reading in the present cell with the variance of its noise.
    Use { milliwatts: f64, noise: f64 },
}

#[derive(Clone, Debug)]
pub(crate) struct RailFilter {
    health: RailHealth,
    last: Option<RailReading>,
    /// Value of the latest reading that counted in this cell.
    previous: Option<f64>,
    noise: f64,
    noises: u32,
    run: u32,
    /// Equal readings since a change of clocks that should have moved them.
    run_since_change: Option<u32>,
    started: Option<Micros>,
    wild: u32,
}

impl RailFilter {
    pub(crate) const fn new() -> Self {
        Self {
            health: RailHealth::Absent,
            last: None,
            previous: None,
            noise: 0.0,
            noises: 0,
            run: 0,
            run_since_change: None,
            started: None,
            wild: 0,
        }
    }

    pub(crate) fn health(&self) -> RailHealth {
        self.health
    }

    /// Wild readings so far.
    pub(crate) fn wild(&self) -> u32 {
        self.wild
    }

    /// Clocks change; the belief expects the rail to move by `expected` milliwatts.
    pub(crate) fn moved(&mut self, expected: f64) {
        self.previous = None;
        if self.run_since_change.is_none() && expected.abs() >= MUST_SHOW {
            self.run_since_change = Some(0);
        }
    }

    /// Judges a reading: `in_force` is when the present clocks took hold, `believed` the power expected.
    pub(crate) fn judge(
        &mut self,
        reading: Option<RailReading>,
        now: Micros,
        in_force: Micros,
        believed: Option<f64>,
        settings: &Settings,
    ) -> Verdict {
        let fresh = reading.filter(|r| self.last.is_none_or(|last| r.at > last.at));
        let Some(reading) = fresh else {
            let since = self.last.map(|l| micros(l.at)).or(self.started);
            self.started = self.started.or(Some(now));
            if let Some(since) = since
                && now > since + LOST_AFTER
                && self.last.is_some()
            {
                self.health = RailHealth::Lost;
            }
            return Verdict::Skip;
        };
        let repeated = self.last.is_some_and(|last| last.power == reading.power);
        self.last = Some(reading);
        let settled = micros(reading.at) > in_force + settings.rail_settle;
        if repeated {
            self.run += 1;
            if settled {
                self.run_since_change = self.run_since_change.map(|n| n + 1);
            }
            if self.run_since_change.is_some_and(|n| n >= STUCK_RUN) {
                self.health = RailHealth::Stuck;
            }
        } else {
            self.run = 0;
            self.run_since_change = None;
            self.health = RailHealth::Good;
        }
        if self.health == RailHealth::Lost {
            self.health = RailHealth::Good;
        }
        if self.health == RailHealth::Stuck || !settled {
            return Verdict::Skip;
        }
        // While a change that must show has not shown, equal readings are suspect.
        if self.run_since_change.is_some() {
            return Verdict::Skip;
        }
        let milliwatts = reading.power.as_f64();
        if milliwatts <= 0.0 || believed.is_some_and(|b| milliwatts > b * WILD || milliwatts * WILD < b) {
            self.wild += 1;
            return Verdict::Skip;
        }
        if let Some(previous) = self.previous.replace(milliwatts) {
            let step = milliwatts - previous;
            self.noises = (self.noises + 1).min(64);
            self.noise += (0.5 * step * step - self.noise) / f64::from(self.noises);
        }
        Verdict::Use { milliwatts, noise: self.variance(milliwatts) }
    }

    fn variance(&self, milliwatts: f64) -> f64 {
        let assumed = (NOISE_SHARE * milliwatts) * (NOISE_SHARE * milliwatts);
        let seen = f64::from(self.noises);
        let mixed = (8.0 * assumed + seen * self.noise) / (8.0 + seen);
        CORRELATED * mixed.max(NOISE_FLOOR * NOISE_FLOOR)
    }
}
