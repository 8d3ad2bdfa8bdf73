//! Time to encode and seal, and to verify and decode, the typical report.
//!
//! `cargo run --release -p pilotlight-wire --example encode_time`
use std::hint::black_box;
use std::time::Instant;

use pilotlight_wire::*;

#[path = "../tests/samples/mod.rs"]
mod samples;

const ROUNDS: usize = 15;
const CALLS: u32 = 100_000;

/// Nanoseconds a call: fastest, median and slowest of the rounds.
fn time(mut call: impl FnMut()) -> [f64; 3] {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..CALLS).for_each(|_| call());
            start.elapsed().as_nanos() as f64 / f64::from(CALLS)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    [rounds[0], rounds[ROUNDS / 2], rounds[ROUNDS - 1]]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (header, message) = (samples::typical_header(), Message::Report(samples::typical_report()));
    let key = samples::fleet_key().derive(Direction::Up, 0, header.device);
    let mut frame = [0; MAX_FRAME];
    let length = seal(&header, &message, &key, &mut frame)?;
    let bytes = frame;
    let mut body = [0; MAX_BODY];
    let encode = time(|| {
        let _ = black_box(black_box(&message).encode(&mut body));
    });
    let sealed = time(|| {
        let _ = black_box(seal(black_box(&header), &message, &key, &mut frame));
    });
    let open = time(|| {
        let opened = Frame::parse(black_box(&bytes[..length])).and_then(|(frame, _)| frame.verify(&key));
        let _ = black_box(opened.map(|opened| opened.message()));
    });
    println!("{length} bytes, {ROUNDS} rounds of {CALLS} calls; ns a call: fastest, median, slowest");
    for (name, [low, median, high]) in
        [("encode the body", encode), ("encode and seal", sealed), ("verify and decode", open)]
    {
        println!("{name:<18} {low:>7.0} {median:>7.0} {high:>7.0}");
    }
    Ok(())
}
