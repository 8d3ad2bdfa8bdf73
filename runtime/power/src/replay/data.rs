//! Reads recorded cycles: latencies of one workload in every cell of a grid of clocks.

use std::fs;
use std::path::{Path, PathBuf};

use pilotlight_units::Hertz;

use crate::governor::{Cell, Grid, GridError};

/// Why measurements cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file or folder cannot be read.
    #[error("{path}: {source}; give a folder with cycles/ and power_traces_summary.csv")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No cell of the workload is there.
    #[error("{folder}: no cycles of workload '{workload}'; found: {found}")]
    NoWorkload {
        /// The folder searched.
        folder: PathBuf,
        /// The workload asked for.
        workload: String,
        /// Workloads that are there.
        found: String,
    },
    /// A cell of the grid is missing.
    #[error(
        "{folder}: no cycles of '{workload}' at GPU {gpu} MHz, EMC {emc} MHz; every pair of clocks is needed"
    )]
    NoCell {
        /// The folder searched.
        folder: PathBuf,
        /// The workload.
        workload: String,
        /// GPU clock.
        gpu: u64,
        /// Memory clock.
        emc: u64,
    },
    /// A column is missing.
    #[error("{path}: no column '{column}' in its first line")]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: &'static str,
    },
    /// A figure is no positive number.
    #[error("{path}, line {line}: '{found}' is no positive number in column '{column}'")]
    Figure {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The column.
        column: &'static str,
        /// What stands there.
        found: String,
    },
    /// A cell holds too few cycles to draw blocks from.
    #[error("{path}: {found} cycles; at least {allowed} are needed")]
    Short {
        /// The file.
        path: PathBuf,
        /// Cycles found.
        found: usize,
        /// Cycles needed.
        allowed: usize,
    },
    /// The clocks make no grid.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// The power points do not determine a world.
    #[error(
        "{path}: power worlds need idle and busy points at two GPU clocks and three memory clocks; {missing}"
    )]
    Power {
        /// The file.
        path: PathBuf,
        /// What is missing.
        missing: String,
    },
}

/// Fewest cycles of a cell.
pub(crate) const BLOCK: usize = 20;

/// Recorded latencies of one workload over a grid of clocks.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// The clocks.
    pub grid: Grid,
    cells: Vec<Measured>,
}

/// Recorded latencies of one cell, in the order they came.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Latencies, microseconds.
    pub latency_us: Vec<f64>,
    sorted: Vec<f64>,
}

impl Measured {
    /// From latencies in microseconds.
    pub fn new(latency_us: Vec<f64>) -> Self {
        let mut sorted = latency_us.clone();
        sorted.sort_by(f64::total_cmp);
        Self { latency_us, sorted }
    }

    /// A quantile, interpolated between the two nearest ranks.
    pub fn quantile(&self, q: f64) -> f64 {
        let place = q * (self.sorted.len() - 1) as f64;
        let low = place.floor() as usize;
        let high = (low + 1).min(self.sorted.len() - 1);
        self.sorted[low] + (place - low as f64) * (self.sorted[high] - self.sorted[low])
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        self.sorted.iter().sum::<f64>() / self.sorted.len() as f64
    }
}

impl Workload {
    /// From cells in grid order: all GPU clocks of the lowest memory clock first.
    pub fn new(name: &str, grid: Grid, cells: Vec<Measured>) -> Self {
        assert_eq!(cells.len(), grid.cells(), "one list of latencies a cell");
        Self { name: name.to_owned(), grid, cells }
    }

    /// Reads a workload from a folder.
    ///
    /// # Errors
    /// [`ReplayError`] names the file and what is wrong with it.
    pub fn load(folder: &Path, name: &str) -> Result<Self, ReplayError> {
        let cycles = folder.join("cycles");
        let mut gpu = Vec::new();
        let mut emc = Vec::new();
        let mut others = Vec::new();
        for entry in
            fs::read_dir(&cycles).map_err(|source| ReplayError::Read { path: cycles.clone(), source })?
        {
            let entry = entry.map_err(|source| ReplayError::Read { path: cycles.clone(), source })?;
            if let Some((e, g, workload)) = parse_name(&entry.file_name().to_string_lossy()) {
                if workload == name {
                    gpu.push(g);
                    emc.push(e);
                } else {
                    others.push(workload);
                }
            }
        }
        for list in [&mut gpu, &mut emc] {
            list.sort_unstable();
            list.dedup();
        }
        others.sort();
        others.dedup();
        if gpu.is_empty() {
            let (folder, workload) = (cycles, name.to_owned());
            return Err(ReplayError::NoWorkload { folder, workload, found: others.join(", ") });
        }
        let clocks = |list: &[u64]| list.iter().map(|mhz| Hertz::from_mhz(*mhz)).collect::<Vec<_>>();
        let grid = Grid::new(&clocks(&gpu), &clocks(&emc))?;
        let mut cells = Vec::new();
        for e in &emc {
            for g in &gpu {
                let path = cycles.join(format!("emc{e}_gpu{g}_{name}.csv"));
                if !path.exists() {
                    let (folder, workload) = (cycles, name.to_owned());
                    return Err(ReplayError::NoCell { folder, workload, gpu: *g, emc: *e });
                }
                cells.push(read_cell(&path)?);
            }
        }
        Ok(Self::new(name, grid, cells))
    }

    /// Latencies of a cell.
    pub fn cell(&self, cell: Cell) -> &Measured {
        &self.cells[self.grid.index(cell)]
    }

    /// Every cell.
    pub fn cells(&self) -> impl Iterator<Item = (Cell, &Measured)> {
        self.cells.iter().enumerate().map(|(i, m)| (self.grid.cell(i), m))
    }

    /// The lowest 99th percentile of all cells, microseconds.
    pub fn fastest_p99(&self) -> f64 {
        self.cells.iter().map(|m| m.quantile(0.99)).fold(f64::INFINITY, f64::min)
    }
}

fn parse_name(file: &str) -> Option<(u64, u64, String)> {
    let rest = file.strip_suffix(".csv")?.strip_prefix("emc")?;
    let (emc, rest) = rest.split_once("_gpu")?;
    let (gpu, workload) = rest.split_once('_')?;
    Some((emc.parse().ok()?, gpu.parse().ok()?, workload.to_owned()))
}

fn read_cell(path: &Path) -> Result<Measured, ReplayError> {
    let figures = read_columns(path, &["compute_us"])?;
    let mut latency_us = Vec::with_capacity(figures.len());
    for (line, row) in figures {
        let value = row[0].parse::<f64>().ok().filter(|v| v.is_finite() && *v > 0.0);
        latency_us.push(value.ok_or_else(|| ReplayError::Figure {
            path: path.to_owned(),
            line,
            column: "compute_us",
            found: row[0].clone(),
        })?);
    }
    if latency_us.len() < BLOCK {
        return Err(ReplayError::Short { path: path.to_owned(), found: latency_us.len(), allowed: BLOCK });
    }
    Ok(Measured::new(latency_us))
}

/// The named columns of a CSV file without quoting, each row with its line number.
pub(crate) fn read_columns(
    path: &Path,
    columns: &[&'static str],
) -> Result<Vec<(usize, Vec<String>)>, ReplayError> {
    let text =
        fs::read_to_string(path).map_err(|source| ReplayError::Read { path: path.to_owned(), source })?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or("").split(',').map(str::trim).collect();
    let mut places = Vec::new();
    for column in columns {
        let place = header.iter().position(|h| h == column);
        places.push(place.ok_or_else(|| ReplayError::NoColumn { path: path.to_owned(), column })?);
    }
    Ok(lines
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            let cells: Vec<&str> = line.split(',').map(str::trim).collect();
            (i + 2, places.iter().map(|p| cells.get(*p).unwrap_or(&"").to_string()).collect())
        })
        .collect())
}
