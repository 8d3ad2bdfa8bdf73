//! `pilotlight profile`: what each operation of a model executes on a virtual board, and what limits it.

mod modes;

use super::explain::multiplications;
use super::print_json;
use crate::counted::Counted;
use crate::device::{Board, machine, module};
use crate::model::{CompileOptions, Model};
use crate::modelled::Launch;
use anyhow::{Context, Result};
use modes::Modes;
use pilotlight_plan::Plan;
use serde::Serialize;
use std::path::PathBuf;

/// Show what each operation executes on a virtual board, operation by operation: kernel, work issued and useful, bytes,
/// bank conflicts, modelled time and energy, and what limits it
#[derive(Debug, clap::Args)]
pub struct Profile {
    /// Plan, ONNX file, or model folder
    model: PathBuf,
    /// Virtual board, as virtual:orin-nano-super; this machine's GPU counts nothing of this
    #[arg(long, default_value = "virtual:orin-nano-super", value_name = "BOARD")]
    board: Board,
    /// Model the whole inference in persistent and in graph mode too, beside TensorRT's time where it was published,
    /// and what each unmeasured constant changes
    #[arg(long)]
    modes: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compile: CompileOptions,
}

/// What `profile --json` prints. Fields are only ever added within one `schema`.
#[derive(Serialize)]
struct Report {
    schema: u32,
    model: String,
    device: String,
    /// Says that times and energies are modelled; all else is counted.
    status: &'static str,
    validated: bool,
    steps: Vec<Step>,
    totals: Totals,
    /// With `--modes`.
    modes: Option<Modes>,
}

/// One operation.
#[derive(Serialize)]
struct Step {
    op: &'static str,
    nodes: String,
    kernels: Vec<String>,
    /// Multiply-accumulates that the result needs.
    useful_macs: u64,
    /// Multiply-accumulates of the mma instructions that were issued; 0 for kernels without.
    issued_macs: u64,
    instructions: u64,
    load_bytes: u64,
    store_bytes: u64,
    shared_bytes: u64,
    dram_read_bytes: u64,
    dram_written_bytes: u64,
    sectors_per_request: f64,
    /// Passes over the banks of shared memory beyond the fewest possible.
    bank_conflicts: u64,
    /// Those of them in loops that multiply matrices.
    loop_bank_conflicts: u64,
    modelled_us: f64,
    modelled_mj: f64,
    /// What limits the operation's longest kernel.
    bound: String,
}

/// All operations of an inference.
#[derive(Serialize)]
struct Totals {
    modelled_us: f64,
    modelled_mj: f64,
    /// Useful and issued multiply-accumulates of the operations that issue mma.
    mma_useful: u64,
    mma_issued: u64,
    bank_conflicts: u64,
    /// Those of them in loops that multiply matrices, and the passes that these loops need without.
    loop_bank_conflicts: u64,
    loop_passes: u64,
    dram_read_bytes: u64,
    dram_written_bytes: u64,
    /// Packed weights, tables and lists on the device: with each read once, so much is read.
    constant_bytes: u64,
}

impl Profile {
    pub(super) fn run(self) -> Result<()> {
        let model = Model::open(&self.model, &self.compile)?;
        let plan = &model.plan;
        let counted = Counted::run(plan, &self.board)?;
        let (lowered, launches) = (&counted.lowered, &counted.launches);
        let mut rest = &launches[..];
        let mut steps = Vec::with_capacity(plan.steps.len());
        for (step, kernels) in plan.steps.iter().zip(&lowered.steps) {
            let (own, others) = rest.split_at(kernels.len());
            rest = others;
            steps.push(Step::new(step.op.name(), step.nodes.join("+"), multiplications(plan, &step.op), own));
        }
        let sum = |f: fn(&Step) -> u64| steps.iter().map(f).sum();
        let totals = Totals {
            modelled_us: steps.iter().map(|s| s.modelled_us).sum(),
            modelled_mj: steps.iter().map(|s| s.modelled_mj).sum(),
            mma_useful: sum(|s| if s.issued_macs > 0 { s.useful_macs } else { 0 }),
            mma_issued: sum(|s| s.issued_macs),
            bank_conflicts: sum(|s| s.bank_conflicts),
            loop_bank_conflicts: sum(|s| s.loop_bank_conflicts),
            loop_passes: launches.iter().map(|l| l.counters.loop_least).sum(),
            dram_read_bytes: sum(|s| s.dram_read_bytes),
            dram_written_bytes: sum(|s| s.dram_written_bytes),
            constant_bytes: lowered.constants.len() as u64,
        };
        let report = Report {
            schema: 1,
            model: plan.name.clone(),
            device: counted.device.clone(),
            status: "modelled",
            validated: launches.iter().all(|l| l.modelled.validated),
            steps,
            totals,
            modes: if self.modes { Some(self.compare(plan, &counted)?) } else { None },
        };
        if self.json {
            return print_json(&report);
        }
        report.show();
        Ok(())
    }

    fn compare(&self, plan: &Plan, counted: &Counted) -> Result<Modes> {
        let (at, module) =
            machine(&self.board).zip(module(&self.board)).context("the board's facts are not known")?;
        Modes::new(plan, counted, &at, &module)
    }
}

impl Step {
    fn new(op: &'static str, nodes: String, useful_macs: u64, launches: &[Launch]) -> Self {
        let sum = |f: fn(&Launch) -> u64| launches.iter().map(f).sum::<u64>();
        let requests = sum(|l| l.counters.requests);
        let longest = launches.iter().max_by(|a, b| a.modelled.ns.total_cmp(&b.modelled.ns));
        Self {
            op,
            nodes,
            kernels: launches.iter().map(|l| l.kernel.clone()).collect(),
            useful_macs,
            issued_macs: sum(|l| l.work.mma_macs),
            instructions: sum(Launch::instructions),
            load_bytes: sum(|l| l.counters.load_bytes),
            store_bytes: sum(|l| l.counters.store_bytes),
            shared_bytes: sum(|l| l.counters.shared_bytes),
            dram_read_bytes: sum(|l| l.work.dram_read),
            dram_written_bytes: sum(|l| l.work.dram_written),
            sectors_per_request: sum(|l| l.counters.sectors) as f64 / requests.max(1) as f64,
            bank_conflicts: sum(|l| l.counters.shared_passes - l.counters.shared_least),
            loop_bank_conflicts: sum(|l| l.counters.loop_passes - l.counters.loop_least),
            modelled_us: launches.iter().map(|l| l.modelled.ns / 1e3).sum(),
            modelled_mj: launches.iter().map(|l| l.modelled.joules * 1e3).sum(),
            bound: longest.map_or_else(String::new, |l| l.modelled.bound.clone()),
        }
    }
}

impl Report {
    fn show(&self) {
        println!("{} on {}; random input, second inference", self.model, self.device);
        println!("us and mJ are modelled by the virtual Orin, not measured; all else is counted");
        println!("bank: conflicts of shared memory's banks in loops that multiply matrices + elsewhere");
        if !self.validated {
            println!(
                "the model does not agree with every measurement that it was tried on: compare us and mJ with each \
                 other only"
            );
        }
        println!(
            "\n{:>8} {:>8} {:<8} {:>8} {:>8} {:>6} {:>8} {:>8} {:>6} {:>7}  kernel, operation",
            "us", "mJ", "bound", "kMAC", "issued", "useful", "DRAM kB", "shared", "sec/rq", "bank"
        );
        for s in &self.steps {
            let useful = match s.issued_macs {
                0 => String::new(),
                issued => format!("{:.2}", s.useful_macs as f64 / issued as f64),
            };
            println!(
                "{:>8.1} {:>8.3} {:<8} {:>8} {:>8} {useful:>6} {:>8.1} {:>8.1} {:>6.1} {:>7}  {}, {} {}",
                s.modelled_us,
                s.modelled_mj,
                s.bound,
                s.useful_macs / 1000,
                s.issued_macs / 1000,
                (s.dram_read_bytes + s.dram_written_bytes) as f64 / 1e3,
                s.shared_bytes as f64 / 1e3,
                s.sectors_per_request,
                format!("{}+{}", s.loop_bank_conflicts, s.bank_conflicts - s.loop_bank_conflicts),
                s.kernels.join("+"),
                s.op,
                s.nodes
            );
        }
        let t = &self.totals;
        println!(
            "\nall: {:.1} us, {:.3} mJ (modelled)\n\
             bank conflicts: {} in main loops (of {} passes), {} elsewhere",
            t.modelled_us,
            t.modelled_mj,
            t.loop_bank_conflicts,
            t.loop_passes + t.loop_bank_conflicts,
            t.bank_conflicts - t.loop_bank_conflicts
        );
        println!(
            "mma: {:.1} M MAC useful of {:.1} M issued, {:.3}",
            t.mma_useful as f64 / 1e6,
            t.mma_issued as f64 / 1e6,
            t.mma_useful as f64 / t.mma_issued.max(1) as f64
        );
        println!(
            "DRAM: {:.2} MB read, {:.2} MB written; weights, tables and lists are {:.2} MB",
            t.dram_read_bytes as f64 / 1e6,
            t.dram_written_bytes as f64 / 1e6,
            t.constant_bytes as f64 / 1e6
        );
        let mut by_bound: Vec<(&str, f64)> = Vec::new();
        for s in &self.steps {
            match by_bound.iter_mut().find(|(bound, _)| *bound == s.bound) {
                Some((_, us)) => *us += s.modelled_us,
                None => by_bound.push((&s.bound, s.modelled_us)),
            }
        }
        by_bound.sort_by(|a, b| b.1.total_cmp(&a.1));
        let parts: Vec<String> = by_bound
            .iter()
            .map(|(bound, us)| format!("{bound} {:.0} %", us / t.modelled_us.max(1e-9) * 100.0))
            .collect();
        println!("limited by: {}", parts.join(", "));
        if let Some(modes) = &self.modes {
            println!("{}", modes.lines());
        }
    }
}
