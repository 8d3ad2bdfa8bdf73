//! `pilotlight compare`: two sets of arrays, or one model on two devices.

use crate::device::{Board, DeviceName};
use crate::feed;
use crate::model::{CompileOptions, Model};
use crate::npy::Array;
use anyhow::{Context, Result, bail};
use pilotlight_plan::{Plan, TensorId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Compare arrays (two .npy files, or two folders of them), or the tensors of two models run on the same random
/// input; exit code 1 where any differ
#[derive(Debug, clap::Args)]
pub struct Compare {
    /// Array, folder of arrays, or model
    a: PathBuf,
    /// Array, folder of arrays, or model; A again unless given
    b: Option<PathBuf>,
    /// Say where the first difference is, and stop there
    #[arg(long)]
    first_mismatch: bool,
    /// Device that runs model A
    #[arg(long, value_enum, default_value_t = DeviceName::Reference)]
    device_a: DeviceName,
    /// Device that runs model B
    #[arg(long, value_enum, default_value_t = DeviceName::Cpu)]
    device_b: DeviceName,
    /// Whose GPU a CUDA device is: auto, or virtual:NAME
    #[arg(long, default_value = "auto", value_name = "BOARD")]
    board: Board,
    /// Picture to run the models on instead of random input, where the model's card says how
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Seed of the models' random input
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    compile: CompileOptions,
}

impl Compare {
    pub(super) fn run(self) -> Result<bool> {
        let path = self.b.as_ref().unwrap_or(&self.a);
        let (a, b) = match (arrays(&self.a)?, arrays(path)?) {
            (Some(a), Some(b)) => (a, b),
            (None, None) => (self.tensors(&self.a, self.device_a)?, self.tensors(path, self.device_b)?),
            _ => {
                bail!("one of {} and {} is an array and the other a model", self.a.display(), path.display())
            }
        };
        let others: BTreeMap<&str, &Array> = b.iter().map(|(n, a)| (n.as_str(), a)).collect();
        let (mut compared, mut elements, mut differ) = (0, 0, 0);
        for (name, left) in &a {
            let Some(right) = others.get(name.as_str()) else { continue };
            compared += 1;
            elements += left.elements();
            let Some(text) = difference(left, right, self.first_mismatch) else { continue };
            differ += 1;
            println!("{name}: {text}");
            if self.first_mismatch {
                break;
            }
        }
        if compared == 0 {
            bail!("{} and {} have no tensor of the same name", self.a.display(), path.display());
        }
        println!(
            "{compared} compared ({elements} elements), {differ} differ ({} of A and {} of B in all)",
            a.len(),
            b.len()
        );
        Ok(differ == 0)
    }

    /// Every tensor that a model's steps write, in order, and the outputs of an inference that is not stopped after
    /// each step.
    fn tensors(&self, path: &Path, device: DeviceName) -> Result<Vec<(String, Array)>> {
        let model = Model::open(path, &self.compile)?;
        let plan = &model.plan;
        let mut program = device.open(&self.board)?.load(plan)?;
        let mut slot = program.slot()?;
        match &self.image {
            Some(file) => feed::from_picture(&model, file, &mut slot)?,
            None => feed::random(plan, self.seed, &mut slot),
        }
        let mut all = Vec::new();
        program.run_observed(&mut slot, &mut |step, bytes| all.push(written(plan, step, bytes)))?;
        for n in 0..plan.outputs.len() {
            slot.output_mut(n).fill(0);
        }
        program.run(&mut slot)?;
        for (n, &id) in plan.outputs.iter().enumerate() {
            let (name, array) = array(plan, id, slot.output(n));
            all.push((format!("{name}, whole inference"), array));
        }
        Ok(all)
    }
}

fn written(plan: &Plan, step: usize, bytes: &[u8]) -> (String, Array) {
    array(plan, plan.steps[step].op.writes(), bytes)
}

fn array(plan: &Plan, id: TensorId, bytes: &[u8]) -> (String, Array) {
    let t = plan.tensor(id);
    let shape = t.shape.iter().map(|&d| d as usize).collect();
    (t.name.clone(), Array { dtype: t.dtype, shape, bytes: bytes.to_vec() })
}

/// The arrays of a `.npy` file or of a folder of them, by name; `None` for anything else.
fn arrays(path: &Path) -> Result<Option<Vec<(String, Array)>>> {
    let is_array = |p: &Path| p.extension().is_some_and(|e| e == "npy");
    if is_array(path) {
        return Ok(Some(vec![("array".into(), Array::open(path)?)]));
    }
    if !path.is_dir() || path.join("model.toml").exists() {
        return Ok(None);
    }
    let mut all = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
        let file = entry?.path();
        if is_array(&file) {
            let name = file.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            all.push((name, Array::open(&file)?));
        }
    }
    all.sort_by(|x, y| x.0.cmp(&y.0));
    Ok(Some(all))
}

/// How two arrays differ; `None` where every bit is the same.
fn difference(a: &Array, b: &Array, first: bool) -> Option<String> {
    if a.dtype != b.dtype || a.shape != b.shape {
        return Some(format!("{} {:?} against {} {:?}", a.dtype, a.shape, b.dtype, b.shape));
    }
    let size = a.dtype.bytes();
    let differs = |i: &usize| a.bytes[i * size..(i + 1) * size] != b.bytes[i * size..(i + 1) * size];
    let at = (0..a.elements()).find(differs)?;
    if first {
        let mut rest = at;
        let mut index: Vec<usize> = a.shape.iter().rev().map(|&d| (rest % d, rest /= d).0).collect();
        index.reverse();
        return Some(format!("first at {index:?}: {} against {}", a.value(at), b.value(at)));
    }
    let all = (at..a.elements()).filter(differs);
    let largest = all.clone().map(|i| (a.value(i) - b.value(i)).abs()).fold(0.0, f64::max);
    Some(format!("{} of {} elements differ, largest difference {largest}", all.count(), a.elements()))
}
