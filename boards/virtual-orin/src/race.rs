//! A race detector after FastTrack: vector clocks per warp, a shadow per 4-byte word.
//!
//! Two accesses conflict if their bytes overlap and one is a write. They must be ordered by barriers, by
//! release and acquire patterns of sufficient scope, or by a wait for cp.async; or both must be strong with
//! scopes that include each other. A warp is one agent; between two of its lanes only barriers order, and
//! `bar.warp.sync`. cp.async of a warp is a second agent, ordered after the issue and before the wait that covers
//! it.
//!
//! What the host does to mapped memory is not followed, but can be seen: where a load of less than system scope
//! finds another value than the device saw last, and nobody has acquired from the host in between, it raced.
//!
//! # Source
//! Flanagan, Freund: "FastTrack: efficient and precise dynamic race detection", PLDI 2009. PTX ISA 8.5,
//! chapter 8 (memory consistency model).

use crate::code::{LANES, Order, Scope, Space};
use crate::exec::{PendingCopy, Trap, TrapKind, lanes};
use std::collections::{HashMap, VecDeque};

type Clock = Vec<u32>;

fn join(into: &mut Clock, other: &Clock) {
    if into.len() < other.len() {
        into.resize(other.len(), 0);
    }
    for (a, b) in into.iter_mut().zip(other) {
        *a = (*a).max(*b);
    }
}

#[derive(Clone, Copy)]
struct Record {
    agent: u32,
    time: u32,
    /// Bytes of the word, one bit each.
    bytes: u8,
    /// `None` for a weak access.
    strong: Option<Scope>,
    lanes: u32,
    /// How often the agent's lanes had met.
    met: u32,
    /// Which instruction it was.
    call: u64,
}

/// What a release left at a word for acquires to find.
#[derive(Clone)]
struct Published {
    clock: Clock,
    scope: Scope,
    block: usize,
}

#[derive(Default, Clone)]
struct Word {
    writes: Vec<Record>,
    reads: Vec<Record>,
    published: Option<Box<Published>>,
}

struct Agent {
    name: String,
    block: usize,
    clock: Clock,
    /// Clock at the last fence and its scope: what a strong store after it publishes.
    fenced: Option<(Clock, Scope)>,
    /// What strong loads have seen; a fence takes it over.
    seen: Clock,
    /// Times of committed cp.async groups; only for async agents.
    groups: VecDeque<u32>,
    /// How often its lanes have met; `None` for async agents, whose copies only waits and barriers order.
    met: Option<u32>,
    /// What some of its lanes have acquired since.
    acquired: Vec<(u32, Clock)>,
}

impl Agent {
    /// What one of the lanes of `mask` knows.
    fn knows(&self, mask: u32) -> Clock {
        let mut clock = self.clock.clone();
        self.acquired.iter().filter(|(lanes, _)| lanes & mask != 0).for_each(|(_, c)| join(&mut clock, c));
        clock
    }

    fn meet(&mut self) {
        for (_, clock) in std::mem::take(&mut self.acquired) {
            join(&mut self.clock, &clock);
        }
        if let Some(met) = &mut self.met {
            *met += 1;
        }
    }
}

/// The detector of one launch.
#[derive(Default)]
pub struct Race {
    agents: Vec<Agent>,
    words: HashMap<u64, Word>,
    calls: u64,
    /// Bytes of mapped host memory as the device saw or wrote them last, and `acquires` at that time.
    host: HashMap<u64, (u8, u64)>,
    /// How often something was acquired from the host.
    acquires: u64,
}

/// Read, write, or read-modify-write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Atomic.
    Update,
}

/// One access as the detector sees it.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// Bytes.
    pub len: usize,
    /// Kind.
    pub kind: Kind,
    /// Strength.
    pub order: Order,
    /// Scope, if strong.
    pub scope: Scope,
}

impl Race {
    /// A new warp with its cp.async agent; returns its number. The agent of its copies is the next number.
    pub fn warp(&mut self, name: String, block: usize) -> usize {
        let first = self.agents.len();
        for (at, name) in [(first, name.clone()), (first + 1, format!("cp.async of {name}"))] {
            let mut clock = vec![0; at + 1];
            clock[at] = 1;
            let groups = VecDeque::new();
            let met = (at == first).then_some(0);
            let (seen, acquired) = (Vec::new(), Vec::new());
            self.agents.push(Agent { name, block, clock, fenced: None, seen, groups, met, acquired });
        }
        first
    }

    fn now(&self, agent: usize) -> u32 {
        self.agents[agent].clock[agent]
    }

    fn tick(&mut self, agent: usize) {
        self.agents[agent].clock[agent] += 1;
    }

    fn ordered(&self, before: Record, now: Record) -> bool {
        if before.agent == now.agent {
            let met = self.agents[now.agent as usize].met.is_none() || before.met != now.met;
            return met || before.call == now.call || before.lanes & !now.lanes == 0;
        }
        let agent = &self.agents[now.agent as usize];
        let own = agent.acquired.iter().filter(|(lanes, _)| lanes & now.lanes != 0).map(|(_, clock)| clock);
        own.chain([&agent.clock])
            .any(|clock| clock.get(before.agent as usize).is_some_and(|known| *known >= before.time))
    }

    /// The lanes of `mask` touch `len` bytes at each place.
    pub fn access(
        &mut self,
        agent: usize,
        block: usize,
        mask: u32,
        places: &[(Space, u64); LANES],
        event: Event,
    ) -> Result<(), Trap> {
        self.calls += 1;
        for lane in lanes(mask) {
            let (space, at) = places[lane];
            let last = at + event.len as u64 - 1;
            for word in at / 4..=last / 4 {
                let bytes = (0..4u64).fold(0u8, |all, b| {
                    let byte = word * 4 + b;
                    all | u8::from(byte >= at && byte <= last) << b
                });
                let key = if space == Space::Shared { 1 << 63 | (block as u64) << 32 | word } else { word };
                self.touch((agent, lane), key, bytes, event)?;
            }
        }
        // A release or a strong store ends the agent's interval, so that what follows is not covered by it.
        if event.kind != Kind::Read && event.order != Order::Weak {
            self.tick(agent);
        }
        Ok(())
    }

    fn touch(
        &mut self,
        (agent, lane): (usize, usize),
        key: u64,
        bytes: u8,
        event: Event,
    ) -> Result<(), Trap> {
        let strong = (event.order != Order::Weak).then_some(event.scope);
        let (time, met) = (self.now(agent), self.agents[agent].met.unwrap_or(0));
        let mut record =
            Record { agent: agent as u32, time, bytes, strong, lanes: 1 << lane, met, call: self.calls };
        let mut word = self.words.remove(&key).unwrap_or_default();
        let others = word.writes.iter().chain(if event.kind == Kind::Read { &[][..] } else { &word.reads });
        for other in others {
            if other.bytes & bytes != 0
                && !self.ordered(*other, record)
                && !self.morally_strong(*other, record)
            {
                let was_write = word.writes.iter().any(|w| w.agent == other.agent && w.time == other.time);
                let text = self.report(key, event.kind, *other, was_write, agent);
                return Err(Box::new(TrapKind::Race(text)));
            }
        }
        if event.kind != Kind::Write && strong.is_some() {
            self.acquire(agent, lane, &word, event);
        }
        if event.kind == Kind::Read {
            word.reads.retain(|r| {
                let same = r.agent == record.agent && r.bytes & !bytes == 0;
                if same && r.met == met {
                    record.lanes |= r.lanes;
                }
                !same
            });
            word.reads.push(record);
        } else {
            // Strong ones that are not ordered with this one stay: a weak access may still race with them.
            let stays = |r: &Record| r.bytes & !bytes != 0 || !self.ordered(*r, record);
            word.reads.retain(stays);
            word.writes.retain(stays);
            word.writes.push(record);
            word.published = self.release(agent, lane, word.published.take(), event);
        }
        self.words.insert(key, word);
        Ok(())
    }

    fn morally_strong(&self, a: Record, b: Record) -> bool {
        let (Some(x), Some(y)) = (a.strong, b.strong) else { return false };
        let same = self.agents[a.agent as usize].block == self.agents[b.agent as usize].block;
        same || (x != Scope::Cta && y != Scope::Cta)
    }

    fn acquire(&mut self, agent: usize, lane: usize, word: &Word, event: Event) {
        let Some(published) = &word.published else { return };
        let same = published.block == self.agents[agent].block;
        if !same && (published.scope == Scope::Cta || event.scope == Scope::Cta) {
            return;
        }
        let me = &mut self.agents[agent];
        if matches!(event.order, Order::Acquire | Order::AcqRel | Order::SeqCst) {
            match me.acquired.iter_mut().find(|(lanes, _)| *lanes == 1 << lane) {
                Some((_, clock)) => join(clock, &published.clock),
                None => me.acquired.push((1 << lane, published.clock.clone())),
            }
        } else {
            join(&mut me.seen, &published.clock);
        }
    }

    fn release(
        &self,
        agent: usize,
        lane: usize,
        old: Option<Box<Published>>,
        event: Event,
    ) -> Option<Box<Published>> {
        let me = &self.agents[agent];
        let mine = match event.order {
            Order::Weak => None,
            Order::Release | Order::AcqRel | Order::SeqCst => Some((me.knows(1 << lane), event.scope)),
            Order::Relaxed | Order::Acquire => me.fenced.clone().map(|(c, s)| (c, s.min(event.scope))),
        };
        // A read-modify-write continues the release sequence that it reads from; a store starts a new one.
        let old = old.filter(|_| event.kind == Kind::Update);
        match (mine, old) {
            (None, old) => old,
            (Some((clock, scope)), None) => Some(Box::new(Published { clock, scope, block: me.block })),
            (Some((clock, scope)), Some(mut old)) => {
                join(&mut old.clock, &clock);
                old.scope = old.scope.min(scope);
                Some(old)
            }
        }
    }

    /// fence of a scope. One of block scope takes over nothing from other blocks, which can only report more.
    pub fn fence(&mut self, agent: usize, scope: Scope) {
        let me = &mut self.agents[agent];
        if scope != Scope::Cta {
            let seen = std::mem::take(&mut me.seen);
            join(&mut me.clock, &seen);
        }
        me.fenced = Some((me.knows(u32::MAX), scope));
        self.tick(agent);
        self.acquires += u64::from(scope == Scope::Sys);
    }

    /// All these warps have met at a barrier.
    pub fn barrier(&mut self, warps: &[usize]) {
        let mut all = Vec::new();
        for &warp in warps {
            self.agents[warp].meet();
            join(&mut all, &self.agents[warp].clock);
        }
        for &warp in warps {
            self.agents[warp].clock.clone_from(&all);
            self.tick(warp);
        }
    }

    /// Lanes of this warp have met. Which is not followed: none of them counts as apart from the others.
    pub fn warp_barrier(&mut self, agent: usize) {
        self.agents[agent].meet();
    }

    /// A load found these bytes in mapped host memory.
    pub fn host_load(&mut self, agent: usize, at: u64, bytes: &[u8], event: Event) -> Result<(), Trap> {
        let strong = event.order != Order::Weak && event.scope == Scope::Sys;
        self.acquires += u64::from(strong && event.order != Order::Relaxed);
        for (address, byte) in (at..).zip(bytes) {
            let last = self.host.insert(address, (*byte, self.acquires));
            if !strong && last.is_some_and(|(value, acquires)| value != *byte && acquires == self.acquires) {
                let name = &self.agents[agent].name;
                let text = format!(
                    "race on mapped word {:#x}: read by {name} is not ordered after the write by the host",
                    at & !3
                );
                return Err(Box::new(TrapKind::Race(text)));
            }
        }
        Ok(())
    }

    /// A store put these bytes into mapped host memory.
    pub fn host_store(&mut self, at: u64, bytes: &[u8]) {
        self.host.extend((at..).zip(bytes.iter().map(|byte| (*byte, self.acquires))));
    }

    /// A cp.async was issued.
    pub fn copy_issued(&mut self, agent: usize, block: usize, copy: &PendingCopy) -> Result<(), Trap> {
        let issuer = self.agents[agent].knows(copy.mask);
        join(&mut self.agents[agent + 1].clock, &issuer);
        self.tick(agent);
        let event = |len, kind| Event { len, kind, order: Order::Weak, scope: Scope::Cta };
        for lane in lanes(copy.mask) {
            let one = 1 << lane;
            if copy.take[lane] > 0 {
                let from = copy.src.map(|a| (Space::Global, a));
                self.access(agent + 1, block, one, &from, event(copy.take[lane] as usize, Kind::Read))?;
            }
            let to = copy.dst.map(|a| (Space::Shared, u64::from(a)));
            self.access(agent + 1, block, one, &to, event(copy.size, Kind::Write))?;
        }
        Ok(())
    }

    /// The warp's open copies became a group.
    pub fn copy_commit(&mut self, agent: usize) {
        let time = self.now(agent + 1);
        self.agents[agent + 1].groups.push_back(time);
        self.tick(agent + 1);
    }

    /// The warp has waited for its oldest group.
    pub fn copy_landed(&mut self, agent: usize) {
        let Some(time) = self.agents[agent + 1].groups.pop_front() else { return };
        let clock = &mut self.agents[agent].clock;
        if clock.len() <= agent + 1 {
            clock.resize(agent + 2, 0);
        }
        clock[agent + 1] = clock[agent + 1].max(time);
    }

    fn report(&self, key: u64, kind: Kind, other: Record, was_write: bool, agent: usize) -> String {
        let place = if key >> 63 == 1 {
            format!("shared word {:#x}", (key & 0xFFFF_FFFF) * 4)
        } else {
            format!("global word {:#x}", key * 4)
        };
        let what = match kind {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Update => "atomic",
        };
        let before = if was_write { "write" } else { "read" };
        format!(
            "race on {place}: {what} by {} is not ordered after the {before} by {}",
            self.agents[agent].name, self.agents[other.agent as usize].name
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEAK: Order = Order::Weak;

    fn at(race: &mut Race, agent: usize, address: u64, kind: Kind, order: Order, scope: Scope) -> bool {
        let places = [(Space::Global, address); LANES];
        race.access(agent, 0, 1, &places, Event { len: 4, kind, order, scope }).is_ok()
    }

    fn two_blocks() -> (Race, usize, usize) {
        let mut race = Race::default();
        let (a, b) = (race.warp("a".into(), 0), race.warp("b".into(), 1));
        (race, a, b)
    }

    #[test]
    fn release_and_acquire_order_what_a_relaxed_flag_does_not() {
        for (store, load, fine) in [
            (Order::Release, Order::Acquire, true),
            (Order::Relaxed, Order::Acquire, false),
            (Order::Release, Order::Relaxed, false),
        ] {
            let (mut race, a, b) = two_blocks();
            assert!(at(&mut race, a, 64, Kind::Write, WEAK, Scope::Gpu));
            assert!(at(&mut race, a, 0, Kind::Write, store, Scope::Gpu));
            assert!(at(&mut race, b, 0, Kind::Read, load, Scope::Gpu));
            assert_eq!(at(&mut race, b, 64, Kind::Read, WEAK, Scope::Gpu), fine, "{store:?} {load:?}");
        }
    }

    #[test]
    fn block_scope_does_not_reach_another_block() {
        let (mut race, a, b) = two_blocks();
        assert!(at(&mut race, a, 64, Kind::Write, WEAK, Scope::Gpu));
        assert!(at(&mut race, a, 0, Kind::Write, Order::Release, Scope::Cta));
        assert!(!at(&mut race, b, 0, Kind::Read, Order::Acquire, Scope::Gpu));
    }

    #[test]
    fn fences_around_relaxed_accesses_order() {
        let (mut race, a, b) = two_blocks();
        assert!(at(&mut race, a, 64, Kind::Write, WEAK, Scope::Gpu));
        race.fence(a, Scope::Gpu);
        assert!(at(&mut race, a, 0, Kind::Update, Order::Relaxed, Scope::Gpu));
        assert!(at(&mut race, b, 0, Kind::Read, Order::Relaxed, Scope::Gpu));
        race.fence(b, Scope::Gpu);
        assert!(at(&mut race, b, 64, Kind::Read, WEAK, Scope::Gpu));
        // What the producer writes after its release is not covered.
        assert!(at(&mut race, a, 128, Kind::Write, WEAK, Scope::Gpu));
        assert!(!at(&mut race, b, 128, Kind::Read, WEAK, Scope::Gpu));
    }

    #[test]
    fn barrier_orders_and_its_absence_does_not() {
        let mut race = Race::default();
        let (a, b) = (race.warp("a".into(), 0), race.warp("b".into(), 0));
        assert!(at(&mut race, a, 64, Kind::Write, WEAK, Scope::Cta));
        race.barrier(&[a, b]);
        assert!(at(&mut race, b, 64, Kind::Read, WEAK, Scope::Cta));
        // Overwriting what b still reads: write after read.
        assert!(!at(&mut race, a, 64, Kind::Write, WEAK, Scope::Cta));
    }

    #[test]
    fn a_later_atomic_hides_no_race_with_an_earlier_one() {
        let (mut race, a, b) = two_blocks();
        assert!(at(&mut race, a, 0, Kind::Update, Order::Release, Scope::Gpu));
        assert!(at(&mut race, b, 0, Kind::Update, Order::Release, Scope::Gpu));
        assert!(at(&mut race, b, 0, Kind::Read, Order::Relaxed, Scope::Gpu));
        assert!(!at(&mut race, b, 0, Kind::Read, WEAK, Scope::Gpu));
    }

    #[test]
    fn lanes_of_a_warp_race_until_they_meet() {
        let mut race = Race::default();
        let a = race.warp("a".into(), 0);
        let places = [(Space::Shared, 64); LANES];
        let by = |race: &mut Race, lanes: u32, kind: Kind| {
            let event = Event { len: 4, kind, order: WEAK, scope: Scope::Cta };
            race.access(a, 0, lanes, &places, event).is_ok()
        };
        // The lanes of one instruction are no race, nor is a lane with itself.
        assert!(by(&mut race, 3, Kind::Write) && !by(&mut race, 1, Kind::Read));
        race.warp_barrier(a);
        assert!(by(&mut race, 1, Kind::Write) && by(&mut race, 1, Kind::Read));
        assert!(!by(&mut race, 2, Kind::Read));
        race.warp_barrier(a);
        // What one lane has acquired the others have not.
        let b = race.warp("b".into(), 1);
        let fine = |race: &mut Race, agent: usize, lane: usize, address, kind, order| {
            let places = [(Space::Global, address); LANES];
            race.access(agent, 0, 1 << lane, &places, Event { len: 4, kind, order, scope: Scope::Gpu })
                .is_ok()
        };
        assert!(fine(&mut race, b, 0, 512, Kind::Write, WEAK));
        assert!(fine(&mut race, b, 0, 0, Kind::Write, Order::Release));
        assert!(fine(&mut race, a, 0, 0, Kind::Read, Order::Acquire));
        assert!(
            fine(&mut race, a, 0, 512, Kind::Read, WEAK) && !fine(&mut race, a, 1, 512, Kind::Read, WEAK)
        );
        race.warp_barrier(a);
        assert!(fine(&mut race, a, 1, 512, Kind::Read, WEAK));
        assert!(by(&mut race, 6, Kind::Read));
        assert!(!by(&mut race, 1, Kind::Write));
    }

    #[test]
    fn a_weak_look_at_what_the_host_changed_is_a_race() {
        let look = |race: &mut Race, value: u8, order, scope| {
            race.host_load(0, 4096, &[value], Event { len: 1, kind: Kind::Read, order, scope }).is_ok()
        };
        for (order, scope, fine) in [
            (Order::Relaxed, Scope::Sys, true),
            (Order::Relaxed, Scope::Gpu, false),
            (WEAK, Scope::Sys, false),
        ] {
            let mut race = Race::default();
            race.warp("a".into(), 0);
            assert!(look(&mut race, 1, order, scope) && look(&mut race, 1, order, scope));
            assert_eq!(look(&mut race, 2, order, scope), fine);
            race.host_store(4096, &[3]);
            assert!(look(&mut race, 3, order, scope));
            // Another word was acquired in between.
            let event = Event { len: 1, kind: Kind::Read, order: Order::Acquire, scope: Scope::Sys };
            assert!(race.host_load(0, 8192, &[0], event).is_ok() && look(&mut race, 4, order, scope));
        }
    }

    #[test]
    fn bytes_of_one_word_are_apart() {
        let (mut race, a, b) = two_blocks();
        let places = |n: u64| [(Space::Global, n); LANES];
        let event = Event { len: 2, kind: Kind::Write, order: WEAK, scope: Scope::Gpu };
        assert!(race.access(a, 0, 1, &places(0), event).is_ok());
        assert!(race.access(b, 1, 1, &places(2), event).is_ok());
        assert!(race.access(b, 1, 1, &places(0), event).is_err());
    }

    #[test]
    fn a_copy_is_visible_after_the_wait_only() {
        let mut race = Race::default();
        let a = race.warp("a".into(), 0);
        let copy =
            PendingCopy { mask: 1, dst: [1024; LANES], src: [1 << 48; LANES], take: [16; LANES], size: 16 };
        race.copy_issued(a, 0, &copy).unwrap();
        race.copy_commit(a);
        let read = |race: &mut Race| {
            let event = Event { len: 4, kind: Kind::Read, order: WEAK, scope: Scope::Cta };
            race.access(a, 0, 1, &[(Space::Shared, 1028); LANES], event).is_ok()
        };
        assert!(!read(&mut race));
        race.copy_landed(a);
        assert!(read(&mut race));
    }
}
