//! A plant made of measurements: the governor and its rivals on latencies recorded on a real board.
//!
//! Latency is drawn from recorded cycles; power is **modelled** between the few points where it was measured,
//! by several worlds that each reproduce those points ([`World`]). Figures from here are replays, not
//! measurements, and every table says so.
//!
//! The data's format is a folder: `cycles/emc<MHz>_gpu<MHz>_<workload>.csv` with a column `compute_us`, and
//! `power_traces_summary.csv`.

mod baselines;
mod data;
mod plant;
mod plot;
mod report;
mod rng;
mod score;
mod world;

pub use baselines::{Baseline, Blind, Modes};
pub use data::{Measured, ReplayError, Workload};
pub use plant::{Cycle, Disturbance, Plant, PlantSettings};
pub use plot::{budgets_svg, run_svg, trace_csv};
pub use report::{Bar, Bench, BudgetRow, DISTURBANCES, ReplayOptions, Report, ReportError, report};
pub use rng::Rng;
pub use score::{LEARNING, Outcome, Row, Score, Task, cell_energy, oracle, run_governor};
pub use world::{ListedPoint, World, listed_points};
