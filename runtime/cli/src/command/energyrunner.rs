//! `pilotlight energyrunner`: lets MLPerf Tiny's EnergyRunner measure a model over a serial line.

use crate::device::DeviceOptions;
use crate::feed;
use crate::model::{CompileOptions, Model};
use anyhow::{Context, Result};
use pilotlight_device::{Program, RunError, Slot};
use pilotlight_link::energyrunner::{EnergyRunner as Runner, Subject};
use std::io;
use std::path::PathBuf;

/// Answer MLPerf Tiny's EnergyRunner on a serial line, so that an outside meter measures a model
#[derive(Debug, clap::Args)]
pub struct EnergyRunner {
    /// Plan, ONNX file, or model folder
    model: PathBuf,
    /// Serial port
    #[arg(long, value_name = "DEV")]
    serial: PathBuf,
    /// Symbols a second: 115200 for performance, 9600 for energy
    #[arg(long, default_value_t = 115_200, value_name = "N")]
    baud: u32,
    #[command(flatten)]
    device: DeviceOptions,
    #[command(flatten)]
    compile: CompileOptions,
}

struct Loaded<'a> {
    model: &'a Model,
    program: Box<dyn Program>,
    slot: Slot,
}

impl Subject for Loaded<'_> {
    type Error = RunError;

    fn name(&self) -> &str {
        &self.model.plan.name
    }

    fn input_length(&self) -> usize {
        self.slot.input(0).len()
    }

    fn give(&mut self, input: &[u8]) -> Result<(), RunError> {
        self.slot.input_mut(0).copy_from_slice(input);
        Ok(())
    }

    fn infer(&mut self) -> Result<(), RunError> {
        self.program.run(&mut self.slot)
    }

    fn results(&self) -> Vec<f32> {
        let array = feed::output(&self.model.plan, &self.slot, 0);
        (0..array.elements()).map(|i| array.value(i) as f32).collect()
    }
}

impl EnergyRunner {
    pub(super) fn run(self) -> Result<()> {
        let model = Model::open(&self.model, &self.compile)?;
        if model.plan.inputs.len() != 1 {
            let inputs = model.plan.inputs.len();
            anyhow::bail!("{}: {inputs} inputs; EnergyRunner gives one", model.path.display());
        }
        let device = self.device.open()?;
        let program = device.load(&model.plan)?;
        let slot = program.slot()?;
        let mut line = serial2::SerialPort::open(&self.serial, self.baud)
            .with_context(|| self.serial.display().to_string())?;
        eprintln!("{} on {}; waiting for the host", model.plan.name, self.serial.display());
        let served = Runner::new(Loaded { model: &model, program, slot }, "pilotlight").serve(&mut line);
        match served {
            // The host's end was closed.
            Err(error) if error.raw_os_error() == Some(5) || error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(())
            }
            served => served.with_context(|| self.serial.display().to_string()),
        }
    }
}
