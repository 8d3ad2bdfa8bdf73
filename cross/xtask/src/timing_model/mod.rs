//! The model of time and energy against what others measured on an Orin Nano Super.

mod nets;
mod tensorrt;

use crate::shell;
use anyhow::{Context, Result, bail};
use nets::Layer;
use pilotlight_boards::model::{
    CONSTANTS, Clocks, Constants, Known, Machine, VALIDATED, label, lit::Waiting, published::TENSORRT,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;

#[derive(clap::Args)]
pub struct TimingModel {}

/// Bytes that the memory-bound workload reads: twelve 4096 x 4096 matrices of 16-bit floats.
const PROXY_BYTES: f64 = 12.0 * 4096.0 * 4096.0 * 2.0;
/// Its kernels.
const PROXY_LAUNCHES: f64 = 12.0;
const PROXY_AIM: f64 = 0.10;
const TENSORRT_AIM: f64 = 0.30;

/// The layers of a network.
type Net = fn() -> Vec<Layer>;

/// Networks whose times are published.
const NETS: [(&str, Net); 3] =
    [("ResNet-18", nets::resnet18), ("ResNet-50", nets::resnet50), ("MobileNetV2", nets::mobilenet_v2)];

/// Name, layers, batch and published milliseconds.
fn published() -> impl Iterator<Item = (&'static str, Vec<Layer>, u64, f64)> {
    TENSORRT.iter().filter_map(|p| {
        let (name, net) = NETS.iter().find(|(name, _)| *name == p.network)?;
        Some((*name, net(), p.batch, p.ms))
    })
}

/// Traces of power on which constants were fitted; the others are compared.
const FITTED: [&str; 9] = [
    "e1_governor/idle",
    "replication_15w/idle",
    "replication_25w/gov_idle",
    "campaign_g2/partA/emc204_proxy",
    "campaign_g2/partA/emc665_proxy",
    "campaign_g2/partA/emc2133_proxy",
    "campaign_g2/partB/emc2133_adv0_proxy",
    // How power falls with the clock, no more.
    "campaign_g2/partA/emc2133_slm",
    "replication_15w/slm",
];
/// The published time on which one constant was fitted; it is no prediction then.
const FITTED_TIME: (&str, u64) = ("ResNet-18", 8);

impl TimingModel {
    pub fn run(self) -> Result<()> {
        let (text, all_within) = tables()?;
        println!("{text}");
        if all_within != VALIDATED {
            bail!("model::VALIDATED is {VALIDATED}, the table says {all_within}: correct the flag");
        }
        Ok(())
    }
}

fn machine() -> Result<Machine> {
    let board = pilotlight_boards::named("orin-nano-8gb-super").context("the board's facts")?;
    Ok(Machine::of(&board, Clocks::highest(&board)))
}

/// All tables as text, and whether every prediction is within the aim.
fn tables() -> Result<(String, bool)> {
    let machine = machine()?;
    let mut text = String::new();
    proxy(&machine, &mut text)?;
    power(&machine, &mut text)?;
    let all_within = predictions(&machine, &mut text)?;
    sensitivity(&machine, &mut text)?;
    lit(&machine, &mut text)?;
    Ok((text, all_within))
}

fn percent(modelled: f64, measured: f64) -> f64 {
    (modelled / measured - 1.0) * 100.0
}

/// The rows of a comma-separated file.
fn csv(text: &str) -> Vec<BTreeMap<&str, &str>> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    lines.map(|line| names.iter().copied().zip(line.split(',')).collect()).collect()
}

fn number(value: Option<&&str>) -> Option<f64> {
    value?.parse().ok()
}

fn data(path: &str) -> Result<String> {
    let path = shell::root().join("boards/data/dvfs").join(path);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Median of a cell's 300 cycles, in ms.
fn measured_proxy(emc: u32, gpu: u32) -> Result<f64> {
    let text = data(&format!("cycles/emc{emc}_gpu{gpu}_proxy.csv"))?;
    let mut cycles: Vec<f64> = csv(&text).iter().filter_map(|row| number(row.get("compute_us"))).collect();
    cycles.sort_unstable_by(f64::total_cmp);
    if cycles.len() < 2 {
        bail!("emc{emc}_gpu{gpu}_proxy.csv holds {} cycles", cycles.len());
    }
    let half = cycles.len() / 2;
    Ok((cycles[(cycles.len() - 1) / 2] + cycles[half]) / 2e3)
}

fn proxy(machine: &Machine, text: &mut String) -> Result<()> {
    writeln!(
        text,
        "Memory-bound workload (12 matrix-vector products, 403 MB; boards/data/dvfs): modelled ms, error"
    )?;
    writeln!(
        text,
        "The share of the peak and the bytes per GPU clock come from these cells: a description, no prediction.\n"
    )?;
    writeln!(text, "| EMC MHz | GPU MHz | measured p50, ms | modelled, ms | error |\n|---|---|---|---|---|")?;
    let (mut within, mut all, mut worst) = (0, 0, 0.0f64);
    for emc in [665, 2133, 3199] {
        for gpu in [306, 408, 510, 612, 714, 816, 918, 1020] {
            let measured = measured_proxy(emc, gpu)?;
            let emc_mhz = if emc == 665 { 665.6 } else { f64::from(emc) };
            let at = machine.at(Clocks::mhz(f64::from(gpu), emc_mhz));
            let ns = PROXY_BYTES / at.dram_bytes_per_second() * 1e9
                + PROXY_LAUNCHES * at.constants.kernel_ns
                + at.constants.call_ns;
            let error = percent(ns / 1e6, measured);
            (within, all, worst) =
                (within + usize::from(error.abs() <= PROXY_AIM * 100.0), all + 1, worst.max(error.abs()));
            writeln!(text, "| {emc} | {gpu} | {measured:.3} | {:.3} | {error:+.1} % |", ns / 1e6)?;
        }
    }
    writeln!(
        text,
        "\nproxy: {within} of {all} cells within {:.0} %, worst {worst:.1} %\n",
        PROXY_AIM * 100.0
    )?;
    Ok(())
}

/// Traces in which something else loads CPU or memory, which the model does not know.
fn other_load(trace: &str) -> bool {
    ["adv2", "adv4", "p3_", "p3hi_"].iter().any(|word| trace.contains(word)) && !trace.contains("baseline")
}

fn power(machine: &Machine, text: &mut String) -> Result<()> {
    writeln!(
        text,
        "Power of the module (VDD_IN): idle + busy share x active + DRAM traffic, the shares measured\n"
    )?;
    writeln!(
        text,
        "| trace | EMC MHz | GPU MHz | busy | GB/s | measured, W | modelled, W | error |\n|---|---|---|---|---|---|---|---|"
    )?;
    let file = data("power_traces_summary.csv")?;
    let (mut compared, mut worst, mut sum, mut left_out) = (0, 0.0f64, 0.0, 0);
    for row in csv(&file) {
        let trace = row.get("trace").copied().unwrap_or_default().trim_end_matches(".tegra");
        if other_load(trace) {
            left_out += 1;
            continue;
        }
        let field = |name: &str| number(row.get(name)).with_context(|| format!("{trace}: {name}"));
        let (emc, gpu, watts) = (field("emc_mhz")?, field("gpu_mhz")?, field("vdd_in_mw")? / 1e3);
        // 1701 was asked for and rounds up to the next point that locks.
        let emc = match emc {
            665.0 => 665.6,
            1701.0 => 2133.0,
            e => e,
        };
        let at = machine.at(Clocks::mhz(gpu, emc));
        let duty =
            number(row.get("hz")).zip(number(row.get("compute_p50_us"))).map(|(hz, us)| hz * us * 1e-6);
        let busy = duty.map_or_else(|| field("gpu_util_pct").map(|p| p / 100.0), Ok)?;
        let streamed = number(row.get("hz")).filter(|_| trace.ends_with("proxy")).map(|hz| hz * PROXY_BYTES);
        let peak = at.dram_bytes_per_emc * at.clocks.emc;
        let bytes = streamed.map_or_else(|| field("emc_util_pct").map(|p| p / 100.0 * peak), Ok)?;
        let modelled = at.watts(busy, bytes);
        let error = percent(modelled, watts);
        let fitted = FITTED.contains(&trace);
        if !fitted {
            (compared, worst, sum) = (compared + 1, worst.max(error.abs()), sum + error.abs());
        }
        writeln!(
            text,
            "| {trace}{} | {emc} | {gpu} | {:.0} % | {:.1} | {watts:.2} | {modelled:.2} | {error:+.0} % |",
            if fitted { " (fitted)" } else { "" },
            busy * 100.0,
            bytes / 1e9
        )?;
    }
    writeln!(
        text,
        "\npower: {compared} points compared, mean error {:.0} %, worst {worst:.0} %; {left_out} traces with other \
         load on CPU or memory left out: the model knows none.\nThe language model (slm) and MobileNetV2 compute much for \
         each byte; what they compute was not published, so only their bytes are in the figure: it must come out low.\n",
        sum / compared.max(1) as f64
    )?;
    Ok(())
}

fn predictions(machine: &Machine, text: &mut String) -> Result<bool> {
    writeln!(
        text,
        "TensorRT 10.3 on Orin Nano Super, one launch a layer on the model. One constant, overlap, was fitted on the row\n\
         that says so; the other rows are predictions.\n"
    )?;
    writeln!(
        text,
        "| network | batch | launches | MAC, M | published, ms | modelled, ms | error | bound by (share of time) |\n\
         |---|---|---|---|---|---|---|---|"
    )?;
    let (mut within, mut all, mut missed) = (0, 0, Vec::new());
    for (name, layers, batch, published) in published() {
        let (ms, _) = tensorrt::network(machine, &layers, batch);
        let error = percent(ms, published);
        let fitted = (name, batch) == FITTED_TIME;
        if !fitted {
            all += 1;
            if error.abs() <= TENSORRT_AIM * 100.0 {
                within += 1;
            } else {
                missed.push(format!("{name} at batch {batch} by {error:+.0} %"));
            }
        }
        writeln!(
            text,
            "| {name}{} | {batch} | {} | {} | {published:.3} | {ms:.3} | {error:+.0} % | {} |",
            if fitted { " (fitted)" } else { "" },
            layers.len(),
            nets::macs(&layers) * batch / 1_000_000,
            bounds(machine, &layers, batch)
        )?;
    }
    writeln!(text, "\nTensorRT: {within} of {all} predictions within {:.0} %\n", TENSORRT_AIM * 100.0)?;
    if !missed.is_empty() {
        writeln!(text, "Missed: {}. {WHY}\n", missed.join(", "))?;
    }
    writeln!(text, "{}\n", verdict(within == all))?;
    Ok(within == all)
}

/// What explains a miss, as far as is known.
const WHY: &str = "The source of the figure says that INT8 adds many conversions between layouts to this network: \
                   launches that are not in the list of layers, whose number it does not give. At batch 1 launches and \
                   the filling of blocks are most of the modelled time, and for Orin neither is published: at twice the \
                   gap between kernels the figure is met within 30 % (table of guesses below).";

/// What the comparison says of every modelled figure of the project.
fn verdict(all_within: bool) -> &'static str {
    if all_within {
        "Every prediction is within the aim: modelled times may be shown as such, labelled modelled."
    } else {
        "The aim is missed: modelled time not validated; relative only. Every command prints that with modelled figures."
    }
}

/// Shares of the modelled time by what bounds the launches.
fn bounds(machine: &Machine, layers: &[Layer], batch: u64) -> String {
    let mut shares: Vec<(&str, f64)> = Vec::new();
    let mut all = 0.0;
    for layer in layers {
        let modelled = machine.kernel(&tensorrt::launch(machine, *layer, batch));
        let (gaps, rest) = (modelled.parts.launch + modelled.parts.fill, modelled.ns);
        all += rest;
        let busiest = if rest - gaps > gaps { modelled.bound.name() } else { "launch and fill" };
        match shares.iter_mut().find(|s| s.0 == busiest) {
            Some(share) => share.1 += rest,
            None => shares.push((busiest, rest)),
        }
    }
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    let shares = shares.iter().map(|(name, ns)| format!("{name} {:.0} %", ns / all * 100.0));
    shares.collect::<Vec<_>>().join(", ")
}

fn sensitivity(machine: &Machine, text: &mut String) -> Result<()> {
    writeln!(text, "What each constant that nobody measured changes, at half and at twice its value\n")?;
    write!(text, "| constant | value | unit |")?;
    for (name, _, batch, _) in published() {
        write!(text, " {name} b{batch}, ms |")?;
    }
    writeln!(
        text,
        " ResNet-50 b1, mJ | break-even backing off, ms |\n|---|---|---|{}",
        "---|".repeat(TENSORRT.len() + 2)
    )?;
    let results = |constants: Constants| -> Vec<f64> {
        let machine = Machine { constants, ..*machine };
        let mut all: Vec<f64> =
            published().map(|(_, net, batch, _)| tensorrt::network(&machine, &net, batch).0).collect();
        all.push(tensorrt::network(&machine, &nets::resnet50(), 1).1 * 1e3);
        all.push(machine.lit().break_even_ns(Waiting::BackOff).unwrap_or(f64::INFINITY) * 1e-6);
        all
    };
    let print = |text: &mut String, name: &str, value: f64, unit: &str, cells: Vec<String>| {
        writeln!(text, "| {name} | {value} | {unit} | {} |", cells.join(" | "))
    };
    let base = results(Constants::default());
    writeln!(
        text,
        "| as it is | | | {} |",
        base.iter().map(|v| format!("{v:.3}")).collect::<Vec<_>>().join(" | ")
    )?;
    for constant in CONSTANTS.iter().filter(|c| c.known == Known::Assumed) {
        let of = |factor: f64| {
            let mut constants = Constants::default();
            *(constant.of)(&mut constants) *= factor;
            results(constants)
        };
        let (half, twice) = (of(0.5), of(2.0));
        let cells = half.iter().zip(&twice).map(|(a, b)| format!("{a:.3} .. {b:.3}")).collect();
        print(text, constant.name, *(constant.of)(&mut Constants::default()), constant.unit, cells)?;
    }
    writeln!(
        text,
        "\nSources of all constants:\n\n| constant | value | unit | known | source |\n|---|---|---|---|---|"
    )?;
    for c in CONSTANTS {
        let value = *(c.of)(&mut Constants::default());
        writeln!(text, "| {} | {value} | {} | {} | {} |", c.name, c.unit, c.known.word(), c.source)?;
    }
    writeln!(text)?;
    Ok(())
}

fn lit(machine: &Machine, text: &mut String) -> Result<()> {
    writeln!(
        text,
        "Staying lit ({}): watts of the module, and the idle time from which parking costs less\n",
        label()
    )?;
    writeln!(
        text,
        "| GPU MHz | EMC MHz | spinning, W | backing off, W | parked, W | relaunch, mJ | break-even spinning, ms | backing off, ms |\n|---|---|---|---|---|---|---|---|"
    )?;
    for (gpu, emc) in [(306.0, 2133.0), (612.0, 2133.0), (1020.0, 2133.0), (1020.0, 3199.0)] {
        let lit = machine.at(Clocks::mhz(gpu, emc)).lit();
        let t =
            |waiting| lit.break_even_ns(waiting).map_or("never".to_owned(), |ns| format!("{:.3}", ns * 1e-6));
        writeln!(
            text,
            "| {gpu} | {emc} | {:.2} | {:.2} | {:.2} | {:.3} | {} | {} |",
            lit.spinning_watts,
            lit.back_off_watts,
            lit.parked_watts,
            lit.relaunch_joules * 1e3,
            t(Waiting::Spinning),
            t(Waiting::BackOff)
        )?;
    }
    writeln!(
        text,
        "\nIts inputs are active_watts (fitted), call_ns (measured) and cpu_core_watts, sleep_share, poll_clocks,\n\
         poll_instructions, gate_exit_ns (assumed); see above. Parked power is that of the same clocks, not of a gated rail."
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The statements of pass and miss that the documents repeat, and the flag that every command obeys.
    #[test]
    fn the_table_says_what_the_flag_says() {
        let (text, all_within) = tables().unwrap_or_else(|e| panic!("{e:#}"));
        let said = |line: &str| assert!(text.contains(line), "{line}\n{text}");
        said("proxy: 24 of 24 cells within 10 %");
        said("TensorRT: 4 of 5 predictions within 30 %");
        said("Missed: MobileNetV2 at batch 1 by -40 %");
        said("power: 26 points compared, mean error 8 %, worst 31 %");
        assert_eq!(VALIDATED, all_within);
        said(verdict(VALIDATED));
    }
}
