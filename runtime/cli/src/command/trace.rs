//! `pilotlight trace`: what each part of the device did when, as a file for a trace viewer.

use crate::device::DeviceOptions;
use crate::feed;
use crate::model::{CompileOptions, Model};
use anyhow::{Context, Result};
use pilotlight_device::Span;
use serde::Serialize;
use std::path::PathBuf;

/// Write a timeline of one inference, for ui.perfetto.dev or chrome://tracing
///
/// One lane for each part of the device: the multiprocessors of a GPU with its persistent kernel and the mailbox
/// between host and kernel, or one for a device that does one step at a time. Waits and work are told apart. On a
/// virtual board the times are modelled, not measured.
#[derive(Debug, clap::Args)]
pub struct Trace {
    /// Plan, ONNX file, or model folder
    model: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE.json")]
    output: PathBuf,
    /// Inferences before the one that is traced
    #[arg(long, default_value_t = 2, value_name = "N")]
    warm_up: u32,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceOptions,
    #[command(flatten)]
    compile: CompileOptions,
}

/// What `trace --json` prints. Fields are only ever added within one `schema`.
#[derive(Serialize)]
struct Report {
    schema: u32,
    model: String,
    device: String,
    lanes: usize,
    spans: usize,
    /// From the first begin to the last end.
    total_us: f64,
    /// Of all lanes together: the share of that time in which they worked.
    busy: f64,
    /// The share in which they waited for each other.
    waiting: f64,
}

/// A complete event of the Trace Event Format.
#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    cat: &'a str,
    ph: &'static str,
    pid: u32,
    tid: u32,
    /// Microseconds.
    ts: f64,
    dur: f64,
    args: Arguments<'a>,
}

/// A metadata event: the name of a lane.
#[derive(Serialize)]
struct Lane {
    name: &'static str,
    ph: &'static str,
    pid: u32,
    tid: u32,
    args: LaneName,
}

#[derive(Serialize)]
struct LaneName {
    name: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Lane(Lane),
    Event(Event<'a>),
}

#[derive(Serialize)]
struct Arguments<'a> {
    /// Absent for the mailbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<usize>,
    nodes: &'a str,
    what: &'a str,
}

#[derive(Serialize)]
struct File<'a> {
    #[serde(rename = "traceEvents")]
    events: Vec<Entry<'a>>,
    #[serde(rename = "displayTimeUnit")]
    unit: &'static str,
    #[serde(rename = "otherData")]
    about: About,
}

#[derive(Serialize)]
struct About {
    model: String,
    device: String,
}

impl Trace {
    pub(super) fn run(self) -> Result<()> {
        let model = Model::open(&self.model, &self.compile)?;
        let device = self.device.open()?;
        let mut program = device.load(&model.plan)?;
        let mut slot = program.slot()?;
        feed::random(&model.plan, 1, &mut slot);
        for _ in 0..self.warm_up {
            program.run(&mut slot)?;
        }
        let mut spans = Vec::new();
        program.run_traced(&mut slot, &mut spans)?;
        let nodes: Vec<String> = model.plan.steps.iter().map(|s| s.nodes.join("+")).collect();
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let mut events: Vec<Entry<'_>> = names(&spans).into_iter().map(Entry::Lane).collect();
        for span in &spans {
            let event = |name, cat, from: u64, to: u64| {
                let (ts, dur) = (micros(from), micros(to.saturating_sub(from)));
                let nodes = span.step.map_or("", |step| nodes[step].as_str());
                let args = Arguments { step: span.step, nodes, what: &span.what };
                Entry::Event(Event { name, cat, ph: "X", pid: 1, tid: span.lane, ts, dur, args })
            };
            let Some(step) = span.step else {
                events.push(event(span.what.as_str(), "mailbox", span.begin, span.end));
                continue;
            };
            if span.ready > span.begin {
                events.push(event("wait", "wait", span.begin, span.ready));
            }
            events.push(event(model.plan.steps[step].op.name(), "work", span.ready, span.end));
        }
        let about = About { model: model.plan.name.clone(), device: device.describe() };
        let text = serde_json::to_string(&File { events, unit: "ns", about })?;
        std::fs::write(&self.output, text)
            .with_context(|| format!("cannot write {}", self.output.display()))?;
        let report = report(&model.plan.name, device.describe(), &spans);
        if self.json {
            return super::print_json(&report);
        }
        println!("{} on {}", report.model, report.device);
        println!(
            "{} spans on {} lanes, {:.1} us; lanes worked {:.1} % of it and waited {:.1} %",
            report.spans,
            report.lanes,
            report.total_us,
            report.busy * 100.0,
            report.waiting * 100.0
        );
        println!("{} written; open it at https://ui.perfetto.dev", self.output.display());
        Ok(())
    }
}

/// A name for each lane.
fn names(spans: &[Span]) -> Vec<Lane> {
    let mut lanes: Vec<(u32, bool)> = spans.iter().map(|s| (s.lane, s.step.is_none())).collect();
    lanes.sort_unstable();
    lanes.dedup();
    let several = lanes.len() > 1;
    let name = |(tid, mailbox): (u32, bool)| {
        let name = match (mailbox, several) {
            (true, _) => "mailbox".to_owned(),
            (false, true) => format!("CTA {tid}"),
            (false, false) => "device".to_owned(),
        };
        Lane { name: "thread_name", ph: "M", pid: 1, tid, args: LaneName { name } }
    };
    lanes.into_iter().map(name).collect()
}

fn report(model: &str, device: String, spans: &[Span]) -> Report {
    let total = spans.iter().map(|s| s.end).max().unwrap_or(0);
    let spans: Vec<&Span> = spans.iter().filter(|s| s.step.is_some()).collect();
    let lanes = spans.iter().map(|s| s.lane as usize + 1).max().unwrap_or(0);
    let all = (total as f64 * lanes as f64).max(1.0);
    let sum = |f: fn(&Span) -> u64| spans.iter().map(|s| f(s)).sum::<u64>() as f64 / all;
    Report {
        schema: 1,
        model: model.to_owned(),
        device,
        lanes,
        spans: spans.len(),
        total_us: total as f64 / 1e3,
        busy: sum(|s| s.end.saturating_sub(s.ready)),
        waiting: sum(|s| s.ready.saturating_sub(s.begin)),
    }
}
