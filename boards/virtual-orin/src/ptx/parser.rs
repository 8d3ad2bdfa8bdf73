//! Tokens to a [`Module`]: directives, scopes, operands. Opcodes are checked later, against the table.

use super::lexer::{Token, lex};
use super::{Base, Entry, Instruction, Module, Operand, Param, PtxError, VReg, Variable, Width};
use std::collections::HashMap;

/// The newest PTX that the emulated driver takes (CUDA 12.6, the driver of JetPack 6).
const NEWEST_VERSION: ((u32, u32), &str) = ((8, 5), "8.5");
/// The newest that was tried at all (CUDA 13.5).
const NEWEST_FOREIGN: ((u32, u32), &str) = ((9, 5), "9.5");
/// Compute capability of Orin.
const TARGET: u32 = 87;
/// Variables larger than this are refused: no Orin has as much memory.
const LARGEST_VARIABLE: usize = 1 << 32;

/// Parses a PTX module.
///
/// # Errors
/// [`PtxError`] names the line and what stood there.
pub fn parse(text: &str) -> Result<Module, PtxError> {
    parse_up_to(text, NEWEST_VERSION)
}

/// As [`parse`], for texts of newer compilers that no driver is to load: their version may be higher. What they
/// say must still be understood word for word.
///
/// # Errors
/// [`PtxError`] names the line and what stood there.
pub fn parse_foreign(text: &str) -> Result<Module, PtxError> {
    parse_up_to(text, NEWEST_FOREIGN)
}

fn parse_up_to(text: &str, newest: ((u32, u32), &'static str)) -> Result<Module, PtxError> {
    let tokens = lex(text.trim_end_matches('\0'))?;
    let mut parser = Parser { tokens: &tokens, at: 0, newest, module: Module::default() };
    parser.module()?;
    Ok(parser.module)
}

/// What a name stands for inside an entry: one register, or the first of a numbered range.
#[derive(Clone, Copy)]
struct Declared {
    width: Width,
    first: u32,
    /// Of a range `%r<count>`; `None` for a single register.
    count: Option<u32>,
}

#[derive(Default)]
struct Scopes {
    names: Vec<HashMap<String, Declared>>,
    /// Number of each open scope, outermost first, to find labels with.
    path: Vec<u32>,
    opened: u32,
    labels: HashMap<(u32, String), usize>,
    /// Branches whose label may come later: instruction, label, scopes it was written in, line.
    branches: Vec<(usize, String, Vec<u32>, u32)>,
}

impl Scopes {
    fn open(&mut self) {
        self.names.push(HashMap::new());
        self.path.push(self.opened);
        self.opened += 1;
    }

    fn close(&mut self) {
        self.names.pop();
        self.path.pop();
    }

    fn register(&self, word: &str) -> Option<VReg> {
        let digits = word.len() - word.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = word.split_at(digits);
        for names in self.names.iter().rev() {
            if let Some(one) = names.get(word).filter(|d| d.count.is_none()) {
                return Some(VReg { width: one.width, index: one.first });
            }
            if let (Some(range), Ok(n)) = (names.get(prefix), number.parse::<u32>())
                && range.count.is_some_and(|count| n < count)
            {
                return Some(VReg { width: range.width, index: range.first + n });
            }
        }
        None
    }
}

struct Parser<'a> {
    tokens: &'a [(u32, Token<'a>)],
    at: usize,
    newest: ((u32, u32), &'static str),
    module: Module,
}

impl<'a> Parser<'a> {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |t| t.0)
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|t| t.1)
    }

    fn wrong<T>(&self, expected: &'static str) -> Result<T, PtxError> {
        let found = match self.peek() {
            Some(Token::Word(w)) => w.to_owned(),
            Some(Token::Quoted(q)) => format!("\"{q}\""),
            Some(Token::Mark(m)) => m.to_string(),
            None => "end of text".to_owned(),
        };
        Err(PtxError::Syntax { line: self.line(), found, expected })
    }

    fn unsupported<T>(&self, what: &str) -> Result<T, PtxError> {
        Err(PtxError::Unsupported { line: self.line(), what: what.to_owned() })
    }

    fn is_mark(&self, mark: char) -> bool {
        self.peek() == Some(Token::Mark(mark))
    }

    fn take_mark(&mut self, mark: char) -> bool {
        let yes = self.is_mark(mark);
        self.at += usize::from(yes);
        yes
    }

    fn mark(&mut self, mark: char, expected: &'static str) -> Result<(), PtxError> {
        if self.take_mark(mark) { Ok(()) } else { self.wrong(expected) }
    }

    fn is_word(&self, word: &str) -> bool {
        self.peek() == Some(Token::Word(word))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let yes = self.is_word(word);
        self.at += usize::from(yes);
        yes
    }

    fn word(&mut self, expected: &'static str) -> Result<&'a str, PtxError> {
        match self.peek() {
            Some(Token::Word(w)) => {
                self.at += 1;
                Ok(w)
            }
            _ => self.wrong(expected),
        }
    }

    fn number(&mut self) -> Result<u64, PtxError> {
        let negative = self.take_mark('-');
        match self.peek() {
            Some(Token::Word(w)) if integer(w).is_some() => {
                self.at += 1;
                let n = integer(w).unwrap_or_default();
                Ok(if negative { n.wrapping_neg() } else { n })
            }
            _ => self.wrong("an integer"),
        }
    }

    fn size(&mut self) -> Result<usize, PtxError> {
        let n = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if n <= LARGEST_VARIABLE {
            return Ok(n);
        }
        self.at -= 1;
        self.wrong("a size of at most 4 GiB")
    }

    fn module(&mut self) -> Result<(), PtxError> {
        self.header()?;
        while self.peek().is_some() {
            self.skip_linkage();
            let word = self.word("a directive")?;
            match word {
                ".entry" => self.entry()?,
                ".shared" => {
                    let variable = self.variable()?;
                    self.module.dynamic_shared.push(variable);
                }
                ".global" | ".const" => {
                    let variable = self.variable()?;
                    self.module.globals.push(variable);
                }
                ".file" => self.skip_line(),
                other => return self.unsupported(other),
            }
        }
        Ok(())
    }

    fn header(&mut self) -> Result<(), PtxError> {
        let line = self.line();
        if !self.take_word(".version") {
            return self.wrong("`.version`");
        }
        let text = self.word("a version such as 7.4")?;
        let version = text
            .split_once('.')
            .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
            .ok_or(PtxError::Syntax { line, found: text.into(), expected: "a version such as 7.4" })?;
        let (newest, allowed) = self.newest;
        if version > newest {
            return Err(PtxError::Version { line, what: ".version", found: text.into(), allowed });
        }
        self.module.version = version;
        let line = self.line();
        if !self.take_word(".target") {
            return self.wrong("`.target`");
        }
        let text = self.word("a target such as sm_87")?;
        let target: u32 = text.strip_prefix("sm_").and_then(|t| t.parse().ok()).ok_or(PtxError::Syntax {
            line,
            found: text.into(),
            expected: "a target such as sm_87",
        })?;
        if target > TARGET {
            return Err(PtxError::Version { line, what: ".target", found: text.into(), allowed: "sm_87" });
        }
        self.module.target = target;
        if !self.take_word(".address_size") || self.number()? != 64 {
            return self.wrong("`.address_size 64`");
        }
        Ok(())
    }

    fn skip_linkage(&mut self) {
        while self.take_word(".visible") || self.take_word(".extern") || self.take_word(".weak") {}
    }

    fn skip_line(&mut self) {
        let line = self.tokens[self.at - 1].0;
        while self.peek().is_some() && self.line() == line {
            self.at += 1;
        }
    }

    /// After the state space: `.align 16 .b8 name[64] = {...};`
    fn variable(&mut self) -> Result<Variable, PtxError> {
        let mut align = None;
        if self.take_word(".align") {
            align = Some(self.size()?.max(1));
        }
        let ty = self.word("a type such as .b8")?;
        let Some((_, element)) = element_type(ty) else {
            self.at -= 1;
            return self.wrong("a type such as .b8");
        };
        let name = self.word("a name")?.to_owned();
        let mut count = 1usize;
        if self.take_mark('[') {
            count = if self.is_mark(']') { 0 } else { self.size()? };
            self.mark(']', "`]`")?;
        }
        let size = count.saturating_mul(element);
        if size > LARGEST_VARIABLE {
            return self.wrong("a variable of at most 4 GiB");
        }
        let mut init = Vec::new();
        if self.take_mark('=') {
            let braces = self.take_mark('{');
            loop {
                let value = self.number()?;
                init.extend_from_slice(&value.to_le_bytes()[..element]);
                if !(braces && self.take_mark(',')) {
                    break;
                }
            }
            if braces {
                self.mark('}', "`}` after the initialiser")?;
            }
            if init.len() > size {
                return self.wrong("no more initial values than elements");
            }
        }
        self.mark(';', "`;`")?;
        Ok(Variable { name, align: align.unwrap_or(element), size, init })
    }

    fn entry(&mut self) -> Result<(), PtxError> {
        let mut entry = Entry { name: self.word("a kernel name")?.to_owned(), ..Entry::default() };
        self.mark('(', "`(`")?;
        while !self.take_mark(')') {
            self.param(&mut entry)?;
            if !self.is_mark(')') {
                self.mark(',', "`,` or `)`")?;
            }
        }
        loop {
            if self.take_word(".maxntid") || self.take_word(".reqntid") {
                let mut threads = 1u64;
                loop {
                    threads = threads.saturating_mul(self.number()?);
                    if !self.take_mark(',') {
                        break;
                    }
                }
                entry.max_threads = Some(u32::try_from(threads).unwrap_or(u32::MAX));
            } else if self.take_word(".minnctapersm") || self.take_word(".maxnreg") {
                self.number()?;
            } else {
                break;
            }
        }
        self.mark('{', "`{`")?;
        let mut scopes = Scopes::default();
        scopes.open();
        while !scopes.path.is_empty() {
            self.statement(&mut entry, &mut scopes)?;
        }
        for (instruction, label, path, line) in std::mem::take(&mut scopes.branches) {
            let target = path.iter().rev().find_map(|s| scopes.labels.get(&(*s, label.clone())));
            let Some(target) = target else {
                return Err(PtxError::Name { line, name: label, problem: "not declared" });
            };
            entry.body[instruction].target = Some(*target);
        }
        if self.module.entries.iter().any(|e| e.name == entry.name) {
            return Err(PtxError::Name { line: self.line(), name: entry.name, problem: "declared twice" });
        }
        self.module.entries.push(entry);
        Ok(())
    }

    fn param(&mut self, entry: &mut Entry) -> Result<(), PtxError> {
        if !self.take_word(".param") {
            return self.wrong("`.param`");
        }
        let mut align = None;
        if self.take_word(".align") {
            align = Some(self.size()?.max(1));
        }
        let ty = self.word("a type such as .u64")?;
        let Some((_, element)) = element_type(ty) else {
            self.at -= 1;
            return self.wrong("a type such as .u64");
        };
        let name = self.word("a parameter name")?.to_owned();
        let mut size = element;
        if self.take_mark('[') {
            size = element.saturating_mul(self.size()?);
            self.mark(']', "`]`")?;
        }
        let align = align.unwrap_or(element);
        let offset = entry.param_bytes.div_ceil(align) * align;
        entry.param_bytes = offset.saturating_add(size);
        // 4 KiB is the driver's limit for launch parameters of this PTX version.
        if entry.param_bytes > 4096 {
            return self.wrong("at most 4096 bytes of parameters");
        }
        entry.params.push(Param { name, offset, size });
        Ok(())
    }

    fn statement(&mut self, entry: &mut Entry, scopes: &mut Scopes) -> Result<(), PtxError> {
        if self.take_mark('{') {
            scopes.open();
            return Ok(());
        }
        if self.take_mark('}') {
            scopes.close();
            return Ok(());
        }
        if self.take_mark(';') {
            return Ok(());
        }
        if self.is_mark('@') {
            return self.instruction(entry, scopes);
        }
        let word = self.word("an instruction, a directive or a label")?;
        match word {
            ".reg" => self.registers(entry, scopes),
            ".shared" => {
                let variable = self.variable()?;
                entry.shared.push(variable);
                Ok(())
            }
            ".loc" => {
                self.skip_line();
                Ok(())
            }
            ".pragma" => {
                while !self.take_mark(';') {
                    if self.peek().is_none() {
                        return self.wrong("`;`");
                    }
                    self.at += 1;
                }
                Ok(())
            }
            _ if word.starts_with('.') => {
                self.at -= 1;
                self.unsupported(word)
            }
            _ if self.take_mark(':') => {
                let scope = scopes.path.last().copied().unwrap_or_default();
                let line = self.line();
                match scopes.labels.insert((scope, word.to_owned()), entry.body.len()) {
                    None => Ok(()),
                    Some(_) => Err(PtxError::Name { line, name: word.to_owned(), problem: "declared twice" }),
                }
            }
            _ => {
                self.at -= 1;
                self.instruction(entry, scopes)
            }
        }
    }

    fn registers(&mut self, entry: &mut Entry, scopes: &mut Scopes) -> Result<(), PtxError> {
        let ty = self.word("a register type")?;
        let Some((width, _)) = element_type(ty) else {
            self.at -= 1;
            return self.wrong("a register type");
        };
        loop {
            let name = self.word("a register name")?.to_owned();
            let mut count = None;
            if self.take_mark('<') {
                let n = self.size()?;
                // More registers than any compiler emits; keeps a hostile text from exhausting memory.
                if n > 1 << 20 {
                    return self.wrong("at most 2^20 registers");
                }
                count = Some(n as u32);
                self.mark('>', "`>`")?;
            }
            let declared = Declared { width, first: entry.registers, count };
            entry.registers = entry.registers.saturating_add(count.unwrap_or(1));
            if entry.registers > 1 << 22 {
                return self.wrong("at most 2^22 registers in a kernel");
            }
            let line = self.line();
            if let Some(names) = scopes.names.last_mut()
                && names.insert(name.clone(), declared).is_some()
            {
                return Err(PtxError::Name { line, name, problem: "declared twice" });
            }
            if !self.take_mark(',') {
                break;
            }
        }
        self.mark(';', "`;`")
    }

    fn instruction(&mut self, entry: &mut Entry, scopes: &mut Scopes) -> Result<(), PtxError> {
        let line = self.line();
        let mut guard = None;
        if self.take_mark('@') {
            let not = self.take_mark('!');
            let name = self.word("a predicate")?;
            match scopes.register(name) {
                Some(p) if p.width == Width::Pred => guard = Some((p, not)),
                _ => {
                    self.at -= 1;
                    return self.wrong("a declared predicate register");
                }
            }
        }
        let opcode = self.word("an opcode")?.to_owned();
        let mut operands = Vec::new();
        if opcode == "bra" || opcode == "bra.uni" {
            let label = self.word("a label")?.to_owned();
            scopes.branches.push((entry.body.len(), label, scopes.path.clone(), line));
        } else if !self.is_mark(';') {
            loop {
                operands.push(self.operand(scopes)?);
                if !self.take_mark(',') {
                    break;
                }
            }
        }
        self.mark(';', "`;`")?;
        entry.body.push(Instruction { line, guard, opcode, operands, target: None });
        Ok(())
    }

    fn operand(&mut self, scopes: &Scopes) -> Result<Operand, PtxError> {
        if self.take_mark('{') {
            let mut parts = Vec::new();
            loop {
                if self.is_mark('{') || parts.len() == 16 {
                    return self.wrong("a flat vector of at most 16 elements");
                }
                parts.push(self.operand(scopes)?);
                if !self.take_mark(',') {
                    break;
                }
            }
            self.mark('}', "`}`")?;
            return Ok(Operand::Vector(parts));
        }
        if self.take_mark('[') {
            return self.address(scopes);
        }
        if self.take_mark('!') {
            let name = self.word("a predicate")?;
            return match scopes.register(name) {
                Some(p) if p.width == Width::Pred => Ok(Operand::Not(p)),
                _ => self.wrong("a declared predicate register"),
            };
        }
        if self.is_mark('-') {
            return Ok(Operand::Int(self.number()?));
        }
        let line = self.line();
        let word = self.word("an operand")?;
        if let Some(register) = scopes.register(word) {
            if self.take_mark('|') {
                let second = self.word("a second destination")?;
                return match scopes.register(second) {
                    Some(second) => Ok(Operand::Pair(register, second)),
                    None => Err(PtxError::Name { line, name: second.into(), problem: "not declared" }),
                };
            }
            return Ok(Operand::Reg(register));
        }
        if let Some(bits) = word.strip_prefix("0f").or(word.strip_prefix("0F")) {
            return match u32::from_str_radix(bits, 16) {
                Ok(bits) => Ok(Operand::F32(bits)),
                Err(_) => Err(PtxError::Syntax { line, found: word.into(), expected: "0f and 8 hex digits" }),
            };
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return match integer(word) {
                Some(n) => Ok(Operand::Int(n)),
                None => Err(PtxError::Syntax { line, found: word.into(), expected: "an integer" }),
            };
        }
        if word.starts_with('%') {
            return Ok(Operand::Special(word.to_owned()));
        }
        Ok(Operand::Symbol(word.to_owned()))
    }

    fn address(&mut self, scopes: &Scopes) -> Result<Operand, PtxError> {
        let base = match self.peek() {
            Some(Token::Word(w)) if integer(w).is_none() => {
                self.at += 1;
                match scopes.register(w) {
                    Some(register) => Base::Reg(register),
                    None if w.starts_with('%') => {
                        return Err(PtxError::Name {
                            line: self.line(),
                            name: w.into(),
                            problem: "not declared",
                        });
                    }
                    None => Base::Symbol(w.to_owned()),
                }
            }
            _ => Base::None,
        };
        let mut offset = 0i64;
        if base == Base::None || self.take_mark('+') || self.is_mark('-') {
            offset = self.number()? as i64;
        }
        self.mark(']', "`]`")?;
        Ok(Operand::Address(base, offset))
    }
}

/// Decimal or hexadecimal, with or without the suffix `U`.
fn integer(word: &str) -> Option<u64> {
    let word = word.strip_suffix('U').unwrap_or(word);
    match word.strip_prefix("0x").or(word.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

/// Register width and size in bytes of a type such as `.u16`.
fn element_type(word: &str) -> Option<(Width, usize)> {
    Some(match word {
        ".pred" => (Width::Pred, 1),
        ".b8" | ".u8" | ".s8" => (Width::B16, 1),
        ".b16" | ".u16" | ".s16" | ".f16" => (Width::B16, 2),
        ".b32" | ".u32" | ".s32" | ".f32" => (Width::B32, 4),
        ".b64" | ".u64" | ".s64" | ".f64" => (Width::B64, 8),
        _ => return None,
    })
}
