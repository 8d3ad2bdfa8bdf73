//! `pilotlight govern`: hold a latency budget at the least energy, on a board, on a plant of one's own, or on
//! replayed measurements.

mod live;
mod virtual_board;
mod watch;

use crate::device::Board;
use anyhow::{Context, Result, bail};
use pilotlight_boards::named;
use pilotlight_power::governor::{Governor, Grid, Settings, Urgency};
use pilotlight_power::line::govern_lines;
use pilotlight_power::replay::{
    Bench, PlantSettings, ReplayOptions, Task, budgets_svg, report, run_governor, run_svg, trace_csv,
};
use pilotlight_units::{Hertz, Micros};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Hold a latency budget at the least energy by moving the board's clocks
///
/// Four ways: on this board beside a COMMAND that reports its latencies; with --plant stdio on a plant of your own
/// that speaks lines; with --board virtual:NAME on a virtual board whose time and power are modelled; with --replay on recorded measurements, scored against baselines and an oracle.
#[derive(Debug, clap::Args)]
pub struct Govern {
    /// Longest latency that counts as in time: 8ms, 8000us
    #[arg(long, value_parser = duration)]
    budget: Option<Micros>,
    /// The same in microseconds
    #[arg(long, conflicts_with = "budget")]
    budget_us: Option<u64>,
    /// Share of cycles that must be in time, in per cent
    #[arg(long, default_value_t = 99.0)]
    percentile: f64,
    /// Time between releases, microseconds
    #[arg(long, default_value_t = 40_000)]
    period_us: u64,
    /// Govern a plant over standard input and output
    #[arg(long, value_enum, conflicts_with = "replay")]
    plant: Option<PlantKind>,
    /// Clocks of the plant: a known board's name, or a TOML file with gpu.clocks_mhz and memory.emc_mhz
    #[arg(long, value_name = "FILE", default_value = "orin-nano-8gb-super")]
    boards: String,
    /// Replay measurements from this folder
    #[arg(long, value_name = "DIR")]
    replay: Option<PathBuf>,
    /// Workload to replay; all of the matrix's where left out
    #[arg(long, requires = "replay")]
    workload: Vec<String>,
    /// Seeds of each budget
    #[arg(long, default_value_t = 10, requires = "replay", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Cycles of each run: 5,000 of a replay, 600 on a virtual board unless said otherwise
    #[arg(long, value_parser = clap::value_parser!(u64).range(300..=1_000_000))]
    cycles: Option<u64>,
    /// Leave the disturbances out
    #[arg(long, requires = "replay")]
    no_disturbances: bool,
    /// World of power for a single run
    #[arg(long, default_value = "linear", requires = "replay")]
    world: String,
    /// Write the cycles of a single run (needs a budget and one workload) as CSV
    #[arg(long, requires = "replay")]
    trace: Option<PathBuf>,
    /// Write a plot as SVG: of a single run with a budget, of energy over budgets without
    #[arg(long, requires = "replay")]
    plot: Option<PathBuf>,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
    /// Root of the file tree of the board
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// Folder of the state file
    #[arg(long, default_value = "/run/pilotlight")]
    state: PathBuf,
    /// Only observe and advise, even with the right to set clocks
    #[arg(long)]
    observe: bool,
    /// How urgent the work is; a COMMAND can change it with a line `urgency=normal|urgent|background`
    #[arg(long, value_enum, default_value_t = UrgencyName::Normal)]
    urgency: UrgencyName,
    /// Highest GPU clock of background work, MHz
    #[arg(long, value_name = "MHZ")]
    background_cap: Option<u64>,
    #[command(flatten)]
    alerts: watch::AlertOptions,
    /// Govern MODEL on this virtual board: virtual:orin-nano-super and others
    #[arg(long, value_name = "BOARD", requires = "model", conflicts_with_all = ["plant", "replay"])]
    board: Option<Board>,
    /// Model that runs on the virtual board, once a period
    #[arg(long, value_name = "MODEL", requires = "board")]
    model: Option<PathBuf>,
    /// Program to run and govern; it writes a line `latency_us=N` to the FIFO named in PILOTLIGHT_CYCLES for each inference
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum PlantKind {
    /// One line a cycle on standard input, one answer on standard output
    Stdio,
}

/// How urgent the work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum UrgencyName {
    /// Hold the budget at the least energy
    Normal,
    /// Never above --background-cap, whatever it does to latency
    Background,
    /// The fastest clocks at once
    Urgent,
}

/// Clocks of a board file; other keys may be there.
#[derive(Deserialize)]
struct Clocks {
    gpu: GpuClocks,
    memory: MemoryClocks,
}

#[derive(Deserialize)]
struct GpuClocks {
    clocks_mhz: Vec<f64>,
}

#[derive(Deserialize)]
struct MemoryClocks {
    emc_mhz: Vec<f64>,
}

impl Govern {
    pub fn run(self) -> Result<bool> {
        if let Some(folder) = self.replay.clone() {
            return self.replay(&folder);
        }
        let Some(budget) = self.the_budget() else {
            bail!("a budget is needed: --budget 8ms or --budget-us 8000")
        };
        let settings = Settings::new(budget, self.percentile / 100.0, Micros(self.period_us))?;
        if self.plant.is_some() {
            let mut governor = Governor::new(settings, clocks(&self.boards)?)?;
            let (input, output) = (std::io::stdin().lock(), std::io::stdout().lock());
            let summary = govern_lines(&mut governor, input, output, self.json)?;
            eprintln!("{} cycles, {} late, {} requests", summary.cycles, summary.late, summary.requests);
            return Ok(true);
        }
        if let (Some(board), Some(model)) = (&self.board, &self.model) {
            let Board::Virtual(name) = board else {
                bail!("--board is for virtual boards; for this one give -- COMMAND");
            };
            return virtual_board::run(&self, settings, name, model);
        }
        if self.command.is_empty() {
            bail!(
                "nothing to govern: give -- COMMAND, --plant stdio, --board virtual:NAME --model MODEL, or --replay DIR"
            );
        }
        live::run(&self, settings)
    }

    fn the_budget(&self) -> Option<Micros> {
        self.budget.or(self.budget_us.map(Micros))
    }

    fn cap(&self) -> Option<Hertz> {
        self.background_cap.map(Hertz::from_mhz)
    }

    fn the_urgency(&self) -> Result<Urgency> {
        Ok(match (self.urgency, self.cap()) {
            (UrgencyName::Normal, _) => Urgency::Normal,
            (UrgencyName::Urgent, _) => Urgency::Urgent,
            (UrgencyName::Background, Some(cap)) => Urgency::Background { cap },
            (UrgencyName::Background, None) => bail!("--urgency background needs --background-cap MHZ"),
        })
    }

    fn replay(&self, folder: &Path) -> Result<bool> {
        let all = ["mobilenet", "proxy"];
        let names: Vec<&str> = if self.workload.is_empty() {
            all.to_vec()
        } else {
            self.workload.iter().map(String::as_str).collect()
        };
        if let Some(budget) = self.the_budget() {
            return self.replay_one(folder, names[0], budget);
        }
        let mut options = ReplayOptions::full(folder, &names);
        options.period_us = self.period_us as f64;
        options.percentile = self.percentile / 100.0;
        options.seeds = self.seeds;
        options.cycles = self.cycles.unwrap_or(5_000);
        options.disturbances = !self.no_disturbances;
        let report = match self.json {
            true => report(&options, &mut std::io::sink())?,
            false => report(&options, &mut std::io::stdout().lock())?,
        };
        if self.json {
            super::print_json(&report)?;
        }
        if let Some(path) = &self.plot {
            let rows: Vec<_> = report
                .rows
                .iter()
                .filter(|r| r.workload == names[0] && r.world == self.world)
                .cloned()
                .collect();
            let title =
                format!("{}: energy per {} ms period over latency budgets", names[0], self.period_us / 1_000);
            write(path, &budgets_svg(&title, &rows))?;
        }
        Ok(report.holds())
    }

    /// One run, with its trace and plot.
    fn replay_one(&self, folder: &Path, name: &str, budget: Micros) -> Result<bool> {
        let bench = Bench::load(folder, &[name.to_owned()])?;
        let worlds: Vec<&str> = bench.worlds.iter().map(|w| w.name).collect();
        let world = bench.worlds.iter().find(|w| w.name == self.world);
        let world =
            world.with_context(|| format!("unknown world '{}'; known: {}", self.world, worlds.join(", ")))?;
        let workload = &bench.workloads[0];
        let task = Task {
            budget_us: budget.as_f64(),
            percentile: self.percentile / 100.0,
            period_us: self.period_us as f64,
            cycles: self.cycles.unwrap_or(5_000),
            seed: 0,
            disturbance: None,
        };
        let mut rows = Vec::new();
        let outcome = run_governor(workload, world, PlantSettings::new(task.period_us, 0), &task, |row| {
            rows.push(*row)
        })?;
        if let Some(path) = &self.trace {
            write(path, &trace_csv(workload, &rows))?;
        }
        if let Some(path) = &self.plot {
            let title = format!("{name}, budget {budget}, one release every {} ms", self.period_us / 1_000);
            write(path, &run_svg(workload, &title, task.budget_us, &rows))?;
        }
        let named = outcome.named.map_or(String::new(), |c| format!(", called infeasible at cycle {c}"));
        println!(
            "{} cycles: {} late in the first 200, {} after; {:.1} mJ a period after (MODELLED, world {}){named}",
            task.cycles, outcome.late_learning, outcome.late, outcome.energy_mj, world.name
        );
        Ok(true)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// Clocks of a known board or of a file.
fn clocks(boards: &str) -> Result<Grid> {
    let clocks = match named(boards) {
        Some(data) => Clocks {
            gpu: GpuClocks { clocks_mhz: data.gpu.clocks_mhz },
            memory: MemoryClocks { emc_mhz: data.memory.emc_mhz },
        },
        None => {
            let text = std::fs::read_to_string(boards)
                .with_context(|| format!("'{boards}' is no known board and no file that can be read"))?;
            toml::from_str(&text).with_context(|| boards.to_owned())?
        }
    };
    let hertz = |mhz: &[f64]| mhz.iter().map(|m| Hertz((m * 1e6).round() as u64)).collect::<Vec<_>>();
    Ok(Grid::new(&hertz(&clocks.gpu.clocks_mhz), &hertz(&clocks.memory.emc_mhz))?)
}

/// Parses 8ms, 8000us, 1s.
fn duration(text: &str) -> Result<Micros, String> {
    let units = [("ms", 1e3), ("us", 1.0), ("s", 1e6)];
    let parsed = units.iter().find_map(|(unit, scale)| {
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        (number > 0.0 && number < 1e6).then_some(Micros((number * scale).round() as u64))
    });
    parsed.ok_or_else(|| format!("'{text}' is no time; write 8ms, 8000us or 1s"))
}
