//! What energy costs: money from a tariff, carbon dioxide from a grid's figure.

use pilotlight_units::Microjoules;

/// Energy of an inference before and after a change, with what energy costs where it runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Energy of an inference before.
    pub before: Microjoules,
    /// Energy of an inference after.
    pub after: Microjoules,
    /// Price of a kilowatt-hour, in any currency.
    pub tariff_per_kwh: f64,
    /// Carbon dioxide of a kilowatt-hour, grams.
    pub grid_g_per_kwh: f64,
}

/// Microjoules of a kilowatt-hour.
const KWH: f64 = 3.6e12;

impl Cost {
    fn kwh_per_million(energy: Microjoules) -> f64 {
        energy.as_f64() * 1e6 / KWH
    }

    /// Price of a million inferences, before and after.
    ///
    /// ```
    /// use pilotlight_power::meter::Cost;
    /// use pilotlight_units::Microjoules;
    /// let cost = Cost { before: Microjoules(36_000), after: Microjoules(18_000), tariff_per_kwh: 0.30, grid_g_per_kwh: 400.0 };
    /// let (before, after) = cost.price_per_million();
    /// assert!((before - 0.003).abs() < 1e-9 && (after - 0.0015).abs() < 1e-9);
    /// ```
    pub fn price_per_million(&self) -> (f64, f64) {
        (
            Self::kwh_per_million(self.before) * self.tariff_per_kwh,
            Self::kwh_per_million(self.after) * self.tariff_per_kwh,
        )
    }

    /// Grams of carbon dioxide of a million inferences, before and after.
    pub fn grams_per_million(&self) -> (f64, f64) {
        (
            Self::kwh_per_million(self.before) * self.grid_g_per_kwh,
            Self::kwh_per_million(self.after) * self.grid_g_per_kwh,
        )
    }
}
