//! From samples to energy: points, trapezoids, and what is not known between them.

use pilotlight_units::{Microjoules, Micros, Milliwatts};

use super::Faults;

/// A reading of a rail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it was read.
    pub at: Micros,
    /// What it said.
    pub power: Milliwatts,
}

/// What a sensor is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sensor {
    /// Time between samples, as planned.
    pub period: Micros,
    /// Time that a reading averages over, ending when it is read; zero for an instantaneous sensor.
    pub averages_over: Micros,
    /// Step between two readings.
    pub step: Milliwatts,
    /// Readings above this are broken.
    pub highest: Milliwatts,
}

impl Sensor {
    /// An INA3221 on a 5 V rail with a 5 mOhm shunt that averages over its sample period.
    pub const fn ina3221(period: Micros) -> Self {
        Self { period, averages_over: period, step: Milliwatts(40), highest: Milliwatts(200_000) }
    }
}

/// Energy of a rail over a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// When it began.
    pub begin: Micros,
    /// Its length.
    pub length: Micros,
    /// Time of it that samples cover.
    pub covered: Micros,
    /// Energy in the covered time.
    pub gross: Microjoules,
    /// Standard deviation of it.
    pub deviation: Microjoules,
    /// Time of it without samples for more than three periods; the energy there is a guess.
    pub gap: Micros,
    /// Samples in it.
    pub samples: u32,
    millijoules: f64,
    variance: f64,
    unchanged: f64,
    step_mw: f64,
}

impl Window {
    pub(crate) const fn empty(begin: Micros, length: Micros) -> Self {
        Self {
            begin,
            length,
            covered: Micros(0),
            gross: Microjoules(0),
            deviation: Microjoules(0),
            gap: Micros(0),
            samples: 0,
            millijoules: 0.0,
            variance: 0.0,
            unchanged: 0.0,
            step_mw: 0.0,
        }
    }

    /// When it ended.
    pub fn end(&self) -> Micros {
        self.begin + self.length
    }

    /// Mean power over the covered time.
    pub fn mean(&self) -> Option<Milliwatts> {
        self.gross.mean_power(self.covered)
    }

    pub(crate) fn add(&mut self, part: &Part) {
        let seconds = (part.end - part.begin).as_f64() * 1e-6;
        self.covered += part.end - part.begin;
        self.millijoules += 0.5 * (part.from_mw + part.to_mw) * seconds;
        self.variance += part.variance;
        self.samples += 1;
        self.step_mw = part.step_mw;
        if part.gap {
            self.gap += part.end - part.begin;
        }
        if part.unchanged {
            self.unchanged += seconds;
        }
        // Rounding: independent from sample to sample while the value moves, the same error again and again
        // while it stands still.
        let covered = self.covered.as_f64() * 1e-6;
        let still = self.unchanged / covered.max(1e-9);
        let moving = (1.0 - still) / f64::from(self.samples).max(1.0);
        let rounding = self.step_mw * covered / libm::sqrt(12.0);
        let variance = self.variance + rounding * rounding * (still * still + moving);
        self.gross = Microjoules(libm::round(self.millijoules * 1_000.0).max(0.0) as u64);
        self.deviation = Microjoules(libm::ceil(libm::sqrt(variance) * 1_000.0) as u64);
    }
}

/// A stretch between two points, within one window.
pub(crate) struct Part {
    pub begin: Micros,
    pub end: Micros,
    from_mw: f64,
    to_mw: f64,
    /// Of its energy, mJ squared.
    variance: f64,
    step_mw: f64,
    gap: bool,
    unchanged: bool,
}

/// Periods without a sample that make a gap.
const GAP: u64 = 3;

#[derive(Clone, Debug)]
pub(crate) struct Integrator {
    sensor: Sensor,
    /// Middle of the last sample's averaging time, and its value.
    last: Option<(Micros, f64)>,
    /// Middle and value of the sample before.
    next: Option<(Micros, f64)>,
    /// Mean square of the change between samples, mW squared.
    restless_squared: f64,
    faults: Faults,
    pushed: bool,
}

impl Integrator {
    pub(crate) fn new(sensor: Sensor) -> Self {
        Self {
            sensor,
            last: None,
            next: None,
            restless_squared: 0.0,
            faults: Faults::default(),
            pushed: false,
        }
    }

    pub(crate) fn faults(&self) -> Faults {
        self.faults
    }

    /// Time up to which the samples tell.
    pub(crate) fn shown_up_to(&self) -> Option<Micros> {
        self.last.map(|l| l.0)
    }

    /// Takes a sample in and gives the stretch since the last one, cut at window ends: call again with the same
    /// sample until it gives nothing.
    pub(crate) fn push(&mut self, sample: Sample, window: Micros) -> Option<Part> {
        if !self.pushed {
            self.accept(sample)?;
        }
        let (Some((from, from_mw)), Some((to, to_mw))) = (self.last, self.next) else {
            self.last = self.next.take().or(self.last);
            self.pushed = false;
            return None;
        };
        if from >= to {
            self.last = self.next.take();
            self.pushed = false;
            return None;
        }
        let end = Micros(((from.0 / window.0 + 1) * window.0).min(to.0));
        let share = (end - from).as_f64() / (to - from).as_f64();
        let cut_mw = from_mw + (to_mw - from_mw) * share;
        let gap = (to - from).0 > GAP * self.sensor.period.0;
        let part = Part {
            begin: from,
            end,
            from_mw,
            to_mw: cut_mw,
            variance: self.variance(to_mw - from_mw, to - from, end - from, end < to, gap),
            step_mw: self.sensor.step.as_f64(),
            gap,
            unchanged: from_mw == to_mw,
        };
        self.last = Some((end, cut_mw));
        Some(part)
    }

    fn accept(&mut self, sample: Sample) -> Option<()> {
        if sample.power > self.sensor.highest {
            self.faults.wild += 1;
            return None;
        }
        let middle = sample.at - Micros(self.sensor.averages_over.0 / 2);
        let value = sample.power.as_f64();
        if let Some((last, was)) = self.last {
            if middle <= last {
                self.faults.out_of_order += 1;
                return None;
            }
            if (middle - last).0 > GAP * self.sensor.period.0 {
                self.faults.gaps += 1;
            }
            let change = (value - was).abs();
            self.restless_squared += 0.03 * (change * change - self.restless_squared);
            self.faults.unchanged_for =
                if change == 0.0 { self.faults.unchanged_for + (middle - last) } else { Micros(0) };
        }
        self.next = Some((middle, value));
        self.pushed = true;
        Some(())
    }

    /// What is not known of a stretch: where in it the power changed, and what an averaging sensor did not see.
    fn variance(&self, change_mw: f64, whole: Micros, part: Micros, cut: bool, gap: bool) -> f64 {
        let seconds = part.as_f64() * 1e-6;
        let change = change_mw.abs();
        let averaging = self.sensor.averages_over.0 > 0;
        let restless = libm::sqrt(self.restless_squared);
        if gap {
            // Anything between the two ends, or as restless as the rail usually is.
            let range = change.max(3.0 * restless);
            return (range * seconds) * (range * seconds) / 3.0;
        }
        // A step anywhere in the stretch; averages leave little of it unknown.
        let step = change * seconds / libm::sqrt(12.0);
        let inside = if averaging { 0.1 * step } else { step };
        // Time that no average covers, or that two do: the rail did there what it usually does.
        let whole_s = whole.as_f64() * 1e-6;
        let missed = if averaging {
            let share = whole.0.abs_diff(self.sensor.averages_over.0) as f64 * 1e-6 / whole_s.max(1e-9);
            change.max(2.0 * restless) * share * seconds / libm::sqrt(3.0)
        } else {
            0.0
        };
        // Where a window cuts the stretch, its two parts are not known apart.
        let edge = if cut { change.max(restless) * whole_s / 4.0 } else { 0.0 };
        inside * inside + missed * missed + edge * edge
    }
}
