//! `pilotlight bench`: how long a model takes, in all and by operation.

mod rate;

use super::telemetry::TelemetryOptions;
use super::{print_json, progress};
use crate::device::DeviceOptions;
use crate::energy::{CostOptions, Costs, Energy, EnergyOptions};
use crate::feed;
use crate::model::{CompileOptions, Model};
use crate::modelled::Modelled;
use crate::stats::Latency;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// Measure a model's latency on random input: whole runs, then each operation
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// Plan, ONNX file, or model folder
    model: PathBuf,
    /// Runs that count; 200 unless given, on a virtual board 1
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// Runs before those that count; 20 unless given, on a virtual board 1
    #[arg(long, value_name = "N")]
    warm_up: Option<u32>,
    /// Show every step instead of a sum for each kind of operation
    #[arg(long)]
    steps: bool,
    /// Instead: energy of a request on a virtual board when so many come a second, with the persistent kernel lit, with
    /// it parked, and in graph mode; which is chosen and why. Modelled, not measured
    #[arg(long, value_name = "HZ", value_parser = rate, conflicts_with_all = ["runs", "warm_up", "steps"])]
    rate: Option<f64>,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceOptions,
    #[command(flatten)]
    compile: CompileOptions,
    #[command(flatten)]
    telemetry: TelemetryOptions,
    #[command(flatten)]
    energy: EnergyOptions,
    #[command(flatten)]
    costs: CostOptions,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(hz) if (1e-3..=1e6).contains(&hz) => Ok(hz),
        _ => Err("a number of requests a second from 0.001 to 1000000 is allowed".into()),
    }
}

/// How often the model is opened and loaded for the start times.
const STARTS: usize = 9;

/// What `bench --json` prints. Fields are only ever added within one `schema`.
#[derive(Serialize)]
struct Report {
    schema: u32,
    model: String,
    device: String,
    /// Reading and checking the plan, median; absent where it was compiled from ONNX.
    plan_open_us: Option<f64>,
    /// From the plan in memory to a program ready to run, median.
    load_us: f64,
    /// Absent on a virtual board, which has no time of its own.
    latency_us: Option<Latency>,
    /// On a virtual board `p50_us` is modelled.
    steps: Vec<StepTime>,
    energy: Energy,
    /// Of one inference on a virtual board.
    modelled: Option<Modelled>,
    /// Where it was asked for and the energy is known.
    costs: Option<Costs>,
}

#[derive(Serialize)]
struct StepTime {
    op: &'static str,
    nodes: String,
    p50_us: f64,
}

impl Bench {
    pub(super) fn run(self) -> Result<()> {
        let mut model = Model::open(&self.model, &self.compile)?;
        if let Some(hz) = self.rate {
            return rate::run(&model, &self.device.board, hz, self.json);
        }
        let device = self.device.open()?;
        let mut program = device.load(&model.plan)?;
        // Once more, several times: the first start also pays for what the process touches for the first time.
        let (mut opens, mut loads) = (Vec::new(), Vec::new());
        for _ in 0..STARTS {
            let start = Instant::now();
            if model.is_plan {
                model = Model::open(&self.model, &self.compile)?;
                opens.push(start.elapsed().as_nanos() as u64);
            }
            let start = Instant::now();
            program = device.load(&model.plan)?;
            loads.push(start.elapsed().as_nanos() as u64);
        }
        let median = |nanos: Vec<u64>| Latency::of(nanos).map(|l| l.p50);
        let (plan_open_us, load_us) = (median(opens), median(loads).unwrap_or_default());
        let mut slot = program.slot()?;
        feed::random(&model.plan, 1, &mut slot);

        let (runs, warm_up) = match device.is_virtual() {
            true => (self.runs.unwrap_or(1), self.warm_up.unwrap_or(1)),
            false => (self.runs.unwrap_or(200), self.warm_up.unwrap_or(20)),
        };
        let mut metering = self.energy.start(&device);
        let bar = progress((warm_up + runs) as usize, "running");
        for _ in 0..warm_up {
            program.run(&mut slot)?;
            bar.inc(1);
        }
        device.launches()?;
        let mut telemetry = self.telemetry.start(&model.plan.name, &device)?;
        let mut nanos = Vec::with_capacity(runs as usize);
        metering.begin();
        for _ in 0..runs {
            let start = Instant::now();
            program.run(&mut slot)?;
            let took = start.elapsed();
            nanos.push(took.as_nanos() as u64);
            telemetry.record(took);
            bar.inc(1);
        }
        metering.end();
        telemetry.finish();
        let modelled = Modelled::of(&device.launches()?).map(|m| m.mean(runs));
        let energy = metering.finish(runs);
        bar.finish_and_clear();
        let mut by_step: Vec<Vec<u64>> = vec![Vec::new(); model.plan.steps.len()];
        let mut times = Vec::new();
        for _ in 0..runs.min(50) {
            program.run_timed(&mut slot, &mut times)?;
            by_step.iter_mut().zip(&times).for_each(|(all, &t)| all.push(t));
        }
        let steps = model.plan.steps.iter().zip(by_step).map(|(step, all)| StepTime {
            op: step.op.name(),
            nodes: step.nodes.join("+"),
            p50_us: Latency::of(all).map_or(0.0, |l| l.p50),
        });
        let latency_us = Latency::of(nanos).context("at least one run is timed")?;
        let report = Report {
            schema: 1,
            model: model.plan.name.clone(),
            device: device.describe(),
            plan_open_us,
            load_us,
            // How long the emulator takes says nothing of a board.
            latency_us: (!device.is_virtual()).then_some(latency_us),
            steps: steps.collect(),
            costs: self.costs.costs(&energy),
            energy,
            modelled,
        };
        if self.json {
            return print_json(&report);
        }
        self.show(&report, warm_up);
        Ok(())
    }

    fn show(&self, report: &Report, warm_up: u32) {
        println!("{} on {}", report.model, report.device);
        if let Some(l) = report.latency_us {
            println!(
                "latency: min {:.3} ms, p50 {:.3} ms, p99 {:.3} ms (n = {}, {warm_up} runs before)",
                l.min / 1e3,
                l.p50 / 1e3,
                l.p99 / 1e3,
                l.n
            );
        }
        if let Some(modelled) = &report.modelled {
            println!("{}", modelled.lines());
        } else if report.latency_us.is_none() {
            println!("{}", crate::modelled::NO_TIME);
        }
        if let Some(open) = report.plan_open_us {
            println!(
                "plan opened in {:.3} ms, loaded in {:.3} ms (medians of {STARTS})",
                open / 1e3,
                report.load_us / 1e3
            );
        } else {
            println!("loaded in {:.3} ms (median of {STARTS})", report.load_us / 1e3);
        }
        println!("{}", report.energy.line());
        if let Some(costs) = &report.costs {
            print!("{}", costs.lines());
        }
        let total: f64 = report.steps.iter().map(|s| s.p50_us).sum();
        println!(
            "\n{:>10} {:>6} {:>6}  operation ({} one by one, {:.3} ms in all)",
            "us",
            "%",
            "count",
            if report.modelled.is_some() { "modelled, not measured," } else { "timed" },
            total / 1e3
        );
        let line = |us: f64, count: usize, name: &str| {
            println!("{us:>10.1} {:>6.1} {count:>6}  {name}", us / total.max(1e-9) * 100.0);
        };
        if self.steps {
            for s in &report.steps {
                line(s.p50_us, 1, &format!("{} {}", s.op, s.nodes));
            }
            return;
        }
        let mut sums: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
        for s in &report.steps {
            let sum = sums.entry(s.op).or_default();
            *sum = (sum.0 + s.p50_us, sum.1 + 1);
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
        for (op, (us, count)) in sums {
            line(us, count, op);
        }
    }
}
