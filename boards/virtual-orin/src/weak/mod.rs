//! Weak mode: global memory as weak as the PTX memory model allows, where the host's own is strong.
//!
//! A store does not reach memory at once. It passes three places, and may overtake what is older on the way:
//!
//! 1. the **warp**'s buffer: only the warp sees it;
//! 2. the **block**'s buffer: its block sees it;
//! 3. memory, which every block sees; a store to mapped host memory stops at the **device** first, where every
//!    block sees it and the host does not.
//!
//! A fence of a scope orders the warp's later stores, and a release itself alone, behind everything that has
//! reached the places of that scope by then, whoever stored it (cumulativity); a `fence.sc` and a releasing atomic push it on at
//! once. `bar.sync` brings all stores of its warps to the block. Stores to one address keep their order.
//!
//! A weak load may find the value that its block loaded earlier, until the thread has acquired (or fenced) at
//! device scope, or met at a barrier with one that has; what comes from the host may be old for the whole
//! device, until the same at system scope. Strong loads (relaxed, volatile, acquire) see the newest value of
//! their place; but one of less than system scope is nothing to the host, and neither is such a store: it stays
//! at the device until a release or fence of system scope behind it, or the end of the grid.
//!
//! Lanes of a warp are threads of their own in this: what one acquired, and that its release comes behind what
//! another stored, they have in common only behind `bar.warp.sync` or a barrier. A shuffle orders nothing.
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

mod place;

use crate::code::{Order, Scope};
use crate::exec::lanes;
use crate::memory::{Fault, Memory};
use crate::rng::Rng;
use place::{Block, Fresh, Old, Place, Store};
use std::collections::{HashMap, VecDeque};

/// Stores that a warp, a block, the device may hold back; the oldest moves on then.
const CAPACITY: [usize; 3] = [128, 512, 512];
/// Blocks that have ended and may have stores under way.
const ENDED: usize = 8;

/// Which warp of which block acts. Both are numbers of the grid.
#[derive(Debug, Clone, Copy)]
pub struct Agent {
    /// Number of the block.
    pub block: usize,
    /// Number of the warp in the block.
    pub warp: usize,
    /// Lane of the warp.
    pub lane: usize,
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

/// Memory between a grid and the machine.
pub struct Weak {
    blocks: HashMap<usize, Block>,
    /// Blocks in the order in which they began, so that a seed replays.
    order: Vec<usize>,
    /// Blocks that have ended and may still have stores under way, oldest first.
    ended: VecDeque<usize>,
    device: Place,
    old: Old,
    /// The newest sight of the host that a thread has.
    host: u64,
    /// Counts acquires and remembered words.
    time: u64,
    /// Blocks that run.
    live: usize,
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
            host: 0,
            time: 1,
            live: 0,
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
        self.live += 1;
    }

    /// A block ends. That orders nothing: what it stored goes on by itself.
    ///
    /// # Errors
    /// [`Fault`]: memory that was freed under a store.
    pub fn end(&mut self, memory: &mut Memory, block: usize) -> Result<(), Fault> {
        self.live = self.live.saturating_sub(1);
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
        let empty = |b: &Block| b.stores.0.is_empty() && b.warps.iter().all(|w| w.stores.0.is_empty());
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
        let Some(stores) = self.blocks.get_mut(&block).map(|b| std::mem::take(&mut b.warps[warp].stores.0))
        else {
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
        let mut fresh = Fresh::default();
        if let Some(block) = self.blocks.get(&who.block) {
            fresh = block.warps[who.warp].lanes[who.lane];
            block.warps[who.warp].stores.give(address, out, &mut have);
            block.stores.give(address, out, &mut have);
            if weak {
                block.old.give(address, out, &mut have, fresh.memory);
            }
        }
        let mut remember_host = false;
        if on_host(address) {
            self.device.give(address, out, &mut have);
            if weak || how.scope != Scope::Sys {
                self.old.give(address, out, &mut have, fresh.host);
                remember_host = have == 0 && self.rng.below(2) == 0;
            }
        }
        for (n, byte) in out.iter_mut().enumerate().filter(|(n, _)| have >> n & 1 == 0) {
            *byte = newest[n];
        }
        self.time += 1;
        if remember_host {
            self.old.remember(address, newest, self.time, fresh.host);
        }
        // Only what came from memory is remembered: own stores on their way are seen anyway.
        if weak
            && have == 0
            && self.rng.below(2) == 0
            && let Some(block) = self.blocks.get_mut(&who.block)
        {
            block.old.remember(address, newest, self.time, fresh.memory);
        }
        Ok(())
    }

    /// A store of one lane.
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
        how: Strength,
    ) -> Result<(), Fault> {
        let mut bytes = [0; 16];
        // Only checks the address.
        fetch(memory, address, &mut bytes[..data.len()], size, false)?;
        bytes[..data.len()].copy_from_slice(data);
        let (number, due, len) = (self.next, self.due(), data.len());
        self.next += 1;
        let Some(block) = self.blocks.get_mut(&who.block) else { return Ok(()) };
        let warp = &mut block.warps[who.warp];
        let held = on_host(address) && (how.order == Order::Weak || how.scope != Scope::Sys);
        let (mut after, synced) = (warp.after, warp.synced);
        if how.releases() {
            after[..=how.scope as usize].fill(number);
        }
        warp.stores.0.push(Store { number, address, bytes, len, size, after, due, held, who, synced });
        if how.releases() && how.scope == Scope::Sys {
            block.release(&mut self.device);
        }
        let warp = &mut block.warps[who.warp];
        // In order, so that whatever must go first does.
        if warp.stores.0.len() > CAPACITY[0] {
            let store = warp.stores.0.remove(0);
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

    /// After a strong load, an atomic or a fence of `how` by the lanes of `mask`: they see old values no more.
    pub fn after(&mut self, who: Agent, mask: u32, how: Strength) {
        if !how.acquires() {
            return;
        }
        self.time += 1;
        let Some(block) = self.blocks.get_mut(&who.block) else { return };
        // From whom they acquired is not followed up: whoever it may have been had no more than this.
        let now = match how.scope {
            Scope::Cta => block.fresh,
            Scope::Gpu => Fresh { memory: self.time, host: self.host },
            Scope::Sys => Fresh { memory: self.time, host: self.time },
        };
        block.fresh.join(now);
        self.host = self.host.max(now.host);
        let warp = &mut block.warps[who.warp];
        lanes(mask).for_each(|lane| warp.lanes[lane].join(now));
        // It may have been another lane.
        warp.synced = self.next;
    }

    /// These lanes of a warp have met.
    pub fn warp_barrier(&mut self, who: Agent, mask: u32) {
        if let Some(block) = self.blocks.get_mut(&who.block) {
            block.warps[who.warp].meet(mask, Fresh::default(), self.next);
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
    pub fn fence(&mut self, memory: &mut Memory, who: Agent, mask: u32, how: Strength) -> Result<(), Fault> {
        let next = self.next;
        if let Some(block) = self.blocks.get_mut(&who.block).filter(|_| how.releases()) {
            block.warps[who.warp].after[..=how.scope as usize].fill(next);
            if how.scope == Scope::Sys {
                block.release(&mut self.device);
            }
        }
        if how.order == Order::SeqCst {
            self.push_on(memory, who, how.scope)?;
        }
        self.after(who, mask, how);
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
            && (covers(&block.warps[who.warp].stores) || covers(&block.stores))
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
    pub fn barrier(&mut self, block: usize, warps: impl Iterator<Item = usize> + Clone) {
        warps.clone().for_each(|warp| self.settle_block(block, warp));
        let Some(block) = self.blocks.get_mut(&block) else { return };
        let mut all = Fresh::default();
        warps.clone().flat_map(|warp| block.warps[warp].lanes).for_each(|lane| all.join(lane));
        warps.for_each(|warp| block.warps[warp].meet(u32::MAX, all, self.next));
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
        let (chance, turn, holds) = (self.rng.bits(), self.turn, self.live > 0);
        let pick = |place: &mut Place, level: usize| {
            let n = (chance >> 8) as usize % place.0.len().max(1);
            let due = |s: &Store| s.due <= turn && !(s.held && holds && level == 2);
            let free = place.0.get(n).is_some_and(due) && place.may_leave(n, level);
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
            let Some(store) = pick(&mut block.warps[from].stores, 0) else { return Ok(false) };
            self.push(Some(number), store);
        }
        Ok(true)
    }
}
