//! The memory clock: locked through debugfs, capped through the nvpmodel driver.

use pilotlight_units::Hertz;
use serde::Serialize;

use crate::tree::Tree;

/// Folder of the clock in debugfs; root only.
pub const LOCK: &str = "/sys/kernel/debug/bpmp/debug/clk/emc";
/// Caps: JetPack 6 and later, then JetPack 5.
pub const CAPS: [&str; 2] = ["/sys/kernel/nvpmodel_clk_cap/emc", "/sys/kernel/nvpmodel_emc_cap/emc_iso_cap"];

/// What is known of the memory clock.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Emc {
    /// The clock now, where debugfs can be read.
    pub now: Option<Hertz>,
    /// Whether it is locked.
    pub locked: Option<bool>,
    /// Highest clock the firmware allows.
    pub max: Option<Hertz>,
    /// The cap's file.
    pub cap_file: Option<String>,
    /// The cap; zero means none.
    pub cap: Option<Hertz>,
}

impl Emc {
    /// The clock now, and nothing else; `None` where debugfs cannot be read.
    pub fn now(tree: &Tree) -> Option<Hertz> {
        tree.number(&format!("{LOCK}/rate")).ok().and_then(|hz| u64::try_from(hz).ok()).map(Hertz)
    }

    /// Reads what can be read; what cannot is named in `notes`.
    pub fn read(tree: &Tree, notes: &mut Vec<String>) -> Self {
        let number = |name: &str| tree.number(&format!("{LOCK}/{name}"));
        let clock = |hz: i64| u64::try_from(hz).ok().map(Hertz);
        let now = match number("rate") {
            Ok(hz) => clock(hz),
            Err(error) => {
                notes.push(format!("memory clock: {error}"));
                None
            }
        };
        let cap_file = CAPS.into_iter().find(|p| tree.has(p)).map(str::to_owned);
        Self {
            now,
            locked: number("mrq_rate_locked").ok().map(|n| n == 1),
            max: number("max_rate").ok().and_then(clock),
            cap: cap_file.as_ref().and_then(|p| tree.number(p).ok()).and_then(clock),
            cap_file,
        }
    }

    /// The writes that lock the memory clock.
    pub fn lock(clock: Hertz) -> [(String, u64); 3] {
        [
            (format!("{LOCK}/mrq_rate_locked"), 1),
            (format!("{LOCK}/state"), 1),
            (format!("{LOCK}/rate"), clock.0),
        ]
    }
}
