//! Latency distributions in few bytes: a histogram of the logarithm of latency around an anchor.

/// Width of a bin: a quarter of a per cent.
const BIN: f64 = 0.0025;
/// Bins of a histogram. With the anchor at [`BELOW`] they reach from -4 % to +20 %.
const BINS: usize = 96;
/// Bins below the anchor.
const BELOW: usize = 16;
/// A histogram that has counted this many halves itself: old cycles fade.
const FADE_AT: u32 = 4_000;
/// Latencies further than this from the anchor (in bins) that say the anchor was an outlier.
const STRAY: u32 = 3;

/// Counts of ln(latency / anchor), in quarter-per-cent bins; the outermost bins hold what lies beyond.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    anchor: f64,
    counts: [u16; BINS],
    total: u32,
    median: f64,
}

impl Tail {
    pub(crate) const EMPTY: Self = Self { anchor: 0.0, counts: [0; BINS], total: 0, median: 0.0 };

    /// Latencies counted, less those that faded.
    pub(crate) fn count(&self) -> u32 {
        self.total
    }

    /// ln of the median latency; meaningless while empty.
    pub(crate) fn median(&self) -> f64 {
        self.median
    }

    /// Counts one ln(latency).
    pub(crate) fn record(&mut self, ln: f64) {
        if self.total == 0 {
            self.anchor = ln;
        }
        let low_before = u32::from(self.counts[0]);
        let bin = self.bin(ln);
        // The first latencies set the anchor; if the rest lie below its reach, the first was a spike.
        if (bin == 0 && low_before >= STRAY && low_before * 2 > self.total)
            || (bin == BINS - 1 && self.total < 32 && u32::from(self.counts[BINS - 1]) * 2 > self.total)
        {
            *self = Self::EMPTY;
            self.anchor = ln;
        }
        let bin = self.bin(ln);
        self.counts[bin] = self.counts[bin].saturating_add(1);
        self.total += 1;
        if self.total >= FADE_AT {
            self.fade(2);
        }
        self.median = self.quantile(0.5);
    }

    /// Divides every count, rounding to the nearest: what was seen matters that much less.
    pub(crate) fn fade(&mut self, by: u16) {
        let by = by.max(1);
        let median = self.bin(self.median);
        self.total = 0;
        for (bin, count) in self.counts.iter_mut().enumerate() {
            *count = count.saturating_add(by / 2) / by;
            if bin == median {
                *count = (*count).max(1);
            }
            self.total += u32::from(*count);
        }
    }

    /// How many counted latencies lie above `ln`.
    pub(crate) fn above(&self, ln: f64) -> f64 {
        if self.total == 0 {
            return 0.0;
        }
        let place = (ln - self.anchor) / BIN + BELOW as f64;
        if place < 0.0 {
            return f64::from(self.total);
        }
        let bin = place as usize;
        if bin >= BINS {
            return f64::from(self.counts[BINS - 1]);
        }
        let upper: u32 = self.counts[bin + 1..].iter().map(|c| u32::from(*c)).sum();
        // Within the bin latencies are spread evenly.
        let part = if bin == BINS - 1 { 1.0 } else { 1.0 - (place - bin as f64) };
        f64::from(upper) + part * f64::from(self.counts[bin])
    }

    fn quantile(&self, q: f64) -> f64 {
        let wanted = q * f64::from(self.total);
        let mut seen = 0.0;
        for (bin, count) in self.counts.iter().enumerate() {
            let here = f64::from(*count);
            if seen + here >= wanted && here > 0.0 {
                let inside = (wanted - seen) / here;
                return self.anchor + (bin as f64 - BELOW as f64 + inside) * BIN;
            }
            seen += here;
        }
        self.anchor
    }

    fn bin(&self, ln: f64) -> usize {
        let place = (ln - self.anchor) / BIN + BELOW as f64;
        (libm::floor(place).max(0.0) as usize).min(BINS - 1)
    }
}

/// The shape of the tail that all cells share: ln(latency / median of its cell).
#[derive(Clone, Debug)]
pub(crate) struct SharedTail {
    seen: Tail,
}

/// Cycles that the prior shape counts for.
const PRIOR_WEIGHT: f64 = 60.0;
/// Decay of the prior shape: half the latencies lie above the median, their excess falls as exp(-x / 0.45 %),
/// which puts the 99th percentile 1.8 % above the median.
const PRIOR_SCALE: f64 = 0.0045;

impl SharedTail {
    pub(crate) fn new() -> Self {
        // Anchored at zero by a first record of the median itself.
        let mut seen = Tail::EMPTY;
        seen.record(0.0);
        Self { seen }
    }

    pub(crate) fn record(&mut self, excess: f64) {
        self.seen.record(excess.clamp(-0.039, 1.0));
    }

    /// Share of latencies whose ln exceeds their cell's median by more than `excess`.
    pub(crate) fn above(&self, excess: f64) -> f64 {
        let beyond = 0.5 * libm::exp(-excess.abs() / PRIOR_SCALE);
        let prior = if excess < 0.0 { 1.0 - beyond } else { beyond };
        let n = f64::from(self.seen.count());
        (self.seen.above(excess) + PRIOR_WEIGHT * prior) / (n + PRIOR_WEIGHT)
    }

    /// The excess that a share `rate` of latencies lies above.
    pub(crate) fn excess(&self, rate: f64) -> f64 {
        let (mut low, mut high) = (0.0, 0.25);
        for _ in 0..12 {
            let mid = 0.5 * (low + high);
            if self.above(mid) > rate { low = mid } else { high = mid }
        }
        high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_median() {
        let mut tail = Tail::EMPTY;
        for i in 0..100 {
            tail.record(libm::log(5_000.0 * (1.0 + f64::from(i) * 1e-4)));
        }
        assert!((libm::exp(tail.median()) / 5_025.0 - 1.0).abs() < 0.002);
        let above = tail.above(libm::log(5_000.0 * 1.0075));
        assert!((above - 25.0).abs() < 4.0, "{above}");
        assert_eq!(tail.above(libm::log(6_000.0)), 0.0);
        assert_eq!(tail.above(libm::log(4_000.0)), 100.0);
    }

    #[test]
    fn a_first_spike_does_not_stay_the_anchor() {
        let mut tail = Tail::EMPTY;
        tail.record(libm::log(9_000.0));
        for _ in 0..10 {
            tail.record(libm::log(5_000.0));
        }
        assert!((libm::exp(tail.median()) / 5_000.0 - 1.0).abs() < 0.005);
    }

    #[test]
    fn the_shared_shape_learns() {
        let mut shared = SharedTail::new();
        let prior = shared.excess(0.01);
        assert!((prior - 0.0176).abs() < 0.002, "{prior}");
        for i in 0..2_000u32 {
            shared.record(if i % 25 == 0 { 0.06 } else { 0.0 });
        }
        assert!(shared.excess(0.01) > 0.055);
    }
}
