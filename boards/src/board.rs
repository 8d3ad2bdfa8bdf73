//! What a tree shows of its board, and what it does not.

use std::fmt;

use pilotlight_units::{Hertz, MilliCelsius, Milliwatts};
use serde::Serialize;

use crate::cpu::{self, Policy};
use crate::data::BoardData;
use crate::emc::Emc;
use crate::gpu::{Gpu, GpuState};
use crate::nvpmodel::{self, Conf};
use crate::rails::{self, Rail, Total};
use crate::thermal::{self, OverCurrent, Zone};
use crate::tree::Tree;

/// Who the board says it is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Identity {
    /// Model for people.
    pub model: Option<String>,
    /// `compatible` of the device tree.
    pub compatible: Vec<String>,
    /// L4T release and the JetPack it belongs to.
    pub release: Option<Release>,
}

/// An L4T release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Release {
    /// As 36.5.0.
    pub l4t: String,
    /// JetPack, as 6.2.2; by its first number where the exact one is not known.
    pub jetpack: String,
}

impl Identity {
    /// Reads it.
    pub fn read(tree: &Tree) -> Self {
        let compatible = tree.read("/proc/device-tree/compatible").unwrap_or_default();
        Self {
            model: tree.read("/proc/device-tree/model").ok(),
            compatible: compatible.split('\0').filter(|c| !c.is_empty()).map(str::to_owned).collect(),
            release: tree.read("/etc/nv_tegra_release").ok().and_then(|t| Release::parse(&t)),
        }
    }
}

impl Release {
    /// From the first line of `/etc/nv_tegra_release`: `# R36 (release), REVISION: 5.0, ...`.
    pub fn parse(text: &str) -> Option<Self> {
        let major: u32 = text.split('R').nth(1)?.split_whitespace().next()?.parse().ok()?;
        let revision = text.split("REVISION:").nth(1)?.split(',').next()?.trim();
        let minor: u32 = revision.split('.').next()?.parse().ok()?;
        let l4t = format!("{major}.{revision}");
        let jetpack = match (major, minor, revision) {
            (35, _, _) => "5.1",
            (36, 3, _) => "6.0",
            (36, 4, "4.3" | "4.4") => "6.2",
            (36, 5, _) => "6.2.2",
            (36, _, _) => "6",
            (38, _, _) => "7.0",
            (39, 2, _) => "7.2",
            (38.., _, _) => "7",
            _ => return None,
        };
        Some(Self { l4t, jetpack: jetpack.to_owned() })
    }
}

/// A board as found.
#[derive(Clone, Debug, Serialize)]
pub struct Board {
    /// Who it says it is.
    pub identity: Identity,
    /// What is known of the module; `None` for an unknown board.
    pub data: Option<BoardData>,
    /// The GPU's clock.
    pub gpu: Option<Gpu>,
    /// What the GPU is set to.
    pub gpu_state: Option<GpuState>,
    /// CPU clocks.
    pub cpu: Vec<Policy>,
    /// The memory clock.
    pub emc: Emc,
    /// Rails with a sensor.
    pub rails: Vec<Rail>,
    /// Readings of the rails, milliwatts.
    pub readings: Vec<(String, Milliwatts)>,
    /// The module's power, where its rails allow.
    pub total: Option<Total>,
    /// Temperatures.
    pub zones: Vec<Zone>,
    /// Over-current events since boot.
    pub over_current: Option<OverCurrent>,
    /// Power modes of the board's own file.
    pub modes: Option<Conf>,
    /// The mode it is in.
    pub mode: Option<u32>,
    /// Both GPU limits are equal: `jetson_clocks` or another program owns the clocks.
    pub clocks_pinned: bool,
    /// What is missing, odd or not allowed.
    pub notes: Vec<String>,
}

impl Board {
    /// Looks at a tree. Never fails: what cannot be read is named in `notes`.
    pub fn discover(tree: &Tree) -> Self {
        let mut notes = Vec::new();
        let identity = Identity::read(tree);
        let data = BoardData::of_compatible(identity.compatible.iter().map(String::as_str));
        if data.is_none() {
            notes.push(match identity.compatible.first() {
                Some(c) => {
                    format!("unknown board '{c}': its clocks and rails are used as found, nothing is assumed")
                }
                None => "no device tree: not a Jetson".to_owned(),
            });
        }
        let gpu = Gpu::find(tree).map_err(|e| notes.push(format!("GPU clock: {e}"))).ok();
        let gpu_state =
            gpu.as_ref().and_then(|g| g.state(tree).map_err(|e| notes.push(format!("GPU clock: {e}"))).ok());
        let cpu = cpu::policies(tree, &mut notes);
        let emc = Emc::read(tree, &mut notes);
        let rails = rails::find(tree, data.as_ref(), &mut notes);
        let mut readings = Vec::new();
        for rail in rails.iter().filter(|r| r.channel > 0) {
            match rail.power(tree) {
                Ok(power) => readings.push((rail.label.clone(), power)),
                Err(error) => notes.push(format!("rail {}: {error}", rail.label)),
            }
        }
        let total = data.as_ref().and_then(|d| rails::total(tree, d, &readings));
        let modes = read_modes(tree, &mut notes);
        let mut board = Self {
            clocks_pinned: false,
            zones: thermal::zones(tree),
            over_current: OverCurrent::read(tree),
            mode: nvpmodel::current(tree),
            identity,
            data,
            gpu,
            gpu_state,
            cpu,
            emc,
            rails,
            readings,
            total,
            modes,
            notes,
        };
        board.audit();
        board
    }

    /// What does not fit together.
    fn audit(&mut self) {
        if let (Some(gpu), Some(state)) = (&self.gpu, &self.gpu_state) {
            self.clocks_pinned = gpu.clocks.len() > 1 && state.min == state.max;
            if self.clocks_pinned {
                self.notes.push(
                    "GPU limits are equal: jetson_clocks or another program owns the clocks; the governor will not start"
                        .into(),
                );
            }
            if let Some(data) = &self.data
                && data.is_super
                && let (Some(nominal), Some(top)) = (data.gpu.clocks_mhz.last(), gpu.clocks.last())
                && top.as_f64() < nominal * 1e6 * 0.95
            {
                self.notes.push(format!(
                    "super firmware, but the clock table ends at {top}, not {nominal} MHz: the boot firmware is old"
                ));
            }
        }
        if let (Some(modes), Some(id)) = (&self.modes, self.mode)
            && !modes.modes.contains_key(&id)
        {
            self.notes.push(format!("power mode {id} is not in the mode file"));
        }
    }

    /// Clocks that a governor may use: the GPU's table within the caps now set, and the memory clocks that lock.
    pub fn governable(&self) -> Option<(Vec<Hertz>, Vec<Hertz>)> {
        let gpu = self.gpu.as_ref()?;
        let cap = self.gpu_state.as_ref().map_or(Hertz(u64::MAX), |s| s.max);
        let clocks: Vec<Hertz> = gpu.clocks.iter().copied().filter(|c| *c <= cap).collect();
        let emc_cap = self.emc.cap.filter(|c| c.0 > 0).unwrap_or(Hertz(u64::MAX));
        let emc: Vec<Hertz> = self
            .data
            .iter()
            .flat_map(|d| &d.memory.emc_mhz)
            .map(|mhz| Hertz((mhz * 1e6) as u64))
            .filter(|c| *c <= emc_cap)
            .collect();
        (!clocks.is_empty()).then_some((clocks, emc))
    }
}

fn read_modes(tree: &Tree, notes: &mut Vec<String>) -> Option<Conf> {
    let text = tree.read("/etc/nvpmodel.conf").ok()?;
    match Conf::parse(&text) {
        Ok(conf) => Some(conf),
        Err(error) => {
            notes.push(format!("/etc/nvpmodel.conf: {error}"));
            None
        }
    }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = self.data.as_ref().map(|d| d.title.as_str());
        let model = self.identity.model.as_deref();
        writeln!(f, "board    {}", title.or(model).unwrap_or("unknown"))?;
        if let Some(release) = &self.identity.release {
            writeln!(f, "release  L4T {} (JetPack {})", release.l4t, release.jetpack)?;
        }
        if let Some(data) = &self.data {
            writeln!(
                f,
                "GPU      {} SMs, {:.0} TOPS INT8 dense at {} MHz; memory {} bit, {} GB/s",
                data.gpu.sms,
                data.int8_ops_per_second() / 1e12,
                data.gpu.clocks_mhz.last().copied().unwrap_or(0.0),
                data.memory.bus_bits,
                data.memory.peak_gb_s
            )?;
        }
        if let Some(state) = &self.gpu_state {
            writeln!(
                f,
                "         {} now, {} to {}, governor {}",
                state.now, state.min, state.max, state.governor
            )?;
        }
        for policy in &self.cpu {
            let now = policy.now.map_or("?".into(), |n| n.to_string());
            writeln!(
                f,
                "CPU      cores {:?}: {now}, {} to {}, governor {}",
                policy.cores, policy.min, policy.max, policy.governor
            )?;
        }
        if let Some(now) = self.emc.now {
            let locked = if self.emc.locked == Some(true) { "locked" } else { "not locked" };
            writeln!(f, "memory   {now}, {locked}")?;
        }
        for (label, power) in &self.readings {
            let covers = self.rails.iter().find(|r| r.label == *label).and_then(|r| r.covers.as_deref());
            writeln!(f, "rail     {label:16} {power:>10}   {}", covers.unwrap_or(""))?;
        }
        if let Some(total) = &self.total {
            write!(f, "module   {}", total.power)?;
            if total.upper > total.power {
                write!(f, " to {}", total.upper)?;
            }
            // Several rails are parts of the module.
            let missing = if total.rails.len() > 1 { "; carrier excluded" } else { "" };
            writeln!(f, " {} ({}{missing})", total.basis, total.rails.join(" + "))?;
        }
        if let Some(hottest) = thermal::hottest(&self.zones) {
            let hottest: MilliCelsius = hottest;
            writeln!(f, "heat     {hottest} at most, {} zones", self.zones.len())?;
        }
        if let Some(modes) = &self.modes {
            for (id, mode) in &modes.modes {
                let here = if self.mode == Some(*id) { "now" } else { "" };
                let live = match self.mode.and_then(|now| modes.switches_live(now, *id)) {
                    Some(true) => "switches live",
                    Some(false) => "needs a reboot: another SM mask",
                    None => "",
                };
                writeln!(f, "mode     {id} {:12} {here:4}{live}", mode.name)?;
            }
        }
        for note in &self.notes {
            writeln!(f, "note     {note}")?;
        }
        Ok(())
    }
}
