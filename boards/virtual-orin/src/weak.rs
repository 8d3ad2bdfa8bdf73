//! Weak mode: global memory as weak as the PTX memory model allows, where the host's own is strong.
//!
//! A store does not reach memory at once. It passes three places, and may overtake what is older on the way:
//!
//! 1. the **warp**'s buffer: only the warp sees it;
//! 2. the **block**'s buffer: its block sees it;
//! 3. memory, which every block sees; a store to mapped host memory stops at the **device** first, where every
//!    block sees it and the host does not.
//!
//! A fence or release of a scope orders the warp's later stores behind everything that has reached the places
//! of that scope by then, whoever stored it (cumulativity); a `fence.sc` and a releasing atomic push it on at
//! once. `bar.sync` brings all stores of its warps to the block. Stores to one address keep their order.
//!
//! A weak load may find the value that its block loaded earlier, until an acquire or fence of at least device
//! scope by a warp of the block; what comes from the host may be old for the whole device, until one of system
//! scope. Strong loads (relaxed, volatile, acquire) see the newest value of their place; but one of less than
//! system scope is nothing to the host.
//!
//! # Why correct programs stay correct
//! PTX ISA 8.5, chapter 8. *Causality* (8.9.4, 8.9.5, 8.10.6): if W precedes an access A in causality order, every
//! step between them is program order, a barrier, or a release pattern observed by an acquire pattern of scopes
//! that include each other (8.7, 8.8). At each step W has reached a place that both threads see before the step
//! itself can be seen (the rules for fences and barriers above), and the reader's old values are gone; so A
//! finds W or what came after it. *Coherence* and *SC per location* (8.10.1, 8.10.5): all stores to an address
//! pass one line of places in order, and strong loads read the newest of their place. *Fence-SC* (8.10.2):
//! after the fence everything earlier is in memory, and loads read memory. *Atomicity* (8.10.3): atomics work
//! on memory itself. Every store moves on after a bounded number of turns, so polling ends. Loads are performed
//! in order, which the model allows and does not demand. Shared memory is not weakened: what lacks a barrier
//! there is the race detector's to find.

use crate::code::{Order, Scope};
use crate::memory::{Fault, Memory};
use crate::rng::Rng;
use std::collections::{HashMap, VecDeque};

/// Stores that a warp, a block, the device may hold back; the oldest moves on then.
const CAPACITY: [usize; 3] = [128, 512, 512];
/// Blocks that have ended and may have stores under way.
const ENDED: usize = 8;
/// Old words that a block, or the device, remembers.
const REMEMBERED: usize = 4096;

/// Which warp of which block acts. Both are numbers of the grid.
#[derive(Debug, Clone, Copy)]
pub struct Agent {
    /// Number of the block.
    pub block: usize,
    /// Number of the warp in the block.
    pub warp: usize,
}

/// How an access is ordered.
#[derive(Debug, Clone, Copy)]
pub struct Strength {
    /// Order.
    pub order: Order,
    /// Scope; means nothing for a weak access.
    pub scope: Scope,
}

impl Strength {
    /// A plain access.
    pub const WEAK: Strength = Strength { order: Order::Weak, scope: Scope::Cta };

    fn releases(self) -> bool {
        matches!(self.order, Order::Release | Order::AcqRel | Order::SeqCst)
    }

    fn acquires(self) -> bool {
        matches!(self.order, Order::Acquire | Order::AcqRel | Order::SeqCst)
    }
}

#[derive(Clone)]
struct Store {
    number: u64,
    address: u64,
    bytes: [u8; 16],
    len: usize,
    /// Bytes of one element: what arrives at the host as a whole.
    size: usize,
    /// For each place: stores of smaller numbers there go first.
    after: [u64; 3],
    /// Turn from which on it may move by itself.
    due: u64,
}

impl Store {
    fn overlaps(&self, address: u64, len: usize) -> bool {
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
struct Place(Vec<Store>);

impl Place {
    /// Whether store `n` may leave for the place of `level` before the older ones.
    fn may_leave(&self, n: usize, level: usize) -> bool {
        let store = &self.0[n];
        // What a fence must order was here before this store came.
        !self.0[..n]
            .iter()
            .any(|older| older.overlaps(store.address, store.len) || older.number < store.after[level])
    }

    fn give(&self, address: u64, out: &mut [u8], have: &mut u32) {
        let len = out.len();
        for store in self.0.iter().rev().filter(|s| s.overlaps(address, len)) {
            store.give(address, out, have);
        }
    }
}

/// Words as they were when they were loaded: value, and which of its bytes are known.
#[derive(Default)]
struct Old(HashMap<u64, ([u8; 4], u8)>);

impl Old {
    fn give(&self, address: u64, out: &mut [u8], have: &mut u32) {
        if self.0.is_empty() {
            return;
        }
        for (n, byte) in out.iter_mut().enumerate() {
            let at = address + n as u64;
            if let Some((value, known)) = self.0.get(&(at / 4))
                && *have >> n & 1 == 0
                && known >> (at % 4) & 1 == 1
            {
                *byte = value[(at % 4) as usize];
                *have |= 1 << n;
            }
        }
    }

    fn remember(&mut self, address: u64, bytes: &[u8]) {
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        for (n, byte) in bytes.iter().enumerate() {
            let at = address + n as u64;
            let (value, known) = self.0.entry(at / 4).or_default();
            value[(at % 4) as usize] = *byte;
            *known |= 1 << (at % 4);
        }
    }

    fn forget(&mut self, address: u64, len: usize) {
        if !self.0.is_empty() {
            (address / 4..=(address + len as u64 - 1) / 4).for_each(|word| {
                self.0.remove(&word);
            });
        }
    }
}

#[derive(Default)]
struct Block {
    /// By warp: its buffer, and what its later stores come after.
    warps: Vec<(Place, [u64; 3])>,
    stores: Place,
    old: Old,
}

/// Memory between a grid and the machine.
pub struct Weak {
    blocks: HashMap<usize, Block>,
    /// Blocks in the order in which they began, so that a seed replays.
    order: Vec<usize>,
    /// Blocks that have ended and may still have stores under way, oldest first.
    ended: VecDeque<usize>,
    device: Place,
    old: Old,
    next: u64,
    turn: u64,
    rng: Rng,
}

fn on_host(address: u64) -> bool {
    address >> 48 == 0
}

/// Reads memory itself.
fn fetch(memory: &Memory, address: u64, out: &mut [u8], size: usize, acquire: bool) -> Result<(), Fault> {
    if on_host(address) {
        let host = memory.host.as_ref();
        let len = out.len();
        return host
            .and_then(|h| h.load(address, out, size, acquire))
            .ok_or(Fault::Unmapped { address, len });
    }
    out.copy_from_slice(memory.bytes(address, out.len())?);
    Ok(())
}

impl Weak {
    /// Nothing is held back yet.
    pub fn new(seed: u64) -> Self {
        Weak {
            blocks: HashMap::new(),
            order: Vec::new(),
            ended: VecDeque::new(),
            device: Place::default(),
            old: Old::default(),
            next: 1,
            turn: 0,
            rng: Rng::new(seed),
        }
    }

    /// A block of so many warps begins.
    pub fn begin(&mut self, block: usize, warps: usize) {
        let warps = (0..warps).map(|_| Default::default()).collect();
        self.blocks.insert(block, Block { warps, ..Block::default() });
        self.order.push(block);
    }

    /// A block ends. That orders nothing: what it stored goes on by itself.
    ///
    /// # Errors
    /// [`Fault`]: memory that was freed under a store.
    pub fn end(&mut self, memory: &mut Memory, block: usize) -> Result<(), Fault> {
        self.ended.push_back(block);
        if self.ended.len() > ENDED
            && let Some(oldest) = self.ended.pop_front()
        {
            self.settle_memory(memory, oldest)?;
            self.blocks.remove(&oldest);
            self.order.retain(|b| *b != oldest);
        }
        Ok(())
    }

    /// Whether every store has arrived.
    pub fn settled(&self) -> bool {
        let empty = |b: &Block| b.stores.0.is_empty() && b.warps.iter().all(|w| w.0.0.is_empty());
        self.device.0.is_empty() && self.blocks.values().all(empty)
    }

    fn due(&mut self) -> u64 {
        let most = [1, 30, 300, 3_000][self.rng.below(4) as usize];
        self.turn + self.rng.below(most)
    }

    fn push(&mut self, block: Option<usize>, mut store: Store) {
        store.due = self.due();
        match block.and_then(|b| self.blocks.get_mut(&b)) {
            Some(block) => block.stores.0.push(store),
            None => self.device.0.push(store),
        }
    }

    /// A store leaves its block.
    fn leave_block(&mut self, memory: &mut Memory, block: usize, store: Store) -> Result<(), Fault> {
        if let Some(block) = self.blocks.get_mut(&block) {
            block.old.forget(store.address, store.len);
        }
        if on_host(store.address) {
            self.push(None, store);
            return Ok(());
        }
        memory.bytes_mut(store.address, store.len)?.copy_from_slice(&store.bytes[..store.len]);
        Ok(())
    }

    /// A store reaches the host.
    fn leave_device(&mut self, memory: &Memory, store: &Store) -> Result<(), Fault> {
        self.old.forget(store.address, store.len);
        let host = memory.host.as_ref();
        let data = &store.bytes[..store.len];
        // Released: stores that went before it are seen by a host that acquires it.
        host.and_then(|h| h.store(store.address, data, store.size, true))
            .ok_or(Fault::Unmapped { address: store.address, len: store.len })
    }

    fn settle_block(&mut self, block: usize, warp: usize) {
        let Some(stores) = self.blocks.get_mut(&block).map(|b| std::mem::take(&mut b.warps[warp].0.0)) else {
            return;
        };
        stores.into_iter().for_each(|store| self.push(Some(block), store));
    }

    fn settle_memory(&mut self, memory: &mut Memory, block: usize) -> Result<(), Fault> {
        let warps = self.blocks.get(&block).map_or(0, |b| b.warps.len());
        (0..warps).for_each(|warp| self.settle_block(block, warp));
        let stores = self.blocks.get_mut(&block).map(|b| std::mem::take(&mut b.stores.0)).unwrap_or_default();
        stores.into_iter().try_for_each(|store| self.leave_block(memory, block, store))
    }

    fn settle_host(&mut self, memory: &Memory) -> Result<(), Fault> {
        let stores = std::mem::take(&mut self.device.0);
        stores.iter().try_for_each(|store| self.leave_device(memory, store))
    }

    /// A load of one lane.
    ///
    /// # Errors
    /// [`Fault`]: the address.
    pub fn load(
        &mut self,
        memory: &Memory,
        who: Agent,
        address: u64,
        out: &mut [u8],
        size: usize,
        how: Strength,
    ) -> Result<(), Fault> {
        // What memory holds; also checks the address.
        let mut newest = [0; 16];
        let newest = &mut newest[..out.len()];
        fetch(memory, address, newest, size, how.acquires())?;
        let weak = how.order == Order::Weak;
        let mut have = 0;
        let block = self.blocks.get(&who.block);
        if let Some(block) = block {
            block.warps[who.warp].0.give(address, out, &mut have);
            block.stores.give(address, out, &mut have);
            if weak {
                block.old.give(address, out, &mut have);
            }
        }
        let mut remember_host = false;
        if on_host(address) {
            self.device.give(address, out, &mut have);
            if weak || how.scope != Scope::Sys {
                self.old.give(address, out, &mut have);
                remember_host = have == 0 && self.rng.below(2) == 0;
            }
        }
        for (n, byte) in out.iter_mut().enumerate().filter(|(n, _)| have >> n & 1 == 0) {
            *byte = newest[n];
        }
        if remember_host {
            self.old.remember(address, newest);
        }
        // Only what came from memory is remembered: own stores on their way are seen anyway.
        if weak
            && have == 0
            && self.rng.below(2) == 0
            && let Some(block) = self.blocks.get_mut(&who.block)
        {
            block.old.remember(address, newest);
        }
        Ok(())
    }

    /// A store of one lane. [`Weak::before`] comes first.
    ///
    /// # Errors
    /// [`Fault`]: the address.
    pub fn store(
        &mut self,
        memory: &mut Memory,
        who: Agent,
        address: u64,
        data: &[u8],
        size: usize,
    ) -> Result<(), Fault> {
        let mut bytes = [0; 16];
        // Only checks the address.
        fetch(memory, address, &mut bytes[..data.len()], size, false)?;
        bytes[..data.len()].copy_from_slice(data);
        let (number, due, len) = (self.next, self.due(), data.len());
        self.next += 1;
        let Some(block) = self.blocks.get_mut(&who.block) else { return Ok(()) };
        let (place, after) = &mut block.warps[who.warp];
        place.0.push(Store { number, address, bytes, len, size, after: *after, due });
        // In order, so that whatever must go first does.
        if place.0.len() > CAPACITY[0] {
            let store = place.0.remove(0);
            self.push(Some(who.block), store);
        }
        let block = self.blocks.get_mut(&who.block).filter(|b| b.stores.0.len() > CAPACITY[1]);
        if let Some(store) = block.map(|b| b.stores.0.remove(0)) {
            self.leave_block(memory, who.block, store)?;
        }
        if self.device.0.len() > CAPACITY[2] {
            let store = self.device.0.remove(0);
            self.leave_device(memory, &store)?;
        }
        Ok(())
    }

    /// Before a strong access or a fence of `how`: orders later stores behind what is there.
    pub fn before(&mut self, who: Agent, how: Strength) {
        if !how.releases() {
            return;
        }
        let (next, levels) = (self.next, how.scope as usize + 1);
        if let Some(block) = self.blocks.get_mut(&who.block) {
            block.warps[who.warp].1[..levels].fill(next);
        }
    }

    /// After a strong load, an atomic or a fence of `how`: old values may not be seen any more.
    pub fn after(&mut self, who: Agent, how: Strength) {
        if !how.acquires() || how.scope == Scope::Cta {
            return;
        }
        if let Some(block) = self.blocks.get_mut(&who.block) {
            block.old.0.clear();
        }
        if how.scope == Scope::Sys {
            self.old.0.clear();
        }
    }

    /// Pushes on all that a scope must see now.
    fn push_on(&mut self, memory: &mut Memory, who: Agent, scope: Scope) -> Result<(), Fault> {
        match scope {
            Scope::Cta => self.settle_block(who.block, who.warp),
            Scope::Gpu => self.settle_memory(memory, who.block)?,
            Scope::Sys => {
                self.settle_memory(memory, who.block)?;
                self.settle_host(memory)?;
            }
        }
        Ok(())
    }

    /// A fence.
    ///
    /// # Errors
    /// [`Fault`], as [`Weak::end`].
    pub fn fence(&mut self, memory: &mut Memory, who: Agent, how: Strength) -> Result<(), Fault> {
        self.before(who, how);
        if how.order == Order::SeqCst {
            self.push_on(memory, who, how.scope)?;
        }
        self.after(who, how);
        Ok(())
    }

    /// Before an atomic of one lane works on memory itself: what must be there first.
    ///
    /// # Errors
    /// [`Fault`], as [`Weak::end`].
    pub fn atomic(
        &mut self,
        memory: &mut Memory,
        who: Agent,
        address: u64,
        len: usize,
        how: Strength,
    ) -> Result<(), Fault> {
        if how.releases() {
            // Memory is the only place that an atomic has, so it is seen by all at once.
            self.push_on(memory, who, how.scope.max(Scope::Gpu))?;
        }
        let covers = |place: &Place| place.0.iter().any(|s| s.overlaps(address, len));
        if let Some(block) = self.blocks.get(&who.block)
            && (covers(&block.warps[who.warp].0) || covers(&block.stores))
        {
            self.settle_memory(memory, who.block)?;
        }
        if on_host(address) && covers(&self.device) {
            self.settle_host(memory)?;
        }
        if let Some(block) = self.blocks.get_mut(&who.block) {
            block.old.forget(address, len);
        }
        self.old.forget(address, len);
        Ok(())
    }

    /// These warps of a block have met at a barrier.
    pub fn barrier(&mut self, block: usize, warps: impl Iterator<Item = usize>) {
        warps.for_each(|warp| self.settle_block(block, warp));
    }

    /// Moves some stores on; true if one moved.
    ///
    /// # Errors
    /// [`Fault`], as [`Weak::end`].
    pub fn turn(&mut self, memory: &mut Memory) -> Result<bool, Fault> {
        self.turn += 1;
        let mut moved = false;
        for _ in 0..8 {
            moved |= self.move_one(memory)?;
        }
        Ok(moved)
    }

    fn move_one(&mut self, memory: &mut Memory) -> Result<bool, Fault> {
        // The device is one more block in this choice.
        let at = self.rng.below(self.order.len() as u64 + 1) as usize;
        let (chance, turn) = (self.rng.bits(), self.turn);
        let pick = |place: &mut Place, level: usize| {
            let n = (chance >> 8) as usize % place.0.len().max(1);
            let free = place.0.get(n).is_some_and(|s| s.due <= turn) && place.may_leave(n, level);
            free.then(|| place.0.remove(n))
        };
        let Some(&number) = self.order.get(at) else {
            let Some(store) = pick(&mut self.device, 2) else { return Ok(false) };
            self.leave_device(memory, &store)?;
            return Ok(true);
        };
        let Some(block) = self.blocks.get_mut(&number) else { return Ok(false) };
        let warps = block.warps.len();
        let from = chance as usize % 256 % (warps + 1);
        if from == warps {
            let Some(store) = pick(&mut block.stores, 1) else { return Ok(false) };
            self.leave_block(memory, number, store)?;
        } else {
            let Some(store) = pick(&mut block.warps[from].0, 0) else { return Ok(false) };
            self.push(Some(number), store);
        }
        Ok(true)
    }
}
