//! Executable form of a kernel: registers are slots, operands are resolved, every instruction has its function.

use crate::exec::{Cx, Flow, Trap, Warp};

/// Lanes of a warp.
pub const LANES: usize = 32;
/// A 32-bit register of a whole warp.
pub type R32 = [u32; LANES];
/// A 64-bit register of a whole warp.
pub type R64 = [u64; LANES];

/// Slots with this bit lie in the constant pool, which all warps share.
pub const CONSTANT: u16 = 0x8000;
/// Target of an instruction that is no branch.
pub const NO_TARGET: u32 = u32::MAX;
/// Operand slots an instruction may have: mma.m16n8k32 has 4 + 4 + 2 + 4.
pub const MAX_OPERANDS: usize = 14;

/// What kind of work an instruction is, for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Integer arithmetic, logic, shifts, comparisons and selections.
    Int,
    /// Float arithmetic and comparisons.
    Float,
    /// Conversions to and from float. Those between integers are integer arithmetic to the device.
    Convert,
    /// Moves between registers.
    Move,
    /// Branches, ret, exit.
    Branch,
    /// Loads of parameters.
    Param,
    /// Loads from global (or generic) memory.
    LoadGlobal,
    /// Stores to global (or generic) memory.
    StoreGlobal,
    /// Loads from shared memory, ldmatrix excepted.
    LoadShared,
    /// Stores to shared memory.
    StoreShared,
    /// ldmatrix.
    LoadMatrix,
    /// cp.async and its groups.
    AsyncCopy,
    /// Atomics and reductions.
    Atomic,
    /// mma.
    Mma,
    /// dp4a.
    Dot,
    /// bar.sync.
    Barrier,
    /// Fences, prefetches.
    Fence,
    /// nanosleep.
    Sleep,
    /// Shuffles and votes.
    Shuffle,
}

/// How many classes there are.
pub const CLASSES: usize = Class::Shuffle as usize + 1;
/// Their names, in the order of [`Class`].
pub const CLASS_NAMES: [&str; CLASSES] = [
    "int",
    "float",
    "convert",
    "move",
    "branch",
    "param",
    "load.global",
    "store.global",
    "load.shared",
    "store.shared",
    "ldmatrix",
    "cp.async",
    "atomic",
    "mma",
    "dp4a",
    "barrier",
    "fence",
    "sleep",
    "shuffle",
];

/// A state space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Space {
    /// No space written: shared and global by address.
    #[default]
    Generic,
    /// `.global`.
    Global,
    /// `.shared`.
    Shared,
    /// `.param`.
    Param,
}

/// How strong a memory access is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// No ordering: a race with another thread is an error.
    #[default]
    Weak,
    /// `.relaxed` and `.volatile`.
    Relaxed,
    /// `.acquire`.
    Acquire,
    /// `.release`.
    Release,
    /// `.acq_rel`.
    AcqRel,
    /// `.sc`; only fences.
    SeqCst,
}

/// Which threads a strong access speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Scope {
    /// Threads of the block.
    Cta,
    /// Threads of the device.
    #[default]
    Gpu,
    /// The host too.
    Sys,
}

/// Modifiers of a memory instruction, read off its opcode.
#[derive(Debug, Clone, Copy, Default)]
pub struct Access {
    /// State space.
    pub space: Space,
    /// Strength.
    pub order: Order,
    /// Scope.
    pub scope: Scope,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub size: u8,
    /// Elements: 1, 2 or 4.
    pub count: u8,
    /// A load of a narrow type extends by sign.
    pub signed: bool,
}

/// An address operand: base slot and offset.
#[derive(Debug, Clone, Copy, Default)]
pub struct Address {
    /// Slot of the base; meaningless if `wide` is `None`.
    pub slot: u16,
    /// Base is 64 bits wide (`Some(true)`), 32 (`Some(false)`), or absent.
    pub wide: Option<bool>,
    /// Added to the base. For parameters: the offset in the parameter buffer.
    pub offset: i64,
}

/// An instruction's function.
#[derive(Clone, Copy)]
pub enum Exec {
    /// Works on the registers of one warp and cannot fail. Called only with a lane active.
    Alu(fn(&mut Warp, &Inst, u32)),
    /// Anything else; the mask may be empty.
    Sys(fn(&mut Cx<'_>, &Inst, u32) -> Result<Flow, Trap>),
}

/// One decoded instruction.
#[derive(Clone)]
pub struct Inst {
    /// Its function.
    pub exec: Exec,
    /// Operand slots, in the order of the signature, address operands left out.
    pub ops: [u16; MAX_OPERANDS],
    /// Predicate slot and whether it is negated.
    pub guard: Option<(u16, bool)>,
    /// Address operands.
    pub addr: [Address; 2],
    /// Memory modifiers.
    pub access: Access,
    /// A literal that the signature asks for, or the count of optional operands present.
    pub imm: u32,
    /// Bit n: operand n is a 64-bit register where the signature leaves the width open.
    pub wide: u16,
    /// Where a branch goes; [`NO_TARGET`] for everything else.
    pub target: u32,
    /// Counter class.
    pub class: Class,
    /// Part of a main loop, see [`crate::blocks::mark_main_loops`].
    pub main_loop: bool,
    /// Line in the PTX text.
    pub line: u32,
}

/// Constants of a kernel, the same in every lane.
#[derive(Debug, Clone, Default)]
pub struct Constants {
    /// 32-bit.
    pub r: Vec<R32>,
    /// 64-bit.
    pub l: Vec<R64>,
    /// Predicates.
    pub p: Vec<u32>,
}

/// A kernel ready to run.
#[derive(Clone)]
pub struct Program {
    /// Entry name.
    pub name: String,
    /// Instructions.
    pub code: Vec<Inst>,
    /// Slots per warp: 32-bit, 64-bit, predicate.
    pub slots: (usize, usize, usize),
    /// Constant pool.
    pub constants: Constants,
    /// Bytes of shared memory with a fixed size.
    pub shared_bytes: usize,
    /// Parameters: offset and size of each.
    pub params: Vec<(usize, usize)>,
    /// Bytes of the parameter buffer.
    pub param_bytes: usize,
    /// Most threads of a block, if the kernel says so.
    pub max_threads: Option<u32>,
}
