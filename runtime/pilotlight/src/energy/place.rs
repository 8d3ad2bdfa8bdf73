//! What a session and the meter share: inferences add to one word and read a few, the meter takes and publishes.
//!
//! Nobody waits for anybody: an inference never makes a system call for it, and a meter that is preempted half-way
//! holds up no inference.

use super::NotMeasured;
use crate::sync::{AtomicU64, fence};
use pilotlight_units::Micros;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Bits of the tally that hold busy microseconds: 12 days between two looks of the meter. The rest count inferences.
const BUSY_BITS: u32 = 40;
/// Words of a publication.
pub(super) const WORDS: usize = 9;
/// Publications that are kept: a reader must be slower than two windows to be overtaken, and then reads again.
const KEPT: u64 = 4;

pub(crate) struct Place<const N: usize = WORDS> {
    /// Inferences and busy microseconds since the meter's last look, in one word so that they never part.
    tally: AtomicU64,
    /// Inferences under way.
    running: AtomicU64,
    /// Publications so far; the last is at this number modulo [`KEPT`].
    turn: AtomicU64,
    published: [[AtomicU64; N]; KEPT as usize],
    /// Why figures are not to be shown; 0 when they are.
    trouble: AtomicU64,
}

impl<const N: usize> Place<N> {
    pub(super) fn new() -> Self {
        Self {
            tally: AtomicU64::new(0),
            running: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            published: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            trouble: AtomicU64::new(0),
        }
    }

    /// An inference begins.
    pub(crate) fn begin(&self) {
        self.running.fetch_add(1, Relaxed);
    }

    /// It ended after the device worked on it for so long; `None` when it failed.
    pub(crate) fn end(&self, busy: Option<std::time::Duration>) {
        if let Some(busy) = busy {
            // To the nearest microsecond; one at least, or the session would have no share.
            let us = ((busy.as_nanos() + 500) / 1_000).clamp(1, (1 << BUSY_BITS) - 1) as u64;
            self.tally.fetch_add(1 << BUSY_BITS | us, Relaxed);
        }
        // The tally is there before the inference is no longer under way: a look finds one or the other.
        self.running.fetch_sub(1, Release);
    }

    /// Whether an inference is under way.
    pub(super) fn runs(&self) -> bool {
        self.running.load(Acquire) > 0
    }

    /// Inferences and busy time since the last call.
    pub(super) fn take(&self) -> (u32, Micros) {
        let tally = self.tally.swap(0, Relaxed);
        ((tally >> BUSY_BITS) as u32, Micros(tally & ((1 << BUSY_BITS) - 1)))
    }

    /// Shows a figure. One thread at a time.
    pub(super) fn publish(&self, words: [u64; N]) {
        let turn = self.turn.load(Relaxed) + 1;
        // A reader that finds one of the words below also finds, behind its own fence, the turn before this one.
        fence(Release);
        for (to, word) in self.published[(turn % KEPT) as usize].iter().zip(words) {
            to.store(word, Relaxed);
        }
        self.turn.store(turn, Release);
    }

    /// The figure last shown.
    pub(super) fn latest(&self) -> Option<[u64; N]> {
        loop {
            let turn = self.turn.load(Acquire);
            if turn == 0 {
                return None;
            }
            let words = self.published[(turn % KEPT) as usize].each_ref().map(|word| word.load(Relaxed));
            fence(Acquire);
            // The place was written to again only if all others have been, too.
            if self.turn.load(Relaxed) - turn < KEPT - 1 {
                return Some(words);
            }
        }
    }

    pub(super) fn trouble(&self) -> Option<NotMeasured> {
        NotMeasured::of_code(self.trouble.load(Relaxed))
    }

    pub(super) fn set_trouble(&self, why: Option<NotMeasured>) {
        self.trouble.store(why.map_or(0, |why| why as u64), Relaxed);
    }
}
