//! Traces as CSV, and plots of runs and of budgets.

use std::fmt::Write as _;

use super::data::Workload;
use super::plant::mhz;
use super::report::BudgetRow;
use super::score::Row;
use crate::svg::{Panel, WIDTH, close, open};

/// A run, cycle by cycle, as CSV.
pub fn trace_csv(workload: &Workload, rows: &[Row]) -> String {
    let mut text =
        String::from("cycle,latency_us,gpu_mhz,emc_mhz,vdd_in_mw,energy_since_previous_mj_modelled,state\n");
    for row in rows {
        let point = workload.grid.point(row.cell);
        let rail = row.seen.rail.map_or(String::new(), |r| r.power.0.to_string());
        let _ = writeln!(
            text,
            "{},{},{},{},{rail},{:.3},{:?}",
            row.cycle,
            row.seen.latency.0,
            mhz(point.gpu),
            mhz(point.emc),
            row.energy_mj,
            row.state
        );
    }
    text
}

const SOURCE: &str = "Latency: replay of measurements by dankang21/jetson-latency-lab (Apache-2.0), Jetson Orin Nano Super. Power: MODELLED.";

/// One run over its cycles: latency and budget, clocks, and the rail.
pub fn run_svg(workload: &Workload, title: &str, budget_us: f64, rows: &[Row]) -> String {
    let height = 560.0;
    let last = rows.last().map_or(1.0, |r| r.cycle as f64);
    let panel = |top, low, high| Panel { top, height: 130.0, low, high, x_low: 0.0, x_high: last };
    let mut svg = open(height, title);
    let latency = panel(60.0, 0.0, 1.6 * budget_us / 1_000.0);
    latency.frame(&mut svg, "latency, ms");
    latency.legend(&mut svg, &[("latency", "#1f77b4"), ("budget", "#d62728")]);
    let cycles = |f: fn(&Row) -> f64| rows.iter().map(move |r| (r.cycle as f64, f(r)));
    latency.line(&mut svg, "#1f77b4", cycles(|r| r.seen.latency.as_f64() / 1_000.0));
    latency.line(&mut svg, "#d62728", [(0.0, budget_us / 1_000.0), (last, budget_us / 1_000.0)].into_iter());
    let clocks = panel(220.0, 0.0, 3_400.0);
    clocks.frame(&mut svg, "clocks, MHz");
    clocks.legend(&mut svg, &[("GPU", "#2ca02c"), ("EMC", "#9467bd")]);
    let point = |r: &Row| workload.grid.point(r.cell);
    clocks.line(&mut svg, "#2ca02c", rows.iter().map(|r| (r.cycle as f64, mhz(point(r).gpu))));
    clocks.line(&mut svg, "#9467bd", rows.iter().map(|r| (r.cycle as f64, mhz(point(r).emc))));
    let rail = panel(380.0, 4.0, 9.0);
    rail.frame(&mut svg, "VDD_IN as the governor reads it, W (modelled, 40 mW steps)");
    rail.line(
        &mut svg,
        "#ff7f0e",
        rows.iter().filter_map(|r| Some((r.cycle as f64, r.seen.rail?.power.as_f64() / 1_000.0))),
    );
    for i in 0..=5 {
        let x = last * f64::from(i) / 5.0;
        let _ = writeln!(svg, r##"<text x="{:.1}" y="526" class="x">{x:.0}</text>"##, rail.x(x));
    }
    close(svg, height, SOURCE)
}

/// Energy per period over budgets: the governor, the oracle, top clocks and the power modes, of one world.
pub fn budgets_svg(title: &str, rows: &[BudgetRow]) -> String {
    let height = 420.0;
    let held: Vec<&BudgetRow> = rows.iter().filter(|r| r.ratio >= 1.0).collect();
    let high = held.iter().map(|r| r.top_mj).fold(0.0, f64::max) * 1.05;
    let low = held.iter().filter_map(|r| r.oracle_mj).fold(high, f64::min) * 0.9;
    let panel = Panel { top: 60.0, height: 290.0, low, high, x_low: 1.0, x_high: 2.55 };
    let mut svg = open(height, title);
    panel.frame(&mut svg, "mJ per period");
    panel.legend(
        &mut svg,
        &[
            ("top clocks", "#7f7f7f"),
            ("stock governor, MAXN", "#9467bd"),
            ("governor", "#1f77b4"),
            ("oracle", "#2ca02c"),
        ],
    );
    let over = |f: fn(&BudgetRow) -> Option<f64>| held.iter().filter_map(move |r| Some((r.ratio, f(r)?)));
    panel.line(&mut svg, "#7f7f7f", over(|r| Some(r.top_mj)));
    panel.line(&mut svg, "#9467bd", over(|r| r.modes.last().map(|m| m.2)));
    panel.line(&mut svg, "#2ca02c", over(|r| r.oracle_mj));
    panel.line(&mut svg, "#1f77b4", over(|r| Some(r.energy_mj)));
    for x in [1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5] {
        let _ = writeln!(svg, r##"<text x="{:.1}" y="368" class="x">{x}</text>"##, panel.x(x));
    }
    let _ = writeln!(
        svg,
        r##"<text x="{:.1}" y="386" class="x">budget over the fastest cell's 99th percentile; late cycles: governor at most {:.2} %, stock MAXN up to {:.0} %</text>"##,
        WIDTH / 2.0,
        100.0 * held.iter().map(|r| r.late).fold(0.0, f64::max),
        100.0 * held.iter().filter_map(|r| r.modes.last().map(|m| m.1)).fold(0.0, f64::max)
    );
    close(svg, height, SOURCE)
}
