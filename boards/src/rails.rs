//! Rails: INA3221 channels found by label, and RAPL on a laptop.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pilotlight_units::Milliwatts;
use serde::Serialize;

use crate::data::BoardData;
use crate::tree::{SysError, Tree};

/// Highest power that a Jetson rail can carry; more is a broken reading.
const WILD_MW: i64 = 200_000;

/// One rail that can be read.
#[derive(Clone, Debug, Serialize)]
pub struct Rail {
    /// Its label.
    pub label: String,
    /// What it feeds, where the board's data say so.
    pub covers: Option<String>,
    /// The channel's folder and number (INA3221), or the zone's folder (RAPL).
    pub path: String,
    /// Channel, 1 to 3; 0 for RAPL.
    pub channel: u32,
    /// Time over which a reading is averaged, microseconds, where it is shown.
    pub averages_over_us: Option<u64>,
    /// Smallest step of a reading at 5 V, milliwatts, where the shunt is known.
    pub step_mw: Option<f64>,
}

/// What a figure of power or energy rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// One rail that feeds the whole module.
    Measured,
    /// A sum of rails that is not the whole, or a processor's estimate of itself (RAPL).
    Estimated,
    /// A tree that is not this machine's own: what its maker wrote there.
    Modelled,
}

impl Basis {
    /// What the sum of a board's rails on this tree rests on; without a board it is RAPL's.
    pub fn of(tree: &Tree, data: Option<&BoardData>) -> Self {
        match tree.root() == Path::new("/") {
            false => Self::Modelled,
            true if data.is_some_and(|d| d.total.measured) => Self::Measured,
            true => Self::Estimated,
        }
    }
}

impl std::fmt::Display for Basis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Measured => "measured",
            Self::Estimated => "estimated",
            Self::Modelled => "modelled",
        })
    }
}

/// A sum of rails for the module.
#[derive(Clone, Debug, Serialize)]
pub struct Total {
    /// What it rests on.
    pub basis: Basis,
    /// Power of the named rails.
    pub power: Milliwatts,
    /// With the rails of which it is unknown whether the sum holds them already.
    pub upper: Milliwatts,
    /// Rails in the sum.
    pub rails: Vec<String>,
}

/// Every rail that has a sensor; what is missing or odd is named in `notes`.
pub fn find(tree: &Tree, data: Option<&BoardData>, notes: &mut Vec<String>) -> Vec<Rail> {
    let mut rails = Vec::new();
    let driver = "/sys/bus/i2c/drivers/ina3221";
    for device in tree.list(driver).into_iter().filter(|n| n.contains('-')) {
        let folder = format!("{driver}/{device}/hwmon");
        for hwmon in tree.list(&folder).into_iter().filter(|n| n.starts_with("hwmon")) {
            for channel in 1..=3 {
                if let Some(rail) = channel_of(tree, data, &format!("{folder}/{hwmon}"), channel, notes) {
                    rails.push(rail);
                }
            }
        }
    }
    for missing in data.iter().flat_map(|d| &d.rails).filter(|r| !rails.iter().any(|f| f.label == r.label)) {
        notes.push(format!("rail {}: no sensor with this label", missing.label));
    }
    rails.extend(rapl(tree));
    rails
}

fn channel_of(
    tree: &Tree,
    data: Option<&BoardData>,
    folder: &str,
    channel: u32,
    notes: &mut Vec<String>,
) -> Option<Rail> {
    let label = tree.read(&format!("{folder}/in{channel}_label")).ok()?;
    if label.is_empty() || label == "NC" {
        return None;
    }
    if tree.number(&format!("{folder}/in{channel}_enable")).is_ok_and(|n| n == 0) {
        notes.push(format!("rail {label}: its channel is switched off"));
        return None;
    }
    let known = data.and_then(|d| d.rails.iter().find(|r| r.label == label));
    if let Some(known) = known
        && known.channel != channel
    {
        notes.push(format!("rail {label}: on channel {channel}, not {} as usual", known.channel));
    }
    let shunt = tree.number(&format!("{folder}/shunt{channel}_resistor")).ok().filter(|r| *r > 0);
    let interval = tree.number(&format!("{folder}/update_interval")).ok();
    Some(Rail {
        covers: known.map(|k| k.covers.clone()),
        path: folder.to_owned(),
        channel,
        averages_over_us: interval.and_then(|ms| u64::try_from(ms).ok()).map(|ms| ms * 1_000),
        // The shunt voltage comes in steps of 40 uV.
        step_mw: shunt.map(|uohm| 40.0 / uohm as f64 * 5_000.0),
        label,
    })
}

/// RAPL packages of an x86 machine, where they may be read.
fn rapl(tree: &Tree) -> Vec<Rail> {
    let folder = "/sys/class/powercap";
    let packages =
        tree.list(folder).into_iter().filter(|n| n.starts_with("intel-rapl:") && n.matches(':').count() == 1);
    packages
        .filter(|n| tree.number(&format!("{folder}/{n}/energy_uj")).is_ok())
        .map(|n| Rail {
            label: tree.read(&format!("{folder}/{n}/name")).unwrap_or_else(|_| n.clone()),
            covers: Some("one CPU package (RAPL, an estimate of the processor)".into()),
            path: format!("{folder}/{n}"),
            channel: 0,
            averages_over_us: None,
            step_mw: None,
        })
        .collect()
}

impl Rail {
    /// Reads the rail's power. Voltage and current are two reads, not one sample.
    ///
    /// # Errors
    /// [`SysError`] when a reading is missing, cannot be read, or is impossible.
    pub fn power(&self, tree: &Tree) -> Result<Milliwatts, SysError> {
        let mv = tree.number(&format!("{}/in{}_input", self.path, self.channel))?;
        let ma = tree.number(&format!("{}/curr{}_input", self.path, self.channel))?;
        product(mv, ma).ok_or_else(|| SysError::Value {
            path: tree.path(&self.path),
            found: format!("{mv} mV, {ma} mA"),
            expected: "a power from 0 to 200 W",
        })
    }

    /// Reads the energy counter of a RAPL rail, microjoules.
    ///
    /// # Errors
    /// [`SysError`] when it cannot be read.
    pub fn energy_uj(&self, tree: &Tree) -> Result<u64, SysError> {
        let value = tree.number(&format!("{}/energy_uj", self.path))?;
        u64::try_from(value).map_err(|_| SysError::Value {
            path: tree.path(&self.path),
            found: value.to_string(),
            expected: "a count of microjoules",
        })
    }
}

/// Power of a voltage and a current; `None` where no rail can carry it.
fn product(mv: i64, ma: i64) -> Option<Milliwatts> {
    let mw = mv.saturating_mul(ma) / 1_000;
    ((0..=WILD_MW).contains(&mw) && mv >= 0).then_some(Milliwatts(mw as u32))
}

/// The rails of the module's sum, their files kept open: a reading costs two `pread`s a rail, and allocates nothing.
#[derive(Debug)]
pub struct TotalSensor {
    tree: Tree,
    data: BoardData,
    channels: Vec<Channel>,
}

/// An open channel.
#[derive(Debug)]
struct Channel {
    volts: File,
    amps: File,
    path: PathBuf,
}

impl TotalSensor {
    /// Opens the rails of a board's sum; `None` where one of them has no sensor.
    pub fn open(tree: &Tree, data: &BoardData) -> Option<Self> {
        let mut sensor = Self { tree: tree.clone(), data: data.clone(), channels: Vec::new() };
        sensor.reopen();
        (!sensor.channels.is_empty()).then_some(sensor)
    }

    /// Looks the labels up again: after a driver was bound anew the folders are numbered otherwise.
    fn reopen(&mut self) {
        let found = find(&self.tree, Some(&self.data), &mut Vec::new());
        let channel = |label: &String| {
            let rail = found.iter().find(|r| r.label == *label && r.channel > 0)?;
            let open = |what: &str| {
                File::open(self.tree.path(&format!("{}/{what}{}_input", rail.path, rail.channel))).ok()
            };
            Some(Channel { volts: open("in")?, amps: open("curr")?, path: self.tree.path(&rail.path) })
        };
        let channels: Option<Vec<_>> = self.data.total.rails.iter().map(channel).collect();
        self.channels = channels.unwrap_or_default();
    }

    /// Reads the module's power (the sum without uncertain rails, as [`Total::power`]).
    ///
    /// # Errors
    /// [`SysError`] when a rail does not answer or says something impossible; the next call looks for it anew.
    pub fn read(&mut self) -> Result<Milliwatts, SysError> {
        if self.channels.is_empty() {
            self.reopen();
        }
        let mut total = Milliwatts(0);
        for channel in &self.channels {
            match channel.read() {
                Ok(power) => total += power,
                Err(error) => {
                    self.channels.clear();
                    return Err(error);
                }
            }
        }
        match self.channels.is_empty() {
            true => Err(SysError::Missing { path: self.tree.path("/sys/bus/i2c/drivers/ina3221") }),
            false => Ok(total),
        }
    }
}

impl Channel {
    fn read(&self) -> Result<Milliwatts, SysError> {
        let wrong = |found: String| SysError::Value {
            path: self.path.clone(),
            found,
            expected: "a voltage in mV and a current in mA, 0 to 200 W together",
        };
        let number = |file: &File| {
            let mut text = [0; 24];
            let n = file
                .read_at(&mut text, 0)
                .map_err(|source| SysError::Io { path: self.path.clone(), source })?;
            let found = text[..n].trim_ascii();
            let value = std::str::from_utf8(found).ok().and_then(|t| t.parse::<i64>().ok());
            value.ok_or_else(|| wrong(String::from_utf8_lossy(found).into_owned()))
        };
        let (mv, ma) = (number(&self.volts)?, number(&self.amps)?);
        product(mv, ma).ok_or_else(|| wrong(format!("{mv} mV, {ma} mA")))
    }
}

/// The module's power from readings of its rails on a tree, by the board's rule; `None` when a rail of the sum is missing.
///
/// On NX and Nano one rail is the module and its parts are never added. On AGX the sum is an estimate, given with
/// and without the rail of which it is unknown whether another holds it.
pub fn total(tree: &Tree, data: &BoardData, readings: &[(String, Milliwatts)]) -> Option<Total> {
    let of = |label: &String| readings.iter().find(|(l, _)| l == label).map(|(_, p)| *p);
    let mut power = Milliwatts(0);
    for label in &data.total.rails {
        power += of(label)?;
    }
    let uncertain: Milliwatts = data.total.uncertain_rails.iter().filter_map(of).sum();
    Some(Total {
        basis: Basis::of(tree, Some(data)),
        power,
        upper: power + uncertain,
        rails: data.total.rails.clone(),
    })
}
