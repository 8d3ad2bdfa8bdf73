//! Energy of timed runs, where this machine has a sensor that may be read, and what energy costs.

use crate::device::Opened;
use anyhow::Result;
use pilotlight_boards::rails::{self, Basis};
use pilotlight_boards::{Board, Tree};
use pilotlight_power::live::{Recorder, Time};
use pilotlight_power::meter::Cost;
use pilotlight_units::{Microjoules, Micros};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Samples a second of the module's rails.
const RATE: u32 = 100;
/// Time before the runs in which the board's power without the model is measured.
const PARKED: Duration = Duration::from_millis(500);

/// Where sensors are looked for.
#[derive(Clone, Debug, clap::Args)]
pub struct EnergyOptions {
    /// Root of the file tree whose power sensors are read; what another than / shows is called modelled
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// Energy of an inference as `--json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Energy {
    /// A sensor covers all that is named in `rails`.
    Measured(Figures),
    /// A sum of rails that are not the whole, or an estimate of the processor's own.
    Estimated(Figures),
    /// A tree that is not this machine's: what its maker wrote there.
    Modelled(Figures),
    /// Nothing was measured.
    NotMeasured {
        /// Why.
        reason: String,
    },
}

/// Energy of an inference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// All the energy of the rails during the runs, an inference each.
    pub gross_uj: f64,
    /// Two standard deviations of it: at least 95 %. Null where the sensor does not tell.
    pub uncertainty_uj: Option<f64>,
    /// The same above the power measured before the runs (nothing loaded on the device by this command).
    pub net_uj: f64,
    /// Time that samples cover.
    pub seconds: f64,
    /// Rails that were added up.
    pub rails: Vec<String>,
}

/// A sensor being read.
pub struct Metering {
    source: Source,
    time: Time,
    begin: Micros,
    end: Micros,
}

enum Source {
    None(String),
    /// Rails on a thread, and when the time without the model ended.
    Rails {
        recorder: Recorder,
        parked: Micros,
        names: Vec<String>,
        basis: Basis,
    },
    /// Counters of energy: power without the model in mW, and energy at the begin.
    Counters {
        tree: Tree,
        rails: Vec<rails::Rail>,
        parked_mw: f64,
        at_begin: Vec<u64>,
        spent: f64,
    },
}

impl EnergyOptions {
    /// Root of the file tree.
    pub fn root(&self) -> &std::path::Path {
        &self.root
    }

    /// Finds a sensor and measures the power without the model for half a second; at once where there is none.
    pub fn start(&self, device: &Opened) -> Metering {
        let tree = Tree::at(&self.root);
        let board = Board::discover(&tree);
        let time = Time::monotonic();
        let source = match device.is_virtual() {
            true => {
                Source::None("a virtual board has no sensor; what its model gives is called modelled".into())
            }
            false => source(tree, &board, &time),
        };
        let now = time.now();
        Metering { source, time, begin: now, end: now }
    }
}

fn source(tree: Tree, board: &Board, time: &Time) -> Source {
    if let (Some(data), Some(recorder)) = (&board.data, Recorder::start(&tree, board, RATE, time)) {
        std::thread::sleep(PARKED);
        let (names, basis) = (data.total.rails.clone(), Basis::of(&tree, Some(data)));
        return Source::Rails { recorder, parked: time.now(), names, basis };
    }
    let rails: Vec<rails::Rail> = board.rails.iter().filter(|r| r.channel == 0).cloned().collect();
    if rails.is_empty() {
        let why = board.notes.first().map_or("no rail answers", String::as_str);
        return Source::None(format!("no power sensor: {why}"));
    }
    let before = counters(&tree, &rails);
    let began = time.now();
    std::thread::sleep(PARKED);
    let spent = joules_between(&tree, &rails, &before) * 1e3;
    let parked_mw = spent / ((time.now() - began).as_f64() * 1e-6);
    Source::Counters { tree, rails, parked_mw, at_begin: before, spent: 0.0 }
}

fn counters(tree: &Tree, rails: &[rails::Rail]) -> Vec<u64> {
    rails.iter().map(|r| r.energy_uj(tree).unwrap_or(0)).collect()
}

/// Joules since an earlier reading of the counters; a counter that wrapped counts on from its range.
fn joules_between(tree: &Tree, rails: &[rails::Rail], before: &[u64]) -> f64 {
    let after = counters(tree, rails);
    let of = |((rail, after), before): ((&rails::Rail, u64), &u64)| match after.checked_sub(*before) {
        Some(spent) => spent as f64,
        None => {
            let range = tree.number(&format!("{}/max_energy_range_uj", rail.path)).unwrap_or(0);
            (range as f64 + after as f64 - *before as f64).max(0.0)
        }
    };
    rails.iter().zip(after).zip(before).map(of).sum::<f64>() * 1e-6
}

impl Metering {
    /// The runs that count begin.
    pub fn begin(&mut self) {
        if let Source::Counters { tree, rails, at_begin, .. } = &mut self.source {
            *at_begin = counters(tree, rails);
        }
        self.begin = self.time.now();
    }

    /// The runs that count are over.
    pub fn end(&mut self) {
        self.end = self.time.now();
        if let Source::Counters { tree, rails, at_begin, spent, .. } = &mut self.source {
            *spent = joules_between(tree, rails, at_begin);
        }
    }

    /// What `runs` inferences between the two took, one each.
    pub fn finish(self, runs: u32) -> Energy {
        let (begin, end, runs) = (self.begin, self.end, f64::from(runs));
        match self.source {
            Source::None(reason) => Energy::NotMeasured { reason },
            Source::Rails { recorder, parked, names, basis } => {
                let recording = recorder.stop();
                let Some(window) = recording.between(begin, end) else {
                    let reason = format!(
                        "the runs took {:.0} ms, too short for a sensor that averages over {:.0} ms: run more often",
                        (end - begin).as_f64() / 1e3,
                        recording.sensor.averages_over.as_f64() / 1e3
                    );
                    return Energy::NotMeasured { reason };
                };
                let idle = recording.between(Micros(0), parked).and_then(|w| w.mean());
                let seconds = window.covered.as_f64() * 1e-6;
                // Time without samples is taken to be like the rest.
                let scale = window.length.as_f64() / window.covered.as_f64() / runs;
                let idle_uj = idle.map_or(0.0, |p| p.as_f64() * 1e3 * seconds);
                let gross = window.gross.as_f64();
                let figures = Figures {
                    gross_uj: gross * scale,
                    uncertainty_uj: Some(2.0 * window.deviation.as_f64() * scale),
                    net_uj: (gross - idle_uj).max(0.0) * scale,
                    seconds,
                    rails: names,
                };
                Energy::of(basis, figures)
            }
            Source::Counters { tree, rails, parked_mw, spent, .. } => {
                let seconds = (end - begin).as_f64() * 1e-6;
                if spent <= 0.0 {
                    let reason =
                        format!("the counter did not move within {:.0} ms: run more often", seconds * 1e3);
                    return Energy::NotMeasured { reason };
                }
                let figures = Figures {
                    gross_uj: spent * 1e6 / runs,
                    uncertainty_uj: None,
                    net_uj: (spent * 1e6 - parked_mw * 1e3 * seconds).max(0.0) / runs,
                    seconds,
                    rails: rails.into_iter().map(|r| format!("{} (RAPL)", r.label)).collect(),
                };
                Energy::of(Basis::of(&tree, None), figures)
            }
        }
    }
}

impl Energy {
    fn of(basis: Basis, figures: Figures) -> Self {
        match basis {
            Basis::Measured => Self::Measured(figures),
            Basis::Estimated => Self::Estimated(figures),
            Basis::Modelled => Self::Modelled(figures),
        }
    }

    /// Gross energy of an inference, where it is known.
    pub fn gross(&self) -> Option<Microjoules> {
        match self {
            Self::Measured(f) | Self::Estimated(f) | Self::Modelled(f) => {
                Some(Microjoules(f.gross_uj.round() as u64))
            }
            Self::NotMeasured { .. } => None,
        }
    }

    /// What it rests on.
    pub fn status(&self) -> &'static str {
        match self {
            Self::Measured(_) => "measured",
            Self::Estimated(_) => "estimated",
            Self::Modelled(_) => "modelled (--root is not this machine)",
            Self::NotMeasured { .. } => "not measured",
        }
    }

    /// A line for people.
    pub fn line(&self) -> String {
        let (figures, status) = match self {
            Self::NotMeasured { reason } => return format!("energy: {} ({reason})", self.status()),
            Self::Measured(f) | Self::Estimated(f) | Self::Modelled(f) => (f, self.status()),
        };
        let sure = figures.uncertainty_uj.map_or(String::new(), |u| format!(" +- {:.3}", u / 1e3));
        format!(
            "energy: {:.3} mJ{sure} an inference, {status} on {} over {:.2} s; {:.3} mJ above the power before the runs",
            figures.gross_uj / 1e3,
            figures.rails.join(" + "),
            figures.seconds,
            figures.net_uj / 1e3
        )
    }
}

/// What energy costs where the model is to run.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CostOptions {
    /// Energy of an inference before a change, mJ, to compare with (as an earlier bench gave it)
    #[arg(long, value_name = "MJ", value_parser = positive)]
    before_mj: Option<f64>,
    /// Price of a kilowatt-hour, in any currency: shows the price of a million inferences
    #[arg(long, value_name = "PRICE", value_parser = positive)]
    tariff: Option<f64>,
    /// Carbon dioxide of a kilowatt-hour in grams: shows that of a million inferences
    #[arg(long, value_name = "GRAMS", value_parser = positive)]
    grid: Option<f64>,
}

/// A number above zero.
pub fn positive(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|v| v.is_finite() && *v > 0.0);
    value.ok_or_else(|| format!("'{text}' is no number above zero"))
}

/// Costs as `--json` prints them; `before` is null without `--before-mj`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Costs {
    energy_before_uj: Option<f64>,
    energy_after_uj: f64,
    price_per_million_before: Option<f64>,
    price_per_million: Option<f64>,
    co2_g_per_million_before: Option<f64>,
    co2_g_per_million: Option<f64>,
}

impl CostOptions {
    /// What was asked for, where the energy is known.
    pub fn costs(&self, energy: &Energy) -> Option<Costs> {
        if self.before_mj.is_none() && self.tariff.is_none() && self.grid.is_none() {
            return None;
        }
        let after = energy.gross()?;
        let before = self.before_mj.map(|mj| Microjoules((mj * 1e3).round() as u64));
        let cost = Cost {
            before: before.unwrap_or(after),
            after,
            tariff_per_kwh: self.tariff.unwrap_or(0.0),
            grid_g_per_kwh: self.grid.unwrap_or(0.0),
        };
        let (price, grams) = (cost.price_per_million(), cost.grams_per_million());
        Some(Costs {
            energy_before_uj: before.map(Microjoules::as_f64),
            energy_after_uj: after.as_f64(),
            price_per_million_before: self.tariff.and(before).map(|_| price.0),
            price_per_million: self.tariff.map(|_| price.1),
            co2_g_per_million_before: self.grid.and(before).map(|_| grams.0),
            co2_g_per_million: self.grid.map(|_| grams.1),
        })
    }
}

/// Three figures, however small.
fn figure(value: f64) -> String {
    let digits = (2.0 - value.abs().log10().floor()).clamp(0.0, 12.0) as usize;
    format!("{value:.digits$}")
}

impl Costs {
    /// Lines for people.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        if let Some(before) = self.energy_before_uj {
            let change = 100.0 * (self.energy_after_uj / before - 1.0);
            text += &format!(
                "before {:.3} mJ, after {:.3} mJ an inference ({change:+.1} %)\n",
                before / 1e3,
                self.energy_after_uj / 1e3
            );
        }
        let line = |before: Option<f64>, after: Option<f64>, what: &str| {
            let after = after?;
            let before = before.map_or(String::new(), |b| format!("{} before, ", figure(b)));
            Some(format!("a million inferences: {before}{} {what}\n", figure(after)))
        };
        let price = line(self.price_per_million_before, self.price_per_million, "in the tariff's currency");
        let grams = line(self.co2_g_per_million_before, self.co2_g_per_million, "g of CO2");
        text + &price.unwrap_or_default() + &grams.unwrap_or_default()
    }
}
