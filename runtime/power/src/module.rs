//! The power of the whole module, read as often as a meter wants, with what a meter must know of the sensor.

use std::time::{Duration, Instant};

use pilotlight_boards::emc::Emc;
use pilotlight_boards::gpu::Gpu;
pub use pilotlight_boards::rails::Basis;
use pilotlight_boards::rails::{self, Rail, TotalSensor};
use pilotlight_boards::{BoardData, Identity, SysError, Tree};
use pilotlight_units::{Hertz, Micros, Milliwatts};

use crate::meter::Sensor;
use crate::point::Point;

/// Step of a RAPL counter, microjoules (2^-14 J, as most processors state it).
const COUNTER_STEP_UJ: f64 = 61.0;
/// More than any package that has such a counter draws.
const HIGHEST_PACKAGE: Milliwatts = Milliwatts(1_000_000);

/// Why there is no power to read.
#[derive(Debug, thiserror::Error)]
pub enum NoPower {
    /// The board is not known, so nobody knows which rails feed the module.
    #[error("{}", match .found {
        Some(name) => format!("unknown board '{name}': which of its rails feed the module is not known"),
        None => "no device tree (not a Jetson), and no RAPL counter that may be read".to_owned(),
    })]
    UnknownBoard {
        /// First name of the device tree.
        found: Option<String>,
    },
    /// A rail of the module's sum has no sensor.
    #[error("no sensor for the rails {}; `pilotlight boards` says what is there", .rails.join(" + "))]
    NoSensor {
        /// The rails that are needed.
        rails: Vec<String>,
    },
    /// A sensor is there and does not answer.
    #[error("{0}")]
    Silent(#[from] SysError),
}

/// The power of a module.
#[derive(Debug)]
pub struct ModulePower {
    tree: Tree,
    gpu: Option<Gpu>,
    source: Source,
    sensor: Sensor,
    rails: Vec<String>,
    basis: Basis,
}

#[derive(Debug)]
enum Source {
    Rails(Box<TotalSensor>),
    Counters { packages: Vec<Rail>, last: (Instant, u64) },
}

impl ModulePower {
    /// Looks for it on a tree, to be read every `period`. On a Jetson these are INA3221 rails; on another machine
    /// RAPL counters, where they may be read.
    ///
    /// # Errors
    /// [`NoPower`] when there is none.
    pub fn open(tree: &Tree, period: Duration) -> Result<Self, NoPower> {
        let names = Identity::read(tree).compatible;
        let data = BoardData::of_compatible(names.iter().map(String::as_str));
        let found = rails::find(tree, data.as_ref(), &mut Vec::new());
        let period = Micros(period.as_micros() as u64);
        let (source, sensor, rails) = match &data {
            Some(data) => {
                let rails = data.total.rails.clone();
                let none = || NoPower::NoSensor { rails: rails.clone() };
                let mut total = TotalSensor::open(tree, data).ok_or_else(none)?;
                total.read()?;
                (Source::Rails(Box::new(total)), sensor_of(&found, period), rails)
            }
            None => {
                let packages: Vec<Rail> = found.into_iter().filter(|r| r.channel == 0).collect();
                if packages.is_empty() {
                    return Err(NoPower::UnknownBoard { found: names.into_iter().next() });
                }
                let step = COUNTER_STEP_UJ * packages.len() as f64 * 1e3 / period.as_f64().max(1.0);
                let sensor = Sensor {
                    period,
                    averages_over: period,
                    step: Milliwatts(step.ceil() as u32),
                    highest: HIGHEST_PACKAGE,
                };
                let labels = packages.iter().map(|p| format!("{} (RAPL)", p.label)).collect();
                let last = (Instant::now(), spent(tree, &packages)?);
                (Source::Counters { packages, last }, sensor, labels)
            }
        };
        let basis = Basis::of(tree, data.as_ref());
        Ok(Self { tree: tree.clone(), gpu: Gpu::find(tree).ok(), source, sensor, rails, basis })
    }

    /// Reads it. From rails it allocates nothing.
    ///
    /// # Errors
    /// [`SysError`] when a sensor does not answer or says something impossible; it is looked for anew next time.
    pub fn read(&mut self) -> Result<Milliwatts, SysError> {
        match &mut self.source {
            Source::Rails(total) => total.read(),
            Source::Counters { packages, last } => {
                let (now, total) = (Instant::now(), spent(&self.tree, packages)?);
                let (then, before) = std::mem::replace(last, (now, total));
                let seconds = (now - then).as_secs_f64();
                // A counter that wrapped says nothing this once.
                let joules = total.checked_sub(before).map(|uj| uj as f64 * 1e-6);
                joules.filter(|_| seconds > 0.0).map(|j| Milliwatts((j / seconds * 1e3) as u32)).ok_or_else(
                    || SysError::Value {
                        path: self.tree.path("/sys/class/powercap"),
                        found: format!("{total} uJ after {before} uJ"),
                        expected: "a count that grows",
                    },
                )
            }
        }
    }

    /// What its sensor is like.
    pub fn sensor(&self) -> Sensor {
        self.sensor
    }

    /// The rails that are added up.
    pub fn rails(&self) -> &[String] {
        &self.rails
    }

    /// What its figures rest on.
    pub fn basis(&self) -> Basis {
        self.basis
    }

    /// The clocks in force; `None` where the GPU's cannot be read. A memory clock that is not shown (it needs root
    /// on a board) is zero, and taken not to move.
    pub fn point(&self) -> Option<Point> {
        let gpu = self.gpu.as_ref()?.now(&self.tree).ok()?;
        Some(Point { gpu, emc: Emc::now(&self.tree).unwrap_or(Hertz(0)) })
    }
}

/// Microjoules that all packages have counted.
fn spent(tree: &Tree, packages: &[Rail]) -> Result<u64, SysError> {
    packages.iter().try_fold(0u64, |sum, package| Ok(sum.wrapping_add(package.energy_uj(tree)?)))
}

/// What the sensor of a board's rails is like when it is read every `period`.
pub fn sensor_of(rails: &[Rail], period: Micros) -> Sensor {
    let averages = rails.iter().find_map(|r| r.averages_over_us).map_or(Micros(0), Micros);
    let step = rails.iter().find_map(|r| r.step_mw).unwrap_or(40.0);
    Sensor { period, averages_over: averages, step: Milliwatts(step as u32), highest: Milliwatts(200_000) }
}
