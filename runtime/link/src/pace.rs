//! How fast to send, and when to send again.

use std::time::Duration;

/// A token bucket: so many frames a second, so many at once.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: u64,
}

impl Bucket {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let burst = f64::from(burst.max(1));
        Self { per_second: f64::from(per_second.max(1)), burst, tokens: burst, at: 0 }
    }

    fn refill(&mut self, now: u64) {
        let passed = now.saturating_sub(self.at) as f64 / 1e6;
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.at = self.at.max(now);
    }

    /// Takes one token if there is one.
    pub(crate) fn take(&mut self, now: u64) -> bool {
        self.refill(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// Microseconds until there is a token.
    pub(crate) fn wait(&mut self, now: u64) -> u64 {
        self.refill(now);
        ((1.0 - self.tokens).max(0.0) / self.per_second * 1e6).ceil() as u64
    }
}

/// The time after which an answer is overdue, from the answers so far (RFC 6298, with these bounds).
#[derive(Clone, Debug)]
pub(crate) struct Timeout {
    mean: Option<f64>,
    deviation: f64,
}

impl Timeout {
    const FIRST: Duration = Duration::from_secs(1);
    const LEAST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(10);

    pub(crate) fn new() -> Self {
        Self { mean: None, deviation: 0.0 }
    }

    pub(crate) fn learn(&mut self, round_trip: u64) {
        let r = round_trip as f64;
        match self.mean {
            None => (self.mean, self.deviation) = (Some(r), r / 2.0),
            Some(mean) => {
                self.deviation = 0.75 * self.deviation + 0.25 * (mean - r).abs();
                self.mean = Some(0.875 * mean + 0.125 * r);
            }
        }
    }

    /// Microseconds after which the `attempt`th sending (from 1) is overdue: the first four alike, as losses by chance
    /// need, then doubled, as an outage needs, and bounded.
    pub(crate) fn after(&self, attempt: u32) -> u64 {
        let base = match self.mean {
            None => Self::FIRST.as_micros() as f64,
            Some(mean) => (mean + 4.0 * self.deviation).max(Self::LEAST.as_micros() as f64),
        };
        let doubled = base * f64::from(1u32 << attempt.saturating_sub(4).min(7));
        doubled.min(Self::MOST.as_micros() as f64) as u64
    }
}
