//! Settings from the environment.

use crate::board::{BOARDS, find};
use crate::emulator::Options;
use std::sync::{Mutex, PoisonError};

const PREFIX: &str = "PILOTLIGHT_VIRTUAL_";
const KNOWN: [&str; 6] = ["BOARD", "SEED", "RACE", "WEAK", "LOG", "LIT_SECONDS"];

/// The options that the environment asks for.
///
/// # Errors
/// A sentence that names the variable, its value and what is allowed.
pub fn options(variables: impl Iterator<Item = (String, String)>) -> Result<Options, String> {
    let mut options = Options::new(&BOARDS[0]);
    for (name, value) in variables {
        let Some(key) = name.strip_prefix(PREFIX) else { continue };
        let flag = || match value.as_str() {
            "0" => Ok(false),
            "1" => Ok(true),
            _ => Err(format!("{name}={value}: 0 or 1 is allowed")),
        };
        match key {
            "BOARD" => {
                options.board = *find(&value)
                    .map_err(|all| format!("{name}={value}: no such board; there are {}", all.join(", ")))?;
            }
            "SEED" => {
                options.seed =
                    value.parse().map_err(|_| format!("{name}={value}: a number below 2^64 is allowed"))?;
            }
            "RACE" => options.race = flag()?,
            "WEAK" => options.weak = flag()?,
            "LOG" => {}
            // Read where it is used.
            "LIT_SECONDS" => drop(
                value
                    .parse::<u64>()
                    .map_err(|_| format!("{name}={value}: a number of seconds is allowed"))?,
            ),
            _ => {
                return Err(format!(
                    "{name} is no setting; there are {PREFIX}{}",
                    KNOWN.join(&format!(", {PREFIX}"))
                ));
            }
        }
    }
    Ok(options)
}

/// Settings that the program gave; they win over the environment.
static GIVEN: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// What the program gave, as variables.
pub fn given() -> Vec<(String, String)> {
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Sets what the variable `PILOTLIGHT_VIRTUAL_<name>` would set.
///
/// # Errors
/// A sentence that says what is allowed, or that the device is in use already.
pub fn give(name: &str, value: &str, in_use: bool) -> Result<(), String> {
    if in_use {
        return Err(format!(
            "{name}={value}: the virtual Orin is in use; set it up before the first CUDA call"
        ));
    }
    let pair = (format!("{PREFIX}{name}"), value.to_owned());
    options(std::iter::once(pair.clone()))?;
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner).push(pair);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Options, String> {
        options(pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())))
    }

    #[test]
    fn settings_are_read_or_refused_by_name() {
        let read = of(&[
            ("HOME", "/"),
            ("PILOTLIGHT_VIRTUAL_BOARD", "agx-orin-64"),
            ("PILOTLIGHT_VIRTUAL_SEED", "9"),
        ]);
        assert_eq!(read.map(|o| (o.board.sms, o.seed)), Ok((16, 9)));
        assert!(of(&[("PILOTLIGHT_VIRTUAL_BORD", "x")]).unwrap_err().contains("VIRTUAL_BOARD"));
        assert!(of(&[("PILOTLIGHT_VIRTUAL_BOARD", "x")]).unwrap_err().contains("orin-nano-super"));
        assert!(of(&[("PILOTLIGHT_VIRTUAL_RACE", "yes")]).unwrap_err().contains("0 or 1"));
    }
}
