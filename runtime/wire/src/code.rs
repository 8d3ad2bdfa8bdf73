//! Quantities in one or two bytes: logarithmic codes whose error is stated and one-sided where it matters.

use pilotlight_units::{Hertz, Microjoules, Micros};
use serde::{Deserialize, Serialize};

/// The index of the logarithmic bucket of `value`, with `1 << bits` buckets to each power of two.
const fn log_code(value: u64, bits: u32) -> u32 {
    let exact = 1u64 << bits;
    if value < exact {
        return value as u32;
    }
    let shift = 63 - value.leading_zeros() - bits;
    ((shift + 1) << bits) + ((value >> shift) as u32 - exact as u32)
}

/// The largest value in bucket `code`.
const fn log_upper(code: u32, bits: u32) -> u64 {
    let exact = 1u32 << bits;
    if code < exact {
        return code as u64;
    }
    let shift = (code >> bits) - 1;
    let low = (exact + (code & (exact - 1))) as u64;
    // The topmost bucket ends at u64::MAX; a shift past it means a code that no value has.
    if shift >= 64 - bits { u64::MAX } else { (low << shift) + ((1u64 << shift) - 1) }
}

/// A latency as a bucket of a logarithmic histogram: 32 buckets to each power of two, exact below 64 us.
///
/// Shown as the bucket's upper edge: never less than the latency, and at most 3.2 % more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bucket(pub(crate) u16);

impl Bucket {
    pub(crate) const BITS: u32 = 5;
    /// Buckets in all: latencies up to 2^32 us (71 minutes); longer ones fall into the last.
    pub const COUNT: usize = 896;

    /// The bucket of `latency`.
    pub const fn of(latency: Micros) -> Self {
        let capped = if latency.0 > u32::MAX as u64 { u32::MAX as u64 } else { latency.0 };
        Self(log_code(capped, Self::BITS) as u16)
    }

    /// The longest latency in this bucket.
    pub const fn micros(self) -> Micros {
        Micros(log_upper(self.0 as u32, Self::BITS))
    }

    /// The bucket's number, below [`Bucket::COUNT`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// An uncertainty as one byte: 4 steps to each power of two, rounded up, at most 25 % too large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spread(pub(crate) u8);

impl Spread {
    const BITS: u32 = 2;

    /// The smallest step that is not below `uncertainty`.
    pub const fn of(uncertainty: Microjoules) -> Self {
        Self(log_code(uncertainty.0, Self::BITS) as u8)
    }

    /// The uncertainty, never below the one that was given.
    pub const fn microjoules(self) -> Microjoules {
        Microjoules(log_upper(self.0 as u32, Self::BITS))
    }
}

/// A clock frequency in one byte, rounded to 16 MHz; zero is "not known".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Band(pub(crate) u8);

impl Band {
    const STEP: u64 = 16_000_000;

    /// The nearest band, at most 8 MHz off up to 4,080 MHz; a running clock is at least one band.
    pub const fn of(clock: Hertz) -> Self {
        let bands = clock.0.saturating_add(Self::STEP / 2) / Self::STEP;
        Self(match bands {
            0 if clock.0 > 0 => 1,
            bands if bands > 255 => 255,
            bands => bands as u8,
        })
    }

    /// The band's frequency, or `None` where the sender did not know it.
    pub const fn hertz(self) -> Option<Hertz> {
        if self.0 == 0 { None } else { Some(Hertz(self.0 as u64 * Self::STEP)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn codes_cover_their_ranges() {
        assert_eq!(Bucket::of(Micros(u64::MAX)).index(), Bucket::COUNT - 1);
        assert_eq!(Bucket::of(Micros(63)).micros(), Micros(63));
        assert_eq!(Spread::of(Microjoules(u64::MAX)).microjoules(), Microjoules(u64::MAX));
        assert_eq!(log_upper(255, Spread::BITS), u64::MAX);
        assert_eq!(Band::of(Hertz(0)).hertz(), None);
        assert_eq!(Band::of(Hertz::from_mhz(612)).hertz(), Some(Hertz::from_mhz(608)));
        assert_eq!(Band::of(Hertz(1)).hertz(), Some(Hertz::from_mhz(16)));
        assert_eq!(Band::of(Hertz(u64::MAX)).hertz(), Some(Hertz::from_mhz(4080)));
    }

    proptest! {
        #[test]
        fn a_bucket_never_understates(us in 0u64..=u32::MAX as u64) {
            let shown = Bucket::of(Micros(us)).micros().0;
            prop_assert!(shown >= us && shown - us <= us / 32);
        }
        #[test]
        fn a_spread_never_understates(uj: u64) {
            let shown = Spread::of(Microjoules(uj)).microjoules().0;
            prop_assert!(shown >= uj && shown - uj <= uj / 4);
        }
        #[test]
        fn a_band_is_near(hz in 16_000_000u64..4_080_000_000) {
            let shown = Band::of(Hertz(hz)).hertz().unwrap().0;
            prop_assert!(shown.abs_diff(hz) <= 8_000_000);
        }
        #[test]
        fn every_byte_decodes(code: u8) {
            let shown = Spread(code).microjoules();
            prop_assert!(Spread::of(shown) <= Spread(code));
        }
    }
}
