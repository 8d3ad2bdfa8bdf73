//! `pilotlight power`: rails, clocks and temperatures over time, with energy, its uncertainty, alerts and costs.

use super::print_json;
use crate::energy::positive;
use anyhow::{Result, bail};
use pilotlight_boards::rails::{self, Basis};
use pilotlight_boards::thermal::{self, OverCurrent};
use pilotlight_boards::{Board, Tree, emc::Emc};
use pilotlight_power::advice::{Limits, Watched};
use pilotlight_power::meter::{Cost, Meter, Sample, Window};
use pilotlight_power::module::sensor_of;
use pilotlight_units::{Hertz, Microjoules, Micros, MilliCelsius};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Watch rails, clocks and temperatures; energy by the window
#[derive(Debug, clap::Args)]
pub struct Power {
    /// Root of the file tree to look at; what another than / shows is called modelled
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
    /// Inferences a second that run on the board meanwhile: shows the energy of one, gross
    #[arg(long, value_name = "N", value_parser = positive)]
    inferences_per_second: Option<f64>,
    /// Alert when an inference takes more energy than this, mJ
    #[arg(long, value_name = "MJ", value_parser = positive, requires = "inferences_per_second")]
    alert_energy_mj: Option<f64>,
    /// Alert when a zone is hotter than this, degrees Celsius
    #[arg(long, value_name = "CELSIUS")]
    alert_temperature: Option<f64>,
    /// Alert on over-current and throttle events
    #[arg(long)]
    alert_throttling: bool,
    /// Price of a kilowatt-hour, in any currency: shows what a day at this power costs
    #[arg(long, value_name = "PRICE", value_parser = positive)]
    tariff: Option<f64>,
    /// Carbon dioxide of a kilowatt-hour in grams: shows that of a day at this power
    #[arg(long, value_name = "GRAMS", value_parser = positive)]
    grid: Option<f64>,
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
    /// Null where the sensor does not tell.
    deviation_mj: Option<f64>,
    mean_mw: u32,
    gap_s: f64,
    basis: Basis,
    rails_mw: Vec<(String, u32)>,
    gpu_hz: Option<u64>,
    emc_hz: Option<u64>,
    hottest_c: Option<f64>,
    /// Over-current events in the window; null where the board counts none.
    over_current: Option<OverCurrent>,
    /// With `--inferences-per-second`.
    energy_per_inference_mj: Option<f64>,
    /// Of a day at this power, and of a million inferences; null where not asked for.
    price_per_day: Option<f64>,
    price_per_million: Option<f64>,
    co2_g_per_day: Option<f64>,
    co2_g_per_million: Option<f64>,
    /// Limits that are passed.
    alerts: Vec<Alert>,
}

/// A limit that is passed.
#[derive(Serialize)]
struct Alert {
    alert: &'static str,
    value: f64,
    limit: f64,
}

/// Energy of a window, whatever it rests on.
struct Energy {
    millijoules: f64,
    deviation_mj: Option<f64>,
    seconds: f64,
    gap_s: f64,
    basis: Basis,
    rails_mw: Vec<(String, u32)>,
}

/// What is looked at beside the energy, and what was there at the last look.
struct Look {
    tree: Tree,
    board: Board,
    over_current: Option<OverCurrent>,
}

impl Power {
    pub fn run(self) -> Result<()> {
        if !(0.1..=3_600.0).contains(&self.window) {
            bail!("--window is {}; from 0.1 to 3600 seconds are allowed", self.window);
        }
        let tree = Tree::at(&self.root);
        let board = Board::discover(&tree);
        let counter = board.rails.iter().find(|r| r.channel == 0).cloned();
        let over_current = board.over_current;
        let look = Look { tree, board, over_current };
        match (look.board.data.is_some(), counter) {
            (true, _) => self.rails(look),
            (false, Some(rail)) => self.counter(look, &rail),
            (false, None) => {
                bail!(
                    "no rail of the module is known here: energy is not measured (`pilotlight boards` says why)"
                )
            }
        }
    }

    /// A board: its rails, sampled.
    fn rails(&self, mut look: Look) -> Result<()> {
        let Some(data) = &look.board.data else { return Ok(()) };
        let (names, basis) = (data.total.rails.clone(), Basis::of(&look.tree, Some(data)));
        let period = Duration::from_secs(1) / self.rate;
        let sensor = sensor_of(&look.board.rails, Micros(period.as_micros() as u64));
        let Some(mut total) = rails::TotalSensor::open(&look.tree, data) else {
            bail!("no sensor for the rails {names:?}: energy is not measured (`pilotlight boards` says why)")
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
                bail!("the rails {names:?} have not answered for ten seconds");
            }
            if let Some(report) = meter.latest()
                && shown != Some(report.window.begin)
            {
                shown = Some(report.window.begin);
                printed += 1;
                self.show(&mut look, Energy::of(&report.window, basis))?;
            }
            // What was missed while the process stood still is a gap, not made up for.
            let now = Instant::now();
            next = (next + period).max(now);
            std::thread::sleep(next - now);
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

    /// A laptop: one counter of energy, exact over any time.
    fn counter(&self, mut look: Look, rail: &rails::Rail) -> Result<()> {
        let mut printed = 0;
        let mut before = rail.energy_uj(&look.tree)?;
        let mut at = Instant::now();
        while self.windows.is_none_or(|n| printed < n) {
            std::thread::sleep(Duration::from_secs_f64(self.window));
            let (now, after) = (Instant::now(), rail.energy_uj(&look.tree)?);
            // The counter wraps; a window across the end is left out.
            if after >= before {
                let (millijoules, seconds) = ((after - before) as f64 / 1e3, (now - at).as_secs_f64());
                let label = format!("{} (RAPL)", rail.label);
                let rails_mw = vec![(label, (millijoules / seconds) as u32)];
                let energy = Energy {
                    millijoules,
                    deviation_mj: None,
                    seconds,
                    gap_s: 0.0,
                    basis: Basis::of(&look.tree, None),
                    rails_mw,
                };
                self.show(&mut look, energy)?;
                printed += 1;
            }
            (before, at) = (after, now);
        }
        Ok(())
    }

    fn show(&self, look: &mut Look, energy: Energy) -> Result<()> {
        let Look { tree, board, over_current } = look;
        // Parts of the module, and rails outside the sum: shown, so once a window is enough.
        let rails = board.rails.iter().filter(|r| r.channel > 0);
        let parts = rails.filter_map(|r| Some((r.label.clone(), r.power(tree).ok()?.0)));
        let rails_mw = energy.rails_mw.into_iter().chain(parts).collect();
        let gpu = board.gpu.as_ref().and_then(|g| g.now(tree).ok());
        let emc = Emc::now(tree);
        let hottest = thermal::hottest(&thermal::zones(tree));
        let counts = OverCurrent::read(tree);
        let events = counts.zip(*over_current).map(|(now, before)| now.since(before));
        // A look that failed is made up for by the next.
        *over_current = counts.or(*over_current);
        let mean_mw = energy.millijoules / energy.seconds.max(1e-9);
        let each = self.inferences_per_second.map(|n| Microjoules((mean_mw * 1e3 / n).round() as u64));
        // Kilowatt-hours of a day at this power, and what a million inferences cost.
        let a_day = |per_kwh: Option<f64>| per_kwh.map(|p| mean_mw * 24e-6 * p);
        let cost = each.map(|each| Cost {
            before: each,
            after: each,
            tariff_per_kwh: self.tariff.unwrap_or(0.0),
            grid_g_per_kwh: self.grid.unwrap_or(0.0),
        });
        let line = Line {
            schema: 1,
            seconds: energy.seconds,
            energy_mj: energy.millijoules,
            deviation_mj: energy.deviation_mj,
            mean_mw: mean_mw as u32,
            gap_s: energy.gap_s,
            basis: energy.basis,
            rails_mw,
            gpu_hz: gpu.map(|c| c.0),
            emc_hz: emc.map(|c| c.0),
            hottest_c: hottest.map(|h| f64::from(h.0) / 1e3),
            over_current: events,
            energy_per_inference_mj: each.map(|e| e.as_f64() / 1e3),
            price_per_day: a_day(self.tariff),
            price_per_million: self.tariff.and(cost).map(|c| c.price_per_million().1),
            co2_g_per_day: a_day(self.grid),
            co2_g_per_million: self.grid.and(cost).map(|c| c.grams_per_million().1),
            alerts: self.alerts(each, hottest, events),
        };
        if self.json {
            return print_json(&line);
        }
        println!("{}", line.text(gpu, emc, hottest));
        Ok(())
    }

    /// Limits that are passed; what is not measured passes none.
    fn alerts(
        &self,
        energy: Option<Microjoules>,
        hottest: Option<MilliCelsius>,
        events: Option<OverCurrent>,
    ) -> Vec<Alert> {
        let events = events.map_or(0, OverCurrent::all);
        let limits = Limits {
            energy_per_inference: self.alert_energy_mj.map(|mj| Microjoules((mj * 1e3) as u64)),
            late: None,
            temperature: self.alert_temperature.map(|c| MilliCelsius((c * 1e3) as i32)),
            throttling: self.alert_throttling,
        };
        let raised = limits.check(&Watched {
            energy_per_inference: energy,
            late: 0.0,
            temperature: hottest,
            throttle_events: events,
        });
        let mj = energy.map_or(0.0, |e| e.as_f64() / 1e3);
        let celsius = hottest.map_or(0.0, |h| f64::from(h.0) / 1e3);
        let all = [
            (raised.energy, "energy_mj", mj, self.alert_energy_mj.unwrap_or(0.0)),
            (raised.temperature, "temperature_c", celsius, self.alert_temperature.unwrap_or(0.0)),
            (raised.throttling, "throttle_events", events as f64, 0.0),
        ];
        let passed = all.into_iter().filter(|a| a.0);
        passed.map(|(_, alert, value, limit)| Alert { alert, value, limit }).collect()
    }
}

impl Energy {
    fn of(window: &Window, basis: Basis) -> Self {
        Self {
            millijoules: window.gross.as_f64() / 1e3,
            deviation_mj: Some(window.deviation.as_f64() / 1e3),
            seconds: window.covered.as_f64() * 1e-6,
            gap_s: window.gap.as_f64() * 1e-6,
            basis,
            rails_mw: Vec::new(),
        }
    }
}

impl Line {
    /// For people, on one line.
    fn text(&self, gpu: Option<Hertz>, emc: Option<Hertz>, hottest: Option<MilliCelsius>) -> String {
        let mut text = format!("{:>9.1} mJ", self.energy_mj);
        if let Some(deviation) = self.deviation_mj {
            text += &format!(" +- {:.1}", 2.0 * deviation);
        }
        text += &format!(" in {:.2} s ({:.2} W {})", self.seconds, f64::from(self.mean_mw) / 1e3, self.basis);
        for (label, mw) in &self.rails_mw {
            text += &format!("  {label} {:.2} W", f64::from(*mw) / 1e3);
        }
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                text += &format!("  {name}{value}");
            }
        };
        add("GPU ", gpu.map(|c| c.to_string()));
        add("EMC ", emc.map(|c| c.to_string()));
        add("", hottest.map(|h| h.to_string()));
        let events = self.over_current.map(OverCurrent::all).filter(|n| *n > 0);
        add("", events.map(|n| format!("{n} over-current events")));
        add("", self.energy_per_inference_mj.map(|mj| format!("{mj:.3} mJ an inference")));
        add("price ", self.price_per_day.map(|p| format!("{p:.4} a day")));
        add("", self.price_per_million.map(|p| format!("{p:.4} a million inferences")));
        add("CO2 ", self.co2_g_per_day.map(|g| format!("{g:.1} g a day")));
        add("", self.co2_g_per_million.map(|g| format!("{g:.1} g a million inferences")));
        for alert in &self.alerts {
            text += &format!("  ALERT {} {:.2} above {:.2}", alert.alert, alert.value, alert.limit);
        }
        text
    }
}

/// CPU time of this process, seconds.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
