//! Syntax tree to [`Program`]: table look-up, operand checks, shared-memory layout, register allocation.

use crate::blocks::mark_main_loops;
use crate::code::{
    Access, Address, CONSTANT, Constants, Inst, LANES, MAX_OPERANDS, NO_TARGET, Order, Program, Scope, Space,
};
use crate::liveness;
use crate::ptx::{Base, Entry, Instruction, Module, Operand, PtxError, VReg, Width};
use crate::table::{Form, Table};
use std::collections::HashMap;

/// The first kilobyte of a block's shared memory belongs to the driver (CUDA programming guide, compute
/// capability 8.x), so a null shared address never points at a kernel's data.
pub const SHARED_RESERVED: usize = 1024;

/// Lowers one entry. `globals` gives the address of each module variable.
pub fn lower(
    module: &Module,
    entry: &Entry,
    table: &Table,
    globals: &HashMap<String, u64>,
) -> Result<Program, PtxError> {
    let (mut symbols, shared_bytes) = layout_shared(module, entry);
    // The address of a parameter, in the parameter space, is its offset.
    symbols.extend(entry.params.iter().map(|p| (p.name.clone(), p.offset as u64)));
    let mut lowering = Lowering {
        entry,
        symbols: symbols.into_iter().chain(globals.iter().map(|(k, v)| (k.clone(), *v))).collect(),
        constants: Constants::default(),
        known: HashMap::new(),
        scratch: entry.registers,
    };
    let mut code = Vec::with_capacity(entry.body.len());
    let mut uses = Vec::with_capacity(entry.body.len());
    for (at, instruction) in entry.body.iter().enumerate() {
        let (inst, used) = lowering.instruction(instruction, table)?;
        let falls_off = at + 1 == entry.body.len() && !ends(&inst, instruction);
        if falls_off || instruction.target.is_some_and(|t| t >= entry.body.len()) {
            return Err(PtxError::Syntax {
                line: instruction.line,
                found: instruction.opcode.clone(),
                expected: "an instruction after this one, or `ret`",
            });
        }
        code.push(inst);
        uses.push(used);
    }
    if code.is_empty() {
        return Err(PtxError::Syntax { line: 0, found: entry.name.clone(), expected: "at least `ret`" });
    }
    mark_main_loops(&mut code);
    let slots = liveness::allocate(&mut code, &uses).ok_or_else(|| PtxError::Unsupported {
        line: entry.body.first().map_or(0, |i| i.line),
        what: format!("kernel {} with more than 32767 live registers", entry.name),
    })?;
    Ok(Program {
        name: entry.name.clone(),
        code,
        slots,
        constants: lowering.constants,
        shared_bytes,
        params: entry.params.iter().map(|p| (p.offset, p.size)).collect(),
        param_bytes: entry.param_bytes,
        max_threads: entry.max_threads,
    })
}

fn ends(inst: &Inst, instruction: &Instruction) -> bool {
    inst.guard.is_none() && matches!(instruction.opcode.as_str(), "ret" | "exit" | "bra" | "bra.uni" | "trap")
}

fn layout_shared(module: &Module, entry: &Entry) -> (HashMap<String, u64>, usize) {
    let (mut symbols, mut end) = (HashMap::new(), 0usize);
    for variable in &entry.shared {
        end = end.div_ceil(variable.align) * variable.align;
        symbols.insert(variable.name.clone(), (SHARED_RESERVED + end) as u64);
        end = end.saturating_add(variable.size);
    }
    for variable in &module.dynamic_shared {
        let start = end.div_ceil(variable.align.max(16)) * variable.align.max(16);
        // The gap counts as the kernel's own, as ptxas counts it: dynamic memory is whole behind it.
        end = start;
        symbols.insert(variable.name.clone(), (SHARED_RESERVED + start) as u64);
    }
    (symbols, end)
}

/// A use of a virtual register by an instruction: where its slot goes once it has one.
#[derive(Clone, Copy)]
pub struct Use {
    /// The register.
    pub register: VReg,
    /// Written, not read.
    pub written: bool,
    /// Which operand of the instruction.
    pub place: Place,
}

/// Where an allocated slot is written.
#[derive(Clone, Copy)]
pub enum Place {
    /// `ops[n]`.
    Operand(usize),
    /// `addr[n]`.
    Address(usize),
    /// The guard.
    Guard,
}

struct Lowering<'a> {
    entry: &'a Entry,
    symbols: HashMap<String, u64>,
    constants: Constants,
    known: HashMap<(Width, u64), u16>,
    /// Next number for a destination that the text leaves out.
    scratch: u32,
}

impl Lowering<'_> {
    fn constant(&mut self, width: Width, value: u64) -> u16 {
        let width = if width == Width::B16 { Width::B32 } else { width };
        *self.known.entry((width, value)).or_insert_with(|| {
            let pool = &mut self.constants;
            let at = match width {
                Width::Pred => {
                    pool.p.push(if value != 0 { u32::MAX } else { 0 });
                    pool.p.len()
                }
                Width::B64 => {
                    pool.l.push([value; LANES]);
                    pool.l.len()
                }
                _ => {
                    pool.r.push([value as u32; LANES]);
                    pool.r.len()
                }
            };
            CONSTANT | (at - 1) as u16
        })
    }

    fn instruction(&mut self, ast: &Instruction, table: &Table) -> Result<(Inst, Vec<Use>), PtxError> {
        let key = key(ast);
        let Some(form) = table.get(&key) else {
            return Err(PtxError::Opcode { line: ast.line, opcode: key });
        };
        let mut inst = Inst {
            exec: form.exec,
            ops: [0; MAX_OPERANDS],
            guard: ast.guard.map(|(_, not)| (0, not)),
            addr: [Address::default(); 2],
            access: access(&ast.opcode),
            imm: 0,
            wide: 0,
            target: ast.target.map_or(NO_TARGET, |t| t as u32),
            class: form.class,
            main_loop: false,
            line: ast.line,
        };
        let mut uses = Vec::new();
        if let Some((register, _)) = ast.guard {
            uses.push(Use { register, written: false, place: Place::Guard });
        }
        let mut operands = Operands { ast, at: 0, op: 0, addr: 0 };
        for token in form.signature.split_whitespace() {
            self.operand(token, &mut operands, &mut inst, &mut uses)?;
        }
        if operands.at != ast.operands.len() {
            return Err(operands.error("absent: the instruction has fewer operands"));
        }
        // Accesses by number of constant slots must fit beside the flag.
        if self.constants.r.len().max(self.constants.l.len()) > usize::from(CONSTANT) {
            return Err(PtxError::Unsupported { line: ast.line, what: "more than 32768 constants".into() });
        }
        Ok((inst, uses))
    }

    fn operand(
        &mut self,
        token: &str,
        operands: &mut Operands<'_>,
        inst: &mut Inst,
        uses: &mut Vec<Use>,
    ) -> Result<(), PtxError> {
        let letters = token.trim_start_matches(|c: char| c.is_ascii_digit());
        if letters.len() < token.len() {
            let count = token[..token.len() - letters.len()].parse::<usize>().unwrap_or_default();
            let Some(Operand::Vector(parts)) = operands.next() else {
                return Err(operands.error("a vector"));
            };
            if parts.len() != count {
                return Err(operands.error("a vector of the length in the opcode"));
            }
            for part in parts {
                self.value(letters, part, operands, inst, uses)?;
            }
            return Ok(());
        }
        match token {
            "m" => self.address(operands, inst, uses),
            "i" => match operands.next() {
                Some(Operand::Int(n)) => {
                    inst.imm = *n as u32;
                    Ok(())
                }
                _ => Err(operands.error("an integer literal")),
            },
            "s" => match operands.next() {
                Some(Operand::Special(_)) => Ok(()),
                _ => Err(operands.error("a special register")),
            },
            // An optional source: `imm` says whether it is there.
            "r?" => {
                if operands.ast.operands.len() > operands.at {
                    inst.imm = 1;
                    return self.operand("r", operands, inst, uses);
                }
                Ok(())
            }
            // One destination, or two joined by a bar; the second of one is scratch.
            "P|" | "R|P" => {
                let (first, second) = match operands.next() {
                    Some(Operand::Reg(first)) => {
                        self.scratch += 1;
                        (*first, VReg { width: Width::Pred, index: self.scratch - 1 })
                    }
                    Some(Operand::Pair(first, second)) => (*first, *second),
                    _ => return Err(operands.error("one or two destination registers")),
                };
                let wanted = if token == "P|" { Width::Pred } else { Width::B32 };
                if first.width != wanted || second.width != Width::Pred {
                    return Err(operands.error("destination registers of the instruction's widths"));
                }
                for register in [first, second] {
                    uses.push(Use { register, written: true, place: Place::Operand(operands.op) });
                    operands.op += 1;
                }
                Ok(())
            }
            _ => {
                let Some(operand) = operands.next() else { return Err(operands.error("present")) };
                self.value(token, operand, operands, inst, uses)
            }
        }
    }

    fn value(
        &mut self,
        letter: &str,
        operand: &Operand,
        operands: &mut Operands<'_>,
        inst: &mut Inst,
        uses: &mut Vec<Use>,
    ) -> Result<(), PtxError> {
        let written = letter.starts_with(|c: char| c.is_ascii_uppercase());
        let width = match letter.to_ascii_lowercase().as_str() {
            "r" => Some(Width::B32),
            "h" => Some(Width::B16),
            "l" => Some(Width::B64),
            "p" => Some(Width::Pred),
            _ => None,
        };
        let op = operands.op;
        operands.op += 1;
        match operand {
            Operand::Reg(register) | Operand::Not(register)
                if width.is_none_or(|w| w == register.width)
                    && (width.is_some() || register.width != Width::Pred) =>
            {
                if let Operand::Not(_) = operand {
                    // Only predicate sources can be negated; the bit tells the instruction.
                    if written || register.width != Width::Pred {
                        return Err(operands.error("a source predicate, if negated"));
                    }
                    inst.wide |= 1 << op;
                }
                if register.width == Width::B64 {
                    inst.wide |= 1 << op;
                }
                uses.push(Use { register: *register, written, place: Place::Operand(op) });
                Ok(())
            }
            Operand::Int(n) if !written => {
                inst.ops[op] = self.constant(width.unwrap_or(Width::B32), *n);
                Ok(())
            }
            Operand::F32(bits) if !written && width == Some(Width::B32) => {
                inst.ops[op] = self.constant(Width::B32, u64::from(*bits));
                Ok(())
            }
            Operand::Symbol(name) if !written && matches!(width, Some(Width::B32 | Width::B64)) => {
                let Some(value) = self.symbols.get(name).copied() else {
                    return Err(PtxError::Name {
                        line: operands.ast.line,
                        name: name.clone(),
                        problem: "not declared",
                    });
                };
                inst.ops[op] = self.constant(width.unwrap_or(Width::B64), value);
                Ok(())
            }
            _ => Err(operands.error(match (written, width) {
                (true, Some(Width::Pred)) => "a predicate register",
                (true, Some(Width::B16)) => "a 16-bit register",
                (true, Some(Width::B32)) => "a 32-bit register",
                (true, Some(Width::B64)) => "a 64-bit register",
                (true, None) => "a register",
                (false, Some(Width::Pred)) => "a predicate",
                (false, Some(Width::B16)) => "a 16-bit register or a literal",
                (false, Some(Width::B32)) => "a 32-bit register or a literal",
                (false, Some(Width::B64)) => "a 64-bit register or a literal",
                (false, None) => "a register or a literal",
            })),
        }
    }

    fn address(
        &mut self,
        operands: &mut Operands<'_>,
        inst: &mut Inst,
        uses: &mut Vec<Use>,
    ) -> Result<(), PtxError> {
        let Some(Operand::Address(base, offset)) = operands.next() else {
            return Err(operands.error("an address in brackets"));
        };
        let at = operands.addr;
        operands.addr += 1;
        inst.addr[at].offset = *offset;
        match base {
            Base::None => {}
            Base::Reg(register) => {
                let wide = match register.width {
                    Width::B64 => true,
                    Width::B32 => false,
                    _ => return Err(operands.error("an address in a 32-bit or 64-bit register")),
                };
                inst.addr[at].wide = Some(wide);
                uses.push(Use { register: *register, written: false, place: Place::Address(at) });
            }
            Base::Symbol(name) if inst.access.space == Space::Param => {
                let Some(param) = self.entry.params.iter().find(|p| p.name == *name) else {
                    return Err(PtxError::Name {
                        line: operands.ast.line,
                        name: name.clone(),
                        problem: "not declared",
                    });
                };
                let bytes = i64::from(inst.access.size) * i64::from(inst.access.count);
                if *offset < 0 || *offset + bytes > param.size as i64 {
                    return Err(operands.error("inside the parameter"));
                }
                inst.addr[at].offset += param.offset as i64;
            }
            Base::Symbol(name) => {
                let Some(value) = self.symbols.get(name).copied() else {
                    return Err(PtxError::Name {
                        line: operands.ast.line,
                        name: name.clone(),
                        problem: "not declared",
                    });
                };
                inst.addr[at].offset = inst.addr[at].offset.wrapping_add(value as i64);
            }
        }
        Ok(())
    }
}

/// A cursor over the operands of one instruction.
struct Operands<'a> {
    ast: &'a Instruction,
    at: usize,
    op: usize,
    addr: usize,
}

impl<'a> Operands<'a> {
    fn next(&mut self) -> Option<&'a Operand> {
        let operand = self.ast.operands.get(self.at);
        self.at += 1;
        operand
    }

    fn error(&self, expected: &'static str) -> PtxError {
        let (line, opcode) = (self.ast.line, self.ast.opcode.clone());
        PtxError::Operand { line, opcode, index: self.at.saturating_sub(1), expected }
    }
}

/// The table key: the opcode, with a special register or a note on packing where a move has one.
fn key(ast: &Instruction) -> String {
    match ast.operands.as_slice() {
        [_, Operand::Special(name)] => format!("{} {name}", ast.opcode),
        [Operand::Vector(_), _] if ast.opcode.starts_with("mov.") => format!("{} unpack", ast.opcode),
        [_, Operand::Vector(_)] if ast.opcode.starts_with("mov.") => format!("{} pack", ast.opcode),
        _ => ast.opcode.clone(),
    }
}

/// Memory modifiers. The table has already refused what is not listed there.
fn access(opcode: &str) -> Access {
    let mut access = Access { count: 1, ..Access::default() };
    for word in opcode.split('.') {
        match word {
            "global" => access.space = Space::Global,
            "shared" => access.space = Space::Shared,
            "param" => access.space = Space::Param,
            "volatile" => (access.order, access.scope) = (Order::Relaxed, Scope::Sys),
            "relaxed" => access.order = Order::Relaxed,
            "acquire" => access.order = Order::Acquire,
            "release" => access.order = Order::Release,
            // A fence without a written order is acq_rel; membar is the old name of fence.sc (PTX ISA 9.7.13.4).
            "acq_rel" | "fence" => access.order = Order::AcqRel,
            "sc" | "membar" => access.order = Order::SeqCst,
            "cta" => access.scope = Scope::Cta,
            "gpu" | "gl" => access.scope = Scope::Gpu,
            "sys" => access.scope = Scope::Sys,
            "v2" => access.count = 2,
            "v4" => access.count = 4,
            "b8" | "u8" => access.size = 1,
            "s8" => (access.size, access.signed) = (1, true),
            "b16" | "u16" | "f16" => access.size = 2,
            "s16" => (access.size, access.signed) = (2, true),
            "b32" | "u32" | "f32" => access.size = 4,
            "s32" => (access.size, access.signed) = (4, true),
            "b64" | "u64" | "f64" => access.size = 8,
            "s64" => (access.size, access.signed) = (8, true),
            _ => {}
        }
    }
    access
}

/// Checks that a signature only uses letters that lowering knows; called on every row when the table is made.
pub fn known_signature(form: &Form) -> bool {
    form.signature.split_whitespace().all(|token| {
        let letters = token.trim_start_matches(|c: char| c.is_ascii_digit());
        matches!(token, "m" | "i" | "s" | "r?" | "P|" | "R|P")
            || matches!(letters, "r" | "R" | "h" | "H" | "l" | "L" | "p" | "P" | "x" | "X")
    })
}
