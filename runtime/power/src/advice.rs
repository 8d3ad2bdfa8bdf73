//! Alerts and advice from what the governor and the meter already know.

use pilotlight_units::{Microjoules, MilliCelsius};

/// Limits that raise an alert; `None` switches one off.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Most energy of an inference.
    pub energy_per_inference: Option<Microjoules>,
    /// Largest share of late cycles.
    pub late: Option<f64>,
    /// Highest temperature.
    pub temperature: Option<MilliCelsius>,
    /// Alert on any over-current or throttle event.
    pub throttling: bool,
}

/// What is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Watched {
    /// Energy of an inference in the last closed window, where it was measured.
    pub energy_per_inference: Option<Microjoules>,
    /// Share of late cycles lately.
    pub late: f64,
    /// Hottest zone, where one can be read.
    pub temperature: Option<MilliCelsius>,
    /// Over-current and throttle events since the last look.
    pub throttle_events: u64,
}

/// Which limits are passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alerts {
    /// An inference takes more energy than allowed.
    pub energy: bool,
    /// More cycles are late than allowed.
    pub late: bool,
    /// A zone is hotter than allowed.
    pub temperature: bool,
    /// The board throttled.
    pub throttling: bool,
}

impl Limits {
    /// Which of the limits are passed. What was not measured raises nothing.
    ///
    /// ```
    /// use pilotlight_power::advice::{Limits, Watched};
    /// let limits = Limits { late: Some(0.01), throttling: true, ..Limits::default() };
    /// let alerts = limits.check(&Watched { late: 0.02, ..Watched::default() });
    /// assert!(alerts.late && !alerts.throttling);
    /// ```
    pub fn check(&self, seen: &Watched) -> Alerts {
        let above = |limit: Option<u64>, value: Option<u64>| limit.zip(value).is_some_and(|(l, v)| v > l);
        Alerts {
            energy: above(self.energy_per_inference.map(|e| e.0), seen.energy_per_inference.map(|e| e.0)),
            late: self.late.is_some_and(|l| seen.late > l),
            temperature: self.temperature.zip(seen.temperature).is_some_and(|(l, t)| t > l),
            throttling: self.throttling && seen.throttle_events > 0,
        }
    }
}

/// What to do about the device's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Far from full: lower clocks, batch, or give the device more to do before buying more.
    Tune,
    /// About as full as is sensible.
    Keep,
    /// Too full for a tail to be held: more hardware, or a smaller model.
    MoreHardware,
}

/// Share of busy time below which tuning comes first.
const TUNE_BELOW: f64 = 0.70;
/// Share above which queues grow long.
const FULL_ABOVE: f64 = 0.90;

/// Advice for a share of busy time (1 = all the time) at the fastest clocks.
///
/// ```
/// use pilotlight_power::advice::{Advice, for_utilisation};
/// assert_eq!(for_utilisation(0.2), Advice::Tune);
/// assert_eq!(for_utilisation(0.95), Advice::MoreHardware);
/// ```
pub fn for_utilisation(busy: f64) -> Advice {
    if busy < TUNE_BELOW {
        Advice::Tune
    } else if busy <= FULL_ABOVE {
        Advice::Keep
    } else {
        Advice::MoreHardware
    }
}
