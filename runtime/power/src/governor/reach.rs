//! Which clocks the board lets us have: a cap, a forced clock, or a write that is not held shows in readbacks.

/// Readbacks that must differ from what was asked before it counts.
const CONFIRM: u8 = 2;
/// Cycles after which a limit is tried again; they double while it is met again.
const RETRY: u64 = 200;
/// Doublings at most.
const MOST_BACKOFF: u32 = 2;

/// The reachable range of one clock domain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    low: usize,
    high: usize,
    top: usize,
    differing: u8,
    retry_at: u64,
    backoff: u32,
}

impl Reach {
    pub(crate) fn new(top: usize) -> Self {
        Self { low: 0, high: top, top, differing: 0, retry_at: u64::MAX, backoff: 0 }
    }

    pub(crate) fn holds(&self, index: usize) -> bool {
        (self.low..=self.high).contains(&index)
    }

    /// Whether the board keeps us from part of the range.
    pub(crate) fn limited(&self) -> bool {
        self.low > 0 || self.high < self.top
    }

    /// What to ask for in order to get `index`: at a cap the whole way up, so that its end shows.
    pub(crate) fn ask(&self, index: usize, fastest: bool) -> usize {
        if fastest && index == self.high { self.top } else { index }
    }

    /// Compares a readback with what was asked; true when the reachable range changed.
    pub(crate) fn compare(&mut self, cycle: u64, asked: usize, read: usize) -> bool {
        if asked == read {
            self.differing = 0;
            let before = (self.low, self.high);
            self.low = self.low.min(read);
            self.high = self.high.max(read);
            if !self.limited() {
                (self.retry_at, self.backoff) = (u64::MAX, 0);
            }
            return before != (self.low, self.high);
        }
        self.differing = self.differing.saturating_add(1);
        if self.differing < CONFIRM {
            return false;
        }
        let before = (self.low, self.high);
        if read < asked {
            self.high = read;
            self.low = self.low.min(read);
        } else {
            self.low = read;
            self.high = self.high.max(read);
        }
        if before == (self.low, self.high) {
            return false;
        }
        if self.retry_at == u64::MAX {
            self.retry_at = cycle + (RETRY << self.backoff);
        }
        true
    }

    /// Lifts a limit whose time has come; true when the reachable range changed.
    pub(crate) fn retry(&mut self, cycle: u64) -> bool {
        if cycle < self.retry_at {
            return false;
        }
        self.retry_at = u64::MAX;
        self.backoff = (self.backoff + 1).min(MOST_BACKOFF);
        let limited = self.limited();
        (self.low, self.high, self.differing) = (0, self.top, 0);
        limited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_seen_kept_and_tried_again() {
        let mut reach = Reach::new(7);
        assert!(!reach.compare(10, 6, 3));
        assert!(reach.compare(11, 6, 3));
        assert!(!reach.holds(4) && reach.holds(3) && reach.holds(0));
        assert_eq!(reach.ask(3, true), 7);
        assert_eq!(reach.ask(3, false), 3);
        assert!(!reach.retry(100));
        assert!(reach.retry(211) && reach.holds(7));
    }

    #[test]
    fn a_forced_clock_opens_again_when_it_follows() {
        let mut reach = Reach::new(2);
        reach.compare(0, 1, 0);
        reach.compare(1, 1, 0);
        assert!(!reach.holds(1));
        assert!(reach.compare(2, 2, 2));
        assert!(reach.holds(1) && !reach.limited());
    }
}
