//! Switching the power mode while the board runs: only between modes of the same SM mask.
//!
//! An operator's step, never a governor's. Another mask needs a reboot (the GPU takes it when it is powered on), so
//! such a mode is refused and named.

use crate::control::{ControlError, own_clocks};
use crate::nvpmodel::{Conf, Value, current};
use crate::tree::{SysError, Tree};

/// Why a mode was not switched to.
#[derive(Debug, thiserror::Error)]
pub enum ModeError {
    /// The board shows no mode file, or not the mode it is in.
    #[error("the power mode is not known here: {what}; `pilotlight boards` shows what is missing")]
    Unknown {
        /// What is missing.
        what: String,
    },
    /// There is no such mode.
    #[error("there is no power mode {found}; there are {allowed}")]
    None {
        /// What was asked.
        found: u32,
        /// IDs and names.
        allowed: String,
    },
    /// It has another SM mask.
    #[error(
        "mode {id} ({name}) switches other SMs on, which needs a reboot: run `nvpmodel -m {id}` on a terminal, \
         agree, and look at tpc_pg_mask afterwards"
    )]
    Reboot {
        /// Its ID.
        id: u32,
        /// Its name.
        name: String,
    },
    /// The file names an attribute outside sysfs.
    #[error("the mode file sets '{path}', which is no attribute below /sys: nothing was written")]
    Path {
        /// The path.
        path: String,
    },
    /// A governor owns the clocks.
    #[error(transparent)]
    Owned(#[from] ControlError),
    /// A write failed; what was written before it is undone.
    #[error("{source}; what was written before is undone")]
    Write {
        /// What failed.
        source: SysError,
    },
}

/// Switches to a mode; the attributes that the board does not have are left out and returned.
///
/// # Errors
/// [`ModeError`]; the board is then as it was.
pub fn switch(tree: &Tree, to: u32) -> Result<Vec<String>, ModeError> {
    let unknown = |what: String| ModeError::Unknown { what };
    let text = tree.read("/etc/nvpmodel.conf").map_err(|e| unknown(e.to_string()))?;
    let conf = Conf::parse(&text).map_err(|e| unknown(format!("/etc/nvpmodel.conf: {e}")))?;
    let from = current(tree).ok_or_else(|| unknown("/var/lib/nvpmodel/status".into()))?;
    let Some(mode) = conf.modes.get(&to) else {
        let allowed: Vec<String> = conf.modes.iter().map(|(id, m)| format!("{id} ({})", m.name)).collect();
        return Err(ModeError::None { found: to, allowed: allowed.join(", ") });
    };
    if conf.switches_live(from, to) != Some(true) {
        return Err(ModeError::Reboot { id: to, name: mode.name.clone() });
    }
    let _owner = own_clocks(tree)?;
    let mut writes = Vec::new();
    for (param, arg, value) in &mode.sets {
        let Some(path) = conf.params.get(param).and_then(|p| p.path(tree, arg)) else { continue };
        if !path.starts_with("/sys/") {
            return Err(ModeError::Path { path: path.to_owned() });
        }
        // The mask is the same; a GPU that is on takes none.
        if !arg.contains("PG_MASK") {
            writes.push((path.to_owned(), written(tree, path, value)));
        }
    }
    writes.push(("/var/lib/nvpmodel/status".to_owned(), format!("pmode:{to:04}")));
    let (mut before, mut missing) = (Vec::new(), Vec::new());
    for (path, value) in writes {
        let done = tree.read(&path).and_then(|old| tree.write(&path, &value).map(|()| old));
        match done {
            Ok(old) => before.push((path, old)),
            Err(SysError::Missing { .. }) => missing.push(path),
            Err(source) => {
                for (path, old) in before.iter().rev() {
                    // What cannot be undone was writable a moment ago; the error below says what to look at.
                    let _ = tree.write(path, old);
                }
                return Err(ModeError::Write { source });
            }
        }
    }
    Ok(missing)
}

/// The text of a value for its attribute: the highest clock by the table beside it, where there is one.
fn written(tree: &Tree, path: &str, value: &Value) -> String {
    match value {
        Value::Clock(n) => n.to_string(),
        Value::Word(word) => word.clone(),
        Value::Highest => {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let table = tree.numbers(&format!("{folder}/available_frequencies")).unwrap_or_default();
            let own =
                tree.number(&format!("{folder}/cpuinfo_max_freq")).ok().and_then(|n| u64::try_from(n).ok());
            table.into_iter().max().or(own).unwrap_or(i32::MAX as u64).to_string()
        }
    }
}
