//! Latencies of one window, in 3.5 KiB and without allocation.

use pilotlight_units::Micros;

use crate::code::Bucket;
use crate::message::Latency;

/// A logarithmic histogram of latencies with [`Bucket`]'s resolution.
///
/// ```
/// use pilotlight_units::Micros;
/// let mut histogram = pilotlight_wire::Histogram::new();
/// for us in 1..=100 {
///     histogram.record(Micros(us * 10));
/// }
/// let latency = histogram.latency().unwrap();
/// assert!((500..=516).contains(&latency.p50.micros().0));
/// assert_eq!(histogram.count(), 100);
/// ```
#[derive(Clone)]
pub struct Histogram {
    counts: [u32; Bucket::COUNT],
    total: u32,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty histogram; `const`, so that it can be a `static`.
    pub const fn new() -> Self {
        Self { counts: [0; Bucket::COUNT], total: 0 }
    }

    /// Adds one latency. Counts stop at `u32::MAX`.
    pub fn record(&mut self, latency: Micros) {
        if self.total < u32::MAX {
            self.counts[Bucket::of(latency).index()] += 1;
            self.total += 1;
        }
    }

    /// Latencies recorded since the last [`Histogram::clear`].
    pub fn count(&self) -> u32 {
        self.total
    }

    /// The bucket of the smallest latency that at least `per_mille` thousandths of all do not exceed.
    pub fn quantile(&self, per_mille: u16) -> Option<Bucket> {
        if self.total == 0 {
            return None;
        }
        let rank = (u64::from(self.total) * u64::from(per_mille.min(1000))).div_ceil(1000).max(1);
        let mut seen = 0u64;
        for (index, &count) in self.counts.iter().enumerate() {
            seen += u64::from(count);
            if seen >= rank {
                return Some(Bucket(index as u16));
            }
        }
        None
    }

    /// The quantiles that a report carries, or `None` of an empty window.
    pub fn latency(&self) -> Option<Latency> {
        Some(Latency {
            p50: self.quantile(500)?,
            p90: self.quantile(900)?,
            p99: self.quantile(990)?,
            max: self.quantile(1000)?,
        })
    }

    /// Empties the histogram for the next window.
    pub fn clear(&mut self) {
        self.counts = [0; Bucket::COUNT];
        self.total = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_list(
            mut latencies in proptest::collection::vec(0u64..10_000_000, 1..300),
            per_mille in 1u16..=1000,
        ) {
            let mut histogram = Histogram::new();
            latencies.iter().for_each(|&us| histogram.record(Micros(us)));
            latencies.sort_unstable();
            let rank = (latencies.len() * usize::from(per_mille)).div_ceil(1000);
            prop_assert_eq!(histogram.quantile(per_mille), Some(Bucket::of(Micros(latencies[rank - 1]))));
        }
    }

    #[test]
    fn an_empty_window_has_no_latency() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.latency(), None);
        histogram.record(Micros(5));
        histogram.clear();
        assert_eq!((histogram.latency(), histogram.count()), (None, 0));
    }
}
