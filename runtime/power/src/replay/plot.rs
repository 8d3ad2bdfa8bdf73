//! Traces as CSV, and plots as SVG written by hand: two kinds of line need no plotting library.

use std::fmt::Write as _;

use super::data::Workload;
use super::plant::mhz;
use super::report::BudgetRow;
use super::score::Row;

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

const WIDTH: f64 = 880.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const SOURCE: &str = "Latency: replay of measurements by dankang21/jetson-latency-lab (Apache-2.0), Jetson Orin Nano Super. Power: MODELLED.";

/// One panel of a plot: a range of values over a range of x.
struct Panel {
    top: f64,
    height: f64,
    low: f64,
    high: f64,
    x_low: f64,
    x_high: f64,
}

impl Panel {
    fn x(&self, x: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (x - self.x_low) / (self.x_high - self.x_low).max(1e-9)
    }

    fn y(&self, y: f64) -> f64 {
        self.top + self.height * (1.0 - (y - self.low) / (self.high - self.low).max(1e-9))
    }

    fn frame(&self, svg: &mut String, label: &str) {
        let _ = writeln!(
            svg,
            r##"<rect x="{LEFT}" y="{:.1}" width="{:.1}" height="{:.1}" fill="none" stroke="#999"/><text x="{LEFT}" y="{:.1}" class="t">{label}</text>"##,
            self.top,
            WIDTH - LEFT - RIGHT,
            self.height,
            self.top - 6.0
        );
        for i in 0..=4 {
            let value = self.low + (self.high - self.low) * f64::from(i) / 4.0;
            let digits = if self.high - self.low < 10.0 { 1 } else { 0 };
            let _ = writeln!(
                svg,
                r##"<text x="{:.1}" y="{:.1}" class="n">{value:.digits$}</text>"##,
                LEFT - 6.0,
                self.y(value) + 4.0
            );
        }
    }

    fn line(&self, svg: &mut String, colour: &str, points: impl Iterator<Item = (f64, f64)>) {
        let mut path = String::new();
        for (x, y) in points {
            let _ = write!(path, "{:.1},{:.1} ", self.x(x), self.y(y.clamp(self.low, self.high)));
        }
        let _ = writeln!(
            svg,
            r##"<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.2"/>"##
        );
    }

    fn legend(&self, svg: &mut String, names: &[(&str, &str)]) {
        let mut x = WIDTH - RIGHT;
        for (name, colour) in names.iter().rev() {
            let _ = writeln!(
                svg,
                r##"<text x="{x:.1}" y="{:.1}" class="e" fill="{colour}">{name}</text>"##,
                self.top - 6.0
            );
            x -= 7.2 * name.len() as f64 + 14.0;
        }
    }
}

fn open(height: f64, title: &str) -> String {
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">
<style>.t{{fill:#333}}.n{{fill:#666;text-anchor:end}}.e{{text-anchor:end}}.x{{fill:#666;text-anchor:middle}}</style>
<rect width="100%" height="100%" fill="#fff"/><text x="{LEFT}" y="22" font-size="15">{title}</text>
"##
    )
}

fn close(mut svg: String, height: f64) -> String {
    let _ = writeln!(
        svg,
        r##"<text x="{LEFT}" y="{:.1}" font-size="10.5" class="t">{SOURCE}</text></svg>"##,
        height - 10.0
    );
    svg
}

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
    close(svg, height)
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
    close(svg, height)
}
