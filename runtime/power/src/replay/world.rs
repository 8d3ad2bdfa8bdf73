//! Power worlds: models of module power that each reproduce the measured points and differ where none are.
//!
//! P = idle(GPU, EMC) while waiting; while busy the energy of one inference comes on top, spread over its time.
//! A world fixes the shapes; the free figures are fitted by least squares of the relative error to the points
//! listed in the data. What the data cannot tell apart (GPU clocks below 612 MHz, what part of idle power the
//! CPU clock of a mode explains, how much of an inference's energy is paid for time rather than for cycles)
//! differs among the worlds, so a governor that does well in all of them did not rely on it.

use std::path::Path;

use super::data::{ReplayError, read_columns};

/// A measured mean of VDD_IN.
#[derive(Clone, Debug)]
pub struct ListedPoint {
    /// Trace it comes from.
    pub trace: String,
    /// GPU clock, MHz.
    pub gpu_mhz: f64,
    /// Memory clock, MHz.
    pub emc_mhz: f64,
    /// CPU clock, MHz.
    pub cpu_mhz: f64,
    /// 0 MobileNetV2, 1 proxy; `None` idle.
    pub workload: Option<usize>,
    /// Releases a second.
    pub hz: f64,
    /// Latency, ms.
    pub busy_ms: f64,
    /// Mean module power, mW.
    pub vdd_in_mw: f64,
}

/// Workloads with measured power, in the order of the fit.
const WORKLOADS: [&str; 2] = ["mobilenet", "proxy"];
/// Rate of the traces that state none; their GPU utilisation agrees with it.
const DEFAULT_HZ: f64 = 8.0;

/// The traces whose clocks, rate and background are known.
fn selected(trace: &str) -> Option<(f64, Option<usize>)> {
    let workload = WORKLOADS.iter().position(|w| trace.contains(w)).or(trace.contains("_cnn").then_some(0));
    let cpu = match trace.split('/').next()? {
        "replication_15w" => 1_497.6,
        "replication_25w" => 1_344.0,
        _ => 1_728.0,
    };
    let known = trace.contains("adv0")
        || trace.starts_with("e1_governor/")
        || trace.starts_with("replication_15w/")
        || trace.starts_with("replication_25w/gov_")
        || trace.starts_with("campaign_g2/partA/")
        || trace.starts_with("pilot_emc/");
    let background = trace.contains("slm") || trace.contains("gov_idle") || trace.contains("emc204");
    (known && !background).then_some((cpu, workload))
}

/// The measured points that every world must reproduce.
///
/// # Errors
/// [`ReplayError`] when the file cannot be read or holds too few points.
pub fn listed_points(folder: &Path) -> Result<Vec<ListedPoint>, ReplayError> {
    let path = folder.join("power_traces_summary.csv");
    let columns = ["trace", "hz", "compute_p50_us", "vdd_in_mw", "emc_mhz", "gpu_mhz"];
    let mut points = Vec::new();
    for (line, row) in read_columns(&path, &columns)? {
        let Some((cpu_mhz, workload)) = selected(&row[0]) else { continue };
        let figure = |column: usize| {
            row[column].parse::<f64>().map_err(|_| ReplayError::Figure {
                path: path.clone(),
                line,
                column: columns[column],
                found: row[column].clone(),
            })
        };
        let gpu = figure(5)?;
        points.push(ListedPoint {
            trace: row[0].trim_end_matches(".tegra").to_owned(),
            // tegrastats shows the measured clock, a little below the one asked for.
            gpu_mhz: [612.0, 918.0, 1_020.0].into_iter().find(|f| (f - gpu).abs() < 20.0).unwrap_or(gpu),
            emc_mhz: figure(4)?,
            cpu_mhz,
            workload,
            hz: if workload.is_none() { 0.0 } else { figure(1).unwrap_or(DEFAULT_HZ) },
            busy_ms: 0.0,
            vdd_in_mw: figure(3)?,
        });
    }
    let missing = [
        (points.iter().any(|p| p.workload.is_none()), "no idle point"),
        (points.iter().any(|p| p.gpu_mhz < 700.0), "no point below 700 MHz"),
        ([665.0, 2133.0, 3199.0].iter().all(|e| points.iter().any(|p| p.emc_mhz == *e)), "not all three EMC"),
    ];
    if let Some((_, what)) = missing.iter().find(|(there, _)| !there) {
        return Err(ReplayError::Power { path, missing: (*what).to_owned() });
    }
    Ok(points)
}

/// The shapes that a world fixes.
#[derive(Clone, Copy, Debug)]
struct Shape {
    name: &'static str,
    what: &'static str,
    /// Idle power of the GPU clock, relative: from the share of 1020 MHz.
    idle: fn(f64) -> f64,
    /// Energy of an inference's cycles, relative.
    cycles: fn(f64) -> f64,
    /// Power paid for as long as an inference lasts, mW.
    waiting_mw: f64,
    /// Idle power per MHz of the CPU clock, mW.
    cpu_mw_per_mhz: f64,
}

/// Share of 1020 MHz below which nothing was measured.
const KNEE: f64 = 0.6;

fn volts(f: f64) -> f64 {
    0.6 + 0.4 * f
}

const SHAPES: [Shape; 5] = [
    Shape {
        name: "linear",
        what: "idle power falls evenly with the GPU clock, an inference costs the same energy at any",
        idle: |f| f,
        cycles: |_| 1.0,
        waiting_mw: 0.0,
        cpu_mw_per_mhz: 0.0,
    },
    Shape {
        name: "floor",
        what: "nothing is saved below 612 MHz: the voltage is at its floor there",
        idle: |f| f.max(KNEE),
        cycles: |_| 1.0,
        waiting_mw: 0.0,
        cpu_mw_per_mhz: 0.0,
    },
    Shape {
        name: "voltage",
        what: "idle power and energy follow clock and voltage squared, part of idle belongs to the CPU clock",
        idle: |f| f * volts(f) * volts(f),
        cycles: |f| volts(f) * volts(f),
        waiting_mw: 0.0,
        cpu_mw_per_mhz: 0.6,
    },
    Shape {
        name: "waiting",
        what: "3 W are paid for as long as an inference lasts, so slow clocks cost energy",
        idle: |f| f,
        cycles: |f| volts(f) * volts(f),
        waiting_mw: 3_000.0,
        cpu_mw_per_mhz: 0.0,
    },
    Shape {
        name: "steep",
        what: "idle power falls twice as fast below 612 MHz",
        idle: |f| if f < KNEE { KNEE - 2.0 * (KNEE - f) } else { f },
        cycles: |_| 1.0,
        waiting_mw: 500.0,
        cpu_mw_per_mhz: 0.2,
    },
];

/// Free figures: level, two memory steps, GPU range, energy of each workload.
const FREE: usize = 4 + WORKLOADS.len();

/// A fitted world.
#[derive(Clone, Debug)]
pub struct World {
    /// Its name.
    pub name: &'static str,
    /// What sets it apart, in a sentence.
    pub what: &'static str,
    /// Largest relative error over the listed points.
    pub worst_error: f64,
    /// The point with that error.
    pub worst_point: String,
    shape: Shape,
    free: [f64; FREE],
}

impl World {
    /// Every world, fitted to the listed points; `latency_ms(workload, gpu, emc)` gives measured medians.
    pub fn fit_all(points: &[ListedPoint], latency_ms: impl Fn(&str, f64, f64) -> f64) -> Vec<Self> {
        let mut timed = points.to_vec();
        for point in &mut timed {
            if let Some(w) = point.workload {
                point.busy_ms = latency_ms(WORKLOADS[w], point.gpu_mhz, point.emc_mhz);
            }
        }
        SHAPES.iter().map(|shape| Self::fit(*shape, &timed)).collect()
    }

    fn fit(shape: Shape, points: &[ListedPoint]) -> Self {
        let mut normal = [[0.0; FREE + 1]; FREE];
        for point in points {
            let (row, known) = terms(&shape, point);
            let target = point.vdd_in_mw - known;
            let weight = 1.0 / (point.vdd_in_mw * point.vdd_in_mw);
            for i in 0..FREE {
                for j in 0..FREE {
                    normal[i][j] += weight * row[i] * row[j];
                }
                normal[i][FREE] += weight * row[i] * target;
            }
        }
        let free = solve(normal);
        let mut world = Self {
            name: shape.name,
            what: shape.what,
            worst_error: 0.0,
            worst_point: String::new(),
            shape,
            free,
        };
        for point in points {
            let (row, known) = terms(&shape, point);
            let fitted = known + row.iter().zip(&free).map(|(a, b)| a * b).sum::<f64>();
            let error = fitted / point.vdd_in_mw - 1.0;
            if error.abs() > world.worst_error.abs() {
                world.worst_error = error;
                world.worst_point.clone_from(&point.trace);
            }
        }
        world
    }

    /// Module power while waiting, mW. The CPU clock is that of the latency grid, 1728 MHz.
    pub fn idle_mw(&self, gpu_mhz: f64, emc_mhz: f64) -> f64 {
        self.free[0]
            + if emc_mhz > 1_000.0 { self.free[1] } else { 0.0 }
            + if emc_mhz > 2_500.0 { self.free[2] } else { 0.0 }
            + self.free[3] * (self.shape.idle)(gpu_mhz / 1_020.0)
    }

    /// Energy of one inference above waiting, mJ, when it takes `busy_ms`.
    pub fn inference_mj(&self, workload: &str, gpu_mhz: f64, busy_ms: f64) -> f64 {
        let w = WORKLOADS.iter().position(|name| *name == workload).unwrap_or(0);
        self.free[4 + w] * (self.shape.cycles)(gpu_mhz / 1_020.0) + self.shape.waiting_mw * busy_ms / 1_000.0
    }
}

/// The factors of the free figures at a point, and the part that is fixed.
fn terms(shape: &Shape, point: &ListedPoint) -> ([f64; FREE], f64) {
    let f = point.gpu_mhz / 1_020.0;
    let mut row = [0.0; FREE];
    row[0] = 1.0;
    row[1] = f64::from(u8::from(point.emc_mhz > 1_000.0));
    row[2] = f64::from(u8::from(point.emc_mhz > 2_500.0));
    row[3] = (shape.idle)(f);
    let mut known = shape.cpu_mw_per_mhz * (point.cpu_mhz - 1_728.0);
    if let Some(w) = point.workload {
        row[4 + w] = point.hz * (shape.cycles)(f);
        known += point.hz * point.busy_ms * shape.waiting_mw / 1_000.0;
    }
    (row, known)
}

/// Gauss-Jordan with pivoting on the normal equations.
fn solve(mut m: [[f64; FREE + 1]; FREE]) -> [f64; FREE] {
    for column in 0..FREE {
        let pivot = (column..FREE).max_by(|a, b| m[*a][column].abs().total_cmp(&m[*b][column].abs()));
        m.swap(column, pivot.unwrap_or(column));
        let by = m[column][column];
        for value in &mut m[column] {
            *value /= by;
        }
        let pivot_row = m[column];
        for (row, values) in m.iter_mut().enumerate() {
            if row != column {
                let factor = values[column];
                for (value, p) in values.iter_mut().zip(pivot_row) {
                    *value -= factor * p;
                }
            }
        }
    }
    core::array::from_fn(|row| m[row][FREE])
}
