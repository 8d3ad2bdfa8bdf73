//! Times tract on an ONNX model: `time-tract MODEL.onnx` prints one line of JSON.
#![forbid(unsafe_code)]

use anyhow::Context as _;
use pilotlight_cli::golden::random;
use pilotlight_cli::stats::Latency;
use std::time::Instant;
use tract_onnx::prelude::*;

fn main() -> TractResult<()> {
    let path = std::env::args().nth(1).context("usage: time-tract MODEL.onnx")?;
    let start = Instant::now();
    let model = tract_onnx::onnx().model_for_path(&path)?.into_optimized()?.into_runnable()?;
    let start_us = start.elapsed().as_nanos() as f64 / 1e3;
    let shape = model.model().input_fact(0)?.shape.as_concrete().context("symbolic shape")?.to_vec();
    let values = random(1, -2.0, 4.0, shape.iter().product());
    let values: Vec<f32> = values.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let input: TValue = Tensor::from_shape(&shape, &values)?.into();
    let mut nanos = Vec::new();
    for run in 0..12 {
        let start = Instant::now();
        model.run(tvec!(input.clone()))?;
        // The first two warm up.
        if run >= 2 {
            nanos.push(start.elapsed().as_nanos() as u64);
        }
    }
    println!("{}", serde_json::json!({ "start_us": start_us, "latency_us": Latency::of(nanos) }));
    Ok(())
}
