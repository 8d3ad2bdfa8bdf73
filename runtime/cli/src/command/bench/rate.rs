//! `pilotlight bench --rate`: the modelled energy of waiting for requests, by policy.

use super::super::print_json;
use crate::counted::{Counted, guesses, with};
use crate::device::{Board, machine, resident_idle};
use crate::model::Model;
use anyhow::{Context, Result, bail};
use pilotlight_boards::model::lit::{INPUTS, Waiting};
use pilotlight_boards::model::rate::{Policy, idle_ns, irregular};
use pilotlight_boards::model::{CONSTANTS, Machine, VALIDATED, label};
use pilotlight_cuda::LEAST_IDLE;
use serde::Serialize;

/// The chosen policy may cost so much more than the best.
const WITHIN: f64 = 0.03;
/// Requests that nobody foresees, of which the second bill is made.
const REQUESTS: usize = 2_000;

/// What `bench --rate --json` prints. Fields are only ever added within one `schema`.
#[derive(Serialize)]
struct Report {
    schema: u32,
    model: String,
    device: String,
    /// Nothing here is measured.
    status: &'static str,
    validated: bool,
    hz: f64,
    idle: Idle,
    policies: Vec<Row>,
    chosen: &'static str,
    /// By how much the chosen one costs more than the best, in percent: at the steady rate, and with requests that
    /// nobody foresees.
    over_best_percent: [f64; 2],
    sensitivity: Vec<Sensitivity>,
}

/// The idle time after which a persistent kernel leaves, and what it follows from.
#[derive(Serialize)]
struct Idle {
    break_even_us: Option<f64>,
    /// The least that makes sense: clocks take so long to change.
    least_us: f64,
    /// What persistent mode takes unless told otherwise.
    idle_us: Option<f64>,
    spinning_w: f64,
    back_off_w: f64,
    parked_w: f64,
    relaunch_us: f64,
    relaunch_mj: f64,
    inputs: Vec<Input>,
}

#[derive(Serialize)]
struct Input {
    constant: &'static str,
    value: f64,
    unit: &'static str,
    known: &'static str,
}

/// A policy at the rate; null where it does not keep up.
#[derive(Serialize)]
struct Row {
    policy: &'static str,
    latency_us: Option<f64>,
    mj: Option<f64>,
    w: Option<f64>,
    /// Of `mj`, what is above a module with nothing to do.
    above_parked_mj: Option<f64>,
    launches: Option<f64>,
    irregular_mj: Option<f64>,
}

/// A guess at half and at twice its value.
#[derive(Serialize)]
struct Sensitivity {
    constant: &'static str,
    break_even_us: [Option<f64>; 2],
    /// Of each policy at the steady rate, in the order of `policies`.
    mj: [[Option<f64>; 2]; 3],
    /// What the policy chosen above would then cost more than the best, in percent.
    over_best_percent: [f64; 2],
}

pub fn run(model: &Model, board: &Board, hz: f64, json: bool) -> Result<()> {
    if *board == Board::Auto {
        bail!("--rate is modelled from what a virtual board counts; add --board virtual:orin-nano-super");
    }
    let counted = Counted::run(&model.plan, board)?;
    let at = machine(board).context("this board has no clocks and rails; take virtual:orin-nano-super")?;
    let report = Report::new(model, &counted, &at, hz)?;
    if json {
        print_json(&report)?;
    } else {
        report.show();
    }
    let over = report.over_best_percent.into_iter().fold(0.0, f64::max);
    if over > WITHIN * 100.0 {
        bail!("the chosen policy costs {over:.1} % more than the best; {:.0} % are allowed", WITHIN * 100.0);
    }
    Ok(())
}

impl Report {
    fn new(model: &Model, counted: &Counted, at: &Machine, hz: f64) -> Result<Self> {
        let idle = resident_idle(at).map(|idle| idle.as_nanos() as f64);
        // A kernel that never leaves is always lit.
        let leaves = idle.unwrap_or(f64::INFINITY);
        let period = 1e9 / hz;
        let (steady, random) = ([period; 2], irregular(period, REQUESTS));
        let demand = counted.demand(at)?;
        let chosen = at.choose(&demand, leaves, period).with_context(|| {
            let longest = demand.persistent.ns.min(demand.graph.ns) / 1e3;
            format!(
                "{hz} requests a second leave {:.0} us each; an inference takes {longest:.0}",
                period / 1e3
            )
        })?;
        let over = |at: &Machine, gaps: &[f64]| -> Result<f64> {
            let demand = counted.demand(at)?;
            let bill = |policy| at.serve(policy, &demand, leaves, gaps).map(|bill| bill.joules);
            let best = Policy::ALL.into_iter().filter_map(bill).fold(f64::INFINITY, f64::min);
            // One that no longer keeps up is no choice at all.
            Ok((bill(chosen).unwrap_or(f64::INFINITY) / best - 1.0) * 100.0)
        };
        let rows = Policy::ALL.into_iter().map(|policy| {
            let bill = at.serve(policy, &demand, leaves, &steady);
            Row {
                policy: policy.name(),
                latency_us: bill.map(|b| b.latency_ns / 1e3),
                mj: bill.map(|b| b.joules * 1e3),
                w: bill.map(|b| b.joules * hz),
                above_parked_mj: bill.map(|b| b.above_parked * 1e3),
                launches: bill.map(|b| b.launches),
                irregular_mj: at.serve(policy, &demand, leaves, &random).map(|b| b.joules * 1e3),
            }
        });
        let policies = rows.collect();
        let mut sensitivity = Vec::new();
        for constant in guesses() {
            let [half, twice] = [with(at, constant, 0.5), with(at, constant, 2.0)];
            let break_even = |m: &Machine| m.lit().break_even_ns(Waiting::BackOff).map(|ns| ns / 1e3);
            let mj = |m: &Machine, policy| -> Result<Option<f64>> {
                let bill = m.serve(policy, &counted.demand(m)?, leaves, &steady);
                Ok(bill.map(|b| b.joules * 1e3))
            };
            let mut costs = [[None; 2]; 3];
            for (cost, policy) in costs.iter_mut().zip(Policy::ALL) {
                *cost = [mj(&half, policy)?, mj(&twice, policy)?];
            }
            // Constants of other things change nothing.
            if break_even(&half) == break_even(&twice) && costs.iter().all(|[half, twice]| half == twice) {
                continue;
            }
            sensitivity.push(Sensitivity {
                constant: constant.name,
                break_even_us: [break_even(&half), break_even(&twice)],
                mj: costs,
                over_best_percent: [over(&half, &steady)?, over(&twice, &steady)?],
            });
        }
        Ok(Self {
            schema: 1,
            model: model.plan.name.clone(),
            device: counted.device.clone(),
            status: "modelled",
            validated: VALIDATED,
            hz,
            idle: Idle::new(at),
            policies,
            chosen: chosen.name(),
            over_best_percent: [over(at, &steady)?, over(at, &random)?],
            sensitivity,
        })
    }

    fn show(&self) {
        println!(
            "{} on {}, {} requests a second; everything MODELLED, nothing measured ({})",
            self.model,
            self.device,
            self.hz,
            label()
        );
        self.idle.show();
        println!(
            "\n{:<8} {:>11} {:>9} {:>7} {:>16} {:>9} {:>13}",
            "policy", "latency, ms", "mJ", "W", "above parked, mJ", "launches", "irregular, mJ"
        );
        let cell = |value: Option<f64>, digits: usize| {
            value.map_or("too slow".to_owned(), |v| format!("{v:.digits$}"))
        };
        for row in &self.policies {
            println!(
                "{:<8} {:>11} {:>9} {:>7} {:>16} {:>9} {:>13}",
                row.policy,
                cell(row.latency_us.map(|us| us / 1e3), 3),
                cell(row.mj, 3),
                cell(row.w, 3),
                cell(row.above_parked_mj, 3),
                cell(row.launches, 2),
                cell(row.irregular_mj, 3)
            );
        }
        println!(
            "mJ: of the module for a request, the pause behind it included. irregular: {REQUESTS} requests of a Poisson \
             process at this rate"
        );
        let [steady, random] = self.over_best_percent;
        println!(
            "chosen: {}, for the steady rate; {steady:.2} % above the best of the three there, {random:.2} % with \
             irregular requests (at most {:.0} % are allowed)",
            self.chosen,
            WITHIN * 100.0
        );
        println!(
            "\nwith each constant that nobody measured at half .. twice its value:\n\
             {:<18} {:>16} {:>18} {:>18} {:>18} {:>18}",
            "constant", "break-even, ms", "lit, mJ", "parked, mJ", "graph, mJ", "chosen, % over"
        );
        let ms = |us: Option<f64>| us.map_or("never".to_owned(), |us| format!("{:.3}", us / 1e3));
        for s in &self.sensitivity {
            let ([a, b], [c, d]) = (s.break_even_us, s.over_best_percent);
            let [lit, parked, graph] =
                s.mj.map(|[half, twice]| format!("{} .. {}", cell(half, 2), cell(twice, 2)));
            println!(
                "{:<18} {:>16} {lit:>18} {parked:>18} {graph:>18} {:>18}",
                s.constant,
                format!("{} .. {}", ms(a), ms(b)),
                format!("{c:.2} .. {d:.2}")
            );
        }
    }
}

impl Idle {
    fn new(at: &Machine) -> Self {
        let lit = at.lit();
        let least = LEAST_IDLE.as_nanos() as f64;
        let mut constants = at.constants;
        let inputs = CONSTANTS.iter().filter(|c| INPUTS.contains(&c.name)).map(|c| Input {
            constant: c.name,
            value: *(c.of)(&mut constants),
            unit: c.unit,
            known: c.known.word(),
        });
        Self {
            inputs: inputs.collect(),
            break_even_us: lit.break_even_ns(Waiting::BackOff).map(|ns| ns / 1e3),
            least_us: least / 1e3,
            idle_us: idle_ns(&lit, least).map(|ns| ns / 1e3),
            spinning_w: lit.spinning_watts,
            back_off_w: lit.back_off_watts,
            parked_w: lit.parked_watts,
            relaunch_us: lit.relaunch_ns / 1e3,
            relaunch_mj: lit.relaunch_joules * 1e3,
        }
    }

    fn show(&self) {
        println!(
            "\nwatts of the module: lit and backing off {:.3} (spinning without pause {:.3}), parked {:.3}",
            self.back_off_w, self.spinning_w, self.parked_w
        );
        let (Some(even), Some(idle)) = (self.break_even_us, self.idle_us) else {
            println!("waiting costs no more than being parked: the kernel never leaves");
            return;
        };
        println!(
            "break-even: {:.3} mJ and {:.3} ms of a relaunch / ({:.3} W - {:.3} W) = {:.3} ms of idle time",
            self.relaunch_mj,
            self.relaunch_us / 1e3,
            self.back_off_w,
            self.parked_w,
            even / 1e3
        );
        println!(
            "persistent mode leaves after {:.3} ms: the break-even, but never less than the {:.0} ms in which a clock \
             changes\nfrom:",
            idle / 1e3,
            self.least_us / 1e3
        );
        for input in &self.inputs {
            println!("  {:<18} {:>9} ({}) {}", input.constant, input.value, input.known, input.unit);
        }
    }
}
