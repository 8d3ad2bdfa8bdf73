//! Temperatures and over-current events.

use pilotlight_units::MilliCelsius;
use serde::Serialize;

use crate::tree::Tree;

/// A thermal zone.
#[derive(Clone, Debug, Serialize)]
pub struct Zone {
    /// Its type.
    pub name: String,
    /// Temperature; `None` where the unit is off and the read fails.
    pub temperature: Option<MilliCelsius>,
}

/// Every zone.
pub fn zones(tree: &Tree) -> Vec<Zone> {
    let folder = "/sys/class/thermal";
    let names = tree.list(folder).into_iter().filter(|n| n.starts_with("thermal_zone"));
    names
        .filter_map(|n| {
            let name = tree.read(&format!("{folder}/{n}/type")).ok()?;
            let temperature = tree.number(&format!("{folder}/{n}/temp")).ok();
            // Units that are off give errors or nonsense far below any place a board works.
            let plausible = temperature.filter(|t| (-55_000..=150_000).contains(t));
            Some(Zone { name, temperature: plausible.map(|t| MilliCelsius(t as i32)) })
        })
        .collect()
}

/// The highest temperature of all zones.
pub fn hottest(zones: &[Zone]) -> Option<MilliCelsius> {
    zones.iter().filter_map(|z| z.temperature).max()
}

/// Cumulative over-current events: use differences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OverCurrent {
    /// Under-voltage events.
    pub under_voltage: u64,
    /// Average over-current events.
    pub average: u64,
    /// Instantaneous over-current events.
    pub instantaneous: u64,
}

impl OverCurrent {
    /// Reads the counters; `None` where the board shows none.
    pub fn read(tree: &Tree) -> Option<Self> {
        let folder = "/sys/devices/platform/soctherm-oc-event/hwmon";
        let hwmon = tree.list(folder).into_iter().find(|n| n.starts_with("hwmon"))?;
        let count = |n: u32| {
            let value = tree.number(&format!("{folder}/{hwmon}/oc{n}_event_cnt")).ok();
            value.and_then(|v| u64::try_from(v).ok())
        };
        Some(Self {
            under_voltage: count(1)?,
            average: count(2).unwrap_or(0),
            instantaneous: count(3).unwrap_or(0),
        })
    }

    /// All events together.
    pub fn all(self) -> u64 {
        self.under_voltage.saturating_add(self.average).saturating_add(self.instantaneous)
    }

    /// Events since an earlier reading; a counter that restarted counts from zero.
    pub fn since(self, before: Self) -> Self {
        let delta = |now: u64, then: u64| if now >= then { now - then } else { now };
        Self {
            under_voltage: delta(self.under_voltage, before.under_voltage),
            average: delta(self.average, before.average),
            instantaneous: delta(self.instantaneous, before.instantaneous),
        }
    }
}
