//! The program checker: proves a schedule safe before it is launched, every time.
//!
//! It does not trust the scheduler. From the instructions that will be uploaded, and from the footprints of what
//! they name, it proves:
//!
//! 1. **Form.** Lists cover the instructions; operations, grids and parameter blocks are those of the plan's
//!    launches; every block of every launch is done exactly once; steps never go back within a list.
//! 2. **Memory.** Every access lies in the plan's memory, prefetches too, and what is written may be written.
//! 3. **Progress.** Flags are set by one instruction each, every flag waited for is set by some instruction, and
//!    there is one order of all instructions in which each list goes forward and each wait looks back. All CTAs
//!    are resident, so the first instruction in that order that is not done can always go on.
//! 4. **Dependencies.** Of any two instructions of different launches that touch a common byte, one writing, that
//!    of the earlier launch happens before the other: by order in a list and by waits, closed transitively.
//!    Parts of one launch are independent, as they are when it is launched as a grid.
//!
//! Across inferences no proof is needed beyond (1): an inference ends when every CTA has finished its list, and
//! none begins before, so every access of one happens before every access of the next.

use super::footprint::{Touch, touches};
use super::schedule::Schedule;
use crate::lower::{Launch, Lowered};
use pilotlight_kernels::abi;
use std::ops::Range;

/// Memory that a plan may touch, as places.
pub(crate) struct Map {
    /// Where it may read.
    pub(crate) readable: Vec<Range<u64>>,
    /// Where it may write.
    pub(crate) writable: Vec<Range<u64>>,
}

/// What was proved, in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Proof {
    /// Instructions.
    pub(crate) instructions: usize,
    /// Flags that are waited for, counted at each wait.
    pub(crate) waits: usize,
    /// Pairs of instructions that must be ordered and are, counted where their launches are not ordered as wholes.
    pub(crate) ordered: usize,
    /// Pairs of launches that are ordered as wholes.
    pub(crate) whole: usize,
}

/// What is wrong with a program. Instructions are counted over all lists, from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error(
        "the lists of {ctas} blocks begin at {starts:?}; they must cover {instructions} instructions in order"
    )]
    Lists { ctas: usize, starts: Vec<u32>, instructions: usize },
    #[error("instruction {at} has {what} {found}; its launch has {expected}")]
    Form { at: usize, what: &'static str, found: u64, expected: u64 },
    #[error("instruction {at} names no launch of the plan: its parameter block is at {block}")]
    Launch { at: usize, block: u32 },
    #[error("block {block} of launch {launch} is done {times} times")]
    Blocks { launch: usize, block: u32, times: u32 },
    #[error("instruction {at} goes back from step {before} to {step}")]
    Steps { at: usize, before: u32, step: u32 },
    #[error("instruction {at} touches {from:#x}..{to:#x}, which the plan may not {how}")]
    Memory { at: usize, from: u64, to: u64, how: &'static str },
    #[error("what instruction {at} touches is not known")]
    Unknown { at: usize },
    #[error("flag {flag} of instruction {at} is outside {flags} flags or set by another one too")]
    Flag { at: usize, flag: u32, flags: u32 },
    #[error("instruction {at} waits for flag {flag}, which nothing sets")]
    Wait { at: usize, flag: u32 },
    #[error(
        "instruction {at} waits for one that comes after it, or for itself: {stuck} instructions never run"
    )]
    Circle { at: usize, stuck: usize },
    #[error(
        "instruction {later} touches {from:#x}..{to:#x}, which instruction {earlier} of an earlier launch uses; \
         nothing orders them"
    )]
    Unordered { earlier: usize, later: usize, from: u64, to: u64 },
    #[error("instruction {at} writes memory that the host reads and does not say so")]
    Host { at: usize },
}

/// Proves a schedule of a lowered plan.
///
/// # Errors
/// The first [`Flaw`] found.
pub(crate) fn check(schedule: &Schedule, lowered: &Lowered, map: &Map) -> Result<Proof, Flaw> {
    let launches: Vec<(usize, &Launch)> =
        lowered.steps.iter().enumerate().flat_map(|(n, step)| step.iter().map(move |l| (n, l))).collect();
    let checker = Checker { schedule, launches };
    checker.lists()?;
    let launch_of = checker.forms()?;
    checker.coverage(&launch_of)?;
    let touched = checker.memory(&launch_of, &lowered.constants, map)?;
    let (order, setters) = checker.order()?;
    checker.dependencies(&launch_of, &touched, &order, &setters)
}

struct Checker<'a> {
    schedule: &'a Schedule,
    /// Step and launch, in the plan's order.
    launches: Vec<(usize, &'a Launch)>,
}

impl Checker<'_> {
    fn lists(&self) -> Result<(), Flaw> {
        let Schedule { ctas, instructions, starts, .. } = self.schedule;
        let fine = starts.len() == ctas + 1
            && starts[0] == 0
            && starts.is_sorted()
            && starts[*ctas] as usize == instructions.len()
            && (1..=abi::MOST_CTAS as usize).contains(ctas);
        if fine {
            return Ok(());
        }
        Err(Flaw::Lists { ctas: *ctas, starts: starts.clone(), instructions: instructions.len() })
    }

    fn list(&self, cta: usize) -> Range<usize> {
        self.schedule.starts[cta] as usize..self.schedule.starts[cta + 1] as usize
    }

    /// The launch of each instruction; `None` where it only waits.
    fn forms(&self) -> Result<Vec<Option<usize>>, Flaw> {
        let Schedule { instructions, blocks, .. } = self.schedule;
        let mut found = Vec::with_capacity(instructions.len());
        for (at, i) in instructions.iter().enumerate() {
            if i.operation == abi::OPERATION_NONE {
                found.push(None);
                continue;
            }
            let launch = blocks.binary_search(&i.block).ok().filter(|&l| l < self.launches.len());
            let launch = launch.ok_or(Flaw::Launch { at, block: i.block })?;
            let (step, l) = self.launches[launch];
            let operation = abi::OPERATIONS.iter().position(|&n| n == l.kernel).unwrap_or(usize::MAX);
            let total: u32 = l.grid.iter().product();
            let pairs = [
                ("operation", u64::from(i.operation), operation as u64),
                ("parameter bytes", i.block_bytes.into(), l.block.len() as u64 * 8),
                ("blocks along x", i.grid_x.into(), l.grid[0].into()),
                ("blocks along y", i.grid_y.into(), l.grid[1].into()),
                ("step", i.step.into(), step as u64),
            ];
            for (what, found, expected) in pairs {
                if found != expected {
                    return Err(Flaw::Form { at, what, found, expected });
                }
            }
            let end = u64::from(i.first) + u64::from(i.count);
            if i.count == 0 || end > total.into() {
                return Err(Flaw::Form {
                    at,
                    what: "a range of blocks up to",
                    found: end,
                    expected: total.into(),
                });
            }
            let block_end = i.block as usize + i.block_bytes as usize;
            let most = abi::MOST_BLOCK_BYTES as usize;
            if block_end > self.schedule.block_bytes || i.block_bytes as usize > most {
                return Err(Flaw::Launch { at, block: i.block });
            }
            found.push(Some(launch));
        }
        for cta in 0..self.schedule.ctas {
            let mut before = 0;
            for at in self.list(cta) {
                let step = instructions[at].step;
                if step < before {
                    return Err(Flaw::Steps { at, before, step });
                }
                before = step;
            }
        }
        Ok(found)
    }

    fn coverage(&self, launch_of: &[Option<usize>]) -> Result<(), Flaw> {
        let mut times: Vec<Vec<u32>> =
            self.launches.iter().map(|(_, l)| vec![0; l.grid.iter().product::<u32>() as usize]).collect();
        for (i, launch) in self.schedule.instructions.iter().zip(launch_of) {
            if let Some(launch) = *launch {
                times[launch][i.first as usize..(i.first + i.count) as usize]
                    .iter_mut()
                    .for_each(|t| *t += 1);
            }
        }
        for (launch, list) in times.iter().enumerate() {
            if let Some(block) = list.iter().position(|&t| t != 1) {
                return Err(Flaw::Blocks { launch, block: block as u32, times: list[block] });
            }
        }
        Ok(())
    }

    fn memory(
        &self,
        launch_of: &[Option<usize>],
        constants: &[u8],
        map: &Map,
    ) -> Result<Vec<Vec<Touch>>, Flaw> {
        let inside = |t: &Range<u64>, list: &[Range<u64>]| {
            list.iter().any(|r| r.start <= t.start && t.start < t.end && t.end <= r.end)
        };
        let mut all = Vec::with_capacity(launch_of.len());
        for (at, (i, launch)) in self.schedule.instructions.iter().zip(launch_of).enumerate() {
            let ahead = i.weights..i.weights.saturating_add(i.weight_bytes.into());
            if i.weight_bytes > 0 && !inside(&ahead, &map.readable) {
                return Err(Flaw::Memory { at, from: ahead.start, to: ahead.end, how: "read" });
            }
            let Some(launch) = *launch else {
                all.push(Vec::new());
                continue;
            };
            let found = touches(self.launches[launch].1, i.first..i.first + i.count, constants)
                .ok_or(Flaw::Unknown { at })?;
            for t in &found {
                let (fine, how) = if t.writes {
                    (inside(&t.bytes, &map.writable), "write")
                } else {
                    (inside(&t.bytes, &map.readable), "read")
                };
                if !fine {
                    return Err(Flaw::Memory { at, from: t.bytes.start, to: t.bytes.end, how });
                }
                if t.writes && crate::lower::is_output(t.bytes.start) && i.to_host == 0 {
                    return Err(Flaw::Host { at });
                }
            }
            all.push(found);
        }
        Ok(all)
    }

    /// An order in which lists go forward and waits look back, and which instruction sets each flag.
    fn order(&self) -> Result<(Vec<usize>, Vec<usize>), Flaw> {
        let Schedule { instructions, flags, ctas, .. } = self.schedule;
        let mut setters = vec![usize::MAX; *flags as usize];
        for (at, i) in instructions.iter().enumerate() {
            match setters.get_mut(i.flag as usize) {
                Some(setter) if *setter == usize::MAX => *setter = at,
                _ => return Err(Flaw::Flag { at, flag: i.flag, flags: *flags }),
            }
        }
        // How many others each instruction is still waiting for, and who waits for it.
        let mut missing = vec![0u32; instructions.len()];
        let mut waiters: Vec<Vec<usize>> = vec![Vec::new(); instructions.len()];
        for (at, i) in instructions.iter().enumerate() {
            for flag in waited(i) {
                let setter = setters.get(flag as usize).copied().filter(|&s| s != usize::MAX);
                waiters[setter.ok_or(Flaw::Wait { at, flag })?].push(at);
                missing[at] += 1;
            }
        }
        for cta in 0..*ctas {
            for at in self.list(cta).skip(1) {
                waiters[at - 1].push(at);
                missing[at] += 1;
            }
        }
        let mut order: Vec<usize> = (0..instructions.len()).filter(|&at| missing[at] == 0).collect();
        let mut next = 0;
        while next < order.len() {
            for &waiter in &waiters[order[next]] {
                missing[waiter] -= 1;
                if missing[waiter] == 0 {
                    order.push(waiter);
                }
            }
            next += 1;
        }
        match missing.iter().position(|&m| m > 0) {
            Some(at) => Err(Flaw::Circle { at, stuck: instructions.len() - order.len() }),
            None => Ok((order, setters)),
        }
    }

    fn dependencies(
        &self,
        launch_of: &[Option<usize>],
        touched: &[Vec<Touch>],
        order: &[usize],
        setters: &[usize],
    ) -> Result<Proof, Flaw> {
        let Schedule { instructions, ctas, .. } = self.schedule;
        let mut cta_of = vec![0; instructions.len()];
        for cta in 0..*ctas {
            self.list(cta).for_each(|at| cta_of[at] = cta);
        }
        let mut proof = Proof { instructions: instructions.len(), ..Proof::default() };
        // For each instruction and CTA: how many of the CTA's list are done before the instruction begins.
        let mut knows = vec![vec![0usize; *ctas]; instructions.len()];
        for &at in order {
            let mut known = vec![0; *ctas];
            let before = (at > self.list(cta_of[at]).start).then(|| at - 1);
            let waits = waited(&instructions[at]).map(|flag| setters[flag as usize]);
            for earlier in before.into_iter().chain(waits) {
                proof.waits += usize::from(Some(earlier) != before);
                for (mine, theirs) in known.iter_mut().zip(&knows[earlier]) {
                    *mine = (*mine).max(*theirs);
                }
                let done = earlier - self.list(cta_of[earlier]).start + 1;
                known[cta_of[earlier]] = known[cta_of[earlier]].max(done);
            }
            knows[at] = known;
        }
        let mut parts: Vec<Vec<usize>> = vec![Vec::new(); self.launches.len()];
        for (at, launch) in launch_of.iter().enumerate() {
            if let Some(launch) = *launch {
                parts[launch].push(at);
            }
        }
        let place = |at: usize| at - self.list(cta_of[at]).start + 1;
        for later in 0..parts.len() {
            // What all parts of the launch know.
            let least: Vec<usize> =
                (0..*ctas).map(|c| parts[later].iter().map(|&at| knows[at][c]).min().unwrap_or(0)).collect();
            for earlier in 0..later {
                if parts[earlier].iter().all(|&at| least[cta_of[at]] >= place(at)) {
                    proof.whole += 1;
                    continue;
                }
                for &b in &parts[later] {
                    for &a in &parts[earlier] {
                        let ordered = knows[b][cta_of[a]] >= place(a);
                        let conflict =
                            touched[b].iter().find(|t| touched[a].iter().any(|before| t.conflicts(before)));
                        match conflict {
                            Some(t) if !ordered => {
                                let (from, to) = (t.bytes.start, t.bytes.end);
                                return Err(Flaw::Unordered { earlier: a, later: b, from, to });
                            }
                            Some(_) => proof.ordered += 1,
                            None => {}
                        }
                    }
                }
            }
        }
        Ok(proof)
    }
}

/// The flags that an instruction waits for.
fn waited(i: &abi::Instruction) -> impl Iterator<Item = u32> {
    let wait = i.wait;
    wait.into_iter()
        .flat_map(|w| (0..32).filter(move |n| w.mask >> n & 1 == 1).map(move |n| w.first.wrapping_add(n)))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
