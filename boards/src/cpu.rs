//! CPU clocks over cpufreq.

use pilotlight_units::Hertz;
use serde::Serialize;

use crate::tree::{SysError, Tree};

/// One frequency domain of the CPU.
#[derive(Clone, Debug, Serialize)]
pub struct Policy {
    /// Its folder.
    pub path: String,
    /// Its cores.
    pub cores: Vec<u64>,
    /// Lowest clock allowed.
    pub min: Hertz,
    /// Highest clock allowed.
    pub max: Hertz,
    /// The driver's cached clock, no measurement.
    pub now: Option<Hertz>,
    /// Governor.
    pub governor: String,
}

/// Every domain that can be read; a domain that cannot is left out and named in `notes`.
pub fn policies(tree: &Tree, notes: &mut Vec<String>) -> Vec<Policy> {
    let folder = "/sys/devices/system/cpu/cpufreq";
    let mut found = Vec::new();
    for name in tree.list(folder).into_iter().filter(|n| n.starts_with("policy")) {
        match policy(tree, format!("{folder}/{name}")) {
            Ok(policy) => found.push(policy),
            Err(error) => notes.push(format!("CPU {name}: {error}")),
        }
    }
    found
}

fn policy(tree: &Tree, path: String) -> Result<Policy, SysError> {
    let clock = |name: &str| {
        let khz = tree.number(&format!("{path}/{name}"))?;
        u64::try_from(khz).map(Hertz::from_khz).map_err(|_| SysError::Value {
            path: tree.path(&format!("{path}/{name}")),
            found: khz.to_string(),
            expected: "a clock in kHz",
        })
    };
    Ok(Policy {
        cores: tree.numbers(&format!("{path}/related_cpus"))?,
        min: clock("scaling_min_freq")?,
        max: clock("scaling_max_freq")?,
        now: clock("scaling_cur_freq").ok(),
        governor: tree.read(&format!("{path}/scaling_governor"))?,
        path,
    })
}
