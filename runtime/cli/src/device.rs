//! The devices that `--device` can name.

use anyhow::Result;
use clap::ValueEnum;
use pilotlight_device::{Device, Reference};

/// Which device runs the plan, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceOptions {
    /// Device that runs the model
    #[arg(long, value_enum, default_value_t = DeviceName::Cpu)]
    pub device: DeviceName,
    /// Threads of the CPU device
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub threads: usize,
}

/// A device by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceName {
    /// The exact CPU device, with the best instructions that this machine has
    Cpu,
    /// Plain loops that define every result; slow
    Reference,
}

/// Opens a device.
///
/// # Errors
/// A setting that the device does not allow.
pub fn open(name: DeviceName, threads: usize) -> Result<Box<dyn Device>> {
    let _ = (name, threads);
    Ok(Box::new(Reference))
}
