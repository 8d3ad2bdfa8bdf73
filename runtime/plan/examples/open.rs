//! How long it takes to open a plan: `cargo run --release -p pilotlight-plan --example open -- FILE.plan`.

use pilotlight_plan::{Plan, validate::validate};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: open FILE.plan")?;
    let time = |what: &str, mut f: Box<dyn FnMut() -> Result<(), Box<dyn std::error::Error>>>| {
        let mut best = f64::INFINITY;
        for _ in 0..50 {
            let start = Instant::now();
            f()?;
            best = best.min(start.elapsed().as_secs_f64() * 1e3);
        }
        println!("{what:<28} {best:.3} ms (smallest of 50)");
        Ok::<(), Box<dyn std::error::Error>>(())
    };
    let plan = Plan::open(&path)?;
    let name = path.clone();
    time(
        "read the file",
        Box::new(move || {
            std::fs::read(&name)?;
            Ok(())
        }),
    )?;
    time(
        "open (read, hash, validate)",
        Box::new(move || {
            Plan::open(&path)?;
            Ok(())
        }),
    )?;
    time("validate", Box::new(move || Ok(validate(&plan)?)))
}
