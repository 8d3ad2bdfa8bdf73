//! `pilotlight power`: rails, clocks and temperatures over time, with energy and its uncertainty.

use super::print_json;
use anyhow::{Result, bail};
use pilotlight_boards::{Board, Tree, rails, thermal};
use pilotlight_power::live::sensor_of;
use pilotlight_power::meter::{Meter, Sample};
use pilotlight_units::Micros;
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Watch rails, clocks and temperatures; energy by the window
#[derive(Debug, clap::Args)]
pub struct Power {
    /// Root of the file tree to look at
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// Samples a second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Length of a window, seconds
    #[arg(long, default_value_t = 1.0)]
    window: f64,
    /// Stop after this many windows
    #[arg(long)]
    windows: Option<u64>,
    /// Print a line of JSON for each window
    #[arg(long)]
    json: bool,
}

/// A window as `power --json` prints it.
#[derive(Serialize)]
struct Line {
    schema: u32,
    seconds: f64,
    energy_mj: f64,
    deviation_mj: f64,
    mean_mw: u32,
    gap_s: f64,
    /// Whether one rail measures the module; otherwise the sum is an estimate.
    measured: bool,
    rails_mw: Vec<(String, u32)>,
    gpu_hz: Option<u64>,
    emc_hz: Option<u64>,
    hottest_c: Option<f64>,
}

impl Power {
    pub fn run(self) -> Result<()> {
        if !(0.1..=3_600.0).contains(&self.window) {
            bail!("--window is {}; from 0.1 to 3600 seconds are allowed", self.window);
        }
        let tree = Tree::at(&self.root);
        let board = Board::discover(&tree);
        let energy_counter = board.rails.iter().find(|r| r.channel == 0);
        let Some(data) = &board.data else {
            match energy_counter {
                Some(rail) => return self.counter(&tree, rail),
                None => bail!(
                    "no rail of the module is known here: energy is not measured (`pilotlight boards` says why)"
                ),
            }
        };
        let period = Duration::from_secs(1) / self.rate;
        let sensor = sensor_of(&board.rails, Micros(period.as_micros() as u64));
        let Some(mut total) = rails::TotalSensor::open(&tree, data) else {
            bail!(
                "no sensor for the rails {:?}: energy is not measured (`pilotlight boards` says why)",
                data.total.rails
            )
        };
        let mut meter = Meter::new(Micros((self.window * 1e6) as u64), sensor);
        let began = Instant::now();
        let cpu_began = cpu_seconds();
        let (mut shown, mut printed, mut next) = (None, 0, Instant::now());
        let mut failed = 0u64;
        while self.windows.is_none_or(|n| printed < n) {
            match total.read() {
                Ok(power) => {
                    failed = 0;
                    meter.sample(Sample { at: Micros(began.elapsed().as_micros() as u64), power });
                }
                Err(_) => failed += 1,
            }
            if failed > 10 * u64::from(self.rate) {
                bail!("the rails {:?} have not answered for ten seconds", data.total.rails);
            }
            if let Some(report) = meter.latest()
                && shown != Some(report.window.begin)
            {
                shown = Some(report.window.begin);
                printed += 1;
                self.show(&tree, &board, &report.window)?;
            }
            next += period;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let wall = began.elapsed().as_secs_f64();
        let share = 100.0 * (cpu_seconds() - cpu_began) / wall;
        let faults = meter.faults();
        eprintln!(
            "{} samples a second took {share:.2} % of a core; {} gaps, {} wild, {} out of order{}",
            self.rate,
            faults.gaps,
            faults.wild,
            faults.out_of_order,
            if faults.stuck() { "; THE SENSOR HAS NOT MOVED FOR A MINUTE" } else { "" }
        );
        Ok(())
    }

    fn show(&self, tree: &Tree, board: &Board, window: &pilotlight_power::meter::Window) -> Result<()> {
        // Parts of the module, and rails outside the sum: shown, so once a window is enough.
        let readings = board.rails.iter().filter_map(|r| Some((r.label.clone(), r.power(tree).ok()?)));
        let state = board.gpu.as_ref().and_then(|g| g.state(tree).ok());
        let emc = pilotlight_boards::emc::Emc::read(tree, &mut Vec::new()).now;
        let hottest = thermal::hottest(&thermal::zones(tree));
        let measured = board.data.as_ref().is_some_and(|d| d.total.measured);
        let line = Line {
            schema: 1,
            seconds: window.covered.as_f64() * 1e-6,
            energy_mj: window.gross.as_f64() / 1e3,
            deviation_mj: window.deviation.as_f64() / 1e3,
            mean_mw: window.mean().map_or(0, |p| p.0),
            gap_s: window.gap.as_f64() * 1e-6,
            measured,
            rails_mw: readings.map(|(l, p)| (l, p.0)).collect(),
            gpu_hz: state.as_ref().map(|s| s.now.0),
            emc_hz: emc.map(|e| e.0),
            hottest_c: hottest.map(|h| f64::from(h.0) / 1e3),
        };
        if self.json {
            return print_json(&line);
        }
        print!(
            "{:>9.1} mJ +- {:.1} in {:.2} s ({:.2} W {})",
            line.energy_mj,
            2.0 * line.deviation_mj,
            line.seconds,
            f64::from(line.mean_mw) / 1e3,
            if measured { "measured" } else { "estimated from rails" }
        );
        for (label, mw) in &line.rails_mw {
            print!("  {label} {:.2} W", f64::from(*mw) / 1e3);
        }
        if let Some(state) = state {
            print!("  GPU {}", state.now);
        }
        if let Some(emc) = emc {
            print!("  EMC {emc}");
        }
        println!("{}", hottest.map_or(String::new(), |h| format!("  {h}")));
        Ok(())
    }

    /// A laptop: one counter of energy, exact over any time.
    fn counter(&self, tree: &Tree, rail: &rails::Rail) -> Result<()> {
        let mut printed = 0;
        let mut before = rail.energy_uj(tree)?;
        let mut at = Instant::now();
        while self.windows.is_none_or(|n| printed < n) {
            std::thread::sleep(Duration::from_secs_f64(self.window));
            let (now, after) = (Instant::now(), rail.energy_uj(tree)?);
            // The counter wraps; a window across the end is left out.
            if after >= before {
                let (mj, seconds) = ((after - before) as f64 / 1e3, (now - at).as_secs_f64());
                println!(
                    "{mj:>9.1} mJ in {seconds:.2} s ({:.2} W) {} (RAPL)",
                    mj / 1e3 / seconds,
                    rail.label
                );
                printed += 1;
            }
            (before, at) = (after, now);
        }
        Ok(())
    }
}

/// CPU time of this process, seconds.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
