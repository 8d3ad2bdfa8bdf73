//! Pilotlight, ONNX Runtime and tract on the same models in the same run.

use crate::{exact, python, shell};
use anyhow::{Context, Result};
use serde_json::Value;

#[derive(clap::Args)]
pub struct Rivals {
    /// Threads of each runtime, one table line each
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<u32>,
    /// Rounds; each runs every runtime once, and the smallest figure of all rounds counts
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Leave tract out (it takes ten to twenty times as long)
    #[arg(long)]
    no_tract: bool,
}

const NETS: &[(&str, &str)] = &[
    ("EfficientNet-Lite0", "models/efficientnet-lite0/model.onnx"),
    ("YOLOX", "models/.cache/yolox/model.onnx"),
    ("MobileNetV2 twin", "models/.cache/twins/mobilenetv2.onnx"),
    ("ResNet-50 twin", "models/.cache/twins/resnet50.onnx"),
];

/// Figures of one runtime in milliseconds: the smallest of all rounds.
#[derive(Clone, Copy)]
struct Figures {
    min: f64,
    p50: f64,
    p99: f64,
    start: f64,
}

impl Figures {
    fn better(self, other: Option<Self>) -> Self {
        let Some(o) = other else { return self };
        Self {
            min: self.min.min(o.min),
            p50: self.p50.min(o.p50),
            p99: self.p99.min(o.p99),
            start: self.start.min(o.start),
        }
    }

    fn of(v: &Value, start_us: f64) -> Result<Self> {
        let ms = |key: &str| v[key].as_f64().map(|us| us / 1e3).with_context(|| format!("no {key} in {v}"));
        Ok(Self { min: ms("min")?, p50: ms("p50")?, p99: ms("p99")?, start: start_us / 1e3 })
    }
}

impl Rivals {
    pub fn run(self) -> Result<()> {
        let pilotlight = shell::pilotlight("onnx")?;
        let pilotlight = pilotlight.to_str().context("path is not text")?;
        exact::make_models(exact::RECIPES)?;
        let tract = if self.no_tract { None } else { Some(build_tract()?) };
        let plans = shell::root().join("target/rivals");
        std::fs::create_dir_all(&plans)?;
        println!("{}", machine());
        println!(
            "milliseconds, smallest of {} rounds (min and p50 of 200 runs, tract 10); start: file to ready session",
            self.rounds
        );
        println!(
            "{:<20} {:>7} | {:>8} {:>8} {:>8} | {:>8} {:>8} {:>8} | {:>9} | {:>6}",
            "net", "threads", "ours min", "p50", "start", "ORT min", "p50", "start", "tract min", "ratio"
        );
        for (name, model) in NETS {
            let plan = plans.join(format!("{}.plan", name.replace(' ', "-")));
            let plan = plan.to_str().context("path is not text")?;
            shell::output(pilotlight, &["compile", model, "--output", plan])?;
            for &threads in &self.threads {
                let (mut ours, mut ort, mut other) = (None, None, None);
                for _ in 0..self.rounds {
                    ours = Some(bench_ours(pilotlight, plan, threads)?.better(ours));
                    ort = Some(bench_ort(model, threads)?.better(ort));
                    if let (Some(tract), 1) = (&tract, threads) {
                        other = Some(bench_tract(tract, model)?.better(other));
                    }
                }
                let (Some(a), Some(b)) = (ours, ort) else { continue };
                let tract = other.map_or("-".into(), |t: Figures| format!("{:.1}", t.min));
                println!(
                    "{name:<20} {threads:>7} | {:>8.3} {:>8.3} {:>8.2} | {:>8.3} {:>8.3} {:>8.1} | {tract:>9} | {:>6.2}",
                    a.min,
                    a.p50,
                    a.start,
                    b.min,
                    b.p50,
                    b.start,
                    a.p50 / b.p50
                );
            }
        }
        Ok(())
    }
}

fn bench_ours(program: &str, plan: &str, threads: u32) -> Result<Figures> {
    let text = shell::output(program, &["bench", plan, "--json", "--threads", &threads.to_string()])?;
    let v: Value = serde_json::from_str(&text)?;
    let start = v["plan_open_us"].as_f64().unwrap_or(0.0) + v["load_us"].as_f64().context("load_us")?;
    Figures::of(&v["latency_us"], start)
}

fn bench_ort(model: &str, threads: u32) -> Result<Figures> {
    let text = python::output(&["models/bench_ort.py", model, "--threads", &threads.to_string()])?;
    let v: Value = serde_json::from_str(&text)?;
    let row = &v["runs"][0];
    Figures::of(&row["latency_us"], row["start_us"].as_f64().context("start_us")?)
}

/// Builds the program that times tract and gives its path.
fn build_tract() -> Result<String> {
    shell::run(
        "cargo",
        &["build", "--profile", "rivals", "--package", "pilotlight-tests", "--bin", "time-tract"],
    )?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), Into::into);
    let path = shell::root().join(target).join("rivals/time-tract");
    Ok(path.to_str().context("path is not text")?.to_owned())
}

fn bench_tract(program: &str, model: &str) -> Result<Figures> {
    let v: Value = serde_json::from_str(&shell::output(program, &[model])?)?;
    Figures::of(&v["latency_us"], v["start_us"].as_f64().context("start_us")?)
}

/// The processor, as the kernel names it.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("unknown processor", |l| l.trim_start_matches(['\t', ':', ' ']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let has = |flag: &str| info.contains(flag);
    let flags: Vec<&str> =
        ["avx2", "avx512_vnni", "avx_vnni", "amx_int8"].into_iter().filter(|f| has(f)).collect();
    format!("{model}, {cores} cores, {}", flags.join(" "))
}
