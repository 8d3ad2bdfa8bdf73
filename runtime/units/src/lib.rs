//! Physical quantities as types, so that a millijoule cannot be added to a millisecond.
//!
//! Every quantity is an integer in the unit of its name. Arithmetic saturates: a figure that leaves the range
//! stays at the end of the range instead of wrapping or panicking.
//!
//! ```
//! use pilotlight_units::{Micros, Microjoules, Milliwatts};
//! let window = Micros::from_millis(20);
//! assert_eq!(Milliwatts(5_000).over(window), Microjoules(100_000));
//! assert_eq!(window.to_string(), "20.00 ms");
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod quantity;

use quantity::quantity;

quantity! {
    /// A span of time, or a point on a device's monotonic clock, in microseconds.
    Micros(u64), [(1_000_000, "s"), (1_000, "ms"), (1, "us")]
}
quantity! {
    /// Energy in microjoules. 1 mJ is 1,000 of these.
    Microjoules(u64), [(1_000_000, "J"), (1_000, "mJ"), (1, "uJ")]
}
quantity! {
    /// Power in milliwatts.
    Milliwatts(u32), [(1_000, "W"), (1, "mW")]
}
quantity! {
    /// Frequency in hertz.
    Hertz(u64), [(1_000_000_000, "GHz"), (1_000_000, "MHz"), (1_000, "kHz"), (1, "Hz")]
}
quantity! {
    /// Temperature in thousandths of a degree Celsius, as Linux thermal zones give it.
    MilliCelsius(i32), [(1_000, "C"), (1, "mC")]
}
quantity! {
    /// A size in bytes, shown in powers of 1024.
    Bytes(u64), [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")]
}

impl Micros {
    /// Microseconds from whole milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000))
    }
    /// Microseconds from whole seconds.
    pub const fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(1_000_000))
    }
}

impl Milliwatts {
    /// The energy that this power delivers in `time`, rounded down to a microjoule.
    pub const fn over(self, time: Micros) -> Microjoules {
        // mW x us = nJ; u128 so that no pair of values overflows.
        let uj = self.0 as u128 * time.0 as u128 / 1_000;
        Microjoules(if uj > u64::MAX as u128 { u64::MAX } else { uj as u64 })
    }
}

impl Microjoules {
    /// The mean power that spends this energy in `time`; `None` for an empty span.
    pub const fn mean_power(self, time: Micros) -> Option<Milliwatts> {
        if time.0 == 0 {
            return None;
        }
        let mw = self.0 as u128 * 1_000 / time.0 as u128;
        Some(Milliwatts(if mw > u32::MAX as u128 { u32::MAX } else { mw as u32 }))
    }
}

impl Hertz {
    /// Hertz from megahertz.
    pub const fn from_mhz(mhz: u64) -> Self {
        Self(mhz.saturating_mul(1_000_000))
    }
    /// Hertz from kilohertz (the unit of cpufreq).
    pub const fn from_khz(khz: u64) -> Self {
        Self(khz.saturating_mul(1_000))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn energy_is_power_times_time() {
        assert_eq!(Milliwatts(1).over(Micros(999)), Microjoules(0));
        assert_eq!(Milliwatts(1).over(Micros(1_000)), Microjoules(1));
        assert_eq!(Milliwatts(u32::MAX).over(Micros(u64::MAX)), Microjoules(u64::MAX));
        assert_eq!(Microjoules(100_000).mean_power(Micros(20_000)), Some(Milliwatts(5_000)));
        assert_eq!(Microjoules(1).mean_power(Micros(0)), None);
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Micros(1) - Micros(2), Micros(0));
        assert_eq!(Bytes(u64::MAX) + Bytes(1), Bytes(u64::MAX));
        assert_eq!(MilliCelsius(i32::MIN) - MilliCelsius(1), MilliCelsius(i32::MIN));
    }

    #[test]
    fn shown_in_the_largest_unit_that_fits() {
        assert_eq!(Micros(999).to_string(), "999 us");
        assert_eq!(Micros(1_234).to_string(), "1.23 ms");
        assert_eq!(Bytes(1536).to_string(), "1.50 KiB");
        assert_eq!(MilliCelsius(-1_500).to_string(), "-1.50 C");
        assert_eq!(Hertz::from_mhz(624).to_string(), "624.00 MHz");
        assert_eq!(Milliwatts(0).to_string(), "0 mW");
    }
}
