//! A model on a virtual board: run on the emulator, with its work as counts for the model of time and energy.

use anyhow::{Context, Result, bail};
use pilotlight_boards::model::Work;
use pilotlight_boards::virtual_tree::VIRTUAL;
use pilotlight_cuda::{Cuda, Mode, VirtualBoard};
use pilotlight_device::{Device, Program};
use pilotlight_plan::Plan;

/// A virtual board as this process's CUDA driver.
pub struct VirtualOrin {
    board: VirtualBoard,
    cuda: Cuda,
    /// Name of the module's facts.
    pub module: &'static str,
    /// Power mode that it is in.
    pub mode: u32,
}

impl VirtualOrin {
    /// Opens the board of a name, as in `virtual:orin-nano-super`. A process has one.
    ///
    /// # Errors
    /// An unknown name, with all that are known; a library that is not there or cannot be loaded.
    pub fn open(name: &str) -> Result<Self> {
        let short = name.strip_prefix("virtual:").unwrap_or(name);
        let Some((_, module, mode)) = VIRTUAL.iter().find(|(known, _, _)| *known == short) else {
            let known: Vec<String> = VIRTUAL.iter().map(|(known, _, _)| format!("virtual:{known}")).collect();
            bail!("'{name}' is no virtual board; known: {}", known.join(", "));
        };
        let board = VirtualBoard::load(&[("BOARD", short)])?;
        let cuda = board.open(Mode::Graph)?;
        Ok(Self { board, cuda, module, mode: *mode })
    }

    /// What runs the model, for people.
    pub fn describe(&self) -> String {
        self.cuda.describe()
    }

    /// A plan on the board.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn load(&self, plan: &Plan) -> Result<Box<dyn Program>> {
        let program = self.cuda.load(plan)?;
        // What loading launched is no inference.
        let _ = self.board.report();
        Ok(program)
    }

    /// What the kernels did that finished since the last call, in their order.
    ///
    /// # Errors
    /// A report that does not say it.
    pub fn work(&self) -> Result<Vec<Work>> {
        self.board.report().lines().map(work).collect()
    }
}

/// The work of a line of the board's report.
fn work(line: &str) -> Result<Work> {
    let report: serde_json::Value = serde_json::from_str(line).context("the virtual board's report")?;
    let count = |key: &str| {
        report["work"][key]
            .as_u64()
            .with_context(|| format!("the virtual board's report has no count '{key}'"))
    };
    Ok(Work {
        mma_macs: count("mma_macs")?,
        instructions: count("instructions")?,
        int: count("int")?,
        convert: count("convert")?,
        shared_passes: count("shared_passes")?,
        l2_bytes: count("l2_bytes")?,
        dram_read: count("dram_read")?,
        dram_written: count("dram_written")?,
        blocks: count("blocks")?,
        warps_per_block: count("warps_per_block")?,
        blocks_per_sm: count("blocks_per_sm")?,
    })
}
