//! Running a grid: which blocks are resident, which warp goes next, where its lanes are.
//!
//! One thread runs everything; the interleaving comes from the seed, so a failing seed fails again. A warp's
//! divergent lanes run lowest program counter first, which brings them together again; lanes that poll step
//! back, so that one spinning lane never starves the others of its warp (independent thread scheduling).

use crate::code::{CONSTANT, Exec, LANES, Program};
use crate::exec::{Cx, Flow, Group, LaunchShape, Machine, Shared, Trap, TrapKind, TrapReport, Warp, lanes};
use crate::lower::SHARED_RESERVED;
use crate::memory::{Fault, POISON};
use crate::weak::Weak;
use std::fmt::Write as _;
use std::sync::Arc;

/// Instructions without progress after which a grid that waits for nothing outside counts as hung.
pub const HANG_LIMIT: u64 = 20_000_000;

/// How a slice of work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// There is more to do.
    Running,
    /// All warps poll or sleep, and some have looked at host memory: nothing to do until the host acts.
    WaitsForHost,
    /// Every block has ended.
    Done,
}

#[derive(Default, Clone, Copy)]
struct Barrier {
    arrived: u32,
    expected: u32,
}

struct Block {
    index: [u32; 3],
    number: usize,
    shared: Shared,
    warps: Vec<Warp>,
    barriers: [Barrier; 16],
    first_agent: usize,
    sm: u32,
}

/// A launched kernel.
pub struct Grid {
    program: Arc<Program>,
    shape: LaunchShape,
    /// Blocks not started, in seeded order; the last is next.
    waiting: Vec<u32>,
    resident: Vec<Block>,
    /// Most blocks at a time.
    capacity: usize,
    sms: u32,
    started: usize,
    /// `Machine::progress` when it last changed, and instructions since.
    progress: (u64, u64),
    /// What stands between the grid and memory, in weak mode.
    weak: Option<Box<Weak>>,
}

enum Turn {
    /// The quantum is used up, or the warp polls, sleeps or waits.
    Over,
    Barrier(u32, u32),
    Ended,
}

impl Grid {
    /// A grid of `shape` that may have `capacity` blocks resident on `sms` multiprocessors.
    ///
    /// # Panics
    /// If a launch without blocks or threads, or with parameters of another size, gets past the driver.
    pub fn new(
        program: Arc<Program>,
        shape: LaunchShape,
        capacity: usize,
        sms: u32,
        weak: bool,
        machine: &mut Machine,
    ) -> Self {
        assert_eq!(shape.params.len(), program.param_bytes, "the driver checks the parameters");
        let blocks: u32 = shape.grid.iter().product();
        assert!(blocks > 0 && capacity > 0, "the driver checks the launch");
        let mut waiting: Vec<u32> = (0..blocks).collect();
        for at in (1..waiting.len()).rev() {
            waiting.swap(at, machine.rng.below(at as u64 + 1) as usize);
        }
        machine.polled_host = false;
        let progress = (machine.progress, 0);
        let weak = weak.then(|| Box::new(Weak::new(machine.rng.bits())));
        Grid { program, shape, waiting, resident: Vec::new(), capacity, sms, started: 0, progress, weak }
    }

    /// Blocks of the grid.
    pub fn blocks(&self) -> u64 {
        self.shape.grid.iter().map(|&n| u64::from(n)).product()
    }

    /// Runs about `budget` warp instructions.
    ///
    /// # Errors
    /// The first trap ends the grid.
    pub fn run(&mut self, machine: &mut Machine, budget: u64) -> Result<Status, TrapReport> {
        let mut left = budget as i64;
        while left > 0 {
            while self.resident.len() < self.capacity
                && let Some(next) = self.waiting.pop()
            {
                let block = self.block(next, machine);
                self.resident.push(block);
            }
            if self.resident.is_empty() {
                match &mut self.weak {
                    Some(weak) if !weak.settled() => {
                        weak.turn(&mut machine.memory).map_err(|fault| self.report_fault(fault))?;
                        left -= 1;
                        continue;
                    }
                    _ => return Ok(Status::Done),
                }
            }
            if let Some(weak) = &mut self.weak {
                let moved = weak.turn(&mut machine.memory).map_err(|fault| self.report_fault(fault))?;
                machine.progress += u64::from(moved);
            }
            let Some((block, warp)) = self.pick(machine) else {
                if self.wake_sleepers(machine) {
                    continue;
                }
                return Err(self.report(0, 0, self.hang(machine)));
            };
            let quantum = match machine.rng.below(16) {
                0 => 1 + machine.rng.below(8),
                _ => 64 + machine.rng.below(256),
            };
            let used = self.turn(block, warp, quantum, machine)?;
            left -= used as i64;
            self.advance_clock(used, machine);
            if machine.progress != self.progress.0 {
                self.progress = (machine.progress, 0);
                machine.polled_host = false;
            } else {
                self.progress.1 += used;
                if machine.polled_host && self.progress.1 > 10_000 {
                    self.progress.1 = 0;
                    return Ok(Status::WaitsForHost);
                }
                if self.progress.1 > HANG_LIMIT {
                    return Err(self.report(block, warp, self.hang(machine)));
                }
            }
        }
        Ok(Status::Running)
    }

    fn block(&mut self, linear: u32, machine: &mut Machine) -> Block {
        let [gx, gy, _] = self.shape.grid;
        let index = [linear % gx, linear / gx % gy, linear / gx / gy];
        let [bx, by, bz] = self.shape.block;
        let threads = bx * by * bz;
        let mut shared = vec![0; SHARED_RESERVED];
        shared.resize(
            SHARED_RESERVED + self.program.shared_bytes.div_ceil(16) * 16 + self.shape.dynamic_shared,
            POISON,
        );
        let number = self.started;
        self.started += 1;
        let mut first_agent = 0;
        let warps = (0..threads.div_ceil(LANES as u32) as usize)
            .map(|index_in_block| {
                if let Some(race) = &mut machine.race {
                    let agent = race.warp(format!("block {index:?} warp {index_in_block}"), number);
                    if index_in_block == 0 {
                        first_agent = agent;
                    }
                }
                self.warp(index_in_block, threads)
            })
            .collect();
        if let Some(weak) = &mut self.weak {
            weak.begin(number, threads.div_ceil(LANES as u32) as usize);
        }
        // Real blocks go to multiprocessors in no promised order.
        let sm = machine.rng.below(u64::from(self.sms)) as u32;
        Block {
            index,
            number,
            shared: Shared { bytes: shared },
            warps,
            barriers: Default::default(),
            first_agent,
            sm,
        }
    }

    fn warp(&self, index: usize, threads: u32) -> Warp {
        let [bx, by, _] = self.shape.block;
        let thread = |lane: usize| (index * LANES + lane) as u32;
        let alive = (0..LANES).filter(|&l| thread(l) < threads).fold(0, |all, l| all | 1 << l);
        let (r, l, p) = self.program.slots;
        let poison = u32::from_le_bytes([POISON; 4]);
        Warp {
            r: vec![[poison; LANES]; r],
            l: vec![[u64::from_le_bytes([POISON; 8]); LANES]; l],
            p: vec![poison; p],
            program: Arc::clone(&self.program),
            now: Group { pc: 0, mask: alive, waits: false, deferred: false },
            others: Vec::new(),
            alive,
            index,
            tid: [
                std::array::from_fn(|lane| thread(lane) % bx),
                std::array::from_fn(|lane| thread(lane) / bx % by),
                std::array::from_fn(|lane| thread(lane) / bx / by),
            ],
            open_copies: Vec::new(),
            groups: Default::default(),
            barrier: None,
            wake: 0,
        }
    }

    /// A ready warp: the first from a random place on.
    fn pick(&self, machine: &mut Machine) -> Option<(usize, usize)> {
        let blocks = self.resident.len();
        let first = machine.rng.below(blocks as u64) as usize;
        for b in (first..blocks).chain(0..first) {
            let warps = &self.resident[b].warps;
            let start = machine.rng.below(warps.len() as u64) as usize;
            let ready = |w: &usize| {
                let warp = &warps[*w];
                warp.alive != 0 && warp.barrier.is_none() && warp.wake <= machine.clock
            };
            if let Some(w) = (start..warps.len()).chain(0..start).find(ready) {
                return Some((b, w));
            }
        }
        None
    }

    /// No warp is ready: modelled time passes until the first sleeper wakes. False if none sleeps.
    fn wake_sleepers(&mut self, machine: &mut Machine) -> bool {
        let asleep =
            self.resident.iter().flat_map(|b| &b.warps).filter(|w| w.alive != 0 && w.barrier.is_none());
        let Some(wake) = asleep.map(|w| w.wake).min() else { return false };
        machine.clock = machine.clock.max(wake);
        self.progress.1 += 1;
        true
    }

    /// While a kernel runs, `globaltimer` goes by what its blocks can issue, four warp instructions a clock on
    /// each multiprocessor: never more than the whole launch is modelled to take.
    fn advance_clock(&self, used: u64, machine: &mut Machine) {
        let ways = (self.resident.len() as u64).min(u64::from(self.sms)).max(1) * 4;
        machine.clock += (used as f64 * 1e12 / machine.model.clocks.gpu) as u64 / ways;
    }

    fn turn(&mut self, b: usize, w: usize, quantum: u64, machine: &mut Machine) -> Result<u64, TrapReport> {
        let mut used = 0;
        let block = &mut self.resident[b];
        let agent = block.first_agent + 2 * w;
        let mut cx = Cx {
            warp: &mut block.warps[w],
            shared: &mut block.shared,
            machine,
            shape: &self.shape,
            block: block.index,
            sm: (block.sm, self.sms),
            agent,
            resident: block.number,
            weak: self.weak.as_deref_mut(),
        };
        let outcome = run_warp(&mut cx, quantum, &mut used);
        match outcome {
            Err(trap) => return Err(self.report(b, w, *trap)),
            Ok(Turn::Over) => {}
            Ok(Turn::Barrier(id, threads)) => {
                self.arrive(b, w, id, threads).map_err(|trap| self.report(b, w, *trap))?;
                self.release_barriers(b, machine);
            }
            Ok(Turn::Ended) => {
                machine.progress += 1;
                if self.resident[b].warps.iter().all(|w| w.alive == 0) {
                    let number = self.resident[b].number;
                    if let Some(weak) = &mut self.weak {
                        let ended = weak.end(&mut machine.memory, number);
                        ended.map_err(|fault| self.report(b, w, TrapKind::Memory(fault)))?;
                    }
                    self.resident.swap_remove(b);
                } else {
                    self.release_barriers(b, machine);
                }
            }
        }
        Ok(used)
    }

    fn arrive(&mut self, b: usize, w: usize, id: u32, threads: u32) -> Result<(), Trap> {
        let block = &mut self.resident[b];
        if !threads.is_multiple_of(LANES as u32) {
            return Err(Box::new(TrapKind::Undefined("barrier thread count that is no multiple of 32")));
        }
        let barrier = &mut block.barriers[id as usize];
        if barrier.arrived > 0 && barrier.expected != threads {
            return Err(Box::new(TrapKind::Barrier { id, expected: barrier.expected, found: threads }));
        }
        barrier.expected = threads;
        barrier.arrived += LANES as u32;
        block.warps[w].barrier = Some(id);
        Ok(())
    }

    /// Opens every barrier at which all that it needs have arrived. Warps that have ended count no more.
    fn release_barriers(&mut self, b: usize, machine: &mut Machine) {
        let block = &mut self.resident[b];
        let alive = block.warps.iter().filter(|w| w.alive != 0).count() as u32 * LANES as u32;
        for id in 0..16u32 {
            let barrier = &mut block.barriers[id as usize];
            let needed = if barrier.expected == 0 { alive } else { barrier.expected };
            if barrier.arrived == 0 || barrier.arrived < needed {
                continue;
            }
            *barrier = Barrier::default();
            let mut agents = Vec::new();
            for (n, warp) in block.warps.iter_mut().enumerate() {
                if warp.barrier == Some(id) {
                    warp.barrier = None;
                    agents.push(block.first_agent + 2 * n);
                }
            }
            if let Some(race) = &mut machine.race {
                race.barrier(&agents);
            }
            if let Some(weak) = &mut self.weak {
                weak.barrier(block.number, agents.iter().map(|agent| (agent - block.first_agent) / 2));
            }
            machine.progress += 1;
        }
    }

    fn hang(&self, machine: &Machine) -> TrapKind {
        let mut places = String::new();
        for block in &self.resident {
            for warp in block.warps.iter().filter(|w| w.alive != 0) {
                let line = self.program.code[warp.now.pc as usize].line;
                let state = match warp.barrier {
                    Some(id) => format!("at barrier {id}"),
                    None if warp.wake > machine.clock => "asleep".to_owned(),
                    None => "running".to_owned(),
                };
                if places.len() < 4000 {
                    let _ =
                        write!(places, "block {:?} warp {} line {line} {state}; ", block.index, warp.index);
                }
            }
        }
        TrapKind::Hang { instructions: self.progress.1, places }
    }

    /// A store found its memory freed after the warp had gone on; no place is to blame.
    fn report_fault(&self, fault: Fault) -> TrapReport {
        let (kernel, kind) = (self.program.name.clone(), TrapKind::Memory(fault));
        TrapReport { kernel, block: [0; 3], warp: 0, line: 0, kind }
    }

    fn report(&self, b: usize, w: usize, kind: TrapKind) -> TrapReport {
        let block = &self.resident[b];
        let line = self.program.code.get(block.warps[w].now.pc as usize).map_or(0, |i| i.line);
        TrapReport { kernel: self.program.name.clone(), block: block.index, warp: w, line, kind }
    }
}

fn run_warp(cx: &mut Cx<'_>, quantum: u64, used: &mut u64) -> Result<Turn, Trap> {
    let program = Arc::clone(&cx.warp.program);
    while *used < quantum {
        if !cx.warp.others.is_empty() {
            regroup(cx.warp)?;
        }
        let now = cx.warp.now;
        let inst = &program.code[now.pc as usize];
        let mut mask = now.mask;
        if let Some((slot, not)) = inst.guard {
            debug_assert!(slot & CONSTANT == 0);
            let p = cx.warp.p[usize::from(slot)];
            mask &= if not { !p } else { p };
        }
        *used += 1;
        cx.machine.counters.issued[inst.class as usize] += 1;
        let flow = match inst.exec {
            Exec::Alu(f) => {
                if mask != 0 {
                    f(cx.warp, inst, mask);
                }
                cx.warp.now.pc += 1;
                continue;
            }
            Exec::Sys(f) => f(cx, inst, mask)?,
        };
        let warp = &mut *cx.warp;
        match flow {
            Flow::Next => warp.now.pc += 1,
            Flow::Yield => {
                warp.now.pc += 1;
                warp.now.deferred = true;
                return Ok(Turn::Over);
            }
            Flow::Sleep(ns) => {
                warp.now.pc += 1;
                warp.now.deferred = true;
                // Lanes that wait for the sleeping ones sleep with them.
                if warp.others.iter().all(|g| g.waits) {
                    warp.wake = cx.machine.clock + u64::from(ns.max(1)) * 1000;
                }
                return Ok(Turn::Over);
            }
            Flow::Branch => {
                if mask == now.mask {
                    warp.now.pc = inst.target;
                } else {
                    warp.now.pc += 1;
                    if mask != 0 {
                        warp.now.mask &= !mask;
                        warp.others.push(Group { pc: inst.target, mask, waits: false, deferred: false });
                    }
                }
            }
            Flow::Exit => {
                warp.alive &= !mask;
                warp.now.mask &= !mask;
                warp.now.pc += 1;
                if warp.alive == 0 {
                    return Ok(Turn::Ended);
                }
                if warp.now.mask == 0
                    && let Some(next) = warp.others.pop()
                {
                    warp.now = next;
                }
                // Lanes that wait for the whole warp may now be the whole warp.
                warp.now.waits = false;
                warp.others.iter_mut().for_each(|g| g.waits = false);
            }
            Flow::Converge(needed) => wait_for(warp, needed)?,
            Flow::Barrier(id, threads) => {
                if warp.now.mask == warp.alive {
                    if mask != now.mask {
                        return Err(Box::new(TrapKind::Divergent { needed: warp.alive, found: mask }));
                    }
                    warp.now.pc += 1;
                    return Ok(Turn::Barrier(id, threads));
                }
                wait_for(warp, warp.alive)?;
            }
        }
    }
    // Polling without any yielding instruction must not starve the other lanes either.
    cx.warp.now.deferred = true;
    Ok(Turn::Over)
}

/// The lanes that run now wait for others at this instruction.
fn wait_for(warp: &mut Warp, needed: u32) -> Result<(), Trap> {
    let found = warp.now.mask;
    if warp.others.is_empty() || warp.others.iter().all(|g| g.waits && g.pc != warp.now.pc) {
        return Err(Box::new(TrapKind::Divergent { needed, found }));
    }
    warp.now.waits = true;
    Ok(())
}

/// Joins lanes that stand at the same instruction, then chooses who runs.
fn regroup(warp: &mut Warp) -> Result<(), Trap> {
    let mut joined = Vec::with_capacity(warp.others.len() + 1);
    for group in warp.others.drain(..).chain([warp.now]) {
        match joined.iter_mut().find(|g: &&mut Group| g.pc == group.pc) {
            Some(same) => {
                same.mask |= group.mask;
                same.waits = false;
                same.deferred &= group.deferred;
            }
            None => joined.push(group),
        }
    }
    if joined.iter().all(|g| g.waits || g.deferred) {
        joined.iter_mut().for_each(|g| g.deferred = false);
    }
    let next =
        (0..joined.len()).filter(|&g| !joined[g].waits && !joined[g].deferred).min_by_key(|&g| joined[g].pc);
    let Some(next) = next else {
        let found = joined.iter().map(|g| g.mask).max_by_key(|m| lanes(*m).count()).unwrap_or(0);
        return Err(Box::new(TrapKind::Divergent { needed: warp.alive, found }));
    };
    warp.now = joined.swap_remove(next);
    warp.others = joined;
    Ok(())
}
