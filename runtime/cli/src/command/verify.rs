//! `pilotlight verify`: a model against golden outputs.

use super::{print_json, progress};
use crate::device::DeviceOptions;
use crate::golden::{Golden, entry};
use crate::model::{CompileOptions, Model};
use crate::npy::Array;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::path::PathBuf;

/// Compare a model's outputs with golden ones, bit for bit; exit code 1 where any differ
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Plan, ONNX file, or model folder
    model: PathBuf,
    /// Folder with golden.toml
    #[arg(long, value_name = "DIR")]
    golden: PathBuf,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceOptions,
    #[command(flatten)]
    compile: CompileOptions,
}

/// What `verify --json` prints.
#[derive(Serialize)]
struct Report {
    schema: u32,
    model: String,
    device: String,
    golden: String,
    cases: usize,
    outputs: Vec<Difference>,
}

/// How an output differs from the golden one.
#[derive(Serialize)]
struct Difference {
    name: String,
    elements: usize,
    different: usize,
    largest: f64,
}

impl Verify {
    pub(super) fn run(self) -> Result<bool> {
        let model = Model::open(&self.model, &self.compile)?;
        let golden = Golden::open(&self.golden)?;
        let plan = &model.plan;
        let device = self.device.open()?;
        let mut program = device.load(plan)?;
        let mut slot = program.slot()?;
        if plan.inputs.len() != 1 {
            bail!("the model has {} inputs; golden files are for models with one", plan.inputs.len());
        }
        let expected: Vec<(usize, String, Array)> = golden
            .outputs()?
            .into_iter()
            .map(|(name, array)| {
                let at = plan.outputs.iter().position(|&id| plan.tensor(id).name == name);
                at.map(|i| (i, name.clone(), array))
                    .with_context(|| format!("the model has no output {name}"))
            })
            .collect::<Result<_>>()?;
        let mut differences: Vec<Difference> = expected
            .iter()
            .map(|(_, name, _)| Difference { name: name.clone(), elements: 0, different: 0, largest: 0.0 })
            .collect();
        let bar = progress(golden.len(), "comparing");
        for case in 0..golden.len() {
            let input = golden.input(case)?;
            if slot.input(0).len() != input.len() {
                bail!("case {case} has {} bytes, the model's input {}", input.len(), slot.input(0).len());
            }
            slot.input_mut(0).copy_from_slice(&input);
            program.run(&mut slot)?;
            for ((i, name, array), sum) in expected.iter().zip(&mut differences) {
                let t = plan.tensor(plan.outputs[*i]);
                let part = |bytes: Vec<u8>| Array { dtype: t.dtype, shape: vec![], bytes };
                let (want, got) = (part(entry(array, case)), part(slot.output(*i).to_vec()));
                if array.dtype != t.dtype || want.bytes.len() != got.bytes.len() {
                    bail!(
                        "output {name} is {} {:?}, the golden array {} {:?}",
                        t.dtype,
                        t.shape,
                        array.dtype,
                        array.shape
                    );
                }
                sum.add(&got, &want);
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        let same = differences.iter().all(|d| d.different == 0);
        let report = Report {
            schema: 1,
            model: model.path.display().to_string(),
            device: device.describe(),
            golden: format!("{} ({})", golden.provenance.runtime, golden.provenance.cpu),
            cases: golden.len(),
            outputs: differences,
        };
        if self.json {
            print_json(&report)?;
            return Ok(same);
        }
        println!("{} on {} against {}", report.model, report.device, report.golden);
        for d in &report.outputs {
            println!(
                "  {}: {} cases, {} of {} elements differ, largest difference {}",
                d.name, report.cases, d.different, d.elements, d.largest
            );
        }
        Ok(same)
    }
}

impl Difference {
    fn add(&mut self, got: &Array, want: &Array) {
        let size = got.dtype.bytes();
        for i in 0..got.elements() {
            let bits = |a: &Array| a.bytes[i * size..(i + 1) * size].to_vec();
            self.elements += 1;
            if bits(got) != bits(want) {
                self.different += 1;
                self.largest = self.largest.max((got.value(i) - want.value(i)).abs());
            }
        }
    }
}
