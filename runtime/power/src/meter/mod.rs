//! The energy meter: windows of energy from a rail's samples, divided among the inferences in them.
//!
//! Sensors give a value every 10 to 100 ms, an inference takes one: energy belongs to windows. A rail's samples
//! are integrated by trapezoid over time-stamped points; a window is divided among models by device busy time.
//! Every figure carries a standard deviation (two of them cover at least 95 %), and gaps, impossible samples and
//! sensors that do not move are counted and reported, not hidden.
//!
//! | word | meaning |
//! |---|---|
//! | gross | all the energy of the rail in the window |
//! | net | gross less a [`Baseline`] at the same clocks: parked, lit and waiting, or busy |
//! | closed | the sensor has shown everything up to the window's end, half its averaging time later |

mod baseline;
mod cost;
mod integrate;

pub use baseline::{Baseline, Baselines, Condition};
pub use cost::Cost;
pub use integrate::{Sample, Sensor, Window};

use integrate::Integrator;
use pilotlight_units::{Microjoules, Micros};

/// Models whose energy is told apart; further ones share the last place.
pub const MODELS: usize = 8;
/// Windows kept after they closed, and windows that may be open at once.
pub const KEPT: usize = 64;

/// What a model did in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Inferences that ended in the window.
    pub inferences: u32,
    /// Time the device worked on them.
    pub busy: Micros,
    /// The first and the last of them, by the model's own sequence; `None` when none ended.
    pub sequence: Option<(u64, u64)>,
}

/// A window with its energy and what was done in it.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// The energy.
    pub window: Window,
    /// By model.
    pub usage: [Usage; MODELS],
}

impl Report {
    /// Device busy time of all models.
    pub fn busy(&self) -> Micros {
        self.usage.iter().map(|u| u.busy).sum()
    }

    /// A model's part of some energy of this window (gross or net), by device busy time, an inference each.
    /// `None` when it ended no inference here.
    pub fn per_inference(&self, model: usize, energy: Microjoules) -> Option<Microjoules> {
        let usage = self.usage[model.min(MODELS - 1)];
        let all = self.busy().0;
        if usage.inferences == 0 || all == 0 {
            return None;
        }
        let share = energy.0 as u128 * usage.busy.0 as u128 / all as u128;
        Some(Microjoules((share / u128::from(usage.inferences)) as u64))
    }
}

/// What is known of an inference's energy.
#[derive(Clone, Copy, Debug)]
pub enum EnergyOf<'a> {
    /// Its window is still open: ask again later.
    Pending,
    /// The report of its window.
    Known(&'a Report),
    /// It has not ended, its window closed too long ago, or no sample covers it.
    Unknown,
}

/// A meter of one rail. About 20 KiB; it never allocates.
#[derive(Clone, Debug)]
pub struct Meter {
    length: Micros,
    integrator: Integrator,
    /// Ring by window number.
    ring: [Option<(u64, Report)>; KEPT],
    closed_up_to: u64,
    last_closed: Option<u64>,
    /// How many inferences each model ended.
    ended: [u64; MODELS],
}

impl Meter {
    /// A meter with windows of a length (one second is usual; at least ten sample periods are sensible).
    ///
    /// ```
    /// use pilotlight_power::meter::{Meter, Sample, Sensor};
    /// use pilotlight_units::{Micros, Milliwatts};
    /// let mut meter = Meter::new(Micros::from_secs(1), Sensor::ina3221(Micros::from_millis(10)));
    /// for ms in (0..1_100).step_by(10) {
    ///     meter.sample(Sample { at: Micros::from_millis(ms), power: Milliwatts(5_000) });
    ///     if ms % 20 == 0 {
    ///         meter.inference(0, Micros::from_millis(ms), Micros(4_000));
    ///     }
    /// }
    /// let report = meter.latest().expect("the first window has closed");
    /// assert_eq!(report.usage[0].inferences, 50);
    /// assert_eq!(report.window.gross.0, 5_000_000);
    /// ```
    pub fn new(length: Micros, sensor: Sensor) -> Self {
        Self {
            length: Micros(length.0.max(1_000)),
            integrator: Integrator::new(sensor),
            ring: [None; KEPT],
            closed_up_to: 0,
            last_closed: None,
            ended: [0; MODELS],
        }
    }

    fn number(&self, at: Micros) -> u64 {
        at.0 / self.length.0
    }

    /// Takes in a sample of the rail.
    pub fn sample(&mut self, sample: Sample) {
        let length = self.length;
        while let Some(part) = self.integrator.push(sample, length) {
            let number = part.begin.0 / length.0;
            if let Some(report) = open(&mut self.ring, number, length) {
                report.window.add(&part);
            }
        }
        if let Some(shown) = self.integrator.shown_up_to() {
            let number = self.number(shown);
            while self.closed_up_to < number {
                let at = self.closed_up_to;
                if self.get(at).is_some_and(|r| r.window.covered.0 > 0) {
                    self.last_closed = Some(at);
                }
                // A jump in time skips windows that nothing fell into.
                self.closed_up_to =
                    if self.get(at + 1).is_none() && number - at > KEPT as u64 { number } else { at + 1 };
            }
        }
    }

    /// Notes an inference of a model and returns its sequence number, from 0 for each model: when it ended, and how
    /// long the device worked on it.
    pub fn inference(&mut self, model: usize, ended: Micros, busy: Micros) -> u64 {
        self.inferences(model, ended, 1, busy)
    }

    /// Notes inferences of a model that ended together, and how long the device worked on all of them. Returns the
    /// sequence number of the first; the others follow it.
    pub fn inferences(&mut self, model: usize, ended: Micros, count: u32, busy: Micros) -> u64 {
        let model = model.min(MODELS - 1);
        let sequence = self.ended[model];
        self.ended[model] += u64::from(count);
        let number = self.number(ended);
        if count > 0
            && number >= self.closed_up_to
            && let Some(report) = open(&mut self.ring, number, self.length)
        {
            let usage = &mut report.usage[model];
            usage.inferences = usage.inferences.saturating_add(count);
            usage.busy += busy;
            let first = usage.sequence.map_or(sequence, |s| s.0);
            usage.sequence = Some((first, sequence + u64::from(count) - 1));
        }
        sequence
    }

    /// How many inferences of a model have been noted: its next sequence number.
    pub fn ended(&self, model: usize) -> u64 {
        self.ended[model.min(MODELS - 1)]
    }

    fn get(&self, number: u64) -> Option<&Report> {
        self.ring[(number % KEPT as u64) as usize].as_ref().filter(|(n, _)| *n == number).map(|(_, r)| r)
    }

    /// The last closed window; its age is the caller's time less its end.
    pub fn latest(&self) -> Option<&Report> {
        self.last_closed.and_then(|n| self.get(n))
    }

    /// The energy of a model's inference, once its window has closed.
    pub fn energy(&self, model: usize, sequence: u64) -> EnergyOf<'_> {
        let model = model.min(MODELS - 1);
        let holds = |r: &Report| r.usage[model].sequence.is_some_and(|(a, b)| (a..=b).contains(&sequence));
        match self.ring.iter().flatten().find(|(_, r)| holds(r)) {
            Some((number, _)) if *number >= self.closed_up_to => EnergyOf::Pending,
            Some((_, report)) if report.window.covered.0 > 0 => EnergyOf::Known(report),
            _ => EnergyOf::Unknown,
        }
    }

    /// Samples that could not be used, and why, since the start.
    pub fn faults(&self) -> Faults {
        self.integrator.faults()
    }
}

/// The report of a window, begun when it is not there yet; `None` for one that fell out of the ring.
fn open(ring: &mut [Option<(u64, Report)>; KEPT], number: u64, length: Micros) -> Option<&mut Report> {
    let slot = &mut ring[(number % KEPT as u64) as usize];
    match slot {
        Some((held, _)) if *held > number => return None,
        Some((held, _)) if *held == number => {}
        _ => {
            let window = Window::empty(Micros(number * length.0), length);
            *slot = Some((number, Report { window, usage: [Usage::default(); MODELS] }));
        }
    }
    slot.as_mut().map(|(_, report)| report)
}

/// Samples that told nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Not later than the one before.
    pub out_of_order: u32,
    /// Impossible values.
    pub wild: u32,
    /// Holes longer than three sample periods.
    pub gaps: u32,
    /// How long the value has not changed.
    pub unchanged_for: Micros,
}

impl Faults {
    /// Whether the sensor is likely stuck: a live rail moves by a step within a minute.
    pub fn stuck(&self) -> bool {
        self.unchanged_for >= Micros::from_secs(60)
    }
}
