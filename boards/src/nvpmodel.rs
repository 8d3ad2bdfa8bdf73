//! `nvpmodel.conf`: the power mode file, in the dialect that real files use.
//!
//! Blocks are `< PARAM TYPE=FILE|CLOCK NAME=x >` with `ARG path` lines, `< POWER_MODEL ID=n NAME=s >` with
//! `PARAM ARG value` lines, `< PM_CONFIG DEFAULT=n >` (needed once) and `< FAN_CONFIG DEFAULT=s >`. `#` starts a
//! comment. The space after `<` may be missing. CLOCK values are whole numbers, -1 meaning the highest; FILE
//! values are words. IDs may have gaps. Units: CPU kHz, everything else Hz.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::tree::Tree;

/// Most blocks and lines of a file; real files have some hundreds of lines.
const MOST_LINES: usize = 10_000;

/// Why a file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfError {
    /// A header is not closed or has no kind that is known.
    #[error(
        "line {line}: '{found}' is no block header; expected < PARAM ... >, < POWER_MODEL ... >, < PM_CONFIG ... > or < FAN_CONFIG ... >"
    )]
    Header {
        /// Line, from 1.
        line: usize,
        /// What stands there.
        found: String,
    },
    /// A header lacks a key, or its value is not of the right kind.
    #[error("line {line}: {block} needs {key}")]
    Key {
        /// Line, from 1.
        line: usize,
        /// The block.
        block: &'static str,
        /// The key and its values.
        key: &'static str,
    },
    /// A line does not have the words of its block.
    #[error("line {line}: '{found}' does not fit; expected {expected}")]
    Line {
        /// Line, from 1.
        line: usize,
        /// What stands there.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// A name or number stands twice.
    #[error("line {line}: {what} '{found}' stands twice")]
    Twice {
        /// Line, from 1.
        line: usize,
        /// What it is.
        what: &'static str,
        /// The name.
        found: String,
    },
    /// A mode sets a parameter or argument that no block declares.
    #[error("line {line}: mode sets '{found}', which no PARAM block declares")]
    Undeclared {
        /// Line, from 1.
        line: usize,
        /// Parameter and argument.
        found: String,
    },
    /// The default is missing or names no mode.
    #[error("no < PM_CONFIG DEFAULT=n > that names a mode; found {found}")]
    Default {
        /// What was found.
        found: String,
    },
    /// The file is longer than any real one.
    #[error("{found} lines; at most 10000 are read")]
    Long {
        /// Lines.
        found: usize,
    },
}

/// What a parameter's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Kind {
    /// Words written to files.
    File,
    /// Clocks; -1 means the highest.
    Clock,
}

/// A declared parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Param {
    /// What its values are.
    pub kind: Kind,
    /// Arguments and their paths.
    pub args: BTreeMap<String, String>,
}

impl Param {
    /// The path of an argument: that of newer kernels (`ARG_KNEXT`) where it is there.
    pub fn path(&self, tree: &Tree, arg: &str) -> Option<&str> {
        let next = self.args.get(&format!("{arg}_KNEXT")).filter(|p| tree.has(p));
        next.or_else(|| self.args.get(arg)).map(String::as_str)
    }
}

/// A value of a mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Value {
    /// A clock in the unit of its parameter.
    Clock(i64),
    /// The highest clock.
    Highest,
    /// A word for a file.
    Word(String),
}

/// A power mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mode {
    /// Its name.
    pub name: String,
    /// What it sets, in the file's order: parameter, argument, value.
    pub sets: Vec<(String, String, Value)>,
}

impl Mode {
    /// The value of a parameter's argument.
    pub fn value(&self, param: &str, arg: &str) -> Option<&Value> {
        self.sets.iter().find(|(p, a, _)| p == param && a == arg).map(|(_, _, v)| v)
    }

    /// The mask of switched-off TPCs that it sets.
    pub fn tpc_mask(&self) -> Option<&Value> {
        self.sets
            .iter()
            .find(|(p, a, _)| p == "TPC_POWER_GATING" || a.starts_with("TPC_PG_MASK"))
            .map(|(_, _, v)| v)
    }
}

/// A parsed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conf {
    /// Parameters by name.
    pub params: BTreeMap<String, Param>,
    /// Modes by ID.
    pub modes: BTreeMap<u32, Mode>,
    /// ID of the mode at start.
    pub default: u32,
    /// Default fan profile, in files that have one.
    pub fan: Option<String>,
}

enum Block {
    None,
    Param(String),
    Mode(u32),
}

impl Conf {
    /// Parses a file.
    ///
    /// # Errors
    /// [`ConfError`] names the line, what was found and what is allowed.
    ///
    /// ```
    /// use pilotlight_boards::nvpmodel::Conf;
    /// let conf = Conf::parse(
    ///     "<PARAM TYPE=CLOCK NAME=GPU>\nMAX_FREQ /sys/max\n< POWER_MODEL ID=2 NAME=X >\nGPU MAX_FREQ -1\n\
    ///      < PM_CONFIG DEFAULT=2 >\n",
    /// )?;
    /// assert_eq!(conf.modes[&2].name, "X");
    /// # Ok::<(), pilotlight_boards::nvpmodel::ConfError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, ConfError> {
        let lines = text.lines().count();
        if lines > MOST_LINES {
            return Err(ConfError::Long { found: lines });
        }
        let mut conf = Self { params: BTreeMap::new(), modes: BTreeMap::new(), default: 0, fan: None };
        let mut default = None;
        let mut block = Block::None;
        for (i, raw) in text.lines().enumerate() {
            let line = i + 1;
            let content = raw.split('#').next().unwrap_or("").trim();
            if content.is_empty() {
                continue;
            }
            if let Some(inner) = content.strip_prefix('<') {
                let header = || ConfError::Header { line, found: short(content) };
                let inner = inner.strip_suffix('>').ok_or_else(header)?;
                let mut words = inner.split_whitespace();
                let kind = words.next().ok_or_else(header)?;
                let keys: BTreeMap<&str, &str> = words.filter_map(|w| w.split_once('=')).collect();
                block = match kind {
                    "PARAM" => conf.open_param(line, &keys)?,
                    "POWER_MODEL" => conf.open_mode(line, &keys)?,
                    "PM_CONFIG" => {
                        let id = keys.get("DEFAULT").and_then(|d| d.parse::<u32>().ok());
                        default = Some(id.ok_or(ConfError::Key {
                            line,
                            block: "PM_CONFIG",
                            key: "DEFAULT=<mode ID>",
                        })?);
                        Block::None
                    }
                    "FAN_CONFIG" => {
                        conf.fan = keys.get("DEFAULT").map(|s| (*s).to_owned());
                        Block::None
                    }
                    _ => return Err(header()),
                };
                continue;
            }
            conf.take_line(line, content, &block)?;
        }
        conf.default = default
            .filter(|id| conf.modes.contains_key(id))
            .ok_or_else(|| ConfError::Default { found: default.map_or("none".into(), |d| d.to_string()) })?;
        Ok(conf)
    }

    fn open_param(&mut self, line: usize, keys: &BTreeMap<&str, &str>) -> Result<Block, ConfError> {
        let kind = match keys.get("TYPE") {
            Some(&"FILE") => Kind::File,
            Some(&"CLOCK") => Kind::Clock,
            _ => return Err(ConfError::Key { line, block: "PARAM", key: "TYPE=FILE or TYPE=CLOCK" }),
        };
        let name = keys.get("NAME").ok_or(ConfError::Key { line, block: "PARAM", key: "NAME=<word>" })?;
        let param = Param { kind, args: BTreeMap::new() };
        if self.params.insert((*name).to_owned(), param).is_some() {
            return Err(ConfError::Twice { line, what: "PARAM", found: short(name) });
        }
        Ok(Block::Param((*name).to_owned()))
    }

    fn open_mode(&mut self, line: usize, keys: &BTreeMap<&str, &str>) -> Result<Block, ConfError> {
        let id = keys.get("ID").and_then(|d| d.parse::<u32>().ok());
        let id = id.ok_or(ConfError::Key { line, block: "POWER_MODEL", key: "ID=<number>" })?;
        let name =
            keys.get("NAME").ok_or(ConfError::Key { line, block: "POWER_MODEL", key: "NAME=<word>" })?;
        let mode = Mode { name: (*name).to_owned(), sets: Vec::new() };
        if self.modes.insert(id, mode).is_some() {
            return Err(ConfError::Twice { line, what: "POWER_MODEL ID", found: id.to_string() });
        }
        Ok(Block::Mode(id))
    }

    fn take_line(&mut self, line: usize, content: &str, block: &Block) -> Result<(), ConfError> {
        let words: Vec<&str> = content.split_whitespace().collect();
        let misfit = |expected| ConfError::Line { line, found: short(content), expected };
        match block {
            Block::None => Err(misfit("a block header")),
            Block::Param(name) => {
                let [arg, path] = words[..] else { return Err(misfit("an argument and its path")) };
                if !path.starts_with('/') || path.contains("..") {
                    return Err(misfit("an absolute path without .."));
                }
                let param = self.params.get_mut(name).ok_or_else(|| misfit("a declared PARAM"))?;
                match param.args.insert(arg.to_owned(), path.to_owned()) {
                    Some(_) => Err(ConfError::Twice { line, what: "argument", found: short(arg) }),
                    None => Ok(()),
                }
            }
            Block::Mode(id) => {
                let [name, arg, value] = words[..] else {
                    return Err(misfit("a parameter, an argument and a value"));
                };
                let undeclared =
                    || ConfError::Undeclared { line, found: format!("{} {}", short(name), short(arg)) };
                let param = self.params.get(name).ok_or_else(undeclared)?;
                if !param.args.contains_key(arg) {
                    return Err(undeclared());
                }
                let value = match param.kind {
                    Kind::File => Value::Word(value.to_owned()),
                    Kind::Clock => match value.parse::<i64>() {
                        Ok(-1) => Value::Highest,
                        Ok(n) if n >= 0 => Value::Clock(n),
                        _ => return Err(misfit("a whole number, or -1 for the highest")),
                    },
                };
                let mode = self.modes.get_mut(id).ok_or_else(|| misfit("a declared POWER_MODEL"))?;
                mode.sets.push((name.to_owned(), arg.to_owned(), value));
                Ok(())
            }
        }
    }

    /// Whether switching between two modes keeps the SM mask, so that it may happen live.
    pub fn switches_live(&self, from: u32, to: u32) -> Option<bool> {
        Some(self.modes.get(&from)?.tpc_mask() == self.modes.get(&to)?.tpc_mask())
    }
}

/// The mode that the board is in, from the status file; `None` where it says nothing readable.
pub fn current(tree: &Tree) -> Option<u32> {
    let text = tree.read("/var/lib/nvpmodel/status").ok()?;
    text.trim().strip_prefix("pmode:")?.trim().parse().ok()
}

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}
