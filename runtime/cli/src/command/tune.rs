//! `pilotlight tune`: batches and clocks of a model, their frontier, and which to pick.

use super::print_json;
use crate::device::{Board as BoardName, DeviceOptions, Opened};
use crate::energy::{Energy, EnergyOptions};
use crate::feed;
use crate::model::{CompileOptions, Model};
use crate::stats::Latency;
use crate::virtual_orin::VirtualOrin;
use anyhow::{Context, Result, bail};
use pilotlight_boards::control::{Clocks as _, Session};
use pilotlight_boards::model::{Clocks, Machine, NOT_VALIDATED, VALIDATED};
use pilotlight_boards::{Board, Tree, named};
use pilotlight_device::{Cpu, CpuOptions, Device, Program, Slot};
use pilotlight_plan::Plan;
use pilotlight_power::frontier::{Candidate, Frontier, frontier, frontier_svg};
use pilotlight_units::Hertz;
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Sweep batches and clocks, show the frontier of latency, throughput and energy, and pick a point
///
/// On a virtual board each batch runs once on the emulator; its counts are then modelled at every clock. On this
/// machine every batch is timed, at every clock that may be set (the board is put back at the end).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pilotlight tune models/digits --board virtual:orin-nano-super
  pilotlight tune models/digits --board virtual:orin-nano-super --plot frontier.svg --budget-us 500
  pilotlight tune models/efficientnet-lite0 --batch 1,2")]
pub struct Tune {
    /// Plan, ONNX file, or model folder; its batch must be 1
    model: PathBuf,
    /// Batches to try
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8], value_parser = clap::value_parser!(u32).range(1..=64))]
    batch: Vec<u32>,
    /// Leave out what takes longer than this, microseconds a batch
    #[arg(long, value_name = "US")]
    budget_us: Option<f64>,
    /// Timed runs of each candidate on this machine
    #[arg(short = 'n', long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Write the frontier as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Folder of the state file while clocks are set
    #[arg(long, default_value = "/run/pilotlight")]
    state: PathBuf,
    /// Leave the clocks of this machine as they are
    #[arg(long)]
    keep_clocks: bool,
    /// Show every candidate, not only the frontier
    #[arg(long)]
    all: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceOptions,
    #[command(flatten)]
    compile: CompileOptions,
    #[command(flatten)]
    energy: EnergyOptions,
}

/// What `tune --json` prints.
#[derive(Serialize)]
struct Report {
    schema: u32,
    model: String,
    device: String,
    /// `modelled` or `measured`, and what more there is to say of the figures.
    figures: String,
    candidates: Vec<Candidate>,
    frontier: Frontier,
}

impl Tune {
    pub(super) fn run(self) -> Result<()> {
        let model = Model::open(&self.model, &self.compile)?;
        let plans = self.batch.iter().map(|n| batched(&model.plan, *n).map(|plan| (*n, plan)));
        let plans = plans.collect::<Result<Vec<_>>>()?;
        let (device, figures, candidates) = match &self.device.board {
            BoardName::Virtual(board) => self.modelled(board, &plans)?,
            BoardName::Auto => self.measured(&plans)?,
        };
        let Some(found) = frontier(&candidates, self.budget_us) else {
            bail!(
                "no candidate holds {} us; the fastest takes {:.0} us",
                self.budget_us.unwrap_or(0.0),
                fastest(&candidates)
            );
        };
        if let Some(path) = &self.plot {
            let title =
                format!("{}: energy over throughput, batches and clocks, {}", model.plan.name, device);
            std::fs::write(path, frontier_svg(&title, &figures, &candidates, &found))
                .with_context(|| path.display().to_string())?;
        }
        let report =
            Report { schema: 1, model: model.plan.name, device, figures, candidates, frontier: found };
        if self.json {
            return print_json(&report);
        }
        self.show(&report);
        Ok(())
    }

    /// Each batch once on the emulator, then the model at every clock of the board's mode.
    fn modelled(&self, name: &str, plans: &[(u32, Plan)]) -> Result<(String, String, Vec<Candidate>)> {
        let orin = VirtualOrin::open(name)?;
        let data = named(orin.module).context("a virtual board is of a known module")?;
        let mode =
            data.modes.iter().find(|m| m.id == orin.mode).context("a virtual board is in a known mode")?;
        let within = |clocks: &[f64], cap: Option<f64>| {
            clocks
                .iter()
                .copied()
                .filter(|mhz| cap.is_none_or(|cap| *mhz <= cap * 1.001))
                .collect::<Vec<f64>>()
        };
        let (gpu, emc) =
            (within(&data.gpu.clocks_mhz, mode.gpu_mhz), within(&data.memory.emc_mhz, mode.emc_mhz));
        let mut candidates = Vec::new();
        for (batch, plan) in plans {
            let mut program = orin.load(plan)?;
            let mut slot = program.slot()?;
            feed::random(plan, 1, &mut slot);
            program.run(&mut slot)?;
            let mut work = orin.work()?;
            if work.iter().map(|w| w.instructions).sum::<u64>() < AGAIN {
                // Small enough to run again: the first run found nothing in L2.
                program.run(&mut slot)?;
                work = orin.work()?;
            }
            for (gpu_mhz, emc_mhz) in gpu.iter().flat_map(|g| emc.iter().map(move |e| (*g, *e))) {
                let machine = Machine { sms: mode.sms, ..Machine::of(&data, Clocks::mhz(gpu_mhz, emc_mhz)) };
                let call_ns = machine.constants.call_ns;
                let (mut ns, mut joules) = (call_ns, machine.idle_watts() * call_ns * 1e-9);
                for kernel in work.iter().map(|w| machine.kernel(w)) {
                    ns += kernel.ns;
                    joules += kernel.joules;
                }
                let each = f64::from(*batch);
                candidates.push(Candidate {
                    batch: *batch,
                    gpu_mhz,
                    emc_mhz,
                    latency_us: ns / 1e3,
                    per_second: each * 1e9 / ns,
                    energy_mj: Some(joules * 1e3 / each),
                });
            }
        }
        let note = if VALIDATED { "" } else { NOT_VALIDATED };
        let figures =
            format!("MODELLED time and energy of {} ({note}); counts from the emulator.", data.title);
        Ok((format!("virtual:{name} ({}, {} SMs)", mode.name, mode.sms), figures, candidates))
    }

    /// Each batch timed on this machine, at every clock that may be set.
    fn measured(&self, plans: &[(u32, Plan)]) -> Result<(String, String, Vec<Candidate>)> {
        let device = self.device.open()?;
        let tree = Tree::at(self.energy.root());
        let board = Board::discover(&tree);
        let now = || board.gpu_state.as_ref().map_or(0.0, |s| s.now.as_f64() / 1e6);
        let mut session = match (self.keep_clocks, &board.gpu) {
            (false, Some(_)) => {
                Some(Session::open(&tree, &self.state).context("--keep-clocks leaves them alone")?)
            }
            _ => None,
        };
        let points: Vec<Option<(Hertz, Option<Hertz>)>> = match &session {
            None => vec![None],
            Some(session) => {
                let emc: Vec<Option<Hertz>> = match session.emc_clocks() {
                    [] => vec![None],
                    clocks => clocks.iter().copied().map(Some).collect(),
                };
                session.gpu_clocks().iter().flat_map(|g| emc.iter().map(|e| Some((*g, *e)))).collect()
            }
        };
        let mut programs: Vec<(u32, Box<dyn Program>, Slot)> = Vec::new();
        for (batch, plan) in plans {
            let program = device.load(plan)?;
            let mut slot = program.slot()?;
            feed::random(plan, 1, &mut slot);
            programs.push((*batch, program, slot));
        }
        let (mut candidates, mut missing, mut basis) = (Vec::new(), None, "");
        for point in points {
            if let (Some(session), Some((gpu, emc))) = (&mut session, point) {
                session.set(gpu, emc)?;
                std::thread::sleep(SETTLE);
            }
            let mhz = |clock: Option<Hertz>| clock.map_or(0.0, |c| c.as_f64() / 1e6);
            let gpu_mhz = point.map_or_else(now, |(gpu, _)| mhz(Some(gpu)));
            let emc_mhz = point.map_or(mhz(board.emc.now), |(_, emc)| mhz(emc.or(board.emc.now)));
            for (batch, program, slot) in &mut programs {
                let (latency, energy) = self.time(&device, program.as_mut(), slot)?;
                match &energy {
                    Energy::NotMeasured { reason } => missing = Some(reason.clone()),
                    known => basis = known.status(),
                }
                let each = f64::from(*batch);
                candidates.push(Candidate {
                    batch: *batch,
                    gpu_mhz,
                    emc_mhz,
                    latency_us: latency.p50,
                    per_second: each * 1e6 / latency.p50,
                    energy_mj: energy.gross().map(|uj| uj.as_f64() / 1e3 / each),
                });
            }
        }
        if let Some(mut session) = session {
            session.release()?;
        }
        if missing.is_some() {
            // A frontier of some energies and some gaps would compare the two.
            candidates.iter_mut().for_each(|c| c.energy_mj = None);
        }
        let energy =
            missing.map_or_else(|| format!("Energy {basis}."), |why| format!("Energy not measured: {why}."));
        let figures = format!("Latency measured, medians of {} runs. {energy}", self.runs);
        Ok((device.describe(), figures, candidates))
    }

    fn time(&self, device: &Opened, program: &mut dyn Program, slot: &mut Slot) -> Result<(Latency, Energy)> {
        let mut metering = self.energy.start(device);
        for _ in 0..3 {
            program.run(slot)?;
        }
        let mut nanos = Vec::with_capacity(self.runs as usize);
        metering.begin();
        for _ in 0..self.runs {
            let start = Instant::now();
            program.run(slot)?;
            nanos.push(start.elapsed().as_nanos() as u64);
        }
        metering.end();
        Ok((Latency::of(nanos).context("at least one run is timed")?, metering.finish(self.runs)))
    }

    fn show(&self, report: &Report) {
        let Report { candidates, frontier, .. } = report;
        println!("{} on {}\n{}", report.model, report.device, report.figures);
        println!("\nbatch  GPU MHz  EMC MHz   latency ms   inferences/s   mJ each");
        let mut shown: Vec<usize> = match self.all {
            true => (0..candidates.len()).collect(),
            false => frontier.members.clone(),
        };
        shown.sort_by(|a, b| candidates[*a].latency_us.total_cmp(&candidates[*b].latency_us));
        for i in shown {
            let c = &candidates[i];
            let mark = match i {
                _ if i == frontier.pick && i == frontier.knee => "  <- knee and pick",
                _ if i == frontier.pick => "  <- pick",
                _ if i == frontier.knee => "  <- knee",
                _ => "",
            };
            let energy = c.energy_mj.map_or("not measured".into(), |mj| format!("{mj:9.3}"));
            println!(
                "{:5} {:8.0} {:8.0} {:12.3} {:14.1} {energy}{mark}",
                c.batch,
                c.gpu_mhz,
                c.emc_mhz,
                c.latency_us / 1e3,
                c.per_second
            );
        }
        let name = |i: usize| {
            let c = &candidates[i];
            format!("batch {}, GPU {:.0} MHz, EMC {:.0} MHz", c.batch, c.gpu_mhz, c.emc_mhz)
        };
        println!("\n{} of {} candidates are on the frontier", frontier.members.len(), candidates.len());
        println!("knee: {} (beyond it more throughput costs energy ever faster)", name(frontier.knee));
        println!("pick: {} (one notch below the knee)", name(frontier.pick));
    }
}

/// Instructions below which a batch is emulated twice.
const AGAIN: u64 = 20_000_000;
/// Time for clocks to take hold.
const SETTLE: Duration = Duration::from_millis(50);

fn fastest(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| c.latency_us).fold(f64::INFINITY, f64::min)
}

/// The plan for a batch, shown by the CPU device to give each input what it gets alone.
fn batched(plan: &Plan, batch: u32) -> Result<Plan> {
    let large = pilotlight_plan::batch(plan, batch)?;
    let cpu = Cpu::new(CpuOptions { threads: 1, isa: None })?;
    let (mut one, mut many) = (cpu.load(plan)?, cpu.load(&large)?);
    let (mut slot, mut slots) = (one.slot()?, many.slot()?);
    feed::random(&large, 1, &mut slots);
    many.run(&mut slots)?;
    for image in 0..batch as usize {
        for i in 0..plan.inputs.len() {
            let to = slot.input_mut(i);
            let n = to.len();
            to.copy_from_slice(&slots.input(i)[image * n..(image + 1) * n]);
        }
        one.run(&mut slot)?;
        for i in 0..plan.outputs.len() {
            let alone = slot.output(i);
            if alone != &slots.output(i)[image * alone.len()..(image + 1) * alone.len()] {
                bail!(
                    "{}: a batch of {batch} mixes its images; import the ONNX model with its batch bound instead",
                    plan.name
                );
            }
        }
    }
    Ok(large)
}
