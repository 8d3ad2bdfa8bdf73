//! From the start of a process to its first output, beside ONNX Runtime's session creation.

use crate::c_programs::{EFFICIENTNET, path};
use crate::shell::{output, run};
use crate::{abi::target, python};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::time::Instant;

const ROUNDS: usize = 5;
const RUNS: usize = 10;

/// Measures; decides nothing.
pub fn measure() -> Result<()> {
    let out = target()?.join("start");
    let prefix = out.join("prefix");
    run("bash", &["cross/package.sh", path(&prefix)?])?;
    let program = out.join("firmware");
    let library = prefix.join("lib/libpilotlight.a");
    let source = ["runtime/capi/examples/firmware.c", "-O2", "-Iruntime/capi/include", path(&library)?];
    run("cc", &[&source[..], &["-o", path(&program)?, "-lpthread", "-ldl", "-lm"]].concat())?;

    let model = EFFICIENTNET.replace(".plan", ".onnx");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for _ in 0..RUNS {
            let begin = Instant::now();
            output(path(&program)?, &[EFFICIENTNET])?;
            ours.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        let text =
            python::output(&["models/bench_ort.py", &model, "--threads", "1", "-n", "1", "--warm-up", "0"])?;
        let value: Value = serde_json::from_str(&text)?;
        theirs.push(value["runs"][0]["start_us"].as_f64().context("start_us")? / 1e3);
    }
    println!("{EFFICIENTNET}, 1 thread, {ROUNDS} rounds in turn, file in the page cache; milliseconds");
    println!("{:<62} {:>4} {:>8} {:>8} {:>8}", "", "n", "min", "median", "max");
    line("Pilotlight: process start to end with one inference (C)", &mut ours)?;
    line("ONNX Runtime: creation of a session alone (best of 3 a round)", &mut theirs)
}

fn line(name: &str, ms: &mut [f64]) -> Result<()> {
    ms.sort_by(f64::total_cmp);
    let [min, .., max] = ms[..] else { bail!("nothing was measured") };
    println!("{name:<62} {:>4} {min:>8.2} {:>8.2} {max:>8.2}", ms.len(), ms[ms.len() / 2]);
    Ok(())
}
