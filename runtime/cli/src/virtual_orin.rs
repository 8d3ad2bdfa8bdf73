//! A model on a virtual board: run on the emulator, with its work as counts for the model of time and energy.

use crate::device::{Board, DeviceName, Opened};
use anyhow::{Result, bail};
use pilotlight_boards::model::Work;
use pilotlight_boards::virtual_tree::VIRTUAL;
use pilotlight_device::Program;
use pilotlight_plan::Plan;

/// A virtual board as this process's CUDA driver.
pub struct VirtualOrin {
    device: Opened,
    /// Name of the module's facts.
    pub module: &'static str,
    /// Power mode that it is in.
    pub mode: u32,
}

impl VirtualOrin {
    /// Opens the board of a name with its CUDA device in graph mode. A process has one.
    ///
    /// # Errors
    /// An unknown name, with all that are known; a library that is not there or cannot be loaded.
    pub fn open(name: &str) -> Result<Self> {
        let Some((_, module, mode)) = VIRTUAL.iter().find(|(known, _, _)| *known == name) else {
            let known: Vec<String> = VIRTUAL.iter().map(|(known, _, _)| format!("virtual:{known}")).collect();
            bail!("virtual:{name} has no clocks and rails; those that have: {}", known.join(", "));
        };
        let device = DeviceName::CudaGraph.open(&Board::Virtual(name.to_owned()))?;
        Ok(Self { device, module, mode: *mode })
    }

    /// What runs the model, for people.
    pub fn describe(&self) -> String {
        self.device.describe()
    }

    /// A plan on the board.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn load(&self, plan: &Plan) -> Result<Box<dyn Program>> {
        let program = self.device.load(plan)?;
        // What loading launched is no inference.
        self.device.launches()?;
        Ok(program)
    }

    /// What the kernels did that finished since the last call, in their order.
    ///
    /// # Errors
    /// A report that does not say it.
    pub fn work(&self) -> Result<Vec<Work>> {
        Ok(self.device.launches()?.into_iter().map(|launch| launch.work).collect())
    }
}
