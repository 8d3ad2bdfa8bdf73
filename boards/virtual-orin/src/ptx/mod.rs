//! PTX text to a checked syntax tree. Strict: what is not understood is refused, never skipped.

mod lexer;
mod parser;

pub use parser::{parse, parse_foreign};

/// Why a PTX text was refused. Every variant carries the line, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PtxError {
    /// The text does not follow the grammar.
    #[error("line {line}: found `{found}`, expected {expected}")]
    Syntax {
        /// Line of the offending token.
        line: u32,
        /// The token as written.
        found: String,
        /// What the grammar allows here.
        expected: &'static str,
    },
    /// A directive that this emulator does not implement.
    #[error("line {line}: directive or feature `{what}` is not supported by the virtual Orin")]
    Unsupported {
        /// Line of the directive.
        line: u32,
        /// The directive as written.
        what: String,
    },
    /// A name that no declaration introduces, or that is declared twice.
    #[error("line {line}: `{name}` is {problem}")]
    Name {
        /// Line of the use.
        line: u32,
        /// The name.
        name: String,
        /// `not declared` or `declared twice`.
        problem: &'static str,
    },
    /// An opcode, with its modifiers, that has no row in the instruction table.
    #[error("line {line}: instruction `{opcode}` is not in the instruction table")]
    Opcode {
        /// Line of the instruction.
        line: u32,
        /// The opcode with all modifiers.
        opcode: String,
    },
    /// Operands that do not fit the instruction's row.
    #[error("line {line}: operand {index} of `{opcode}` must be {expected}")]
    Operand {
        /// Line of the instruction.
        line: u32,
        /// The opcode with all modifiers.
        opcode: String,
        /// Which operand, from 0.
        index: usize,
        /// What the row allows.
        expected: &'static str,
    },
    /// `.version` or `.target` outside what the board's driver takes.
    #[error("line {line}: {what} `{found}` is above {allowed}, the most this board's driver takes")]
    Version {
        /// Line of the directive.
        line: u32,
        /// `.version` or `.target`.
        what: &'static str,
        /// The value as written.
        found: String,
        /// The highest allowed.
        allowed: &'static str,
    },
}

/// The width class of a virtual register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Width {
    /// One bit: `.pred`.
    Pred,
    /// 16 bits: `.b16 .u16 .s16 .f16`.
    B16,
    /// 32 bits: `.b32 .u32 .s32 .f32`.
    B32,
    /// 64 bits: `.b64 .u64 .s64 .f64`.
    B64,
}

/// A virtual register: `index` counts within an entry over all widths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VReg {
    /// Its width.
    pub width: Width,
    /// Its number.
    pub index: u32,
}

/// What an address is counted from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// A register.
    Reg(VReg),
    /// A parameter or variable.
    Symbol(String),
    /// Nothing: an absolute address.
    None,
}

/// One operand as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// A register.
    Reg(VReg),
    /// `!%p`.
    Not(VReg),
    /// `a|b`: two destinations.
    Pair(VReg, VReg),
    /// An integer literal, as its 64-bit pattern.
    Int(u64),
    /// `0f...`: the bits of an f32.
    F32(u32),
    /// `[base + offset]`.
    Address(Base, i64),
    /// `{a, b, ...}`.
    Vector(Vec<Operand>),
    /// The name of a variable, or a label.
    Symbol(String),
    /// `%tid.x` and its like.
    Special(String),
}

/// One instruction as written.
#[derive(Debug, Clone)]
pub struct Instruction {
    /// Line in the text.
    pub line: u32,
    /// `@%p` or `@!%p` (then true).
    pub guard: Option<(VReg, bool)>,
    /// Mnemonic and modifiers.
    pub opcode: String,
    /// Operands in order; branch targets are already instruction numbers, in `target`.
    pub operands: Vec<Operand>,
    /// Where a branch goes, as an index into [`Entry::body`].
    pub target: Option<usize>,
}

/// A variable in shared, global or constant space.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Alignment in bytes.
    pub align: usize,
    /// Size in bytes; 0 for `extern .shared name[]`.
    pub size: usize,
    /// Bytes that it starts with; empty for none.
    pub init: Vec<u8>,
}

/// One parameter of an entry and where it lies in the parameter buffer.
#[derive(Debug, Clone)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Offset in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

/// One `.entry`.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Bytes of all parameters with their alignment.
    pub param_bytes: usize,
    /// Shared variables in order.
    pub shared: Vec<Variable>,
    /// Threads a block may have (`.maxntid` or `.reqntid`), if said.
    pub max_threads: Option<u32>,
    /// Virtual registers, all widths together.
    pub registers: u32,
    /// Instructions in order.
    pub body: Vec<Instruction>,
}

/// A parsed module.
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// `.version`, major and minor.
    pub version: (u32, u32),
    /// `.target`, as `87` for `sm_87`.
    pub target: u32,
    /// `extern .shared` arrays: they start where an entry's own shared memory ends.
    pub dynamic_shared: Vec<Variable>,
    /// Variables in global and constant space.
    pub globals: Vec<Variable>,
    /// Kernels.
    pub entries: Vec<Entry>,
}
