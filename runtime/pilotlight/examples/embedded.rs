//! A model linked into the program, run in the caller's thread: no file, no thread, no allocation in the loop.
//!
//!     cargo run -p pilotlight --example embedded

use pilotlight::{Options, Plan, Session};

static DIGITS: &[u8] = include_bytes!("../../../models/digits/model.plan");

/// A seven, 8 x 8, 0 to 16 as the digits of the training set are.
const SEVEN: [[u8; 8]; 8] = [
    [0, 0, 12, 16, 16, 16, 8, 0],
    [0, 0, 8, 8, 8, 14, 10, 0],
    [0, 0, 0, 0, 2, 15, 4, 0],
    [0, 0, 0, 4, 10, 14, 6, 0],
    [0, 0, 6, 16, 16, 14, 6, 0],
    [0, 0, 2, 12, 10, 0, 0, 0],
    [0, 0, 8, 12, 0, 0, 0, 0],
    [0, 0, 14, 4, 0, 0, 0, 0],
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let plan = Plan::from_static(DIGITS)?;
    let session = Session::open(&plan, &Options::default())?;
    println!("{} on {}", session.ports().model, session.device());
    for _ in 0..3 {
        let mut slot = session.lend()?;
        // Filled in place: the device reads these bytes.
        for (to, &from) in slot.input_mut::<f32>(0)?.iter_mut().zip(SEVEN.as_flattened()) {
            *to = f32::from(from) / 16.0;
        }
        let output = slot.submit()?.wait()?;
        let scores = output.output::<f32>(0)?;
        let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0);
        println!("it is a {best} ({:.2}), in {:?}", scores[best], output.report().ran);
    }
    Ok(())
}
