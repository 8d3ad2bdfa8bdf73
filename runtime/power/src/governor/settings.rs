//! What a governor is asked to hold, and its own time constants.

use pilotlight_units::Micros;

/// The task and the time constants of a governor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Longest latency, from release to result, that counts as in time.
    pub budget: Micros,
    /// Share of cycles that must be in time, above 0.5 and below 1 (0.99: one late cycle in a hundred).
    pub percentile: f64,
    /// Time between releases.
    pub period: Micros,
    /// Time after a GPU clock request before the new clock counts as in force. Measured: 5-6 ms, readback 7.
    pub gpu_hold: Micros,
    /// The same for the memory clock. Measured: 8-10 ms, readback 14.
    pub emc_hold: Micros,
    /// Time after a change before a reading of the module rail counts for the new clocks.
    pub rail_settle: Micros,
    /// Room kept below the budget to begin with, as a ratio; misses widen it.
    pub margin: f64,
}

impl Settings {
    /// Settings for a budget, a percentile and a period, with time constants measured on Orin Nano.
    ///
    /// # Errors
    /// [`SettingsError`] when a figure is out of its range.
    ///
    /// ```
    /// use pilotlight_power::governor::Settings;
    /// use pilotlight_units::Micros;
    /// let settings = Settings::new(Micros::from_millis(8), 0.99, Micros::from_millis(40))?;
    /// assert_eq!(settings.emc_hold, Micros::from_millis(20));
    /// # Ok::<(), pilotlight_power::governor::SettingsError>(())
    /// ```
    pub fn new(budget: Micros, percentile: f64, period: Micros) -> Result<Self, SettingsError> {
        let settings = Self {
            budget,
            percentile,
            period,
            gpu_hold: Micros::from_millis(10),
            emc_hold: Micros::from_millis(20),
            rail_settle: Micros::from_millis(300),
            margin: 1.01,
        };
        settings.check()?;
        Ok(settings)
    }

    /// Whether every figure is in its range.
    ///
    /// # Errors
    /// [`SettingsError`] names the figure and the range.
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.budget.0 == 0 {
            return Err(SettingsError::Zero { key: "budget_us" });
        }
        if self.period.0 == 0 {
            return Err(SettingsError::Zero { key: "period_us" });
        }
        if !(self.percentile > 0.5 && self.percentile < 1.0) {
            return Err(SettingsError::Percentile { found: self.percentile });
        }
        if !(1.0..=1.5).contains(&self.margin) {
            return Err(SettingsError::Margin { found: self.margin });
        }
        Ok(())
    }

    /// Share of cycles that may be late.
    pub(crate) fn allowed(&self) -> f64 {
        1.0 - self.percentile
    }
}

/// Which setting is out of range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SettingsError {
    /// A time that must be positive is zero.
    #[error("{key} is 0; it must be at least 1")]
    Zero {
        /// The key.
        key: &'static str,
    },
    /// The percentile is no share between one half and one.
    #[error(
        "percentile is {found}; it must lie above 0.5 and below 1: 0.99 lets one cycle in a hundred be late"
    )]
    Percentile {
        /// The value given.
        found: f64,
    },
    /// The margin is below one or absurdly wide.
    #[error("margin is {found}; it must lie from 1.0 to 1.5: 1.01 keeps one per cent of room")]
    Margin {
        /// The value given.
        found: f64,
    },
}
