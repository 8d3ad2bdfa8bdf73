//! ResNet-50 and MobileNetV2 with random weights on the virtual Orin: every tensor against the CPU device in graph and in
//! persistent mode, what `profile` counts, and modelled time beside TensorRT's published one.

use crate::{exact, shell};
use anyhow::{Context, Result, bail};
use serde_json::Value;

const BOARD: &str = "virtual:orin-nano-super";

/// File, name, and the least share of useful multiply-accumulates among those that its convolutions issue, in percent.
const NETS: [(&str, &str, u64); 2] = [
    ("models/.cache/twins/resnet50.onnx", "ResNet-50 twin", 93),
    ("models/.cache/twins/mobilenetv2.onnx", "MobileNetV2 twin", 85),
];

/// Makes the models where they are missing, runs them, prints what was found.
///
/// # Errors
/// A tensor that differs, too little useful work, a bank conflict in a main loop.
pub fn run() -> Result<()> {
    let pilotlight = shell::pilotlight("onnx,virtual")?;
    let pilotlight = pilotlight.to_str().context("path is not text")?;
    exact::make_models(&["twins"])?;
    for (model, name, least) in NETS {
        for mode in ["cuda:graph", "cuda:persistent"] {
            println!("{name} on {BOARD}, {mode}, against the CPU device:");
            let devices = ["--device-a", "cpu", "--device-b", mode, "--board", BOARD];
            shell::run(pilotlight, &[&["compare", model], &devices[..]].concat())?;
        }
        let text = shell::output(pilotlight, &["profile", model, "--board", BOARD, "--json"])?;
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
        let modes = shell::output(pilotlight, &["profile", model, "--board", BOARD, "--modes"])?;
        let whole = modes.find("one inference").context("profile models no whole inference")?;
        println!("{}", &modes[whole..]);
        if useful * 100 < issued * least || conflicts > 0 {
            bail!("{name}: at least {least} % must be useful, and no main loop may meet a bank conflict");
        }
    }
    Ok(())
}
