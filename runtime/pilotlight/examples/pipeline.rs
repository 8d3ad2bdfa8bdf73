//! One slot is filled while another is in flight; a deadline; another plan without a pause.
//!
//!     cargo run -p pilotlight --example pipeline

use pilotlight::{Failure, Lent, Options, Pending, Plan, Runner, Session, Thread, Wait};
use std::time::{Duration, Instant};

static DIGITS: &[u8] = include_bytes!("../../../models/digits/model.plan");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let plan = Plan::from_static(DIGITS)?;
    let worker = Runner::Worker(Thread::default().name("infer"));
    let session = Session::open(&plan, &Options::default().runner(worker).wait(Wait::Predictive))?;

    let mut flying: Option<Pending> = None;
    for frame in 0..100 {
        let mut slot = session.lend()?;
        capture(frame, &mut slot)?;
        // The worker takes this one up when it has finished the one before.
        let next = slot.submit_by(Instant::now() + Duration::from_millis(500))?;
        if let Some(pending) = flying.replace(next) {
            report(frame - 1, pending);
        }
        if frame == 50 {
            // What is in flight ends on the old plan, what is lent from now on runs the new one.
            session.swap(&plan)?;
        }
    }
    if let Some(pending) = flying {
        report(99, pending);
    }
    session.close()?;
    Ok(())
}

/// Stands for a camera.
fn capture(frame: usize, slot: &mut Lent) -> Result<(), Box<dyn std::error::Error>> {
    for (i, pixel) in slot.input_mut::<f32>(0)?.iter_mut().enumerate() {
        *pixel = ((i * 7 + frame) % 17) as f32 / 16.0;
    }
    Ok(())
}

fn report(frame: usize, pending: Pending) {
    match pending.wait() {
        Ok(output) if frame % 25 == 24 => {
            let r = output.report();
            println!("frame {frame}: queued {:?}, ran {:?}, energy {:?}", r.queued, r.ran, r.energy);
        }
        Ok(_) => {}
        Err(Failure::Deadline { late }) => println!("frame {frame}: dropped, {late:?} too late"),
        Err(failure) => println!("frame {frame}: {failure}"),
    }
}
