//! What a launch executed. Counts are exact; nothing here is a time.

use crate::code::{CLASSES, LANES, R64};

/// Counts of one launch, or of several added up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Also count sectors and bank conflicts, which costs time.
    pub detail: bool,
    /// Warp instructions by [`crate::code::Class`], predicated-off ones included: they are issued too.
    pub issued: [u64; CLASSES],
    /// Multiply-accumulates of the mma instructions issued.
    pub mma_macs: u64,
    /// Bytes that lanes asked of global memory, loads.
    pub load_bytes: u64,
    /// Bytes that lanes stored to global memory.
    pub store_bytes: u64,
    /// Bytes that cp.async took from global memory (also in `load_bytes`, with the bytes it zero-filled).
    pub async_bytes: u64,
    /// Bytes moved to and from shared memory.
    pub shared_bytes: u64,
    /// Lane operations of atom and red.
    pub atomics: u64,
    /// Warp requests to global memory.
    pub global_requests: u64,
    /// 32-byte sectors that they touch (detail only).
    pub sectors: u64,
    /// Warp requests to shared memory.
    pub shared_requests: u64,
    /// Passes over the 32 banks that they need (detail only); the least possible is in `shared_least`.
    pub shared_passes: u64,
    /// Passes that the bytes alone would need (detail only).
    pub shared_least: u64,
    /// Largest number of passes above the least, of any one request (detail only).
    pub worst_conflict: u64,
}

impl Counters {
    /// Warp instructions in all.
    pub fn instructions(&self) -> u64 {
        self.issued.iter().sum()
    }

    /// Passes that bank conflicts cost.
    pub fn conflicts(&self) -> u64 {
        self.shared_passes - self.shared_least
    }

    /// Adds another launch's counts.
    pub fn add(&mut self, other: &Counters) {
        for (sum, n) in self.issued.iter_mut().zip(other.issued) {
            *sum += n;
        }
        self.detail |= other.detail;
        self.mma_macs += other.mma_macs;
        self.load_bytes += other.load_bytes;
        self.store_bytes += other.store_bytes;
        self.async_bytes += other.async_bytes;
        self.shared_bytes += other.shared_bytes;
        self.atomics += other.atomics;
        self.global_requests += other.global_requests;
        self.sectors += other.sectors;
        self.shared_requests += other.shared_requests;
        self.shared_passes += other.shared_passes;
        self.shared_least += other.shared_least;
        self.worst_conflict = self.worst_conflict.max(other.worst_conflict);
    }

    /// A global access of `len` bytes by the lanes of `mask`.
    #[inline(always)]
    pub fn global(&mut self, mask: u32, addresses: &R64, len: usize, store: bool) {
        let bytes = u64::from(mask.count_ones()) * len as u64;
        if store {
            self.store_bytes += bytes;
        } else {
            self.load_bytes += bytes;
        }
        self.global_requests += u64::from(mask != 0);
        if self.detail {
            let mut sectors: Vec<u64> = super::exec::lanes(mask).map(|l| addresses[l] >> 5).collect();
            sectors.sort_unstable();
            sectors.dedup();
            self.sectors += sectors.len() as u64;
        }
    }

    /// A shared access of `len` bytes by the lanes of `mask`.
    #[inline(always)]
    pub fn shared(&mut self, mask: u32, addresses: &R64, len: usize, _store: bool) {
        self.shared_bytes += u64::from(mask.count_ones()) * len as u64;
        self.shared_requests += u64::from(mask != 0);
        if self.detail {
            // Accesses of 8 bytes go by half warps, of 16 by quarter warps.
            let per_pass = LANES / (len / 4).max(1);
            self.passes(mask, addresses, len, per_pass);
        }
    }

    /// An ldmatrix: eight rows of 16 bytes a pass.
    #[inline(always)]
    pub fn matrix_rows(&mut self, mask: u32, addresses: &R64) {
        self.shared_bytes += u64::from(mask.count_ones()) * 16;
        self.shared_requests += 1;
        if self.detail {
            self.passes(mask, addresses, 16, 8);
        }
    }

    /// Lanes that go together need one pass for each different word in their fullest bank.
    fn passes(&mut self, mask: u32, addresses: &R64, len: usize, per_pass: usize) {
        let mut extra = 0;
        for first in (0..LANES).step_by(per_pass) {
            let mut words: Vec<u64> = (first..first + per_pass)
                .filter(|lane| mask >> lane & 1 == 1)
                .flat_map(|lane| (0..len.div_ceil(4) as u64).map(move |w| (addresses[lane] >> 2) + w))
                .collect();
            if words.is_empty() {
                continue;
            }
            words.sort_unstable();
            words.dedup();
            let mut banks = [0u64; 32];
            for word in words {
                banks[(word % 32) as usize] += 1;
            }
            let passes = banks.into_iter().max().unwrap_or(0);
            self.shared_passes += passes;
            self.shared_least += 1;
            extra += passes - 1;
        }
        self.worst_conflict = self.worst_conflict.max(extra);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_counted_as_passes() {
        let mut c = Counters { detail: true, ..Counters::default() };
        c.shared(u32::MAX, &std::array::from_fn(|l| 4 * l as u64), 4, false);
        assert_eq!((c.shared_passes, c.conflicts()), (1, 0));
        // A stride of two words: two lanes in each even bank.
        c.shared(u32::MAX, &std::array::from_fn(|l| 8 * l as u64), 4, false);
        assert_eq!((c.shared_passes, c.conflicts(), c.worst_conflict), (3, 1, 1));
        // The same word for all is a broadcast.
        c.shared(u32::MAX, &[64; LANES], 4, false);
        assert_eq!(c.conflicts(), 1);
        // Rows of 64 bytes, unswizzled, under ldmatrix: rows 0, 2, 4, 6 share their banks.
        c.matrix_rows(0xFF, &std::array::from_fn(|l| 64 * l as u64));
        assert_eq!(c.worst_conflict, 3);
        c.global(u32::MAX, &std::array::from_fn(|l| 4 * l as u64), 4, false);
        assert_eq!((c.sectors, c.load_bytes), (4, 128));
    }
}
