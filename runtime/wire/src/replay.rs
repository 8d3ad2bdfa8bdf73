//! Which sequences of one boot have been seen: refuses what came before, counts what never came.

/// Sequences that a window looks back over. A sender of a two-way link keeps fewer than half as many in flight.
pub const SPAN: u32 = 1024;

/// What a window says of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Not seen before.
    Fresh,
    /// Seen before: a repetition or a replay.
    Duplicate,
    /// Given up before it came; whether it was seen is no longer known, so it is refused.
    Late,
}

/// Sequences settled up to a floor, and a bit for each of the [`SPAN`] after it.
///
/// ```
/// use pilotlight_wire::{Arrival, Window};
/// let mut window = Window::new();
/// for sequence in [1, 2, 4] {
///     assert_eq!(window.check(sequence), Arrival::Fresh);
///     window.settle(sequence);
/// }
/// assert_eq!(window.check(2), Arrival::Duplicate);
/// assert_eq!((window.floor(), window.seen_after_floor()), (2, 0b10));
/// window.give_up_below(4);
/// assert_eq!((window.floor(), window.given_up()), (4, 1));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    floor: u32,
    bits: [u64; SPAN as usize / 64],
    highest: u32,
    given_up: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

impl Window {
    /// A window before the first sequence, which is 1.
    pub const fn new() -> Self {
        Self { floor: 0, bits: [0; SPAN as usize / 64], highest: 0, given_up: 0 }
    }

    /// A window as it was stored: its floor, highest sequence, given-up count and bits.
    pub fn restore(floor: u32, highest: u32, given_up: u32, bits: [u64; SPAN as usize / 64]) -> Self {
        Self { floor, bits, highest: highest.max(floor), given_up }
    }

    /// Says what `sequence` is, and changes nothing.
    pub fn check(&self, sequence: u32) -> Arrival {
        match sequence.checked_sub(self.floor) {
            None | Some(0) if self.given_up > 0 => Arrival::Late,
            None | Some(0) => Arrival::Duplicate,
            Some(ahead) if ahead <= SPAN && self.bit(ahead - 1) => Arrival::Duplicate,
            Some(_) => Arrival::Fresh,
        }
    }

    /// Marks `sequence` as seen, sliding the window when it lies beyond; sequence 0 is never fresh.
    pub fn settle(&mut self, sequence: u32) {
        let Some(ahead) = sequence.checked_sub(self.floor).filter(|&ahead| ahead > 0) else { return };
        if ahead > SPAN {
            self.slide(ahead - SPAN);
        }
        let at = sequence - self.floor - 1;
        self.bits[at as usize / 64] |= 1 << (at % 64);
        self.highest = self.highest.max(sequence);
        self.rise();
    }

    /// Gives up waiting for what is missing before `oldest`: its sender holds nothing older.
    pub fn give_up_below(&mut self, oldest: u32) {
        let last = oldest.saturating_sub(1);
        if last > self.floor {
            self.slide(last - self.floor);
            self.highest = self.highest.max(last);
            self.rise();
        }
    }

    /// All sequences up to this one are settled: seen or given up.
    pub const fn floor(&self) -> u32 {
        self.floor
    }

    /// Bit i is set when floor + 1 + i was seen.
    pub const fn seen_after_floor(&self) -> u64 {
        self.bits[0]
    }

    /// The bits of the whole span, to be stored.
    pub const fn bits(&self) -> &[u64; SPAN as usize / 64] {
        &self.bits
    }

    /// The highest sequence known of.
    pub const fn highest(&self) -> u32 {
        self.highest
    }

    /// Sequences that were given up unseen.
    pub const fn given_up(&self) -> u32 {
        self.given_up
    }

    /// Sequences up to the highest that were not seen, given up or still awaited.
    pub fn missing(&self) -> u32 {
        let ahead: u32 = self.bits.iter().map(|word| word.count_ones()).sum();
        self.given_up.saturating_add(self.highest.saturating_sub(self.floor).saturating_sub(ahead))
    }

    fn bit(&self, at: u32) -> bool {
        self.bits[at as usize / 64] >> (at % 64) & 1 == 1
    }

    fn rise(&mut self) {
        let ones = match self.bits.iter().position(|&word| word != u64::MAX) {
            None => SPAN,
            Some(word) => word as u32 * 64 + self.bits[word].trailing_ones(),
        };
        self.slide(ones);
    }

    /// Moves the floor up by `by`, counting what was not seen.
    fn slide(&mut self, by: u32) {
        if by == 0 {
            return;
        }
        let within = by.min(SPAN);
        let (words, shift) = ((within / 64) as usize, within % 64);
        let mut seen: u32 = self.bits[..words].iter().map(|word| word.count_ones()).sum();
        if shift > 0 {
            seen += (self.bits[words] & ((1 << shift) - 1)).count_ones();
        }
        self.bits.copy_within(words.., 0);
        let kept = self.bits.len() - words;
        self.bits[kept..].fill(0);
        if shift > 0 {
            for at in 0..self.bits.len() {
                let next = self.bits.get(at + 1).map_or(0, |word| word << (64 - shift));
                self.bits[at] = self.bits[at] >> shift | next;
            }
        }
        self.floor = self.floor.saturating_add(by);
        self.given_up = self.given_up.saturating_add(by - seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    /// The plain rule: a set of everything seen, and a floor that is recomputed from it.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u32>,
        floor: u32,
        highest: u32,
        given_up: u32,
    }

    impl Model {
        fn advance(&mut self, to: u32) {
            while self.floor < to || self.seen.contains(&(self.floor + 1)) {
                self.floor += 1;
                self.given_up += u32::from(!self.seen.contains(&self.floor));
            }
            self.highest = self.highest.max(self.floor);
        }
    }

    proptest! {
        #[test]
        fn a_window_follows_the_plain_rule(steps in proptest::collection::vec((any::<bool>(), 0u32..5000), 1..400)) {
            let (mut window, mut model) = (Window::new(), Model::default());
            for (give_up, sequence) in steps {
                if give_up && sequence % 8 == 0 {
                    window.give_up_below(sequence);
                    model.advance(sequence.saturating_sub(1));
                } else if sequence > model.floor {
                    let fresh = !model.seen.contains(&sequence);
                    prop_assert_eq!(window.check(sequence) == Arrival::Fresh, fresh);
                    window.settle(sequence);
                    model.seen.insert(sequence);
                    model.highest = model.highest.max(sequence);
                    model.advance(sequence.saturating_sub(SPAN));
                } else {
                    prop_assert_ne!(window.check(sequence), Arrival::Fresh);
                }
                prop_assert_eq!(window.floor(), model.floor);
                prop_assert_eq!(window.given_up(), model.given_up);
                let awaited = (model.floor + 1..=model.highest).filter(|s| !model.seen.contains(s)).count();
                prop_assert_eq!(window.missing(), model.given_up + awaited as u32);
            }
        }

        #[test]
        fn any_order_of_a_short_run_settles_all(mut order in Just((1..=200u32).collect::<Vec<_>>()).prop_shuffle()) {
            let mut window = Window::new();
            order.extend(order.clone());
            let fresh = order.iter().filter(|&&s| {
                let fresh = window.check(s) == Arrival::Fresh;
                window.settle(s);
                fresh
            }).count();
            prop_assert_eq!((fresh, window.floor(), window.missing()), (200, 200, 0));
        }
    }

    #[test]
    fn the_last_sequence_does_not_overflow() {
        let mut window = Window::new();
        assert_eq!(window.check(u32::MAX), Arrival::Fresh);
        window.settle(u32::MAX);
        assert_eq!(window.check(u32::MAX), Arrival::Duplicate);
        window.give_up_below(u32::MAX);
        assert_eq!(window.check(0), Arrival::Late);
        assert_eq!((window.floor(), window.missing()), (u32::MAX, u32::MAX - 1));
    }
}
