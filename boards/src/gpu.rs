//! The GPU's clock over devfreq, under the names of JetPack 5, 6 and 7.

use pilotlight_units::Hertz;
use serde::Serialize;

use crate::tree::{SysError, Tree};

/// Names of the GPU's node in the device tree.
const NODES: [&str; 5] = ["gv11b", "gp10b", "ga10b", "gb10b", "gpu"];
/// Folders where the devfreq device stands when the class does not tell.
const FALLBACKS: [&str; 3] = [
    "/sys/devices/17000000.ga10b/devfreq/17000000.ga10b",
    "/sys/devices/platform/bus@0/17000000.gpu/devfreq/17000000.gpu",
    "/sys/devices/platform/17000000.gpu/devfreq_dev",
];
/// Folders of the device itself: load, masks, rail gate.
const DEVICES: [&str; 4] = [
    "/sys/devices/platform/bus@0/17000000.gpu",
    "/sys/devices/platform/17000000.gpu",
    "/sys/devices/17000000.ga10b",
    "/sys/devices/gpu.0",
];

/// Where the GPU's attributes are.
#[derive(Clone, Debug, Serialize)]
pub struct Gpu {
    /// The devfreq folder.
    pub devfreq: String,
    /// The device's folder, where it was found.
    pub device: Option<String>,
    /// Clocks it can take, rising.
    pub clocks: Vec<Hertz>,
}

/// What the GPU is set to.
#[derive(Clone, Debug, Serialize)]
pub struct GpuState {
    /// Lowest clock allowed.
    pub min: Hertz,
    /// Highest clock allowed.
    pub max: Hertz,
    /// Clock now.
    pub now: Hertz,
    /// Governor.
    pub governor: String,
    /// Load per mille, where it is shown.
    pub load_permille: Option<u32>,
    /// Mask of switched-off TPCs, where it is shown.
    pub tpc_pg_mask: Option<u64>,
}

impl Gpu {
    /// Finds the GPU.
    ///
    /// # Errors
    /// [`SysError`] when there is no devfreq device of a GPU or its table cannot be read.
    pub fn find(tree: &Tree) -> Result<Self, SysError> {
        let class = "/sys/class/devfreq";
        let by_node = tree.list(class).into_iter().find(|name| {
            let node = tree.read(&format!("{class}/{name}/device/of_node/name"));
            node.is_ok_and(|n| NODES.contains(&n.as_str()))
        });
        let devfreq = by_node
            .map(|name| format!("{class}/{name}"))
            .or_else(|| FALLBACKS.iter().find(|p| tree.has(p)).map(|p| (*p).to_owned()))
            .ok_or_else(|| SysError::Missing { path: tree.path(class) })?;
        let mut clocks: Vec<Hertz> =
            tree.numbers(&format!("{devfreq}/available_frequencies"))?.into_iter().map(Hertz).collect();
        clocks.sort_unstable();
        clocks.dedup();
        if clocks.is_empty() {
            let path = tree.path(&format!("{devfreq}/available_frequencies"));
            return Err(SysError::Value { path, found: String::new(), expected: "at least one clock in Hz" });
        }
        let inside = format!("{devfreq}/device");
        let device = std::iter::once(inside.as_str())
            .chain(DEVICES)
            .find(|d| tree.has(&format!("{d}/load")) || tree.has(&format!("{d}/tpc_pg_mask")))
            .map(str::to_owned);
        Ok(Self { devfreq, device, clocks })
    }

    /// The clock now, and nothing else.
    ///
    /// # Errors
    /// [`SysError`] when it cannot be read.
    pub fn now(&self, tree: &Tree) -> Result<Hertz, SysError> {
        self.clock(tree, "cur_freq")
    }

    fn clock(&self, tree: &Tree, name: &str) -> Result<Hertz, SysError> {
        let path = format!("{}/{name}", self.devfreq);
        let hz = tree.number(&path)?;
        u64::try_from(hz).map(Hertz).map_err(|_| SysError::Value {
            path: tree.path(&path),
            found: hz.to_string(),
            expected: "a clock in Hz",
        })
    }

    /// Reads what it is set to.
    ///
    /// # Errors
    /// [`SysError`] when a clock or the governor cannot be read.
    pub fn state(&self, tree: &Tree) -> Result<GpuState, SysError> {
        let device = |name: &str| self.device.as_ref().and_then(|d| tree.read(&format!("{d}/{name}")).ok());
        Ok(GpuState {
            min: self.clock(tree, "min_freq")?,
            max: self.clock(tree, "max_freq")?,
            now: self.now(tree)?,
            governor: tree.read(&format!("{}/governor", self.devfreq))?,
            load_permille: device("load").and_then(|t| t.parse().ok()),
            tpc_pg_mask: device("tpc_pg_mask").and_then(|t| parse_mask(&t)),
        })
    }

    /// The writes that pin the clock, in an order that keeps the lowest at most the highest.
    pub fn pin(&self, clock: Hertz) -> [(String, u64); 3] {
        let floor = self.clocks.first().map_or(0, |c| c.0);
        [
            (format!("{}/min_freq", self.devfreq), floor),
            (format!("{}/max_freq", self.devfreq), clock.0),
            (format!("{}/min_freq", self.devfreq), clock.0),
        ]
    }
}

/// Masks are shown in decimal or with 0x.
fn parse_mask(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
