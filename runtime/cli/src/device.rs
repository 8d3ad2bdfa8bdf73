//! The devices that `--device` can name, and the boards that `--board` can.

use crate::modelled::Launch;
use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use pilotlight_boards::virtual_tree::virtual_names;
use pilotlight_cuda::{Cuda, Mode, VirtualBoard, VirtualError};
use pilotlight_device::{Cpu, CpuOptions, Device, Isa, Reference};
use std::ops::Deref;
use std::str::FromStr;

/// Which device runs the plan, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceOptions {
    /// Device that runs the model
    #[arg(long, value_enum, default_value_t = DeviceName::Cpu)]
    pub device: DeviceName,
    /// Whose GPU a CUDA device is: `auto`, this machine's; `virtual:NAME`, an emulated Orin (a wrong NAME lists
    /// all; build with `--features virtual`)
    #[arg(long, default_value = "auto", value_name = "BOARD")]
    pub board: Board,
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
    /// A setting that the device does not allow, or a GPU or board that is not to be had.
    pub fn open(&self) -> Result<Opened> {
        open(self.device, &self.board, self.threads, self.isa)
    }
}

/// Whose GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Board {
    /// The GPU of this machine.
    Auto,
    /// A virtual Orin of this name.
    Virtual(String),
}

impl FromStr for Board {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            Some(("virtual", name)) if virtual_names().any(|known| known == name) => {
                Ok(Self::Virtual(name.to_owned()))
            }
            _ => {
                let names: Vec<String> = virtual_names().map(|name| format!("virtual:{name}")).collect();
                Err(format!("no such board; there are auto, {}", names.join(", ")))
            }
        }
    }
}

/// A device by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceName {
    /// The exact CPU device, with the best instructions that this machine has
    Cpu,
    /// Plain loops that define every result; slow
    Reference,
    /// A CUDA GPU; all kernels of an inference as one CUDA graph
    #[value(name = "cuda:graph", alias = "cuda")]
    CudaGraph,
    /// A CUDA GPU; one kernel that stays resident, an inference is a store to its mailbox
    #[value(name = "cuda:persistent")]
    CudaPersistent,
    /// A CUDA GPU; one launch for each kernel
    #[value(name = "cuda:launch")]
    CudaLaunch,
}

impl DeviceName {
    /// How launches reach the GPU, for a CUDA device.
    fn mode(self) -> Option<Mode> {
        match self {
            Self::Cpu | Self::Reference => None,
            Self::CudaGraph => Some(Mode::Graph),
            Self::CudaPersistent => Some(Mode::Persistent),
            Self::CudaLaunch => Some(Mode::Launch),
        }
    }

    /// Opens the device with its default settings.
    ///
    /// # Errors
    /// When the machine cannot run it.
    pub fn open(self, board: &Board) -> Result<Opened> {
        // A board is for the CUDA devices of a command that has several.
        open(self, if self.mode().is_some() { board } else { &Board::Auto }, 1, None)
    }
}

/// An open device, and the virtual board that it runs on, if any.
pub struct Opened {
    device: Box<dyn Device>,
    board: Option<VirtualBoard>,
    multiprocessors: Option<u32>,
}

impl Deref for Opened {
    type Target = dyn Device;

    fn deref(&self) -> &Self::Target {
        &*self.device
    }
}

impl Opened {
    /// Whether times are modelled, not measured.
    pub fn is_virtual(&self) -> bool {
        self.board.is_some()
    }

    /// The GPU's streaming multiprocessors; `None` for other devices.
    pub fn multiprocessors(&self) -> Option<u32> {
        self.multiprocessors
    }

    /// What a virtual board executed since the last call; nothing for other devices.
    ///
    /// # Errors
    /// When the board's report cannot be read.
    pub fn launches(&self) -> Result<Vec<Launch>> {
        self.board.as_ref().map_or(Ok(Vec::new()), |board| Launch::list(&board.report()))
    }
}

fn open(name: DeviceName, board: &Board, threads: usize, isa: Option<Isa>) -> Result<Opened> {
    let Some(mode) = name.mode() else {
        if let Board::Virtual(_) = board {
            bail!("--board is for CUDA devices; add --device cuda:graph or --device cuda:launch");
        }
        let device: Box<dyn Device> = match name {
            DeviceName::Reference => Box::new(Reference),
            _ => Box::new(Cpu::new(CpuOptions { threads, isa })?),
        };
        return Ok(Opened { device, board: None, multiprocessors: None });
    };
    if threads != 1 || isa.is_some() {
        bail!("--threads and --isa are for the CPU device");
    }
    if let Board::Virtual(board) = board {
        let board = VirtualBoard::load(&[("BOARD", board)]).map_err(|error| match error {
            VirtualError::Missing { .. } => {
                anyhow!("{error}; or build this command with `--features virtual`, which does so")
            }
            error => anyhow!("--board virtual:{board}: {error}"),
        })?;
        let cuda = board.open(mode)?;
        let multiprocessors = Some(cuda.multiprocessors());
        return Ok(Opened { device: Box::new(cuda), board: Some(board), multiprocessors });
    }
    let cuda = Cuda::open(mode)?;
    if cuda.is_virtual() {
        bail!(
            "the CUDA driver that is found first is a virtual Orin's; name it with --board virtual:NAME, or, for the \
             GPU of this machine, start the program itself (cargo puts its own folders on the library path)"
        );
    }
    let multiprocessors = Some(cuda.multiprocessors());
    Ok(Opened { device: Box::new(cuda), board: None, multiprocessors })
}
