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

/// Multiplications with accumulation that a step's result needs.
fn multiplications(plan: &Plan, op: &Op) -> u64 {
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
