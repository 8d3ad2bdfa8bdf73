//! What instructions do. One file per family; each function is a row's in [`crate::table`].

pub mod alu;
pub mod async_copy;
pub mod atomic;
pub mod convert;
pub mod float;
pub mod flow;
pub mod load_store;
pub mod matrix;
mod matrix_simd;
pub mod predicate;
pub mod shuffle;
pub mod sync;

use crate::code::{CONSTANT, Inst, LANES, Program, R32, R64, Space};
use crate::counters::Counters;
use crate::l2::L2;
use crate::lower::SHARED_RESERVED;
use crate::memory::{Fault, Memory, SHARED_WINDOW};
use crate::race::Race;
use crate::rng::Rng;
use crate::weak::{Agent, Weak};
use pilotlight_boards::model;
use std::sync::Arc;

/// Why a kernel was stopped. All are terminal for the context, as on a real device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrapKind {
    /// A memory access that cannot be.
    #[error(transparent)]
    Memory(#[from] Fault),
    /// An instruction that needs the whole warp was reached by a part of it.
    #[error("the instruction needs lanes {needed:#010x}, but only {found:#010x} reached it together")]
    Divergent {
        /// Lanes it needs.
        needed: u32,
        /// Lanes that are there.
        found: u32,
    },
    /// A barrier whose warps ask for different thread counts.
    #[error("barrier {id} was asked for {found} threads by one warp and {expected} by another")]
    Barrier {
        /// Barrier number.
        id: u32,
        /// Of the first warp.
        expected: u32,
        /// Of this one.
        found: u32,
    },
    /// `trap`.
    #[error("the kernel executed `trap`")]
    Trap,
    /// Nothing has been achieved for a long time.
    #[error("no progress in {instructions} warp instructions; {places}")]
    Hang {
        /// Instructions since the last progress.
        instructions: u64,
        /// Where every warp stands.
        places: String,
    },
    /// Two threads touch a word without synchronisation.
    #[error("{0}")]
    Race(String),
    /// A value outside what the instruction defines.
    #[error("{0}")]
    Undefined(&'static str),
}

/// A stopped kernel, with the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("kernel {kernel}, block {block:?}, warp {warp}, PTX line {line}: {kind}")]
pub struct TrapReport {
    /// Entry name.
    pub kernel: String,
    /// Block index.
    pub block: [u32; 3],
    /// Warp of the block.
    pub warp: usize,
    /// Line in the PTX text.
    pub line: u32,
    /// What happened.
    pub kind: TrapKind,
}

/// What instruction functions return on failure; boxed so that success stays small.
pub type Trap = Box<TrapKind>;

impl From<Fault> for Trap {
    fn from(fault: Fault) -> Self {
        Box::new(TrapKind::Memory(fault))
    }
}

/// What the warp does after an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The next instruction.
    Next,
    /// The next instruction, after others had a turn: the warp may be polling.
    Yield,
    /// The lanes of the mask jump to the instruction's target.
    Branch,
    /// The lanes of the mask are done.
    Exit,
    /// All lanes of the warp must come here before it goes on: barrier number and thread count (0 = all).
    Barrier(u32, u32),
    /// The lanes given must be here together; the instruction runs again when they are.
    Converge(u32),
    /// Sleeps for so many nanoseconds of modelled time.
    Sleep(u32),
}

/// Lanes at one instruction.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// Next instruction.
    pub pc: u32,
    /// Lanes.
    pub mask: u32,
    /// Waits for other lanes to come to the same instruction.
    pub waits: bool,
    /// Has polled; others of the warp go first.
    pub deferred: bool,
}

/// A copy that cp.async has started and that has not been performed.
#[derive(Clone)]
pub struct PendingCopy {
    /// Lanes that copy.
    pub mask: u32,
    /// Destination offsets in shared memory.
    pub dst: R32,
    /// Source addresses.
    pub src: R64,
    /// Bytes taken from the source; the rest is filled with zeros.
    pub take: R32,
    /// Bytes written: 4, 8 or 16.
    pub size: usize,
}

/// One warp's registers and place.
pub struct Warp {
    /// 32-bit registers.
    pub r: Vec<R32>,
    /// 64-bit registers.
    pub l: Vec<R64>,
    /// Predicates, one bit a lane.
    pub p: Vec<u32>,
    /// The kernel.
    pub program: Arc<Program>,
    /// Lanes that run now.
    pub now: Group,
    /// Lanes elsewhere.
    pub others: Vec<Group>,
    /// Lanes that have not exited.
    pub alive: u32,
    /// Number in the block.
    pub index: usize,
    /// Thread coordinates.
    pub tid: [R32; 3],
    /// cp.async not yet committed to a group.
    pub open_copies: Vec<PendingCopy>,
    /// Committed groups, oldest first.
    pub groups: std::collections::VecDeque<Vec<PendingCopy>>,
    /// Waits at this barrier.
    pub barrier: Option<u32>,
    /// Sleeps until this modelled time in picoseconds.
    pub wake: u64,
}

impl Warp {
    /// A 32-bit source.
    #[inline(always)]
    pub fn r(&self, slot: u16) -> &R32 {
        if slot & CONSTANT == 0 {
            &self.r[usize::from(slot)]
        } else {
            &self.program.constants.r[usize::from(slot & !CONSTANT)]
        }
    }

    /// A 64-bit source.
    #[inline(always)]
    pub fn l(&self, slot: u16) -> &R64 {
        if slot & CONSTANT == 0 {
            &self.l[usize::from(slot)]
        } else {
            &self.program.constants.l[usize::from(slot & !CONSTANT)]
        }
    }

    /// A predicate source: operand `n`, negated if written so.
    #[inline(always)]
    pub fn p(&self, inst: &Inst, n: usize) -> u32 {
        let slot = inst.ops[n];
        let value = if slot & CONSTANT == 0 {
            self.p[usize::from(slot)]
        } else {
            self.program.constants.p[usize::from(slot & !CONSTANT)]
        };
        if inst.wide >> n & 1 != 0 { !value } else { value }
    }

    /// Writes a 32-bit register in the lanes of `mask`.
    #[inline(always)]
    pub fn set_r(&mut self, slot: u16, mask: u32, value: &R32) {
        let to = &mut self.r[usize::from(slot)];
        if mask == u32::MAX {
            *to = *value;
        } else {
            for lane in 0..LANES {
                let keep = (mask >> lane & 1).wrapping_sub(1);
                to[lane] = (value[lane] & !keep) | (to[lane] & keep);
            }
        }
    }

    /// Writes a 64-bit register in the lanes of `mask`.
    #[inline(always)]
    pub fn set_l(&mut self, slot: u16, mask: u32, value: &R64) {
        let to = &mut self.l[usize::from(slot)];
        if mask == u32::MAX {
            *to = *value;
        } else {
            for lane in 0..LANES {
                let keep = u64::from(mask >> lane & 1).wrapping_sub(1);
                to[lane] = (value[lane] & !keep) | (to[lane] & keep);
            }
        }
    }

    /// Writes a predicate in the lanes of `mask`.
    #[inline(always)]
    pub fn set_p(&mut self, slot: u16, mask: u32, value: u32) {
        let to = &mut self.p[usize::from(slot)];
        *to = (*to & !mask) | (value & mask);
    }

    /// The addresses of memory operand `n` in every lane.
    #[inline(always)]
    pub fn addresses(&self, inst: &Inst, n: usize) -> R64 {
        let operand = &inst.addr[n];
        let offset = operand.offset as u64;
        match operand.wide {
            Some(true) => self.l(operand.slot).map(|base| base.wrapping_add(offset)),
            Some(false) => self.r(operand.slot).map(|base| u64::from(base.wrapping_add(offset as u32))),
            None => [offset; LANES],
        }
    }
}

/// The lanes of a mask, lowest first.
#[inline(always)]
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let lane = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

/// A block's shared memory. The first [`SHARED_RESERVED`] bytes belong to the driver and trap.
pub struct Shared {
    /// Bytes, the reserved ones included.
    pub bytes: Vec<u8>,
}

impl Shared {
    fn range(&self, address: u64, len: usize) -> Result<usize, Fault> {
        let (start, end) = (SHARED_RESERVED as u64, self.bytes.len() as u64);
        if address >= start && address.checked_add(len as u64).is_some_and(|last| last <= end) {
            return Ok(address as usize);
        }
        Err(Fault::Shared { address, len, start, end })
    }

    /// `len` bytes at an offset.
    #[inline(always)]
    pub fn get(&self, address: u64, len: usize) -> Result<&[u8], Fault> {
        let at = self.range(address, len)?;
        Ok(&self.bytes[at..at + len])
    }

    /// As [`Shared::get`], to write.
    #[inline(always)]
    pub fn get_mut(&mut self, address: u64, len: usize) -> Result<&mut [u8], Fault> {
        let at = self.range(address, len)?;
        Ok(&mut self.bytes[at..at + len])
    }
}

/// What one launch says to all its threads.
pub struct LaunchShape {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Parameter buffer.
    pub params: Vec<u8>,
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: usize,
}

/// State of the device that instructions touch.
pub struct Machine {
    /// Device and mapped host memory.
    pub memory: Memory,
    /// Counters of the current launch.
    pub counters: Counters,
    /// The level 2 cache.
    pub l2: L2,
    /// Modelled time since the device was opened, in picoseconds.
    pub clock: u64,
    /// The board at its present clocks, for modelled time and energy.
    pub model: model::Machine,
    /// The race detector, in race mode.
    pub race: Option<Box<Race>>,
    /// Choices.
    pub rng: Rng,
    /// Grows with everything that is not waiting.
    pub progress: u64,
    /// A kernel has looked at host memory since the last progress.
    pub polled_host: bool,
}

impl Machine {
    /// Counts a global access of `len` bytes by the lanes of `mask`.
    #[inline(always)]
    pub fn count_global(&mut self, mask: u32, addresses: &R64, len: usize, store: bool) {
        self.counters.global(&mut self.l2, mask, addresses, len, store);
    }
}

/// All that one instruction may touch.
pub struct Cx<'a> {
    /// Its warp.
    pub warp: &'a mut Warp,
    /// Its block's shared memory.
    pub shared: &'a mut Shared,
    /// The device.
    pub machine: &'a mut Machine,
    /// The launch.
    pub shape: &'a LaunchShape,
    /// Block index.
    pub block: [u32; 3],
    /// Where the block runs.
    pub sm: (u32, u32),
    /// Number of the warp over the whole grid's resident blocks, for the race detector.
    pub agent: usize,
    /// Number of the resident block, for the race detector.
    pub resident: usize,
    /// What stands between the grid and memory, in weak mode.
    pub weak: Option<&'a mut Weak>,
}

impl Cx<'_> {
    /// Who acts, in weak mode.
    pub fn who(&self) -> Agent {
        Agent { block: self.resident, warp: self.warp.index, lane: 0 }
    }

    /// As [`space_of`].
    #[inline(always)]
    pub fn space_of(&self, space: Space, address: u64) -> (Space, u64) {
        space_of(space, address)
    }
}

/// Resolves an address of `space` to the space it really lies in, with the offset inside that space.
#[inline(always)]
pub fn space_of(space: Space, address: u64) -> (Space, u64) {
    match space {
        Space::Shared => (Space::Shared, address & 0xFFFF_FFFF),
        Space::Generic if address >> 32 == SHARED_WINDOW >> 32 => (Space::Shared, address & 0xFFFF_FFFF),
        _ => (Space::Global, address),
    }
}

/// Fails unless the address is a multiple of the bytes that one access moves.
#[inline(always)]
pub fn aligned(address: u64, align: usize) -> Result<(), Trap> {
    if address & (align as u64 - 1) == 0 {
        return Ok(());
    }
    Err(Fault::Misaligned { address, align }.into())
}
