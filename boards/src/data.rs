//! Boards as data: what is known of each module, read from TOML and validated.

use serde::{Deserialize, Serialize};

/// Why a board file is refused.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// It is not TOML, or has unknown, missing or mistyped keys.
    #[error("{file}: {source}")]
    Parse {
        /// The file.
        file: String,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A value contradicts another or its range.
    #[error("{file}: {key} is {found}; {allowed}")]
    Value {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// The value.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// A module and what is known of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoardData {
    /// Version of this format: 1.
    pub schema: u32,
    /// Short name.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// Module numbers as they stand in `compatible` of the device tree.
    pub modules: Vec<String>,
    /// Whether these are the clocks of the super firmware.
    #[serde(rename = "super")]
    pub is_super: bool,
    /// Where the facts come from.
    pub sources: Vec<String>,
    /// What is not verified.
    pub notes: Vec<String>,
    /// The GPU.
    pub gpu: GpuData,
    /// The memory.
    pub memory: MemoryData,
    /// The CPU.
    pub cpu: CpuData,
    /// Rails with a sensor.
    pub rails: Vec<RailData>,
    /// How the module's power follows from the rails.
    pub total: TotalData,
    /// Thermal zones.
    pub thermal: ThermalData,
    /// Power modes: caps of clocks and masks, not budgets of power.
    pub modes: Vec<ModeData>,
}

/// A GPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuData {
    /// CUDA compute capability.
    pub compute_capability: String,
    /// Streaming multiprocessors with no mask set.
    pub sms: u32,
    /// Nominal clocks, MHz, rising. The live table is `available_frequencies`.
    pub clocks_mhz: Vec<f64>,
    /// Level 2 cache, KiB.
    pub l2_kib: u32,
    /// INT8 operations of an SM in a clock, dense.
    pub int8_ops_per_sm_per_clock: u32,
    /// Shared memory of an SM, bytes.
    pub shared_bytes_per_sm: u32,
    /// 32-bit registers of an SM.
    pub registers_per_sm: u32,
    /// Threads of an SM.
    pub threads_per_sm: u32,
}

/// Memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryData {
    /// Width, bits.
    pub bus_bits: u32,
    /// Clocks that lock, MHz, rising; a request rounds up to the next.
    pub emc_mhz: Vec<f64>,
    /// Peak bandwidth at the highest clock, GB/s.
    pub peak_gb_s: f64,
    /// Share of the peak that streaming reaches.
    pub streaming_share: f64,
    /// Bytes that a GPU clock moves at most.
    pub bytes_per_gpu_clock: f64,
}

/// A CPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuData {
    /// Cores.
    pub cores: u32,
    /// Highest clock, MHz.
    pub max_mhz: f64,
    /// Lowest clock of every mode, MHz.
    pub min_mhz: f64,
}

/// A rail with a sensor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RailData {
    /// I2C device of the INA3221.
    pub device: String,
    /// Channel, 1 to 3.
    pub channel: u32,
    /// Label; rails are found by it, never by number.
    pub label: String,
    /// What it feeds.
    pub covers: String,
    /// Shunt, micro-ohm.
    pub shunt_uohm: u32,
}

/// How the module's power follows from the rails.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TotalData {
    /// One rail measures the whole module.
    pub measured: bool,
    /// Rails of the sum.
    pub rails: Vec<String>,
    /// Rails of which it is unknown whether the sum holds them already.
    pub uncertain_rails: Vec<String>,
}

/// Thermal zones and trip points.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThermalData {
    /// Zone types.
    pub zones: Vec<String>,
    /// Passive cooling starts, Celsius.
    pub passive_c: f64,
    /// Hot, Celsius.
    pub hot_c: f64,
    /// Shut-down, Celsius.
    pub critical_c: f64,
}

/// A power mode.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModeData {
    /// Its number; numbers differ between boards and may have gaps.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Cores online.
    pub cores: u32,
    /// Cap of the CPU clock, MHz; none: the board's highest.
    pub cpu_mhz: Option<f64>,
    /// Cap of the GPU clock, MHz.
    pub gpu_mhz: Option<f64>,
    /// Cap of the memory clock, MHz.
    pub emc_mhz: Option<f64>,
    /// Mask of switched-off TPCs; another mask needs a reboot.
    pub tpc_pg_mask: u32,
    /// SMs that remain.
    pub sms: u32,
    /// Whether the board starts in it.
    #[serde(default)]
    pub default: bool,
}

const FILES: [(&str, &str); 10] = [
    ("agx-orin-64gb", include_str!("../data/modules/agx-orin-64gb.toml")),
    ("agx-orin-32gb", include_str!("../data/modules/agx-orin-32gb.toml")),
    ("orin-nx-16gb", include_str!("../data/modules/orin-nx-16gb.toml")),
    ("orin-nx-16gb-super", include_str!("../data/modules/orin-nx-16gb-super.toml")),
    ("orin-nx-8gb", include_str!("../data/modules/orin-nx-8gb.toml")),
    ("orin-nx-8gb-super", include_str!("../data/modules/orin-nx-8gb-super.toml")),
    ("orin-nano-8gb", include_str!("../data/modules/orin-nano-8gb.toml")),
    ("orin-nano-8gb-super", include_str!("../data/modules/orin-nano-8gb-super.toml")),
    ("orin-nano-4gb", include_str!("../data/modules/orin-nano-4gb.toml")),
    ("orin-nano-4gb-super", include_str!("../data/modules/orin-nano-4gb-super.toml")),
];

/// Names of the boards that are known.
pub fn all() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

/// A known board; `None` for an unknown name.
pub fn named(name: &str) -> Option<BoardData> {
    let (file, text) = FILES.iter().find(|(n, _)| *n == name)?;
    // A test parses every committed file, so this is `None` only for unknown names.
    BoardData::parse(file, text).ok()
}

impl BoardData {
    /// Parses and validates a board file; `file` names it in errors.
    ///
    /// # Errors
    /// [`DataError`] names the key, what was found and what is allowed.
    pub fn parse(file: &str, text: &str) -> Result<Self, DataError> {
        let data: Self = toml::from_str(text)
            .map_err(|source| DataError::Parse { file: file.to_owned(), source: Box::new(source) })?;
        data.check(file)?;
        Ok(data)
    }

    /// The data of the module that a device tree's `compatible` names; `None` for an unknown board.
    pub fn of_compatible<'a>(compatible: impl Iterator<Item = &'a str> + Clone) -> Option<Self> {
        let is_super = compatible.clone().any(|c| c.ends_with("-super"));
        let candidates: Vec<Self> = all()
            .filter_map(named)
            .filter(|d| compatible.clone().any(|c| d.modules.iter().any(|m| c.contains(m.as_str()))))
            .collect();
        candidates.iter().find(|d| d.is_super == is_super).or(candidates.first()).cloned()
    }

    /// INT8 operations in a second at the highest GPU clock, dense, GPU alone.
    pub fn int8_ops_per_second(&self) -> f64 {
        let top = self.gpu.clocks_mhz.last().copied().unwrap_or(0.0);
        f64::from(self.gpu.sms) * f64::from(self.gpu.int8_ops_per_sm_per_clock) * top * 1e6
    }

    fn check(&self, file: &str) -> Result<(), DataError> {
        let wrong = |key: String, found: String, allowed| {
            Err(DataError::Value { file: file.to_owned(), key, found, allowed })
        };
        if self.schema != 1 {
            return wrong("schema".into(), self.schema.to_string(), "this build reads schema 1");
        }
        if self.modules.is_empty() || self.sources.is_empty() {
            let key = if self.modules.is_empty() { "modules" } else { "sources" };
            return wrong(key.into(), "empty".into(), "name at least one");
        }
        for (key, list, most) in
            [("gpu.clocks_mhz", &self.gpu.clocks_mhz, 16), ("memory.emc_mhz", &self.memory.emc_mhz, 4)]
        {
            let rising = list.windows(2).all(|w| w[0] < w[1]);
            let positive = list.iter().all(|v| v.is_finite() && *v > 0.0 && *v < 20_000.0);
            if list.is_empty() || list.len() > most || !rising || !positive {
                return wrong(
                    key.into(),
                    format!("{list:?}"),
                    "list 1 to 16 (memory: 4) rising clocks in MHz",
                );
            }
        }
        if !(1..=64).contains(&self.gpu.sms) {
            return wrong("gpu.sms".into(), self.gpu.sms.to_string(), "from 1 to 64");
        }
        let share = self.memory.streaming_share;
        if !(share > 0.0 && share <= 1.0) {
            return wrong("memory.streaming_share".into(), share.to_string(), "above 0, at most 1");
        }
        self.check_rails(file)?;
        self.check_modes(file)
    }

    fn check_rails(&self, file: &str) -> Result<(), DataError> {
        let wrong = |key: String, found: String, allowed| {
            Err(DataError::Value { file: file.to_owned(), key, found, allowed })
        };
        for (i, rail) in self.rails.iter().enumerate() {
            let same = |other: &RailData| {
                other.label == rail.label || (other.device == rail.device && other.channel == rail.channel)
            };
            if self.rails[..i].iter().any(same) {
                return wrong(
                    format!("rails[{i}]"),
                    rail.label.clone(),
                    "every label and every channel once",
                );
            }
            if !(1..=3).contains(&rail.channel) || rail.shunt_uohm == 0 {
                return wrong(
                    format!("rails[{i}]"),
                    format!("channel {}, shunt {}", rail.channel, rail.shunt_uohm),
                    "channels are 1 to 3, shunts above 0",
                );
            }
        }
        if self.total.measured && self.total.rails.len() != 1 {
            return wrong(
                "total.rails".into(),
                format!("{:?}", self.total.rails),
                "a measured total is one rail: parts of it are never added",
            );
        }
        for label in self.total.rails.iter().chain(&self.total.uncertain_rails) {
            if !self.rails.iter().any(|r| r.label == *label) {
                return wrong("total".into(), label.clone(), "name rails that are listed");
            }
        }
        Ok(())
    }

    fn check_modes(&self, file: &str) -> Result<(), DataError> {
        let wrong = |key: String, found: String, allowed| {
            Err(DataError::Value { file: file.to_owned(), key, found, allowed })
        };
        let defaults = self.modes.iter().filter(|m| m.default).count();
        if defaults != 1 {
            return wrong("modes".into(), format!("{defaults} defaults"), "exactly one mode is the default");
        }
        for (i, mode) in self.modes.iter().enumerate() {
            if self.modes[..i].iter().any(|m| m.id == mode.id || m.name == mode.name) {
                return wrong(format!("modes[{i}].id"), mode.id.to_string(), "every id and name once");
            }
            if mode.cores > self.cpu.cores || mode.sms > self.gpu.sms {
                return wrong(
                    format!("modes[{i}]"),
                    format!("{} cores, {} SMs", mode.cores, mode.sms),
                    "no more cores and SMs than the board has",
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_committed_file_is_valid_and_named_after_itself() {
        for (name, text) in FILES {
            let data = BoardData::parse(name, text).unwrap();
            assert_eq!(data.name, name);
            assert_eq!(data.is_super, name.ends_with("-super"));
            assert!(data.int8_ops_per_second() > 9e12, "{name}");
        }
        assert!(named("orin-nano-16gb").is_none());
    }

    #[test]
    fn every_module_is_found_by_its_compatible() {
        for (compatible, name) in [
            ("nvidia,p3737-0000+p3701-0000", "agx-orin-64gb"),
            ("nvidia,p3737-0000+p3701-0004", "agx-orin-32gb"),
            ("nvidia,p3768-0000+p3767-0000", "orin-nx-16gb"),
            ("nvidia,p3768-0000+p3767-0000-super", "orin-nx-16gb-super"),
            ("nvidia,p3768-0000+p3767-0001", "orin-nx-8gb"),
            ("nvidia,p3768-0000+p3767-0003", "orin-nano-8gb"),
            ("nvidia,p3768-0000+p3767-0005-super", "orin-nano-8gb-super"),
            ("nvidia,p3768-0000+p3767-0004", "orin-nano-4gb"),
        ] {
            let list = [compatible, "nvidia,tegra234"];
            assert_eq!(BoardData::of_compatible(list.into_iter()).unwrap().name, name);
        }
        // An unknown carrier of a known chip is not guessed.
        assert!(BoardData::of_compatible(["nvidia,p9999", "nvidia,tegra234"].into_iter()).is_none());
    }

    #[test]
    fn contradictions_are_named() {
        let good = FILES[7].1;
        for (from, to, key) in [
            ("schema = 1", "schema = 2", "schema"),
            ("306.0, 408.0", "408.0, 306.0", "gpu.clocks_mhz"),
            ("label = \"VDD_SOC\"", "label = \"VDD_IN\"", "rails[2]"),
            ("rails = [\"VDD_IN\"]", "rails = [\"VDD_IN\", \"VDD_SOC\"]", "total.rails"),
            ("uncertain_rails = []", "uncertain_rails = [\"VDD_X\"]", "total"),
            ("default = true", "default = false", "modes"),
            ("sms = 8\nclocks", "sms = 6\nclocks", "modes[0]"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from} is not in the file");
            let error = BoardData::parse("bad.toml", &bad).unwrap_err();
            assert!(matches!(&error, DataError::Value { key: k, .. } if k == key), "{from}: {error}");
        }
        let unknown = good.replacen("bus_bits", "bus_bit", 1);
        assert!(matches!(BoardData::parse("bad.toml", &unknown), Err(DataError::Parse { .. })));
    }
}
