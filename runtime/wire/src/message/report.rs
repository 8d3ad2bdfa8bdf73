//! Report: what the inferences of one window cost. PROTOCOL.md section 7.2.

use pilotlight_units::{Microjoules, Micros};
use serde::{Deserialize, Serialize};

use crate::code::{Band, Bucket, Spread};
use crate::cursor::{Reader, Writer};
use crate::error::{DecodeError, EncodeError};

/// What the inferences of one window cost. Absent groups mean "not known", never zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// When the window ended on the device's monotonic clock; carried in whole milliseconds.
    pub end: Micros,
    /// How long the window was; carried in whole milliseconds, at most 2^31 of them.
    pub window: Micros,
    /// Inferences that ended in the window.
    pub count: u32,
    /// Their latency; `None` of an empty window.
    pub latency: Option<Latency>,
    /// What the window cost; `None` without a sensor or model.
    pub energy: Option<Energy>,
    /// Clocks at the window's end.
    pub operating: Option<Operating>,
    /// Temperatures at the window's end.
    pub temperature: Option<Temperature>,
    /// What went wrong in the window.
    pub trouble: Trouble,
    /// What waits to be sent, and what never will be.
    pub backlog: Backlog,
}

/// Latency quantiles of a window, each the upper edge of its bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// The median.
    pub p50: Bucket,
    /// The 90th percentile.
    pub p90: Bucket,
    /// The 99th percentile.
    pub p99: Bucket,
    /// The longest.
    pub max: Bucket,
}

/// Where an energy figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A sensor on a rail.
    Measured,
    /// A model of the board: say so wherever the figure is shown.
    Modelled,
    /// Some rails measured, some modelled.
    Mixed,
}

/// The energy of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Energy {
    /// Where the figures come from.
    pub source: Source,
    /// All that the rail delivered.
    pub gross: Microjoules,
    /// What exceeded the idle baseline at the same clocks.
    pub net: Microjoules,
    /// Standard uncertainty of `gross`.
    pub gross_spread: Spread,
    /// Standard uncertainty of `net`.
    pub net_spread: Spread,
}

/// Clocks, each to the nearest 16 MHz.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operating {
    /// GPU clock.
    pub gpu: Band,
    /// Memory controller clock.
    pub memory: Band,
    /// CPU clock, of the fastest cluster.
    pub cpu: Band,
}

/// A temperature in whole degrees Celsius; -128 is "not known".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Celsius(pub i8);

impl Celsius {
    /// No sensor, or one that could not be read.
    pub const UNKNOWN: Self = Self(i8::MIN);

    /// The nearest whole degree, between -127 and 127.
    pub const fn of(temperature: pilotlight_units::MilliCelsius) -> Self {
        let half = if temperature.0 < 0 { -500 } else { 500 };
        let degrees = temperature.0.saturating_add(half) / 1000;
        Self(if degrees > 127 {
            127
        } else if degrees < -127 {
            -127
        } else {
            degrees as i8
        })
    }

    /// The degrees, or `None` where the sender did not know them.
    pub const fn degrees(self) -> Option<i8> {
        if self.0 == i8::MIN { None } else { Some(self.0) }
    }
}

/// Temperatures at a window's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Temperature {
    /// The GPU.
    pub gpu: Celsius,
    /// The hottest other sensor of the module.
    pub module: Celsius,
}

/// What went wrong in a window; counts of the window alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Inferences over the latency budget.
    pub misses: u32,
    /// Thermal throttling events.
    pub throttled: u32,
    /// Over-current events.
    pub over_current: u32,
}

/// What waits in the sender, and what it dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// Messages waiting to be sent or acknowledged.
    pub waiting: u32,
    /// Messages of this boot that the sender dropped, since boot.
    pub dropped: u32,
    /// Messages of earlier boots that the sender dropped, since boot.
    pub dropped_earlier: u32,
    /// Inferences that no report counts because the sample queue was full, since boot.
    pub unsampled: u32,
}

const LATENCY: u32 = 1;
const ENERGY_SHIFT: u32 = 1;
const OPERATING: u32 = 1 << 3;
const TEMPERATURE: u32 = 1 << 4;
const TROUBLE: u32 = 1 << 5;
const BACKLOG: u32 = 1 << 6;

/// The period that costs one byte to say.
const USUAL_WINDOW_MS: i64 = 1000;

impl Report {
    pub(crate) fn encode(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        let mut groups = 0;
        if self.latency.is_some() {
            groups |= LATENCY;
        }
        if let Some(energy) = self.energy {
            groups |= (energy.source as u32 + 1) << ENERGY_SHIFT;
        }
        if self.operating.is_some() {
            groups |= OPERATING;
        }
        if self.temperature.is_some() {
            groups |= TEMPERATURE;
        }
        if self.trouble != Trouble::default() {
            groups |= TROUBLE;
        }
        if self.backlog != Backlog::default() {
            groups |= BACKLOG;
        }
        let window_ms = (self.window.0 / 1000).min(1 << 31) as i64;
        writer.put(&(groups, self.end.0 / 1000, window_ms - USUAL_WINDOW_MS, self.count))?;
        if let Some(latency) = self.latency {
            let above = |high: Bucket, low: Bucket| high.0.saturating_sub(low.0);
            let Latency { p50, p90, p99, max } = latency;
            writer.put(&(p50.0, above(p90, p50), above(p99, p90), above(max, p99)))?;
        }
        if let Some(energy) = self.energy {
            writer.put(&(energy.gross, energy.net, energy.gross_spread, energy.net_spread))?;
        }
        if let Some(operating) = self.operating {
            writer.put(&operating)?;
        }
        if let Some(temperature) = self.temperature {
            writer.put(&temperature)?;
        }
        if groups & TROUBLE != 0 {
            writer.put(&self.trouble)?;
        }
        if groups & BACKLOG != 0 {
            writer.put(&self.backlog)?;
        }
        Ok(())
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let (groups, end_ms, beyond_usual, count): (u32, u64, i64, u32) = reader.take()?;
        let end = end_ms.checked_mul(1000).ok_or(reader.range("end", end_ms, u64::MAX / 1000))?;
        let window_ms = beyond_usual.saturating_add(USUAL_WINDOW_MS);
        if !(0..=1 << 31).contains(&window_ms) {
            return Err(reader.range("window", window_ms as u64, 1 << 31));
        }
        let latency = match groups & LATENCY {
            0 => None,
            _ => Some(Self::latency(reader)?),
        };
        let source = match groups >> ENERGY_SHIFT & 3 {
            0 => None,
            1 => Some(Source::Measured),
            2 => Some(Source::Modelled),
            _ => Some(Source::Mixed),
        };
        let energy = match source {
            None => None,
            Some(source) => {
                let (gross, net, gross_spread, net_spread) = reader.take()?;
                Some(Energy { source, gross, net, gross_spread, net_spread })
            }
        };
        Ok(Self {
            end: Micros(end),
            window: Micros(window_ms as u64 * 1000),
            count,
            latency,
            energy,
            operating: if groups & OPERATING != 0 { Some(reader.take()?) } else { None },
            temperature: if groups & TEMPERATURE != 0 { Some(reader.take()?) } else { None },
            trouble: if groups & TROUBLE != 0 { reader.take()? } else { Trouble::default() },
            backlog: if groups & BACKLOG != 0 { reader.take()? } else { Backlog::default() },
        })
    }

    fn latency(reader: &mut Reader) -> Result<Latency, DecodeError> {
        let steps: (u16, u16, u16, u16) = reader.take()?;
        let mut at = 0u64;
        let mut next = |step: u16| {
            at += u64::from(step);
            let last = Bucket::COUNT as u64 - 1;
            if at > last { Err(reader.range("latency", at, last)) } else { Ok(Bucket(at as u16)) }
        };
        Ok(Latency { p50: next(steps.0)?, p90: next(steps.1)?, p99: next(steps.2)?, max: next(steps.3)? })
    }
}
