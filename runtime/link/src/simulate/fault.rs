//! A link that loses, repeats, re-orders and damages what it carries, by seed.

use std::collections::VecDeque;

/// What goes wrong on the link, as probabilities for each frame; both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Lost.
    pub loss: f64,
    /// Delivered twice.
    pub duplicate: f64,
    /// Delivered up to 32 frames late.
    pub reorder: f64,
    /// Delivered with a flipped bit.
    pub corrupt: f64,
    /// Preceded by a forgery: the same frame with another body and a guessed tag. Upwards only.
    pub forge: f64,
}

/// A small generator of pseudo-random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        ((self.roll() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// A number below `bound`; zero for a bound of zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll().checked_rem(bound).unwrap_or(0)
    }
}

/// A link that does to frames what [`Faults`] says.
#[derive(Debug)]
pub struct FaultyLink {
    faults: Faults,
    dice: Dice,
    /// Frames under way: how many others go first, and the bytes.
    late: VecDeque<(u32, Vec<u8>)>,
    /// Lost, corrupted, duplicated, reordered.
    pub(super) counts: [u64; 4],
    /// Bytes at the end that damage spares.
    spared: usize,
}

impl FaultyLink {
    /// A link with its own dice.
    pub fn new(faults: Faults, seed: u64) -> Self {
        Self { faults, dice: Dice::new(seed), late: VecDeque::new(), counts: [0; 4], spared: 0 }
    }

    /// Damages all but the last `bytes` bytes.
    pub fn sparing(mut self, bytes: usize) -> Self {
        self.spared = bytes;
        self
    }

    /// Takes a frame in and delivers what comes out, if anything.
    ///
    /// # Errors
    /// What `deliver` returned.
    pub fn pass<E>(
        &mut self,
        frame: &[u8],
        mut deliver: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for (others, _) in &mut self.late {
            *others = others.saturating_sub(1);
        }
        while self.late.front().is_some_and(|(others, _)| *others == 0) {
            if let Some((_, late)) = self.late.pop_front() {
                deliver(&late)?;
            }
        }
        // One fate a frame, so that what was lost can be counted.
        let Faults { loss, duplicate, reorder, corrupt, .. } = self.faults;
        if self.dice.chance(loss) {
            self.counts[0] += 1;
        } else if self.dice.chance(corrupt) {
            self.counts[1] += 1;
            let mut damaged = frame.to_vec();
            let bit = self.dice.below(8 * frame.len().saturating_sub(self.spared) as u64) as usize;
            if let Some(byte) = damaged.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
            deliver(&damaged)?;
        } else if self.dice.chance(duplicate) {
            self.counts[2] += 1;
            deliver(frame)?;
            deliver(frame)?;
        } else if self.dice.chance(reorder) {
            self.counts[3] += 1;
            self.late.push_back((1 + self.dice.below(32) as u32, frame.to_vec()));
        } else {
            deliver(frame)?;
        }
        Ok(())
    }

    /// Delivers what is still under way.
    ///
    /// # Errors
    /// What `deliver` returned.
    pub fn flush<E>(&mut self, mut deliver: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.late.drain(..).try_for_each(|(_, late)| deliver(&late))
    }

    /// Frames lost so far, those that were damaged included: either way they did not arrive.
    pub fn lost(&self) -> u64 {
        self.counts[0] + self.counts[1]
    }
}
