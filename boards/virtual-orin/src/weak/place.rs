//! Where stores wait on their way, and what was loaded before they came.

use super::Agent;
use crate::code::{LANES, Scope};
use crate::exec::lanes;
use std::collections::HashMap;

/// Old words that a block, or the device, remembers.
const REMEMBERED: usize = 4096;

#[derive(Clone)]
pub(super) struct Store {
    pub(super) number: u64,
    pub(super) address: u64,
    pub(super) bytes: [u8; 16],
    pub(super) len: usize,
    /// Bytes of one element: what arrives at the host as a whole.
    pub(super) size: usize,
    /// For each place: stores of smaller numbers there go first.
    pub(super) after: [u64; 3],
    /// Turn from which on it may move by itself.
    pub(super) due: u64,
    /// Waits at the device for an order of system scope.
    pub(super) held: bool,
    pub(super) who: Agent,
    /// Stores of other lanes of its warp are ordered with it only if their numbers are smaller.
    pub(super) synced: u64,
}

impl Store {
    /// Whether an older store must leave for the place of `level` before this one.
    fn follows(&self, older: &Store, level: usize) -> bool {
        let apart = older.who.block == self.who.block
            && older.who.warp == self.who.warp
            && older.who.lane != self.who.lane
            && older.number >= self.synced;
        // What is held came after the order of system scope, which would have freed it.
        let later = level == Scope::Sys as usize && older.held;
        older.overlaps(self.address, self.len) || older.number < self.after[level] && !apart && !later
    }

    pub(super) fn overlaps(&self, address: u64, len: usize) -> bool {
        self.address < address + len as u64 && address < self.address + self.len as u64
    }

    /// Overwrites the bytes of `out`, which lie at `address`, that this store covers and `have` does not; marks them.
    fn give(&self, address: u64, out: &mut [u8], have: &mut u32) {
        for (n, byte) in out.iter_mut().enumerate() {
            let at = address + n as u64;
            if *have >> n & 1 == 0 && at >= self.address && at < self.address + self.len as u64 {
                *byte = self.bytes[(at - self.address) as usize];
                *have |= 1 << n;
            }
        }
    }
}

/// Stores in one place, oldest first.
#[derive(Default)]
pub(super) struct Place(pub(super) Vec<Store>);

impl Place {
    /// Whether store `n` may leave for the place of `level` before the older ones.
    pub(super) fn may_leave(&self, n: usize, level: usize) -> bool {
        let store = &self.0[n];
        // What a fence must order was here before this store came.
        !self.0[..n].iter().any(|older| store.follows(older, level))
    }

    pub(super) fn give(&self, address: u64, out: &mut [u8], have: &mut u32) {
        let len = out.len();
        for store in self.0.iter().rev().filter(|s| s.overlaps(address, len)) {
            store.give(address, out, have);
        }
    }
}

/// A word as it was when it was loaded.
#[derive(Default)]
struct OldWord {
    value: [u8; 4],
    /// Which of its bytes are known, one bit each.
    known: u8,
    time: u64,
}

/// Words as they were.
#[derive(Default)]
pub(super) struct Old(HashMap<u64, OldWord>);

impl Old {
    /// To a thread that must see what was there at `fresh`.
    pub(super) fn give(&self, address: u64, out: &mut [u8], have: &mut u32, fresh: u64) {
        if self.0.is_empty() {
            return;
        }
        for (n, byte) in out.iter_mut().enumerate() {
            let at = address + n as u64;
            if let Some(word) = self.0.get(&(at / 4))
                && *have >> n & 1 == 0
                && word.known >> (at % 4) & 1 == 1
                && word.time >= fresh
            {
                *byte = word.value[(at % 4) as usize];
                *have |= 1 << n;
            }
        }
    }

    /// Replaces what is too old for a thread that must see what was there at `fresh`.
    pub(super) fn remember(&mut self, address: u64, bytes: &[u8], now: u64, fresh: u64) {
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        for (n, byte) in bytes.iter().enumerate() {
            let at = address + n as u64;
            let word = self.0.entry(at / 4).or_default();
            if word.known == 0 || word.time < fresh {
                *word = OldWord { time: now, ..OldWord::default() };
            }
            word.value[(at % 4) as usize] = *byte;
            word.known |= 1 << (at % 4);
        }
    }

    pub(super) fn forget(&mut self, address: u64, len: usize) {
        if !self.0.is_empty() {
            (address / 4..=(address + len as u64 - 1) / 4).for_each(|word| {
                self.0.remove(&word);
            });
        }
    }
}

/// Since when a thread must see what is in memory, and what the host wrote.
#[derive(Default, Clone, Copy)]
pub(super) struct Fresh {
    pub(super) memory: u64,
    pub(super) host: u64,
}

impl Fresh {
    pub(super) fn join(&mut self, other: Fresh) {
        self.memory = self.memory.max(other.memory);
        self.host = self.host.max(other.host);
    }
}

#[derive(Default)]
pub(super) struct Warp {
    pub(super) stores: Place,
    /// What its later stores come after.
    pub(super) after: [u64; 3],
    /// Number of the next store when its lanes last met.
    pub(super) synced: u64,
    pub(super) lanes: [Fresh; LANES],
}

impl Warp {
    /// The lanes of `mask` have met, with others that had this.
    pub(super) fn meet(&mut self, mask: u32, others: Fresh, next: u64) {
        let mut all = others;
        lanes(mask).for_each(|lane| all.join(self.lanes[lane]));
        lanes(mask).for_each(|lane| self.lanes[lane].join(all));
        self.synced = next;
    }
}

#[derive(Default)]
pub(super) struct Block {
    pub(super) warps: Vec<Warp>,
    pub(super) stores: Place,
    pub(super) old: Old,
    /// The newest of its threads.
    pub(super) fresh: Fresh,
}

impl Block {
    /// An order of system scope: what the host need not have seen before, it must see now.
    pub(super) fn release(&mut self, device: &mut Place) {
        let own = self.warps.iter_mut().map(|w| &mut w.stores).chain([&mut self.stores]);
        own.chain([device]).flat_map(|place| &mut place.0).for_each(|store| store.held = false);
    }
}
