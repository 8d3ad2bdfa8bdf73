//! What an inference executes, counted once on a virtual board, and what the model makes of it in each mode.

use crate::device::{Board, DeviceName};
use crate::feed;
use crate::modelled::Launch;
use anyhow::{Context, Result, bail};
use pilotlight_boards::model::rate::{Demand, Served};
use pilotlight_boards::model::resident::{Piece, Resident};
use pilotlight_boards::model::{CONSTANTS, Constant, Known, Machine, Work};
use pilotlight_cuda::{Lowered, Part};
use pilotlight_plan::Plan;

/// An inference in counts.
pub struct Counted {
    /// The board, for people.
    pub device: String,
    /// The plan as launches.
    pub lowered: Lowered,
    /// What each launch executed, in their order.
    pub launches: Vec<Launch>,
    /// The same launches spread over the blocks of the persistent kernel.
    lists: Vec<Vec<Part>>,
}

impl Counted {
    /// Runs a plan on a virtual board, kernel by kernel, on random input. The first inference finds nothing in L2;
    /// the second is counted, and is what all later ones are.
    ///
    /// # Errors
    /// A board that is no virtual one, a plan that it refuses.
    pub fn run(plan: &Plan, board: &Board) -> Result<Self> {
        let device = DeviceName::CudaLaunch.open(board)?;
        if !device.is_virtual() {
            bail!("only a virtual board counts what kernels do; give --board virtual:orin-nano-super");
        }
        let multiprocessors = device.multiprocessors().unwrap_or(1);
        let lowered = pilotlight_cuda::lower(plan, multiprocessors)?;
        let lists = pilotlight_cuda::outline(&lowered, multiprocessors)?;
        let mut program = device.load(plan)?;
        let mut slot = program.slot()?;
        feed::random(plan, 1, &mut slot);
        program.run(&mut slot)?;
        device.launches()?;
        program.run(&mut slot)?;
        let launches = device.launches()?;
        let expected: usize = lowered.steps.iter().map(Vec::len).sum();
        if launches.len() != expected {
            bail!("the board reports {} launches, the program has {expected}", launches.len());
        }
        Ok(Self { device: device.describe(), lowered, launches, lists })
    }

    /// The persistent kernel's inference on a machine of as many multiprocessors as the board that counted.
    ///
    /// # Errors
    /// Instructions that wait for each other, which the program checker refuses.
    pub fn persistent(&self, machine: &Machine) -> Result<Resident> {
        machine.resident(&self.pieces(machine.l2_bytes)).context("instructions wait for each other")
    }

    /// The same launches, each after the one before it, as a graph has them.
    pub fn graph(&self, machine: &Machine) -> Served {
        let ns = self.launches.iter().map(|l| machine.kernel(&l.work).ns).sum();
        let joules: f64 = self.launches.iter().map(|l| machine.kernel(&l.work).joules).sum();
        Served { ns, joules }
    }

    /// Both.
    ///
    /// # Errors
    /// As [`Counted::persistent`].
    pub fn demand(&self, machine: &Machine) -> Result<Demand> {
        let resident = self.persistent(machine)?;
        let persistent = Served { ns: resident.ns, joules: resident.joules };
        Ok(Demand { persistent, graph: self.graph(machine) })
    }

    /// The lists with their work: a part has its blocks' share of what its launch executed. Weights that an
    /// instruction brings into L2 ahead are its own traffic, and those that L2 keeps are no more the launch's that
    /// needs them. L2 is taken to keep half its size of them, beside what is being worked on.
    fn pieces(&self, l2_bytes: u64) -> Vec<Vec<Piece>> {
        let mut asked = vec![0u64; self.launches.len() + 1];
        for part in self.lists.iter().flatten() {
            if let Some(n) = part.launch {
                asked[n + 1] += u64::from(part.ahead);
            }
        }
        // What is in L2 anyway costs DRAM nothing.
        let early = |n: usize| self.launches.get(n).map_or(0, |l| asked[n].min(l.work.dram_read));
        let piece = |part: &Part| {
            let Some((n, whole)) = part.launch.map(|n| (n, &self.launches[n].work)) else {
                return Piece { after: part.after.clone(), ..Piece::default() };
            };
            let of = |total: u64, share: f64| (total as f64 * share) as u64;
            let share = f64::from(part.blocks) / whole.blocks.max(1) as f64;
            let work = Work {
                mma_macs: of(whole.mma_macs, share),
                instructions: of(whole.instructions, share),
                int: of(whole.int, share),
                convert: of(whole.convert, share),
                shared_passes: of(whole.shared_passes, share),
                l2_bytes: of(whole.l2_bytes, share),
                dram_read: of(whole.dram_read - early(n).min(l2_bytes / 2), share),
                dram_written: of(whole.dram_written, share),
                blocks: u64::from(part.blocks),
                warps_per_block: whole.warps_per_block,
                blocks_per_sm: 1,
            };
            let ahead = of(early(n + 1), f64::from(part.ahead) / asked[n + 1].max(1) as f64);
            Piece { work, ahead, after: part.after.clone() }
        };
        self.lists.iter().map(|list| list.iter().map(piece).collect()).collect()
    }
}

/// The constants that nobody has measured.
pub fn guesses() -> impl Iterator<Item = &'static Constant> {
    CONSTANTS.iter().filter(|c| c.known == Known::Assumed)
}

/// A machine with one constant at `factor` times its value.
pub fn with(machine: &Machine, constant: &Constant, factor: f64) -> Machine {
    let mut constants = machine.constants;
    *(constant.of)(&mut constants) *= factor;
    Machine { constants, ..*machine }
}
