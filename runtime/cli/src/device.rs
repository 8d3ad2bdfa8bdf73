//! The devices that `--device` can name, and the boards that `--board` can.

use crate::modelled::Launch;
use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use pilotlight_boards::model::rate::idle_ns;
use pilotlight_boards::model::{Clocks, Machine};
use pilotlight_boards::virtual_tree::{VIRTUAL, virtual_names};
use pilotlight_boards::{Tree, named};
use pilotlight_cuda::{Cuda, LEAST_IDLE, Mode, Settings, VirtualBoard, VirtualError};
use pilotlight_device::{Cpu, CpuOptions, Device, Isa, Reference};
use std::ops::Deref;
use std::str::FromStr;
use std::time::Duration;

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

/// The module whose facts describe a board: of a virtual one by its name, of this machine by its device tree.
pub fn module(board: &Board) -> Option<String> {
    match board {
        Board::Auto => Some(pilotlight_boards::Board::discover(&Tree::system()).data?.name),
        Board::Virtual(name) => {
            VIRTUAL.iter().find(|(n, ..)| n == name).map(|(_, module, _)| (*module).to_owned())
        }
    }
}

/// A board at the highest clocks of its power mode, for the model; `None` where it is not known.
pub fn machine(board: &Board) -> Option<Machine> {
    let data = named(&module(board)?)?;
    let highest = Clocks::highest(&data);
    let Board::Virtual(name) = board else { return Some(Machine::of(&data, highest)) };
    let (_, _, mode) = VIRTUAL.iter().find(|(n, ..)| n == name)?;
    let mode = data.modes.iter().find(|m| m.id == *mode)?;
    // Steps of the tables lie a little above the round numbers of the modes.
    let within = |clocks: &[f64], cap: Option<f64>, highest: f64| {
        let mut allowed = clocks.iter().copied().filter(|mhz| cap.is_none_or(|cap| *mhz <= cap * 1.001));
        allowed.next_back().map_or(highest, |mhz| mhz * 1e6)
    };
    let clocks = Clocks {
        gpu: within(&data.gpu.clocks_mhz, mode.gpu_mhz, highest.gpu),
        emc: within(&data.memory.emc_mhz, mode.emc_mhz, highest.emc),
    };
    Some(Machine { sms: mode.sms, ..Machine::of(&data, clocks) })
}

/// The idle time after which a persistent kernel leaves on a board: the break-even of its modelled energies, and
/// [`LEAST_IDLE`] at least. `None`: it stays.
pub fn resident_idle(machine: &Machine) -> Option<Duration> {
    let ns = idle_ns(&machine.lit(), LEAST_IDLE.as_nanos() as f64);
    ns.map(|ns| Duration::from_nanos(ns.ceil() as u64).max(LEAST_IDLE))
}

/// Settings of the persistent kernel on a board.
fn settings(board: &Board) -> Settings {
    let plain = Settings::default();
    let idle = machine(board).map_or(plain.idle, |machine| resident_idle(&machine));
    Settings { idle, ..plain }
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
    let settings = settings(board);
    if let Board::Virtual(board) = board {
        let board = VirtualBoard::load(&[("BOARD", board)]).map_err(|error| match error {
            VirtualError::Missing { .. } => {
                anyhow!("{error}; or build this command with `--features virtual`, which does so")
            }
            error => anyhow!("--board virtual:{board}: {error}"),
        })?;
        let cuda = board.open(mode)?.with(settings);
        let multiprocessors = Some(cuda.multiprocessors());
        return Ok(Opened { device: Box::new(cuda), board: Some(board), multiprocessors });
    }
    let cuda = Cuda::open(mode)?.with(settings);
    if cuda.is_virtual() {
        bail!(
            "the CUDA driver that is found first is a virtual Orin's; name it with --board virtual:NAME, or, for the \
             GPU of this machine, start the program itself (cargo puts its own folders on the library path)"
        );
    }
    let multiprocessors = Some(cuda.multiprocessors());
    Ok(Opened { device: Box::new(cuda), board: None, multiprocessors })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilotlight_boards::model::lit::Waiting;

    #[test]
    fn a_resident_kernel_leaves_at_the_break_even_but_no_sooner_than_clocks_change() {
        for (name, ..) in VIRTUAL {
            let machine = machine(&Board::Virtual(name.to_owned())).unwrap_or_else(|| panic!("{name}"));
            let even = machine.lit().break_even_ns(Waiting::BackOff).unwrap_or(f64::INFINITY);
            // What pilotlight-cuda's own default takes for granted.
            assert!(even < LEAST_IDLE.as_nanos() as f64, "{name}: {even} ns");
            assert_eq!(settings(&Board::Virtual(name.to_owned())).idle, Some(LEAST_IDLE), "{name}");
            // A relaunch that cost a hundred times as much would be worth more waiting.
            let mut dear = machine;
            dear.constants.gate_exit_ns *= 100.0;
            let even = dear.lit().break_even_ns(Waiting::BackOff).unwrap_or(f64::INFINITY);
            assert_eq!(resident_idle(&dear), Some(Duration::from_nanos(even.ceil() as u64)), "{name}");
            // Where waiting costs nothing it stays.
            dear.constants.sleep_share = 0.0;
            assert_eq!(resident_idle(&dear), None, "{name}");
        }
        assert_eq!(machine(&Board::Virtual("none".into())), None);
    }
}
