//! The full table: budgets, seeds and worlds of each workload, every baseline, and the bars.

use std::io::Write;
use std::path::{Path, PathBuf};

use pilotlight_units::Hertz;
use serde::Serialize;

use super::baselines::{Blind, Modes};
use super::data::{ReplayError, Workload};
use super::plant::{Disturbance, PlantSettings};
use super::score::{LEARNING, Score, Task, cell_energy, oracle, run_governor};
use super::world::{World, listed_points};
use crate::governor::{Point, SettingsError};

/// What to replay.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// Folder of the measurements.
    pub folder: PathBuf,
    /// Workloads, by name.
    pub workloads: Vec<String>,
    /// Time between releases, microseconds.
    pub period_us: f64,
    /// Share of cycles that must be in time.
    pub percentile: f64,
    /// Seeds of each budget.
    pub seeds: u64,
    /// Cycles of each run.
    pub cycles: u64,
    /// Budgets, as ratios to the fastest cell's 99th percentile.
    pub budgets: Vec<f64>,
    /// Whether to run the disturbances too.
    pub disturbances: bool,
}

impl ReplayOptions {
    /// The whole matrix of the folder: 12 budgets log-uniform in 1.02 to 2.5, three infeasible, 10 seeds of
    /// 5,000 cycles, a release every 40 ms.
    pub fn full(folder: &Path, workloads: &[&str]) -> Self {
        let mut budgets: Vec<f64> =
            (0..12).map(|i| 1.02 * (2.5f64 / 1.02).powf(f64::from(i) / 11.0)).collect();
        budgets.extend([0.80, 0.88, 0.97]);
        Self {
            folder: folder.to_owned(),
            workloads: workloads.iter().map(|w| (*w).to_owned()).collect(),
            period_us: 40_000.0,
            percentile: 0.99,
            seeds: 10,
            cycles: 5_000,
            budgets,
            disturbances: true,
        }
    }
}

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The measurements cannot be used.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A setting is out of range.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The report cannot be written.
    #[error("the report cannot be written: {0}")]
    Write(#[from] std::io::Error),
}

/// One budget of one workload in one world.
#[derive(Clone, Debug, Serialize)]
pub struct BudgetRow {
    /// Workload.
    pub workload: String,
    /// World.
    pub world: &'static str,
    /// Budget over the fastest cell's 99th percentile.
    pub ratio: f64,
    /// Share of late cycles after learning.
    pub late: f64,
    /// Its 95 % upper bound, clustered by seed.
    pub late_upper: f64,
    /// Most late cycles of any seed while learning.
    pub late_learning: u64,
    /// Energy per period, mJ, modelled.
    pub energy_mj: f64,
    /// The oracle's, for this budget or, at a cell's boundary, for 98 % of it; `None` when infeasible.
    pub oracle_mj: Option<f64>,
    /// The oracle for 98 % of the budget picks another cell.
    pub boundary: bool,
    /// Energy of the top clocks.
    pub top_mj: f64,
    /// Share of late cycles and energy under the stock governor in each mode.
    pub modes: Vec<(&'static str, f64, f64)>,
    /// Share of late cycles and energy of the fit that does not know the memory clock.
    pub blind: (f64, f64),
    /// Runs that called the budget infeasible, and the latest first cycle of them.
    pub named: u64,
    /// Latest first cycle at which a run called it infeasible; `None` when some run did not.
    pub named_by: Option<u64>,
    /// Held cell over the fastest cell, largest from cycle 100 on.
    pub held_over_fastest: f64,
}

/// A requirement, what was found, and whether it holds.
#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    /// What is required.
    pub what: String,
    /// What was found.
    pub found: f64,
    /// The limit.
    pub limit: f64,
    /// Whether it holds.
    pub holds: bool,
}

/// Every row and every bar.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Rows.
    pub rows: Vec<BudgetRow>,
    /// Requirements.
    pub bars: Vec<Bar>,
}

impl Report {
    /// Whether every bar holds.
    pub fn holds(&self) -> bool {
        self.bars.iter().all(|b| b.holds)
    }

    fn at_most(&mut self, what: &str, found: f64, limit: f64) {
        self.bars.push(Bar { what: what.to_owned(), found, limit, holds: found <= limit });
    }
}

/// Everything loaded for a replay: workloads, and worlds fitted to the power points.
pub struct Bench {
    /// Workloads asked for.
    pub workloads: Vec<Workload>,
    /// Fitted worlds.
    pub worlds: Vec<World>,
}

impl Bench {
    /// Loads workloads and fits the worlds.
    ///
    /// # Errors
    /// [`ReplayError`] names the file and what is wrong with it.
    pub fn load(folder: &Path, names: &[String]) -> Result<Self, ReplayError> {
        let points = listed_points(folder)?;
        let mut fitted = Vec::new();
        for name in ["mobilenet", "proxy"] {
            fitted.push((name, Workload::load(folder, name)?));
        }
        let worlds = World::fit_all(&points, |name, gpu, emc| {
            let found = fitted.iter().find(|(n, _)| *n == name);
            found.map_or(0.0, |(_, w)| {
                let point = Point { gpu: Hertz((gpu * 1e6) as u64), emc: Hertz((emc * 1e6) as u64) };
                w.cell(w.grid.nearest(point)).quantile(0.5) / 1_000.0
            })
        });
        let workloads = names.iter().map(|n| Workload::load(folder, n)).collect::<Result<_, _>>()?;
        Ok(Self { workloads, worlds })
    }
}

/// Runs the matrix and writes the table for people.
///
/// # Errors
/// [`ReportError`] for measurements or settings that cannot be used, or an output that cannot be written.
pub fn report(options: &ReplayOptions, out: &mut impl Write) -> Result<Report, ReportError> {
    let bench = Bench::load(&options.folder, &options.workloads)?;
    let mut report = Report::default();
    writeln!(
        out,
        "Replay of measured latencies (300 recorded cycles a cell, blocks of 20); power is MODELLED in {} worlds.\n\
         {} seeds x {} cycles, period {:.1} ms, percentile {}. Energy: mJ per period, VDD_IN, after cycle {LEARNING}.\n\
         late< is the 95 % upper bound by seed; first: most late cycles of a seed in the first {LEARNING}.\n\
         edge: the oracle for budget/1.02 picks another cell; then energy is compared with that one.",
        bench.worlds.len(),
        options.seeds,
        options.cycles,
        options.period_us / 1_000.0,
        options.percentile,
    )?;
    for world in &bench.worlds {
        writeln!(
            out,
            "world {:8} fits the listed power points within {:.1} % (worst: {}): {}",
            world.name,
            100.0 * world.worst_error.abs(),
            world.worst_point,
            world.what
        )?;
    }
    for workload in &bench.workloads {
        for world in &bench.worlds {
            writeln!(out, "\n{} in world {}", workload.name, world.name)?;
            writeln!(
                out,
                "budget   late  late< first   energy  oracle  excess       top   | 15W late/mJ  | 25W late/mJ  | MAXN late/mJ | EMC-blind"
            )?;
            for ratio in &options.budgets {
                let row = budget_row(options, workload, world, *ratio)?;
                write_row(out, &row)?;
                report.rows.push(row);
            }
        }
    }
    score_bars(&mut report, &bench);
    if options.disturbances {
        disturb(options, &bench, &mut report, out)?;
    }
    writeln!(out, "\nrequirement                                                        found    limit")?;
    for bar in &report.bars {
        let verdict = if bar.holds { "holds" } else { "MISSED" };
        writeln!(out, "{:62} {:>9.3} {:>8.3}  {verdict}", bar.what, bar.found, bar.limit)?;
    }
    Ok(report)
}

fn budget_row(
    options: &ReplayOptions,
    workload: &Workload,
    world: &World,
    ratio: f64,
) -> Result<BudgetRow, SettingsError> {
    let budget_us = (ratio * workload.fastest_p99()).floor();
    let mut outcomes = Vec::new();
    for seed in 0..options.seeds {
        let task = Task {
            budget_us,
            percentile: options.percentile,
            period_us: options.period_us,
            cycles: options.cycles,
            seed,
            disturbance: None,
        };
        let settings = PlantSettings::new(options.period_us, seed);
        outcomes.push(run_governor(workload, world, settings, &task, |_| {})?);
    }
    let score = Score::of(&outcomes, options.cycles);
    let best = |budget| oracle(workload, world, budget, options.percentile, options.period_us);
    let here = best(budget_us);
    let tighter = best(budget_us / 1.02);
    let boundary = here.map(|(cell, _)| cell) != tighter.map(|(cell, _)| cell);
    let energy_of = |cell| cell_energy(workload, world, cell, options.period_us);
    let blind = Blind::cell(workload, budget_us);
    let blind_us = &workload.cell(blind).latency_us;
    let blind_late = blind_us.iter().filter(|us| **us > budget_us).count() as f64 / blind_us.len() as f64;
    let modes = Modes::ORIN_NANO_SUPER.iter().map(|mode| {
        let settings = PlantSettings::new(options.period_us, 0);
        let run = mode.run(workload, world, settings, budget_us, options.cycles.min(2_000));
        (mode.name, run.late, run.energy_mj)
    });
    Ok(BudgetRow {
        workload: workload.name.clone(),
        world: world.name,
        ratio,
        late: score.late,
        late_upper: score.late_upper,
        late_learning: score.late_learning,
        energy_mj: score.energy_mj,
        oracle_mj: if boundary { tighter.or(here) } else { here }.map(|(_, mj)| mj),
        boundary,
        top_mj: energy_of(workload.grid.top()),
        modes: modes.collect(),
        blind: (blind_late, energy_of(blind)),
        named: score.named,
        named_by: score.named_by,
        held_over_fastest: score.held_over_fastest,
    })
}

fn write_row(out: &mut impl Write, row: &BudgetRow) -> std::io::Result<()> {
    if row.ratio < 1.0 {
        let by = row.named_by.map_or("not in every run".to_owned(), |c| format!("by cycle {c}"));
        return writeln!(
            out,
            "{:.3}  infeasible: named {by}; held cell at most {:.3} of the fastest",
            row.ratio, row.held_over_fastest
        );
    }
    let oracle = row.oracle_mj.unwrap_or(f64::NAN);
    write!(
        out,
        "{:.3} {:>5.2}% {:>5.2}% {:>5} {:>8.1} {:>7.1} {:>+6.2}% {} {:>7.1} ",
        row.ratio,
        100.0 * row.late,
        100.0 * row.late_upper,
        row.late_learning,
        row.energy_mj,
        oracle,
        100.0 * (row.energy_mj / oracle - 1.0),
        if row.boundary { "edge" } else { "    " },
        row.top_mj,
    )?;
    for (_, late, mj) in &row.modes {
        write!(out, "| {:>5.1}% {mj:>6.1} ", 100.0 * late)?;
    }
    writeln!(out, "| {:>5.1}% {:>6.1}", 100.0 * row.blind.0, row.blind.1)
}

fn score_bars(report: &mut Report, bench: &Bench) {
    let worst_fit = bench.worlds.iter().map(|w| w.worst_error.abs()).fold(0.0, f64::max);
    report.at_most("power worlds: worst error on a listed point, %", 100.0 * worst_fit, 3.0);
    let names: Vec<String> = bench.workloads.iter().map(|w| w.name.clone()).collect();
    for name in names {
        let rows: Vec<BudgetRow> = report.rows.iter().filter(|r| r.workload == name).cloned().collect();
        let held: Vec<&BudgetRow> = rows.iter().filter(|r| r.ratio >= 1.0).collect();
        let excess = |r: &&BudgetRow| r.oracle_mj.map_or(0.0, |o| 100.0 * (r.energy_mj / o - 1.0));
        let most = |values: Vec<f64>| values.into_iter().fold(f64::NEG_INFINITY, f64::max);
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        if !held.is_empty() {
            let late = held.iter().map(|r| 100.0 * r.late_upper).collect();
            report.at_most(&format!("{name}: late, worst budget, 95 % upper bound, %"), most(late), 1.25);
            let late = held.iter().map(|r| 100.0 * r.late).collect();
            report.at_most(&format!("{name}: late, mean, %"), mean(late), 0.5);
            let first = held.iter().map(|r| r.late_learning as f64).collect();
            report.at_most(&format!("{name}: late in the first {LEARNING}, worst run"), most(first), 12.0);
            let all = held.iter().map(excess).collect();
            report.at_most(&format!("{name}: energy over the oracle, mean, %"), mean(all), 3.0);
            let inner = held.iter().filter(|r| !r.boundary).map(excess).collect();
            report.at_most(
                &format!("{name}: energy over the oracle, worst inner budget, %"),
                most(inner),
                5.0,
            );
            let named = held.iter().filter(|r| r.ratio >= 1.05).map(|r| r.named as f64).sum();
            report.at_most(&format!("{name}: runs at 1.05x or above called infeasible"), named, 0.0);
        }
        let loose: Vec<f64> =
            held.iter().filter(|r| r.ratio >= 1.5).map(|r| 100.0 * (r.energy_mj / r.top_mj)).collect();
        if !loose.is_empty() {
            report.at_most(&format!("{name}: energy at 1.5x and above, % of top clocks"), mean(loose), 90.0);
        }
        let tight: Vec<&BudgetRow> = rows.iter().filter(|r| r.ratio < 1.0).collect();
        if !tight.is_empty() {
            let by = tight.iter().map(|r| r.named_by.map_or(f64::INFINITY, |c| c as f64)).collect();
            report.at_most(&format!("{name}: infeasible budgets named by cycle"), most(by), 50.0);
            let held = tight.iter().map(|r| r.held_over_fastest).collect();
            report.at_most(&format!("{name}: cell held then, over the fastest"), most(held), 1.02);
        }
    }
}

/// What goes wrong for 500 cycles, with the name shown.
pub const DISTURBANCES: [(&str, Disturbance); 10] = [
    ("latency x 1.15", Disturbance::Slower(1.15)),
    ("latency x 2", Disturbance::Slower(2.0)),
    ("EMC forced to its lowest", Disturbance::EmcForced(0)),
    ("EMC forced to its middle", Disturbance::EmcForced(1)),
    ("GPU write not held", Disturbance::GpuNotHeld),
    ("GPU write not held, readback lies", Disturbance::GpuNotHeldUnseen),
    ("GPU capped at its third clock", Disturbance::GpuCap(2)),
    ("GPU capped at its lowest clock", Disturbance::GpuCap(0)),
    ("VDD_IN stuck", Disturbance::RailStuck),
    ("VDD_IN lost", Disturbance::RailLost),
];

fn disturb(
    options: &ReplayOptions,
    bench: &Bench,
    report: &mut Report,
    out: &mut impl Write,
) -> Result<(), ReportError> {
    writeln!(
        out,
        "\nDisturbances of 500 cycles, from cycle 40, 1,000 and 3,000; late: cycles 100 to 500 of them, not named infeasible"
    )?;
    for workload in &bench.workloads {
        for (name, disturbance) in DISTURBANCES {
            let (mut runs, mut late, mut worst) = (0u64, 0u64, 0u64);
            for world in &bench.worlds {
                for ratio in [1.05, 1.2, 1.5, 1.8, 2.2, 2.5] {
                    for from in [40, 1_000, 3_000] {
                        for seed in 0..options.seeds.min(3) {
                            let task = Task {
                                budget_us: (ratio * workload.fastest_p99()).floor(),
                                percentile: options.percentile,
                                period_us: options.period_us,
                                cycles: from + 500,
                                seed,
                                disturbance: Some((from, from + 500, disturbance)),
                            };
                            let settings = PlantSettings::new(options.period_us, seed);
                            let outcome = run_governor(workload, world, settings, &task, |_| {})?;
                            runs += 1;
                            late += outcome.late_disturbed;
                            worst = worst.max(outcome.late_disturbed);
                        }
                    }
                }
            }
            let mean = 100.0 * late as f64 / (400 * runs) as f64;
            writeln!(
                out,
                "{:10} {name:34} {runs} runs: late {mean:.2} %, worst run {:.2} %",
                workload.name,
                100.0 * worst as f64 / 400.0
            )?;
            report.at_most(
                &format!("{}: {name}: late after 100 cycles, worst run, %", workload.name),
                100.0 * worst as f64 / 400.0,
                1.25,
            );
        }
    }
    Ok(())
}
