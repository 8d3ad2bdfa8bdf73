//! The devices that `--device` can name.

use anyhow::Result;
use clap::ValueEnum;
use pilotlight_device::{Cpu, CpuOptions, Device, Isa, Reference};

/// Which device runs the plan, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceOptions {
    /// Device that runs the model
    #[arg(long, value_enum, default_value_t = DeviceName::Cpu)]
    pub device: DeviceName,
    /// Threads of the CPU device
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub threads: usize,
    /// Instruction set of the CPU device, for comparisons; the fastest that the machine has unless named
    #[arg(long, value_name = "NAME", value_parser = isa)]
    pub isa: Option<Isa>,
}

fn isa(name: &str) -> Result<Isa, String> {
    Isa::from_name(name).map_err(|e| e.to_string())
}

impl DeviceOptions {
    /// Opens the device.
    ///
    /// # Errors
    /// A setting that the device does not allow.
    pub fn open(&self) -> Result<Box<dyn Device>> {
        open(self.device, self.threads, self.isa)
    }
}

/// A device by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceName {
    /// The exact CPU device, with the best instructions that this machine has
    Cpu,
    /// Plain loops that define every result; slow
    Reference,
}

impl DeviceName {
    /// Opens the device with its default settings.
    ///
    /// # Errors
    /// When the machine cannot run it.
    pub fn open(self) -> Result<Box<dyn Device>> {
        open(self, 1, None)
    }
}

fn open(name: DeviceName, threads: usize, isa: Option<Isa>) -> Result<Box<dyn Device>> {
    Ok(match name {
        DeviceName::Cpu => Box::new(Cpu::new(CpuOptions { threads, isa })?),
        DeviceName::Reference => Box::new(Reference),
    })
}
