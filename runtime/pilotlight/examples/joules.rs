//! What inferences cost: joules with every result, and those of one inference when its window has closed.
//!
//!     cargo run -p pilotlight --example joules [-- ROOT]
//!
//! ROOT is the tree whose rails are read, this machine's unless given. Without a Jetson:
//!
//!     cargo run -p pilotlight-cli -- boards --fixture orin-nano-8gb-super --root /tmp/orin
//!     cargo run -p pilotlight --example joules -- /tmp/orin

use pilotlight::energy::{Energy, Meter, MeterOptions, NotMeasured};
use pilotlight::{Options, Plan, Session};
use std::time::{Duration, Instant};

static DIGITS: &[u8] = include_bytes!("../../../models/digits/model.plan");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::args().nth(1).unwrap_or_else(|| "/".into());
    let meter = Meter::open(&MeterOptions::default().root(root))?;
    match meter.module() {
        Ok(module) => println!("power: {} ({:?})", module.rails.join(" + "), module.basis),
        Err(why) => println!("power: not measured: {why}"),
    }
    // First a rest of two seconds: it teaches what the board draws without the work.
    std::thread::sleep(Duration::from_secs(2));
    let session = Session::open(&Plan::from_static(DIGITS)?, &Options::default().meter(&meter))?;
    let begin = Instant::now();
    let mut last = None;
    while begin.elapsed() < Duration::from_secs(3) {
        last = Some(session.lend()?.submit()?.wait()?.report());
    }
    let Some(report) = last else { return Ok(()) };
    println!("inference {} took {:?}; {}", report.sequence, report.ran, words(&report.energy));
    while session.energy(report.sequence) == Energy::NotMeasured(NotMeasured::Open) {
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("its own window: {}", words(&session.energy(report.sequence)));
    meter.close();
    Ok(())
}

fn words(energy: &Energy) -> String {
    match energy {
        Energy::Window(w) => format!(
            "{} +- {} gross, above a parked board {}, {} inferences in {:?}, over for {:?} ({:?})",
            w.gross,
            w.deviation,
            w.net.parked.map_or("not known".into(), |e| e.to_string()),
            w.inferences,
            w.length,
            w.age,
            w.basis
        ),
        Energy::NotMeasured(why) => format!("energy not measured: {why}"),
        _ => "energy of a newer kind".into(),
    }
}
