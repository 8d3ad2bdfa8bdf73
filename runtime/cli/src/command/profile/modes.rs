//! A whole inference: persistent mode beside graph mode and TensorRT's published time, all but the last modelled.

use crate::counted::{Counted, guesses, with};
use anyhow::Result;
use pilotlight_boards::model::published::{TENSORRT_MODULE, tensorrt};
use pilotlight_boards::model::resident::Resident;
use pilotlight_boards::model::{Machine, label};
use pilotlight_plan::Plan;
use serde::Serialize;
use std::fmt::Write as _;

/// The modes, in microseconds.
#[derive(Serialize)]
pub struct Modes {
    /// Modelled; from the host's store to the answer that it sees.
    persistent_us: f64,
    /// Modelled; on the GPU, without the host's call.
    graph_us: f64,
    /// Published; on the GPU. Null where nobody published it for this network, batch and module.
    tensorrt_us: Option<f64>,
    critical: Critical,
    sensitivity: Vec<Sensitivity>,
    /// Of `sensitivity` the longest persistent time.
    worst_single_us: f64,
    /// With every guess at its slower end at once, persistent and graph.
    pessimistic_us: [f64; 2],
}

/// Where the persistent time goes: the critical path.
#[derive(Serialize)]
struct Critical {
    work_us: f64,
    fill_us: f64,
    waits_us: f64,
    mailbox_us: f64,
    /// Share of all multiprocessors' time at work.
    busy: f64,
    /// What limits the path's work, and how much of it in microseconds.
    bounds: Vec<(&'static str, f64)>,
}

/// What a constant that nobody measured changes, at half and at twice its value.
#[derive(Serialize)]
struct Sensitivity {
    constant: &'static str,
    persistent_us: [f64; 2],
    graph_us: [f64; 2],
}

impl Modes {
    /// Of what was counted, on a machine; `module` is the board's.
    pub fn new(plan: &Plan, counted: &Counted, machine: &Machine, module: &str) -> Result<Self> {
        let both = |m: &Machine| -> Result<[f64; 2]> {
            Ok([counted.persistent(m)?.ns / 1e3, counted.graph(m).ns / 1e3])
        };
        let resident = counted.persistent(machine)?;
        let [persistent_us, graph_us] = both(machine)?;
        let mut sensitivity = Vec::new();
        let mut pessimistic = *machine;
        for constant in guesses() {
            let [half, twice] = [both(&with(machine, constant, 0.5))?, both(&with(machine, constant, 2.0))?];
            if half != twice {
                pessimistic = with(&pessimistic, constant, if half[0] > twice[0] { 0.5 } else { 2.0 });
                let [persistent_us, graph_us] = [[half[0], twice[0]], [half[1], twice[1]]];
                sensitivity.push(Sensitivity { constant: constant.name, persistent_us, graph_us });
            }
        }
        let longest = sensitivity.iter().flat_map(|s| s.persistent_us).fold(persistent_us, f64::max);
        let batch = plan.inputs.first().and_then(|&id| plan.tensor(id).shape.first().copied()).unwrap_or(1);
        let published = tensorrt(&plan.name, u64::from(batch)).filter(|_| module == TENSORRT_MODULE);
        Ok(Self {
            persistent_us,
            graph_us,
            tensorrt_us: published.map(|ms| ms * 1e3),
            critical: Critical::new(&resident),
            sensitivity,
            worst_single_us: longest,
            pessimistic_us: both(&pessimistic)?,
        })
    }

    /// For people.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        let c = &self.critical;
        let bounds: Vec<String> = c.bounds.iter().map(|(name, us)| format!("{name} {us:.0}")).collect();
        let _ = writeln!(
            text,
            "\none inference, us ({}):\n\
             \x20 persistent {:9.1}   work {:.1} (by {}), first data and last results of blocks {:.1}, flags {:.1}, \
             mailbox {:.1}; multiprocessors at work {:.0} %\n\
             \x20 graph      {:9.1}   kernels and the gaps between them",
            label(),
            self.persistent_us,
            c.work_us,
            bounds.join(", "),
            c.fill_us,
            c.waits_us,
            c.mailbox_us,
            c.busy * 100.0,
            self.graph_us
        );
        if let Some(published) = self.tensorrt_us {
            let against = |us: f64| match us / published {
                ratio if ratio <= 1.0 => format!("ahead, {ratio:.2} of its time"),
                ratio => format!("NOT ahead, {ratio:.2} of its time"),
            };
            let _ = writeln!(
                text,
                "  TensorRT   {published:9.1}   10.3, published by onnxsim; this board, top clocks\n\
                 persistent beside TensorRT: {}; with the worst of the guesses below {}; with all of them {}",
                against(self.persistent_us),
                against(self.worst_single_us),
                against(self.pessimistic_us[0])
            );
        }
        let _ = writeln!(
            text,
            "\nus with each constant that nobody measured at half .. twice its value:\n\
             {:<18} {:>20} {:>20}",
            "constant", "persistent", "graph"
        );
        let range = |[half, twice]: [f64; 2]| format!("{half:.1} .. {twice:.1}");
        for s in &self.sensitivity {
            let (persistent, graph) = (range(s.persistent_us), range(s.graph_us));
            let _ = writeln!(text, "{:<18} {persistent:>20} {graph:>20}", s.constant);
        }
        let [persistent, graph] = self.pessimistic_us;
        let _ = write!(text, "{:<18} {persistent:>20.1} {graph:>20.1}", "all, slower ends");
        text
    }
}

impl Critical {
    fn new(r: &Resident) -> Self {
        let c = &r.critical;
        Self {
            work_us: c.work / 1e3,
            fill_us: c.fill / 1e3,
            waits_us: c.waits / 1e3,
            mailbox_us: c.mailbox / 1e3,
            busy: r.busy,
            bounds: r.bounds.iter().map(|(bound, ns)| (bound.name(), ns / 1e3)).collect(),
        }
    }
}
