//! Latencies in order.

use serde::Serialize;

/// Quantiles of a set of latencies, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// The shortest.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// The 99th percentile: the smallest that 99 % do not exceed.
    pub p99: f64,
    /// How many were measured.
    pub n: usize,
}

impl Latency {
    /// The quantiles of latencies in nanoseconds; `None` of none.
    pub fn of(mut nanos: Vec<u64>) -> Option<Self> {
        nanos.sort_unstable();
        let n = nanos.len();
        // Nearest rank.
        let at = |q: f64| {
            nanos.get(((q * n as f64).ceil() as usize).clamp(1, n.max(1)) - 1).map(|&v| v as f64 / 1e3)
        };
        Some(Self { min: at(0.0)?, p50: at(0.5)?, p99: at(0.99)?, n })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank() {
        let l = Latency::of((1..=200).rev().map(|i| i * 1000).collect()).unwrap();
        assert_eq!((l.min, l.p50, l.p99, l.n), (1.0, 100.0, 198.0, 200));
        assert_eq!(Latency::of(vec![]), None);
        assert_eq!(Latency::of(vec![5000]).map(|l| l.p99), Some(5.0));
    }
}
