//! Time of a decision on the largest grid (16 GPU clocks x 4 memory clocks), with a rail reading every cycle.
//!
//! `cargo bench -p pilotlight-power --features governor --bench decision`

use std::time::Instant;

use pilotlight_power::governor::{Governor, Grid, Observation, RailReading, Settings};
use pilotlight_units::{Hertz, Micros, Milliwatts};

fn main() {
    let gpu: Vec<Hertz> = (1..=16).map(|i| Hertz::from_mhz(80 * i)).collect();
    let grid = Grid::new(&gpu, &[204, 665, 2133, 3199].map(Hertz::from_mhz)).expect("rising clocks");
    let settings = Settings::new(Micros::from_millis(9), 0.99, Micros::from_millis(40)).expect("in range");
    let mut times = Vec::new();
    for run in 0..20u64 {
        let mut governor = Box::new(Governor::new(settings, grid.clone()).expect("in range"));
        let mut point = governor.start();
        for cycle in 0..5_000u64 {
            let (f, e) = (point.gpu.as_f64() / 1.28e9, point.emc.as_f64() / 3.199e9);
            let latency = Micros((1_000.0 + 2_500.0 / f + 800.0 / e) as u64 + (cycle * 31 + run) % 37);
            let now = Micros(cycle * 100_000) + latency;
            let power = Milliwatts((4_000.0 + 1_500.0 * f + 1_200.0 * e) as u32 + (cycle % 7) as u32 * 20);
            let seen = Observation {
                now: pilotlight_power::governor::Instant::from_micros(now.0),
                latency,
                readback: Some(point),
                rail: Some(RailReading {
                    at: pilotlight_power::governor::Instant::from_micros(now.0),
                    power,
                }),
            };
            let start = Instant::now();
            let decision = governor.observe(&seen);
            times.push(start.elapsed().as_nanos() as f64 / 1_000.0);
            point = decision.request.unwrap_or(point);
        }
    }
    times.sort_by(f64::total_cmp);
    let at = |q: f64| times[(q * (times.len() - 1) as f64) as usize];
    println!(
        "decision, 64 cells, a rail reading each: median {:.2} us, 99th percentile {:.2} us, longest {:.1} us (N = {})",
        at(0.5),
        at(0.99),
        at(1.0),
        times.len()
    );
}
