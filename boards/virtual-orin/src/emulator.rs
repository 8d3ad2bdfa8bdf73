//! The device without its driver API: modules, launches, memory. Safe; the driver shim wraps it.

use crate::board::{Board, blocks_per_sm, limits};
use crate::code::Program;
use crate::counters::Counters;
use crate::exec::{LaunchShape, Machine, TrapReport};
use crate::grid::{Grid, Status};
use crate::l2::L2;
use crate::lower::lower;
use crate::memory::{Fault, Memory};
use crate::ptx::{self, PtxError};
use crate::race::Race;
use crate::rng::Rng;
use crate::table::Table;
use std::collections::HashMap;
use std::sync::Arc;

/// Registers per thread that a kernel is taken to need when nobody knows better: the most there are.
const REGISTERS_UNKNOWN: u32 = 255;

/// How the emulator is to behave.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The board.
    pub board: Board,
    /// Seed of every choice.
    pub seed: u64,
    /// Run the race detector.
    pub race: bool,
    /// Memory as weak as the memory model allows.
    pub weak: bool,
}

impl Options {
    /// A board with seed 1, no race detector, no weak mode.
    pub fn new(board: &Board) -> Self {
        Options { board: *board, seed: 1, race: false, weak: false }
    }
}

/// A loaded kernel.
#[derive(Clone)]
pub struct Kernel {
    /// Its code.
    pub program: Arc<Program>,
    /// Registers per thread after ptxas.
    pub registers: u32,
}

/// What a module brings: kernels by name, and the addresses of its variables.
pub type Loaded = (HashMap<String, Kernel>, HashMap<String, u64>);

/// Why a launch was refused before it began.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// A grid or block dimension of zero or above the limit.
    #[error("{what} {found:?} is outside 1..={allowed:?}")]
    Dimensions {
        /// `grid` or `block`.
        what: &'static str,
        /// As asked for.
        found: [u32; 3],
        /// The limit.
        allowed: [u32; 3],
    },
    /// More threads, registers or shared memory than a block may have.
    #[error("a block of {kernel} needs {found} {what}, the board allows {allowed}")]
    Resources {
        /// Kernel name.
        kernel: String,
        /// Which resource.
        what: &'static str,
        /// Needed.
        found: u64,
        /// Allowed.
        allowed: u64,
    },
    /// A cooperative grid whose blocks cannot all be resident.
    #[error("a cooperative grid of {found} blocks of {kernel}: only {allowed} fit the board at a time")]
    CooperativeTooLarge {
        /// Kernel name.
        kernel: String,
        /// Blocks asked for.
        found: u64,
        /// Blocks that fit.
        allowed: u64,
    },
    /// Parameters of another size than the kernel's.
    #[error("{kernel} takes {expected} bytes of parameters, got {found}")]
    Parameters {
        /// Kernel name.
        kernel: String,
        /// Declared bytes.
        expected: usize,
        /// Given bytes.
        found: usize,
    },
}

/// Grid, block, dynamic shared memory, cooperation.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared: usize,
    /// Most dynamic shared bytes the kernel was allowed (`cuFuncSetAttribute`).
    pub shared_limit: usize,
    /// All blocks must be resident at once.
    pub cooperative: bool,
}

impl Config {
    /// A plain launch.
    pub fn new(grid: u32, block: u32) -> Self {
        Config {
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            shared: 0,
            shared_limit: limits::SHARED_PER_BLOCK,
            cooperative: false,
        }
    }
}

/// A virtual device.
pub struct Emulator {
    /// Its state.
    pub machine: Machine,
    /// Its options.
    pub options: Options,
    /// Registers per thread by kernel name, from ptxas' side file.
    figures: HashMap<String, u32>,
}

impl Emulator {
    /// A device fresh from reset.
    pub fn new(options: Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let memory = Memory::new(options.board.memory, rng.bits());
        let machine = Machine {
            memory,
            counters: Counters::default(),
            l2: L2::new(options.board.machine().l2_bytes),
            clock: 0,
            model: options.board.machine(),
            race: None,
            rng,
            progress: 0,
            polled_host: false,
        };
        Emulator { machine, options, figures: HashMap::new() }
    }

    /// Tells the registers per thread that ptxas gave a kernel.
    pub fn figure(&mut self, kernel: &str, registers: u32) {
        self.figures.insert(kernel.to_owned(), registers);
    }

    /// Loads a module: kernels by name, and the addresses of its variables.
    ///
    /// # Errors
    /// [`PtxError`]: the text is refused, with line and reason.
    pub fn load(&mut self, text: &str) -> Result<Loaded, PtxError> {
        let module = ptx::parse(text)?;
        self.load_module(&module, &Table::new())
    }

    /// Loads a module of another project, as a second opinion on the emulator itself: a newer `.version`, and
    /// the instructions that the project's own kernels may not use, are taken too. No driver call leads here.
    ///
    /// # Errors
    /// [`PtxError`]: the text is refused, with line and reason.
    pub fn load_foreign(&mut self, text: &str) -> Result<Loaded, PtxError> {
        let module = ptx::parse_foreign(text)?;
        self.load_module(&module, &Table::with_foreign())
    }

    fn load_module(&mut self, module: &ptx::Module, table: &Table) -> Result<Loaded, PtxError> {
        let mut globals = HashMap::new();
        for variable in &module.globals {
            let full =
                || PtxError::Unsupported { line: 0, what: format!("variable {}: no memory", variable.name) };
            let address = self.machine.memory.alloc(variable.size.max(1)).ok_or_else(full)?;
            // CUDA zero-initialises variables; what the text gives comes on top.
            let bytes = self.machine.memory.bytes_mut(address, variable.size).map_err(|_| full())?;
            bytes.fill(0);
            bytes[..variable.init.len()].copy_from_slice(&variable.init);
            globals.insert(variable.name.clone(), address);
        }
        let mut kernels = HashMap::new();
        for entry in &module.entries {
            let program = Arc::new(lower(module, entry, table, &globals)?);
            let registers = self.figures.get(&entry.name).copied().unwrap_or(REGISTERS_UNKNOWN);
            kernels.insert(entry.name.clone(), Kernel { program, registers });
        }
        Ok((kernels, globals))
    }

    /// Blocks of a kernel that fit one multiprocessor.
    pub fn occupancy(&self, kernel: &Kernel, threads: u32, dynamic_shared: usize) -> u32 {
        blocks_per_sm(threads, kernel.registers, kernel.program.shared_bytes + dynamic_shared)
    }

    /// Checks a launch against the board. Returns how many of its blocks can be resident.
    ///
    /// # Errors
    /// [`LaunchError`] names the limit.
    pub fn check(&self, kernel: &Kernel, config: &Config, param_bytes: usize) -> Result<u64, LaunchError> {
        let Config { grid, block, shared, shared_limit, cooperative } = *config;
        for (what, found, allowed) in [("grid", grid, limits::GRID), ("block", block, limits::BLOCK)] {
            if (0..3).any(|n| found[n] == 0 || found[n] > allowed[n]) {
                return Err(LaunchError::Dimensions { what, found, allowed });
            }
        }
        let program = &kernel.program;
        let refuse = |what, found: u64, allowed: u64| {
            let kernel = program.name.clone();
            Err(LaunchError::Resources { kernel, what, found, allowed })
        };
        let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
        let most = program.max_threads.unwrap_or(limits::THREADS_PER_BLOCK).min(limits::THREADS_PER_BLOCK);
        if threads > u64::from(most) {
            return refuse("threads", threads, u64::from(most));
        }
        if shared > shared_limit {
            return refuse("bytes of dynamic shared memory", shared as u64, shared_limit as u64);
        }
        let all_shared = shared + program.shared_bytes;
        if all_shared > limits::SHARED_PER_BLOCK_OPTIN {
            return refuse(
                "bytes of shared memory",
                all_shared as u64,
                limits::SHARED_PER_BLOCK_OPTIN as u64,
            );
        }
        let per_sm = self.occupancy(kernel, threads as u32, shared);
        if per_sm == 0 {
            let needed = threads * u64::from(kernel.registers);
            return refuse("registers", needed, u64::from(limits::REGISTERS));
        }
        let sms = self.options.board.sms;
        let capacity = u64::from(per_sm) * u64::from(sms);
        let blocks: u64 = grid.iter().map(|&n| u64::from(n)).product();
        if cooperative && blocks > capacity {
            let kernel = program.name.clone();
            return Err(LaunchError::CooperativeTooLarge { kernel, found: blocks, allowed: capacity });
        }
        // Indices are kept in 32 bits; no launch of this product comes near.
        if blocks > u64::from(u32::MAX) {
            return Err(LaunchError::Dimensions { what: "grid", found: grid, allowed: limits::GRID });
        }
        if param_bytes != program.param_bytes {
            let (kernel, expected) = (program.name.clone(), program.param_bytes);
            return Err(LaunchError::Parameters { kernel, expected, found: param_bytes });
        }
        Ok(capacity)
    }

    /// Checks a launch and starts it.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing has started then.
    pub fn launch(&mut self, kernel: &Kernel, config: Config, params: Vec<u8>) -> Result<Grid, LaunchError> {
        let capacity = self.check(kernel, &config, params.len())?;
        self.machine.race = self.options.race.then(Box::<Race>::default);
        let Config { grid, block, shared, .. } = config;
        let shape = LaunchShape { grid, block, params, dynamic_shared: shared };
        let (program, sms) = (Arc::clone(&kernel.program), self.options.board.sms);
        Ok(Grid::new(program, shape, capacity as usize, sms, self.options.weak, &mut self.machine))
    }

    /// Launches and runs to the end. For kernels that wait for nobody.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn run(&mut self, kernel: &Kernel, config: Config, params: Vec<u8>) -> Result<(), RunError> {
        let mut grid = self.launch(kernel, config, params)?;
        loop {
            match grid.run(&mut self.machine, 1 << 20).map_err(Box::new)? {
                Status::Done => return Ok(()),
                Status::Running | Status::WaitsForHost => {}
            }
        }
    }

    /// A new allocation with these bytes.
    ///
    /// # Errors
    /// [`RunError::OutOfMemory`].
    pub fn upload(&mut self, bytes: &[u8]) -> Result<u64, RunError> {
        let address = self.machine.memory.alloc(bytes.len()).ok_or(RunError::OutOfMemory(bytes.len()))?;
        self.machine.memory.bytes_mut(address, bytes.len())?.copy_from_slice(bytes);
        Ok(address)
    }
}

/// What can go wrong with [`Emulator::run`] and [`Emulator::upload`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Refused.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Stopped.
    #[error(transparent)]
    Trap(#[from] Box<TrapReport>),
    /// No room for so many bytes.
    #[error("no device memory for {0} bytes")]
    OutOfMemory(usize),
    /// A copy outside an allocation.
    #[error(transparent)]
    Fault(#[from] Fault),
}
