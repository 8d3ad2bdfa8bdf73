//! `pilotlight run`: one input through a model.

use super::print_json;
use super::telemetry::TelemetryOptions;
use crate::card::Score;
use crate::device::DeviceOptions;
use crate::energy::{Energy, EnergyOptions};
use crate::feed;
use crate::model::{CompileOptions, Model};
use crate::modelled::Modelled;
use crate::npy::Array;
use crate::stats::Latency;
use anyhow::{Context, Result};
use pilotlight_device::{Cpu, CpuOptions, Device, Program, Slot};
use pilotlight_plan::{DType, Plan, math};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// Run a model on a picture or on arrays and show the result, its latency and its energy
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Plan, ONNX file, or model folder
    model: PathBuf,
    /// Picture (JPEG, PNG) for a model whose card says how it becomes the input
    #[arg(long, value_name = "FILE", conflicts_with = "inputs")]
    image: Option<PathBuf>,
    /// Array for an input; once for each input
    #[arg(long = "input", value_name = "NAME=FILE.npy", value_parser = feed::named_file)]
    inputs: Vec<(String, PathBuf)>,
    /// Write each output to DIR/NAME.npy (a `/` in a name becomes `_`)
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// How many classes to show
    #[arg(long, default_value_t = 5, value_name = "K")]
    top: usize,
    /// How often to run for the latency, after one run that does not count; 20 unless given, on a virtual board 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// Also compare every tensor with the CPU device's, bit for bit; exit code 1 where any differ
    #[arg(long)]
    check: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceOptions,
    #[command(flatten)]
    compile: CompileOptions,
    #[command(flatten)]
    telemetry: TelemetryOptions,
    #[command(flatten)]
    energy: EnergyOptions,
}

/// What `run --json` prints. Fields are only ever added within one `schema`.
#[derive(Serialize)]
struct Report {
    schema: u32,
    model: String,
    device: String,
    top: Vec<Class>,
    outputs: Vec<Output>,
    /// Absent on a virtual board, which has no time of its own.
    latency_us: Option<Latency>,
    energy: Energy,
    /// Of one inference on a virtual board.
    modelled: Option<Modelled>,
    check: Option<Agreement>,
}

#[derive(Serialize)]
struct Class {
    index: usize,
    label: Option<String>,
    score: f32,
}

#[derive(Serialize)]
struct Output {
    name: String,
    dtype: String,
    shape: Vec<usize>,
}

impl Run {
    pub(super) fn run(self) -> Result<bool> {
        let model = Model::open(&self.model, &self.compile)?;
        let device = self.device.open()?;
        let mut program = device.load(&model.plan)?;
        let mut slot = program.slot()?;
        match &self.image {
            Some(file) => feed::from_picture(&model, file, &mut slot)?,
            None => feed::from_arrays(&model.plan, &self.inputs, &mut slot)?,
        }
        program.run(&mut slot)?;
        // The first run is not counted.
        device.launches()?;
        let repeat = self.repeat.unwrap_or(if device.is_virtual() { 1 } else { 20 });
        let mut metering = self.energy.start(&device);
        let mut telemetry = self.telemetry.start(&model.plan.name, &device)?;
        let mut nanos = Vec::with_capacity(repeat as usize);
        metering.begin();
        for _ in 0..repeat {
            let start = Instant::now();
            program.run(&mut slot)?;
            let took = start.elapsed();
            nanos.push(took.as_nanos() as u64);
            telemetry.record(took);
        }
        metering.end();
        telemetry.finish();
        let modelled = Modelled::of(&device.launches()?).map(|m| m.mean(repeat));
        let names = model.plan.outputs.iter().map(|&id| model.plan.tensor(id).name.clone());
        let outputs: Vec<(String, Array)> =
            names.enumerate().map(|(i, n)| (n, feed::output(&model.plan, &slot, i))).collect();
        if let Some(folder) = &self.output_dir {
            write(folder, &outputs)?;
        }
        let check = self.check.then(|| agreement(&model.plan, &mut *program, &mut slot)).transpose()?;
        let agrees = check.as_ref().is_none_or(|c| c.different == 0);
        let latency_us = Latency::of(nanos).context("at least one run is timed")?;
        let report = Report {
            schema: 1,
            model: model.plan.name.clone(),
            device: device.describe(),
            top: classes(&model, &outputs, self.top),
            outputs: outputs
                .iter()
                .map(|(name, a)| Output {
                    name: name.clone(),
                    dtype: a.dtype.to_string(),
                    shape: a.shape.clone(),
                })
                .collect(),
            // How long the emulator takes says nothing of a board.
            latency_us: (!device.is_virtual()).then_some(latency_us),
            energy: metering.finish(repeat),
            modelled,
            check,
        };
        if self.json {
            print_json(&report)?;
        } else {
            show(&report, &outputs);
        }
        Ok(agrees)
    }
}

/// How every tensor of an inference compares with the CPU device's.
#[derive(Default, Serialize)]
struct Agreement {
    tensors: usize,
    elements: usize,
    different: usize,
    /// The first tensor that differs.
    first: Option<String>,
}

/// Runs the slot's input step by step on the program and on the CPU device.
fn agreement(plan: &Plan, program: &mut dyn Program, slot: &mut Slot) -> Result<Agreement> {
    let mut cpu = Cpu::new(CpuOptions::default())?.load(plan)?;
    let mut expected = cpu.slot()?;
    for i in 0..plan.inputs.len() {
        expected.input_mut(i).copy_from_slice(slot.input(i));
    }
    let mut wanted = Vec::with_capacity(plan.steps.len());
    cpu.run_observed(&mut expected, &mut |_, bytes| wanted.push(bytes.to_vec()))?;
    let mut sum = Agreement::default();
    program.run_observed(slot, &mut |step, bytes| {
        let t = plan.tensor(plan.steps[step].op.writes());
        let elements = bytes.chunks(t.dtype.bytes()).zip(wanted[step].chunks(t.dtype.bytes()));
        let different = elements.filter(|(a, b)| a != b).count();
        sum.tensors += 1;
        sum.elements += t.elements() as usize;
        sum.different += different;
        if different > 0 && sum.first.is_none() {
            sum.first = Some(t.name.clone());
        }
    })?;
    Ok(sum)
}

fn write(folder: &std::path::Path, outputs: &[(String, Array)]) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    for (name, array) in outputs {
        let file = folder.join(format!("{}.npy", name.replace('/', "_")));
        std::fs::write(&file, array.to_npy())
            .with_context(|| format!("{}: cannot be written", file.display()))?;
    }
    Ok(())
}

/// The best classes of a classifier's first output; none for other models.
fn classes(model: &Model, outputs: &[(String, Array)], top: usize) -> Vec<Class> {
    let (Some(card), Some((_, array))) = (&model.card, outputs.first()) else { return Vec::new() };
    if card.task != crate::card::Task::Classify || array.dtype != DType::F32 {
        return Vec::new();
    }
    let count = array.shape.last().copied().unwrap_or(0);
    let mut scores: Vec<f32> = (0..count).map(|i| array.value(i) as f32).collect();
    if card.output.score == Score::Softmax {
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        scores.iter_mut().for_each(|s| *s = math::exp(*s - max));
        let sum: f32 = scores.iter().sum();
        scores.iter_mut().for_each(|s| *s /= sum);
    }
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(top);
    order
        .into_iter()
        .map(|i| Class { index: i, label: model.labels.get(i).cloned(), score: scores[i] })
        .collect()
}

fn show(report: &Report, outputs: &[(String, Array)]) {
    println!("{} on {}", report.model, report.device);
    for class in &report.top {
        let label = class.label.as_deref().unwrap_or("");
        println!("  {:5.1} %  {label} [{}]", class.score * 100.0, class.index);
    }
    if report.top.is_empty() {
        for (name, a) in outputs {
            let first: Vec<f64> = (0..a.elements().min(4)).map(|i| a.value(i)).collect();
            println!("  {name}: {} {:?}, first {first:?}", a.dtype, a.shape);
        }
    }
    if let Some(l) = report.latency_us {
        println!("latency: p50 {:.3} ms, p99 {:.3} ms (n = {})", l.p50 / 1e3, l.p99 / 1e3, l.n);
    }
    if let Some(modelled) = &report.modelled {
        println!("{}", modelled.lines());
    } else if report.latency_us.is_none() {
        println!("{}", crate::modelled::NO_TIME);
    }
    println!("{}", report.energy.line());
    if let Some(c) = &report.check {
        println!(
            "against the CPU device: {} tensors, {} elements, {} differ{}",
            c.tensors,
            c.elements,
            c.different,
            c.first.as_ref().map(|f| format!(", first in {f}")).unwrap_or_default()
        );
    }
}
