//! The level 2 cache, by sectors: which accesses of a launch reach DRAM.
//!
//! 16 ways of 128-byte lines in four sectors, least recently used goes, written back when it goes. A store
//! fills no sector from DRAM. The set comes from a hash of the line, as on real devices, whose hash nobody has
//! published: conflicts between particular addresses are this model's, the amount of reuse is not.

use crate::memory::Memory;

/// Bytes of a sector, the unit of traffic.
pub const SECTOR: u64 = 32;
const LINE_BITS: u32 = 7;
const WAYS: usize = 16;

#[derive(Clone)]
struct Set {
    /// Line number + 1; 0 is empty.
    tags: [u64; WAYS],
    used: [u32; WAYS],
    valid: [u8; WAYS],
    dirty: [u8; WAYS],
}

/// Bytes that an access moved between L2 and DRAM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes filled from DRAM.
    pub read: u64,
    /// Bytes written back to DRAM.
    pub written: u64,
}

/// The cache.
pub struct L2 {
    sets: Vec<Set>,
    now: u32,
}

impl L2 {
    /// An empty cache of `bytes` bytes, rounded down to a power of two.
    pub fn new(bytes: u64) -> Self {
        let sets = (bytes >> LINE_BITS) as usize / WAYS;
        let sets = if sets == 0 { 1 } else { 1 << sets.ilog2() };
        let empty = Set { tags: [0; WAYS], used: [0; WAYS], valid: [0; WAYS], dirty: [0; WAYS] };
        L2 { sets: vec![empty; sets], now: 0 }
    }

    /// Touches the sectors of `mask` in a line (an address divided by 128).
    pub fn access(&mut self, line: u64, mask: u8, store: bool) -> Traffic {
        let mut traffic = Traffic::default();
        self.now = self.now.wrapping_add(1);
        let hash = line ^ line >> 10 ^ line >> 20 ^ line >> 31;
        let at = hash as usize & (self.sets.len() - 1);
        let set = &mut self.sets[at];
        let way = set.tags.iter().position(|&t| t == line + 1).unwrap_or_else(|| {
            let (mut oldest, mut age) = (0, 0);
            for way in 0..WAYS {
                let idle = if set.tags[way] == 0 { u32::MAX } else { self.now.wrapping_sub(set.used[way]) };
                if idle > age {
                    (oldest, age) = (way, idle);
                }
            }
            traffic.written = u64::from(set.dirty[oldest].count_ones()) * SECTOR;
            (set.tags[oldest], set.valid[oldest], set.dirty[oldest]) = (line + 1, 0, 0);
            oldest
        });
        set.used[way] = self.now;
        if store {
            set.dirty[way] |= mask;
        } else {
            traffic.read = u64::from((mask & !set.valid[way]).count_ones()) * SECTOR;
        }
        set.valid[way] |= mask;
        traffic
    }
}

/// The different lines that a warp's lanes touch, with their sectors.
pub struct Lines {
    lines: [u64; 64],
    masks: [u8; 64],
    count: usize,
}

impl Lines {
    /// Of accesses of `len` bytes, aligned to `len` or at least not longer than 16, by the lanes of `mask`.
    pub fn of(mask: u32, addresses: &[u64; 32], len: usize) -> Self {
        let mut found = Lines { lines: [0; 64], masks: [0; 64], count: 0 };
        let last = len.max(1) as u64 - 1;
        for lane in super::exec::lanes(mask) {
            let (first, end) = (addresses[lane] / SECTOR, (addresses[lane] + last) / SECTOR);
            found.add(first);
            if end != first {
                found.add(end);
            }
        }
        found
    }

    fn add(&mut self, sector: u64) {
        let (line, bit) = (sector >> 2, 1u8 << (sector & 3));
        // Neighbouring lanes mostly share a line.
        match (0..self.count).rev().find(|&n| self.lines[n] == line) {
            Some(n) => self.masks[n] |= bit,
            None => {
                (self.lines[self.count], self.masks[self.count]) = (line, bit);
                self.count += 1;
            }
        }
    }

    /// Line and sectors.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u8)> + '_ {
        self.lines[..self.count].iter().copied().zip(self.masks[..self.count].iter().copied())
    }
}

/// The window of device memory that a line lies in, to say which allocation was read.
pub fn window(line: u64) -> Option<usize> {
    Memory::index(line << LINE_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = crate::memory::DEVICE_BASE >> LINE_BITS;

    #[test]
    fn what_fits_is_read_once_and_what_does_not_is_read_again() {
        let mut l2 = L2::new(1 << 20);
        let pass =
            |l2: &mut L2, lines: u64| (0..lines).map(|n| l2.access(BASE + n, 15, false).read).sum::<u64>();
        assert_eq!(pass(&mut l2, 4096), 4096 * 128);
        assert_eq!(pass(&mut l2, 4096), 0);
        // Twice the cache, in a circle, is the worst case of least recently used: nothing is ever found again.
        pass(&mut l2, 32_768);
        assert!(pass(&mut l2, 32_768) > 32_768 * 120);
    }

    #[test]
    fn stores_fill_nothing_and_are_written_back_when_they_go() {
        let mut l2 = L2::new(1 << 20);
        assert_eq!(l2.access(BASE, 1, true), Traffic::default());
        assert_eq!(l2.access(BASE, 3, false), Traffic { read: 32, written: 0 });
        let written: u64 = (1..40_000).map(|n| l2.access(BASE + n, 15, false).written).sum();
        assert_eq!(written, 32);
    }

    #[test]
    fn lanes_share_sectors() {
        let lines = Lines::of(u32::MAX, &std::array::from_fn(|l| 4 * l as u64), 4);
        assert_eq!(lines.iter().collect::<Vec<_>>(), [(0, 15)]);
        let lines = Lines::of(3, &std::array::from_fn(|l| 300 + 100 * l as u64), 4);
        assert_eq!(lines.iter().collect::<Vec<_>>(), [(2, 2), (3, 1)]);
    }
}
