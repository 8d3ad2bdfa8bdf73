//! ResNet-50 and MobileNetV2 with random weights on the virtual Orin: every tensor against the CPU device in graph mode,
//! and in persistent mode on every board; what `profile` counts, and modelled time beside TensorRT's published one.

use crate::{exact, shell};
use anyhow::{Context, Result, bail};
use serde_json::Value;

const BOARD: &str = "virtual:orin-nano-super";

/// 16, 14, 8 and 4 multiprocessors.
const BOARDS: [&str; 4] = ["virtual:agx-orin-64", "virtual:agx-orin-32", BOARD, "virtual:orin-nano-4gb"];

#[derive(clap::Args)]
pub struct Twins {
    /// Schedules of the persistent kernel's blocks on each board
    #[arg(long, default_value_t = 3)]
    seeds: u32,
}

/// File, name, and the least share of useful multiply-accumulates among those that its convolutions issue, in percent.
const NETS: [(&str, &str, u64); 2] = [
    ("models/.cache/twins/resnet50.onnx", "ResNet-50 twin", 93),
    ("models/.cache/twins/mobilenetv2.onnx", "MobileNetV2 twin", 85),
];

impl Twins {
    /// Makes the models where they are missing, runs them, prints what was found.
    ///
    /// # Errors
    /// A tensor that differs, too little useful work, a bank conflict in a main loop.
    pub fn run(self) -> Result<()> {
        let pilotlight = shell::pilotlight("onnx,virtual")?;
        let pilotlight = pilotlight.to_str().context("path is not text")?;
        exact::make_models(&["twins"])?;
        for (model, name, least) in NETS {
            let plan = format!("{model}.plan");
            shell::run(pilotlight, &["compile", model, "-o", &plan])?;
            println!("{name} on {BOARD}, cuda:graph, against the CPU device:");
            println!("{}", compare(pilotlight, &plan, "cuda:graph", BOARD, 1)?);
            for board in BOARDS {
                let counts: Vec<String> = (1..=self.seeds)
                    .map(|seed| compare(pilotlight, &plan, "cuda:persistent", board, seed))
                    .collect::<Result<_>>()?;
                let last = counts.last().context("at least one seed is needed")?;
                println!("{name} on {board}, cuda:persistent, {} seeds, each: {last}", counts.len());
            }
            work(pilotlight, &plan, name, least)?;
        }
        Ok(())
    }
}

/// The last line of `compare`: how many tensors were compared; it fails where one differs.
fn compare(pilotlight: &str, plan: &str, device: &str, board: &str, seed: u32) -> Result<String> {
    let devices = ["compare", plan, "--device-a", "cpu", "--device-b", device, "--board", board];
    let mut command = shell::command(pilotlight, &devices);
    let output =
        command.env("PILOTLIGHT_VIRTUAL_SEED", seed.to_string()).output().context(pilotlight.to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{plan}, {device} on {board}, seed {seed}: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(text.lines().last().unwrap_or_default().to_owned())
}

/// Prints what the kernels issue, and modelled time beside published time.
fn work(pilotlight: &str, plan: &str, name: &str, least: u64) -> Result<()> {
    let text = shell::output(pilotlight, &["profile", plan, "--board", BOARD, "--json"])?;
    let report: Value = serde_json::from_str(&text)?;
    let convolutions = |key: &str| -> Result<u64> {
        let steps = report["steps"].as_array().context("profile names no steps")?;
        let on_matrix_units = steps.iter().filter(|s| s["op"] == "conv" && s["issued_macs"] != 0);
        on_matrix_units.map(|s| s[key].as_u64().with_context(|| key.to_owned())).sum()
    };
    let (useful, issued) = (convolutions("useful_macs")?, convolutions("issued_macs")?);
    let total = |key: &str| report["totals"][key].as_u64().with_context(|| key.to_owned());
    let conflicts = total("loop_bank_conflicts")?;
    println!(
        "convolutions on matrix units: {useful} useful of {issued} issued, {:.3}\n\
         bank conflicts: {conflicts} in main loops, {} elsewhere\n",
        useful as f64 / issued as f64,
        total("bank_conflicts")? - conflicts
    );
    let modes = shell::output(pilotlight, &["profile", plan, "--board", BOARD, "--modes"])?;
    let whole = modes.find("one inference").context("profile models no whole inference")?;
    println!("{}", &modes[whole..]);
    if useful * 100 < issued * least || conflicts > 0 {
        bail!("{name}: at least {least} % must be useful, and no main loop may meet a bank conflict");
    }
    Ok(())
}
