//! `pilotlight explain`: what a model became, stage by stage.

use super::print_json;
use crate::model::{self, CompileOptions, Model};
use anyhow::Result;
use clap::ValueEnum;
use pilotlight_plan::{Conv, Epilogue, Linear, Op, Plan, Post, Space, Tensor, arena};
use pilotlight_units::Bytes;
use serde::Serialize;
use std::path::PathBuf;

/// Show what a model was compiled to: operations, what was fused, where tensors lie in memory
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// Plan, ONNX file, or model folder
    model: PathBuf,
    /// Stage of the compiler; all but `plan` need the ONNX file
    #[arg(long, value_enum, default_value_t = Stage::Plan)]
    stage: Stage,
    /// Streaming multiprocessors of the GPU that `program` is for; an Orin Nano Super has 8, an AGX Orin 16
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    multiprocessors: u32,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compile: CompileOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// The model's nodes with types and shapes
    Import,
    /// Integer operations, the same for QDQ and QOperator models
    Quant,
    /// After fusion
    Fuse,
    /// Steps, tensors and arena of the plan
    Plan,
    /// Kernel launches of the CUDA device
    Program,
}

/// What `explain --stage program --json` prints.
#[derive(Serialize)]
struct ProgramReport<'a> {
    schema: u32,
    model: &'a str,
    multiprocessors: u32,
    constant_bytes: usize,
    scratch_bytes: usize,
    launches: Vec<LaunchLine<'a>>,
}

/// One kernel launch.
#[derive(Serialize)]
struct LaunchLine<'a> {
    step: usize,
    op: &'static str,
    nodes: &'a [String],
    kernel: &'a str,
    grid: [u32; 3],
    shared_bytes: u32,
    /// Rounds in which the blocks go over the multiprocessors, one block on each.
    waves: u64,
    why: &'static str,
}

/// What `explain --json` prints. Fields are only ever added within one `schema`.
#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    model: &'a str,
    macs: u64,
    weights_bytes: usize,
    arena_bytes: u64,
    arena_lower_bound: u64,
    plan: &'a Plan,
}

impl Explain {
    pub(super) fn run(self) -> Result<()> {
        if self.stage == Stage::Program {
            return self.program();
        }
        if self.stage != Stage::Plan {
            let (file, _) = model::resolve(&self.model)?;
            let name = format!("{:?}", self.stage).to_lowercase();
            let text = model::stage(&file, &self.compile, &name)?;
            if self.json {
                let lines: Vec<&str> = text.lines().collect();
                return print_json(&serde_json::json!({ "schema": 1, "stage": name, "lines": lines }));
            }
            print!("{text}");
            return Ok(());
        }
        let model = Model::open(&self.model, &self.compile)?;
        let plan = &model.plan;
        let macs = plan.steps.iter().map(|s| multiplications(plan, &s.op)).sum();
        if self.json {
            return print_json(&Report {
                schema: 1,
                model: &plan.name,
                macs,
                weights_bytes: plan.weights.len(),
                arena_bytes: plan.arena_bytes,
                arena_lower_bound: plan.arena_lower_bound,
                plan,
            });
        }
        println!(
            "{}: {} steps, {:.1} million MAC, {} of weights",
            plan.name,
            plan.steps.len(),
            macs as f64 / 1e6,
            Bytes(plan.weights.len() as u64)
        );
        for (ids, what) in [(&plan.inputs, "input"), (&plan.outputs, "output")] {
            for &id in ids {
                let t = plan.tensor(id);
                println!("{what} {}: {} {:?}", t.name, t.dtype, t.shape);
            }
        }
        steps(plan);
        arena_map(plan);
        Ok(())
    }
}

impl Explain {
    /// The launches that a plan becomes on a GPU.
    fn program(&self) -> Result<()> {
        let model = Model::open(&self.model, &self.compile)?;
        let plan = &model.plan;
        let lowered = pilotlight_cuda::lower(plan, self.multiprocessors)?;
        let mut launches = Vec::new();
        for (n, (step, list)) in plan.steps.iter().zip(&lowered.steps).enumerate() {
            launches.extend(list.iter().map(|l| {
                let blocks: u64 = l.grid.iter().map(|&d| u64::from(d)).product();
                LaunchLine {
                    step: n,
                    op: step.op.name(),
                    nodes: &step.nodes,
                    kernel: &l.kernel,
                    grid: l.grid,
                    shared_bytes: l.shared,
                    waves: blocks.div_ceil(u64::from(self.multiprocessors)),
                    why: why(&l.kernel),
                }
            }));
        }
        let report = ProgramReport {
            schema: 1,
            model: &plan.name,
            multiprocessors: self.multiprocessors,
            constant_bytes: lowered.constants.len(),
            scratch_bytes: lowered.scratch,
            launches,
        };
        if self.json {
            return print_json(&report);
        }
        println!(
            "{}: {} launches on {} multiprocessors, {} of packed weights and tables, {} of scratch",
            report.model,
            report.launches.len(),
            report.multiprocessors,
            Bytes(report.constant_bytes as u64),
            Bytes(report.scratch_bytes as u64)
        );
        println!(
            "\n{:>4}  {:<18} {:<14} {:>7} {:>6}  operation, fused from: why this kernel",
            "step", "kernel", "grid", "shared", "waves"
        );
        for l in &report.launches {
            let [x, y, z] = l.grid;
            println!(
                "{:>4}  {:<18} {:<14} {:>7} {:>6}  {}, {}: {}",
                l.step,
                l.kernel,
                format!("{x}x{y}x{z}"),
                l.shared_bytes,
                l.waves,
                l.op,
                l.nodes.join(" + "),
                l.why
            );
        }
        Ok(())
    }
}

/// Why lowering takes a kernel.
fn why(kernel: &str) -> &'static str {
    match kernel {
        "depthwise" | "depthwise4" => "one input for each output channel: four taps in a dot product, no mma",
        "direct" => "channels in groups below 16, or not at 16-byte boundaries: plain loops",
        "window_sums" => "the weights have zero points: sums of the input under each window come first",
        "finish" => "k was split over blocks: adds their sums, then the epilogue",
        k if k.starts_with("conv_") && k.ends_with("_gather") => {
            "few input channels: taps are gathered into k"
        }
        k if k.starts_with("conv_") => "mma; of all tiles and splits of k the least by the cost model",
        _ => "the one kernel of this operation",
    }
}

/// Multiplications with accumulation that a step's result needs.
pub(super) fn multiplications(plan: &Plan, op: &Op) -> u64 {
    match op {
        Op::Conv(Conv { output, linear, window, .. }) => {
            let k = linear.group_inputs * window.kernel[0] * window.kernel[1];
            plan.tensor(*output).elements() * u64::from(k)
        }
        Op::Gemm(g) => plan.tensor(g.output).elements() * u64::from(g.linear.group_inputs),
        Op::MatMul(m) => {
            plan.tensor(m.output).elements() * u64::from(*plan.tensor(m.a).shape.last().unwrap_or(&0))
        }
        _ => 0,
    }
}

fn steps(plan: &Plan) {
    println!("\n{:>4}  {:<11} {:<22} {:>9}  fused from", "step", "operation", "output", "kMAC");
    for (i, step) in plan.steps.iter().enumerate() {
        let t = plan.tensor(step.op.writes());
        let kmac = match multiplications(plan, &step.op) {
            0 => String::new(),
            n => format!("{:.0}", n as f64 / 1e3),
        };
        let shape: Vec<String> = t.shape.iter().map(u32::to_string).collect();
        println!(
            "{i:>4}  {:<11} {:<22} {kmac:>9}  {}{}",
            step.op.name(),
            format!("{} {}", t.dtype, shape.join("x")),
            step.nodes.join(" + "),
            fused(&step.op)
        );
    }
}

/// What the epilogue of a step does.
fn fused(op: &Op) -> String {
    let (Op::Conv(Conv { linear: Linear { epilogue, .. }, .. })
    | Op::Gemm(pilotlight_plan::Gemm { linear: Linear { epilogue, .. }, .. })) = op
    else {
        return String::new();
    };
    let Epilogue::Requant(r) = epilogue else { return String::new() };
    let mut parts = Vec::new();
    if r.dtype.int8_range() != Some((r.lo, r.hi)) {
        parts.push(format!("clamp {}..{}", r.lo, r.hi));
    }
    parts.extend(r.post.iter().map(|p| match p {
        Post::Table { .. } => "table".to_owned(),
        Post::Binary { .. } => "with a second tensor".to_owned(),
    }));
    if parts.is_empty() { String::new() } else { format!("  ({})", parts.join(", ")) }
}

/// The arena's buffers by place, each with the steps at which it is live.
fn arena_map(plan: &Plan) {
    let share = plan.arena_bytes as f64 / plan.arena_lower_bound.max(1) as f64;
    println!(
        "\narena: {}; the most that is live at one step is {} ({share:.3} times)",
        Bytes(plan.arena_bytes),
        Bytes(plan.arena_lower_bound)
    );
    println!("{:>12} {:>12}  {:<12} tensors", "from", "to", "steps");
    let live = arena::liveness(plan);
    let mut buffers: Vec<usize> =
        (0..plan.buffers.len()).filter(|&b| plan.buffers[b].space == Space::Arena).collect();
    buffers.sort_by_key(|&b| (plan.buffers[b].offset, b));
    for b in buffers {
        let (buffer, Some(l)) = (plan.buffers[b], live[b]) else { continue };
        let inside = |t: &&Tensor| t.buffer.0 as usize == b;
        let names: Vec<&str> = plan.tensors.iter().filter(inside).map(|t| t.name.as_str()).collect();
        let steps = format!("{}..{}", l.from, l.to);
        println!(
            "{:>12} {:>12}  {steps:<12} {}",
            buffer.offset,
            buffer.offset + buffer.bytes,
            names.join(", ")
        );
    }
}
