//! Wall time that does not jump, and device time placed on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A difference above this between the system's wall clock and ours is a step of the former.
const STEP: u64 = 1_000_000;

/// Wall time of the start plus time since, one for all threads: a step of the system clock shows only after
/// [`WallClock::follow`].
#[derive(Debug)]
pub(crate) struct WallClock {
    wall: AtomicU64,
    at: Instant,
}

impl WallClock {
    pub(crate) fn start() -> Self {
        Self { wall: AtomicU64::new(system_micros()), at: Instant::now() }
    }

    /// Microseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.wall.load(Ordering::Relaxed) + self.at.elapsed().as_micros() as u64
    }

    /// Takes over the `system`'s clock when it was stepped; true then.
    pub(crate) fn follow(&self, system: u64) -> bool {
        let stepped = self.now().abs_diff(system) > STEP;
        if stepped {
            self.wall.store(system.saturating_sub(self.at.elapsed().as_micros() as u64), Ordering::Relaxed);
        }
        stepped
    }
}

pub(crate) fn system_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// Wall time less device time of one boot, all in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offset {
    /// `None` before the first message that has a time.
    pub(crate) micros: Option<i64>,
    /// How far off at most, where the device measured it; otherwise the offset is late by an unknown delay.
    pub(crate) uncertainty: Option<u64>,
}

impl Offset {
    /// A message made at device time `made` arrived at wall time `arrived`: the fastest message is nearest the truth.
    pub(crate) fn observe(&mut self, made: u64, arrived: u64) {
        if self.uncertainty.is_none() {
            let seen = difference(arrived, made);
            self.micros = Some(self.micros.map_or(seen, |best| best.min(seen)));
        }
    }

    /// The device measured its offset over a two-way link.
    pub(crate) fn told(&mut self, offset: i64, uncertainty: u64) {
        if self.uncertainty.is_none_or(|known| uncertainty <= known.saturating_mul(2)) {
            *self = Self { micros: Some(offset), uncertainty: Some(uncertainty) };
        }
    }

    /// Wall time in milliseconds of device time `made`.
    pub(crate) fn wall_ms(&self, made: u64, arrived: u64) -> i64 {
        let wall = match self.micros {
            None => i128::from(arrived),
            Some(offset) => i128::from(made) + i128::from(offset),
        };
        (wall / 1000).clamp(0, i64::MAX.into()) as i64
    }
}

fn difference(a: u64, b: u64) -> i64 {
    (i128::from(a) - i128::from(b)).clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_message_sets_the_offset_until_the_device_knows_better() {
        let mut offset = Offset::default();
        assert_eq!(offset.wall_ms(5_000, 9_000_000), 9_000);
        for (made, delay) in [(1_000_000, 300_000), (2_000_000, 20_000), (3_000_000, 90_000)] {
            offset.observe(made, made + 7_000_000 + delay);
        }
        assert_eq!(offset, Offset { micros: Some(7_020_000), uncertainty: None });
        offset.told(7_000_100, 400);
        offset.observe(4_000_000, 4_000_000);
        offset.told(9_000_000, 5_000);
        assert_eq!(offset, Offset { micros: Some(7_000_100), uncertainty: Some(400) });
        assert_eq!(offset.wall_ms(1_000_000, 0), 8_000);
    }

    #[test]
    fn a_step_of_the_wall_clock_is_followed_once_and_drift_is_not() {
        let clock = WallClock::start();
        let start = clock.now();
        for forth_or_back in [start + 3_600_000_000, start - 86_400_000_000] {
            assert!(clock.now().abs_diff(forth_or_back) > STEP, "not before it is told");
            assert!(clock.follow(forth_or_back));
            assert!(clock.now().abs_diff(forth_or_back) < STEP / 2);
            assert!(!clock.follow(forth_or_back + STEP / 2));
        }
        assert!(clock.follow(0), "a clock that was never set");
        assert!(clock.now() < STEP);
    }

    #[test]
    fn absurd_times_do_not_overflow() {
        let mut offset = Offset::default();
        offset.observe(u64::MAX, 0);
        assert_eq!(offset.wall_ms(0, 5), 0);
        offset.told(i64::MAX, 0);
        assert!(offset.wall_ms(u64::MAX, 0) > 0);
    }
}
