//! What a virtual board executed, and the time and energy that its model gives for it.

use anyhow::{Context, Result};
use pilotlight_boards::model::Work;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is shown of the time of a virtual board's inference when no launch has ended: a resident kernel's goes on.
pub const NO_TIME: &str = "time: neither measured nor modelled (the resident kernel goes on, and how long the \
    emulator takes says nothing of a board)";

/// Name of the persistent kernel.
const RESIDENT: &str = "persistent";

/// One finished launch of a virtual board's report.
#[derive(Clone, Debug, Deserialize)]
pub struct Launch {
    /// Name of the kernel.
    pub kernel: String,
    /// What the model gives.
    pub modelled: Estimate,
    /// What the model was given; counted, not modelled.
    pub work: Work,
    /// Warp instructions by class.
    pub issued: BTreeMap<String, u64>,
    /// Other counts.
    pub counters: Counters,
    /// First address of an allocation, and the bytes of it that were read from DRAM.
    pub dram_read_by: Vec<(u64, u64)>,
}

/// Modelled time and energy of a launch.
#[derive(Clone, Debug, Deserialize)]
pub struct Estimate {
    /// Nanoseconds.
    pub ns: f64,
    /// Joules.
    pub joules: f64,
    /// What limits it.
    pub bound: String,
    /// Whether the model agrees with measurements; if not, its figures can only be compared with each other.
    pub validated: bool,
}

/// Counts of a launch.
#[derive(Clone, Debug, Deserialize)]
pub struct Counters {
    /// Bytes that lanes loaded from global memory.
    pub load_bytes: u64,
    /// Bytes that lanes stored to global memory.
    pub store_bytes: u64,
    /// Bytes moved to and from shared memory.
    pub shared_bytes: u64,
    /// Warp requests to global memory.
    pub requests: u64,
    /// 32-byte sectors that they touched.
    pub sectors: u64,
    /// Passes over the banks that requests to shared memory needed.
    pub shared_passes: u64,
    /// Passes that their bytes alone would need.
    pub shared_least: u64,
    /// Of `shared_passes`, those of loops that multiply matrices.
    pub loop_passes: u64,
    /// Of `shared_least`, those of loops that multiply matrices.
    pub loop_least: u64,
}

impl Launch {
    /// The launches of a report: a JSON object a line.
    ///
    /// # Errors
    /// A line of another form: the library beside the program is of another version.
    pub fn list(report: &str) -> Result<Vec<Self>> {
        let parse = |line: &str| {
            serde_json::from_str(line)
                .context("the virtual board's report is of another version; build both anew")
        };
        report.lines().map(parse).collect()
    }

    /// Warp instructions issued.
    pub fn instructions(&self) -> u64 {
        self.issued.values().sum()
    }
}

/// The figures of some launches, added up.
#[derive(Clone, Debug, Serialize)]
pub struct Modelled {
    /// Says that nothing here was measured.
    pub status: &'static str,
    /// Whether the model agrees with measurements; if not, its figures can only be compared with each other.
    pub validated: bool,
    /// Launches that are added up here.
    pub launches: usize,
    /// Modelled microseconds.
    pub us: f64,
    /// Modelled millijoules.
    pub mj: f64,
    /// Warp instructions issued.
    pub instructions: u64,
    /// Multiply-accumulates of the mma instructions issued.
    pub mma_macs: u64,
    /// Bytes read from DRAM.
    pub dram_read_bytes: u64,
    /// Bytes written to DRAM.
    pub dram_written_bytes: u64,
}

impl Modelled {
    /// The sum of launches; `None` where there are none, or where a resident kernel is among them: it has left in
    /// between, and what it did was not these inferences alone.
    pub fn of(launches: &[Launch]) -> Option<Self> {
        let sum = |f: fn(&Launch) -> u64| launches.iter().map(f).sum();
        let whole = launches.iter().all(|l| l.kernel != RESIDENT);
        (!launches.is_empty() && whole).then(|| Self {
            status: "modelled",
            validated: launches.iter().all(|l| l.modelled.validated),
            launches: launches.len(),
            us: launches.iter().map(|l| l.modelled.ns / 1e3).sum(),
            mj: launches.iter().map(|l| l.modelled.joules * 1e3).sum(),
            instructions: sum(Launch::instructions),
            mma_macs: sum(|l| l.work.mma_macs),
            dram_read_bytes: sum(|l| l.work.dram_read),
            dram_written_bytes: sum(|l| l.work.dram_written),
        })
    }

    /// The figures of one of `inferences` equal ones.
    pub fn mean(self, inferences: u32) -> Self {
        let n = u64::from(inferences.max(1));
        Self {
            launches: self.launches / n as usize,
            us: self.us / n as f64,
            mj: self.mj / n as f64,
            instructions: self.instructions / n,
            mma_macs: self.mma_macs / n,
            dram_read_bytes: self.dram_read_bytes / n,
            dram_written_bytes: self.dram_written_bytes / n,
            ..self
        }
    }

    /// For people: what was executed for one inference, and what the model makes of it.
    pub fn lines(&self) -> String {
        let mega = |n: u64| n as f64 / 1e6;
        let not_validated = if self.validated {
            ""
        } else {
            "\n  the model does not agree with every measurement that it was tried on: compare such figures with \
             each other only"
        };
        format!(
            "modelled by the virtual Orin, not measured: {:.3} ms and {:.3} mJ an inference{not_validated}\n\
             counted: {} launches, {:.2} M warp instructions, {:.1} M MAC by mma, DRAM {:.2} MB read, {:.2} MB written",
            self.us / 1e3,
            self.mj,
            self.launches,
            mega(self.instructions),
            mega(self.mma_macs),
            mega(self.dram_read_bytes),
            mega(self.dram_written_bytes)
        )
    }
}
