//! Small graphs of single operators: `models/conformance/SUITE/`, described in `models/README.md`.

use crate::models;
use pilotlight_cli::npy::Array;
use pilotlight_device::Device;
use pilotlight_plan::DType;
use serde::Deserialize;

/// A suite's list of cases.
#[derive(Debug, Deserialize)]
pub struct Index {
    /// The cases.
    pub cases: Vec<Case>,
}

/// One graph with inputs and expected outputs.
#[derive(Debug, Deserialize)]
pub struct Case {
    /// File stem.
    pub name: String,
    /// What is special about it.
    pub about: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
    #[serde(default)]
    steps: f64,
    #[serde(default)]
    ulp: u32,
    #[serde(default)]
    rtol: f64,
    #[serde(default)]
    atol: f64,
    dims: Option<String>,
}

/// How a case went.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// As expected.
    Passed,
    /// Not as expected, and how.
    Failed(String),
    /// The importer refuses the graph, and why.
    Refused(String),
}

/// The suites that exist.
pub const SUITES: &[&str] = &["qoperator", "qdq", "network", "onnx-node"];

/// The cases of a suite.
///
/// # Panics
/// When the index cannot be read.
pub fn index(suite: &str) -> Vec<Case> {
    let path = models(&format!("conformance/{suite}/index.toml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let index: Index = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    index.cases
}

/// Imports and runs one case.
pub fn run(device: &dyn Device, suite: &str, case: &Case) -> Outcome {
    attempt(device, suite, case).unwrap_or_else(Outcome::Failed)
}

fn attempt(device: &dyn Device, suite: &str, case: &Case) -> Result<Outcome, String> {
    let file = |suffix: &str| models(&format!("conformance/{suite}/{}{suffix}", case.name));
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let bytes = std::fs::read(file(".onnx")).map_err(|e| text(&e))?;
    let dims = case.dims.iter().filter_map(|d| d.split_once('='));
    let dims = dims
        .map(|(n, v)| Ok((n.to_owned(), v.parse().map_err(|e| text(&e))?)))
        .collect::<Result<_, String>>()?;
    let options = pilotlight_onnx::Options { dims, ..Default::default() };
    let plan = match pilotlight_onnx::import(&bytes, &options) {
        Ok(plan) => plan,
        Err(refusal) => return Ok(Outcome::Refused(refusal.to_string())),
    };
    let mut program = device.load(&plan).map_err(|e| text(&e))?;
    let mut slot = program.slot().map_err(|e| text(&e))?;
    for (i, name) in case.inputs.iter().enumerate() {
        let array = Array::open(&file(&format!(".in{i}.npy"))).map_err(|e| text(&e))?;
        // An input that the graph does not use, or uses only as a constant, is not the plan's.
        let Some(at) = plan.inputs.iter().position(|&id| plan.tensor(id).name == *name) else { continue };
        let t = plan.tensor(plan.inputs[at]);
        if t.dtype != array.dtype || slot.input(at).len() != array.bytes.len() {
            return Err(format!(
                "input {name} is {} {:?}, the file {} {:?}",
                t.dtype, t.shape, array.dtype, array.shape
            ));
        }
        slot.input_mut(at).copy_from_slice(&array.bytes);
    }
    program.run(&mut slot).map_err(|e| text(&e))?;
    for (i, name) in case.outputs.iter().enumerate() {
        let want = Array::open(&file(&format!(".out{i}.npy"))).map_err(|e| text(&e))?;
        let at = plan.outputs.iter().position(|&id| plan.tensor(id).name == *name);
        let at = at.ok_or_else(|| format!("the plan has no output {name}"))?;
        let t = plan.tensor(plan.outputs[at]);
        let shape = t.shape.iter().map(|&d| d as usize).collect::<Vec<_>>();
        if t.dtype != want.dtype || shape != want.shape {
            return Err(format!(
                "output {name} is {} {shape:?}, expected {} {:?}",
                t.dtype, want.dtype, want.shape
            ));
        }
        compare(case, name, &Array { dtype: t.dtype, shape, bytes: slot.output(at).to_vec() }, &want)?;
    }
    Ok(Outcome::Passed)
}

/// Compares an output within the case's tolerance; the error says where and by how much it is out.
fn compare(case: &Case, name: &str, got: &Array, want: &Array) -> Result<(), String> {
    let size = got.dtype.bytes();
    let mut out = (0, 0);
    for i in 0..got.elements() {
        let bits = |a: &Array| a.bytes[i * size..(i + 1) * size].to_vec();
        let (g, w) = (got.value(i), want.value(i));
        let near = match got.dtype {
            _ if bits(got) == bits(want) => true,
            DType::F32 => {
                (g.is_nan() && w.is_nan())
                    || ulps(g as f32, w as f32) <= case.ulp
                    || (g - w).abs() <= case.atol + case.rtol * w.abs()
            }
            _ => (g - w).abs() <= case.steps,
        };
        if !near {
            out = (out.0 + 1, if out.0 == 0 { i } else { out.1 });
        }
    }
    match out {
        (0, _) => Ok(()),
        (n, i) => Err(format!(
            "{name}: {n} of {} elements differ; element {i} is {}, expected {}",
            got.elements(),
            got.value(i),
            want.value(i)
        )),
    }
}

/// How many floats lie between two.
fn ulps(a: f32, b: f32) -> u32 {
    let order = |x: f32| {
        let bits = x.to_bits() as i32;
        if bits < 0 { i64::from(i32::MIN) - i64::from(bits) } else { i64::from(bits) }
    };
    (order(a) - order(b)).unsigned_abs().try_into().unwrap_or(u32::MAX)
}
