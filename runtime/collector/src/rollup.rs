//! Sums over a second, a minute and an hour.

use std::collections::HashMap;

use pilotlight_wire::{Report, Source};
use serde::Serialize;

/// Lengths of the buckets in seconds.
pub(crate) const LEVELS: [u32; 3] = [1, 60, 3600];

/// What a device's reports of one bucket add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rollup {
    /// Reports.
    pub reports: u64,
    /// Inferences.
    pub count: u64,
    /// Inferences whose energy is known.
    pub energy_count: u64,
    /// Gross energy of those, in microjoules.
    pub gross_uj: u64,
    /// Net energy of those, in microjoules.
    pub net_uj: u64,
    /// Bit 0: some energy was measured. Bit 1: some was modelled.
    pub sources: u8,
    /// Inferences whose latency is known, times their report's median in microseconds.
    pub p50_sum: u64,
    /// Inferences whose latency is known.
    pub latency_count: u64,
    /// The highest 99th percentile of a report, in microseconds.
    pub p99_us: u64,
    /// The longest latency, in microseconds.
    pub max_us: u64,
    /// Inferences over the budget.
    pub misses: u64,
    /// Throttling events.
    pub throttled: u64,
    /// Over-current events.
    pub over_current: u64,
    /// The hottest sensor in degrees Celsius; -128 where none is known.
    pub hottest: i8,
}

impl Rollup {
    /// Nothing yet.
    pub const EMPTY: Self = Self {
        reports: 0,
        count: 0,
        energy_count: 0,
        gross_uj: 0,
        net_uj: 0,
        sources: 0,
        p50_sum: 0,
        latency_count: 0,
        p99_us: 0,
        max_us: 0,
        misses: 0,
        throttled: 0,
        over_current: 0,
        hottest: i8::MIN,
    };

    /// Adds a report. Sums stop at the largest number.
    pub fn add(&mut self, report: &Report) {
        let count = u64::from(report.count);
        self.reports += 1;
        self.count += count;
        if let Some(energy) = report.energy {
            self.energy_count += count;
            self.gross_uj = self.gross_uj.saturating_add(energy.gross.0);
            self.net_uj = self.net_uj.saturating_add(energy.net.0);
            self.sources |= match energy.source {
                Source::Measured => 1,
                Source::Modelled => 2,
                Source::Mixed => 3,
            };
        }
        if let Some(latency) = report.latency {
            self.latency_count += count;
            self.p50_sum = self.p50_sum.saturating_add(count.saturating_mul(latency.p50.micros().0));
            self.p99_us = self.p99_us.max(latency.p99.micros().0);
            self.max_us = self.max_us.max(latency.max.micros().0);
        }
        if let Some(temperature) = report.temperature {
            self.hottest = self.hottest.max(temperature.gpu.0).max(temperature.module.0);
        }
        self.misses += u64::from(report.trouble.misses);
        self.throttled += u64::from(report.trouble.throttled);
        self.over_current += u64::from(report.trouble.over_current);
    }

    /// Gross energy of one inference in microjoules, where known.
    pub fn gross_each(&self) -> Option<f64> {
        (self.energy_count > 0).then(|| self.gross_uj as f64 / self.energy_count as f64)
    }

    /// The mean of the reports' medians in microseconds, weighted by inferences, where known.
    pub fn p50_mean(&self) -> Option<f64> {
        (self.latency_count > 0).then(|| self.p50_sum as f64 / self.latency_count as f64)
    }
}

/// What has been added since the last checkpoint, by device, level and bucket.
#[derive(Debug, Default)]
pub(crate) struct Deltas {
    pub(crate) buckets: HashMap<(u32, u32, i64), Rollup>,
}

impl Deltas {
    pub(crate) fn add(&mut self, device: u32, at_ms: i64, report: &Report) {
        for level in LEVELS {
            let length = i64::from(level) * 1000;
            let start = at_ms.div_euclid(length) * length;
            self.buckets.entry((device, level, start)).or_insert(Rollup::EMPTY).add(report);
        }
    }
}
