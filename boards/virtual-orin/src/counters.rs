//! What a launch executed. Counts are exact; nothing here is a time.

use crate::code::{CLASSES, Class, LANES, R64};
use crate::l2::{L2, Lines, SECTOR, window};
use pilotlight_boards::model::Work;

/// Counts of one launch, or of several added up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
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
    /// 32-byte sectors that they touch. There is no L1 in this model: each is a sector asked of L2.
    pub sectors: u64,
    /// Bytes that L2 read from DRAM, mapped host memory included.
    pub dram_read: u64,
    /// Bytes that L2 wrote back to DRAM during the launch, whoever stored them; host memory included.
    pub dram_written: u64,
    /// Of `dram_read`, bytes by window of device memory, see [`crate::memory::Memory::base`].
    pub dram_read_by: Vec<u64>,
    /// Warp requests to shared memory.
    pub shared_requests: u64,
    /// Passes over the 32 banks that they need; the least possible is in `shared_least`.
    pub shared_passes: u64,
    /// Passes that the bytes alone would need.
    pub shared_least: u64,
    /// Of `shared_passes`, those of main loops, see [`crate::blocks::mark_main_loops`].
    pub loop_passes: u64,
    /// Of `shared_least`, those of main loops.
    pub loop_least: u64,
    /// Largest number of passes above the least, of any one request.
    pub worst_conflict: u64,
}

impl Counters {
    /// Warp instructions in all.
    pub fn instructions(&self) -> u64 {
        self.issued.iter().sum()
    }

    /// Warp instructions of a class.
    pub fn of(&self, class: Class) -> u64 {
        self.issued[class as usize]
    }

    /// Passes that bank conflicts cost.
    pub fn conflicts(&self) -> u64 {
        self.shared_passes - self.shared_least
    }

    /// The counts as the model of time and energy takes them. Moves and loads of parameters are left out:
    /// ptxas turns them into operands.
    pub fn work(&self, blocks: u64, warps_per_block: u64, blocks_per_sm: u64) -> Work {
        Work {
            mma_macs: self.mma_macs,
            instructions: self.instructions() - self.of(Class::Move) - self.of(Class::Param),
            int: self.of(Class::Int) + self.of(Class::Dot),
            convert: self.of(Class::Convert),
            shared_passes: self.shared_passes,
            l2_bytes: self.sectors * SECTOR,
            dram_read: self.dram_read,
            dram_written: self.dram_written,
            blocks,
            warps_per_block,
            blocks_per_sm,
        }
    }

    /// Adds another launch's counts.
    pub fn add(&mut self, other: &Counters) {
        for (sum, n) in self.issued.iter_mut().zip(other.issued) {
            *sum += n;
        }
        self.mma_macs += other.mma_macs;
        self.load_bytes += other.load_bytes;
        self.store_bytes += other.store_bytes;
        self.async_bytes += other.async_bytes;
        self.shared_bytes += other.shared_bytes;
        self.atomics += other.atomics;
        self.global_requests += other.global_requests;
        self.sectors += other.sectors;
        self.dram_read += other.dram_read;
        self.dram_written += other.dram_written;
        for (window, n) in other.dram_read_by.iter().enumerate() {
            self.read_of(window, *n);
        }
        self.shared_requests += other.shared_requests;
        self.shared_passes += other.shared_passes;
        self.shared_least += other.shared_least;
        self.loop_passes += other.loop_passes;
        self.loop_least += other.loop_least;
        self.worst_conflict = self.worst_conflict.max(other.worst_conflict);
    }

    fn read_of(&mut self, window: usize, bytes: u64) {
        if self.dram_read_by.len() <= window {
            self.dram_read_by.resize(window + 1, 0);
        }
        self.dram_read_by[window] += bytes;
    }

    /// A global access of `len` bytes by the lanes of `mask`.
    #[inline(always)]
    pub fn global(&mut self, l2: &mut L2, mask: u32, addresses: &R64, len: usize, store: bool) {
        let bytes = u64::from(mask.count_ones()) * len as u64;
        if store {
            self.store_bytes += bytes;
        } else {
            self.load_bytes += bytes;
        }
        if mask == 0 {
            return;
        }
        self.global_requests += 1;
        for (line, sectors) in Lines::of(mask, addresses, len).iter() {
            let count = u64::from(sectors.count_ones());
            self.sectors += count;
            match window(line) {
                Some(window) => {
                    let traffic = l2.access(line, sectors, store);
                    self.dram_written += traffic.written;
                    if traffic.read > 0 {
                        self.dram_read += traffic.read;
                        self.read_of(window, traffic.read);
                    }
                }
                // Mapped host memory is not cached by the GPU.
                None if store => self.dram_written += count * SECTOR,
                None => self.dram_read += count * SECTOR,
            }
        }
    }

    /// A shared access of `len` bytes by the lanes of `mask`; in a main loop or not.
    #[inline(always)]
    pub fn shared(&mut self, main_loop: bool, mask: u32, addresses: &R64, len: usize) {
        self.shared_bytes += u64::from(mask.count_ones()) * len as u64;
        self.shared_requests += u64::from(mask != 0);
        // Accesses of 8 bytes go by half warps, of 16 by quarter warps.
        self.passes(main_loop, mask, addresses, len, LANES / (len / 4).max(1));
    }

    /// An ldmatrix: eight rows of 16 bytes a pass.
    #[inline(always)]
    pub fn matrix_rows(&mut self, main_loop: bool, mask: u32, addresses: &R64) {
        self.shared_bytes += u64::from(mask.count_ones()) * 16;
        self.shared_requests += 1;
        self.passes(main_loop, mask, addresses, 16, 8);
    }

    /// Lanes that go together need one pass for each different word in their fullest bank.
    #[inline(always)]
    fn passes(&mut self, main_loop: bool, mask: u32, addresses: &R64, len: usize, together: usize) {
        let (mut least, mut extra) = (0, 0);
        let unit = len.max(4) as u64;
        for first in (0..LANES).step_by(together) {
            let lanes = mask >> first & (((1u64 << together) - 1) as u32);
            if lanes == 0 {
                continue;
            }
            least += 1;
            // Banks in units of the access; each lane in a bank of its own needs one pass.
            let mut seen = 0u32;
            for lane in super::exec::lanes(lanes) {
                seen |= 1 << (addresses[first + lane] / unit % together as u64);
            }
            let one = addresses[first + lanes.trailing_zeros() as usize];
            let together = &addresses[first..first + together];
            let same = || super::exec::lanes(lanes).all(|l| together[l] == one);
            let alone = seen.count_ones() == lanes.count_ones() || (seen.count_ones() == 1 && same());
            let passes = if alone { 1 } else { conflicting(lanes, together, len) };
            extra += passes - 1;
        }
        self.shared_least += least;
        self.shared_passes += least + extra;
        if main_loop {
            self.loop_least += least;
            self.loop_passes += least + extra;
        }
        self.worst_conflict = self.worst_conflict.max(extra);
    }
}

/// Passes of lanes of which some may share a bank.
#[cold]
fn conflicting(mask: u32, addresses: &[u64], len: usize) -> u64 {
    let mut words: Vec<u64> = super::exec::lanes(mask)
        .flat_map(|lane| (0..len.div_ceil(4) as u64).map(move |w| (addresses[lane] >> 2) + w))
        .collect();
    words.sort_unstable();
    words.dedup();
    let mut banks = [0u64; 32];
    for word in words {
        banks[(word % 32) as usize] += 1;
    }
    banks.into_iter().max().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_counted_as_passes() {
        let (mut c, mut l2) = (Counters::default(), L2::new(1 << 20));
        c.shared(false, u32::MAX, &std::array::from_fn(|l| 4 * l as u64), 4);
        assert_eq!((c.shared_passes, c.conflicts()), (1, 0));
        // A stride of two words: two lanes in each even bank.
        c.shared(false, u32::MAX, &std::array::from_fn(|l| 8 * l as u64), 4);
        assert_eq!((c.shared_passes, c.conflicts(), c.worst_conflict), (3, 1, 1));
        // The same word for all is a broadcast.
        c.shared(false, u32::MAX, &[64; LANES], 4);
        assert_eq!(c.conflicts(), 1);
        // Rows of 64 bytes, unswizzled, under ldmatrix: rows 0, 2, 4, 6 share their banks.
        c.matrix_rows(true, 0xFF, &std::array::from_fn(|l| 64 * l as u64));
        assert_eq!(c.worst_conflict, 3);
        assert_eq!((c.loop_passes, c.loop_least), (4, 1));
        c.global(&mut l2, u32::MAX, &std::array::from_fn(|l| 4 * l as u64), 4, false);
        assert_eq!((c.sectors, c.load_bytes), (4, 128));
    }
}
