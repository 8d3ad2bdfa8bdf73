//! The meter on plants whose power is known exactly.

use pilotlight_power::Point;
use pilotlight_power::meter::{Baselines, Condition, EnergyOf, Meter, Sample, Sensor};
use pilotlight_units::{Hertz, Micros, Milliwatts};

/// SplitMix64 with the draws that plants need.
struct Rng(u64);

impl Rng {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn within(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Power in mW at a time in us, piecewise linear between corners.
struct Truth {
    corners: Vec<(f64, f64)>,
}

impl Truth {
    fn power(&self, t: f64) -> f64 {
        let i = self.corners.partition_point(|c| c.0 <= t);
        match (i.checked_sub(1).map(|k| self.corners[k]), self.corners.get(i)) {
            (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (t - a.0) / (b.0 - a.0),
            (Some(a), None) => a.1,
            (None, Some(b)) => b.1,
            (None, None) => 0.0,
        }
    }

    /// Energy in mJ, exact: the trapezoid over every corner between.
    fn energy(&self, from: f64, to: f64) -> f64 {
        let mut points = vec![(from, self.power(from))];
        // A step is two corners a thousandth of a microsecond apart.
        points.extend(self.corners.iter().filter(|c| c.0 > from && c.0 < to));
        points.push((to, self.power(to)));
        points.windows(2).map(|w| 0.5 * (w[0].1 + w[1].1) * (w[1].0 - w[0].0) * 1e-6).sum()
    }

    fn steps(levels: impl Iterator<Item = (f64, f64)>) -> Self {
        let mut corners: Vec<(f64, f64)> = Vec::new();
        for (t, p) in levels {
            if let Some(last) = corners.last().copied() {
                corners.push((t - 0.001, last.1));
            }
            corners.push((t, p));
        }
        Self { corners }
    }
}

/// A sensor that averages over its period (or reads at an instant), rounds to a step, and is read with jitter.
fn samples(truth: &Truth, sensor: Sensor, until: f64, jitter: f64, lost: f64, rng: &mut Rng) -> Vec<Sample> {
    let (mut t, mut found) = (sensor.period.as_f64(), Vec::new());
    while t < until {
        let at = t + rng.within(-jitter, jitter);
        let over = sensor.averages_over.as_f64();
        let mw = if over > 0.0 { truth.energy(at - over, at) / over * 1e6 } else { truth.power(at) };
        let step = sensor.step.as_f64().max(1.0);
        if rng.within(0.0, 1.0) >= lost {
            found.push(Sample {
                at: Micros(at as u64),
                power: Milliwatts(((mw / step).round() * step) as u32),
            });
        }
        t += sensor.period.as_f64();
    }
    found
}

const SECOND: f64 = 1e6;

/// Relative error of the second window of a second, and whether two deviations cover it.
fn second_window(truth: &Truth, sensor: Sensor, jitter: f64, lost: f64, rng: &mut Rng) -> (f64, bool) {
    let mut meter = Meter::new(Micros::from_secs(1), sensor);
    let mut last = None;
    for sample in samples(truth, sensor, 2.0 * SECOND + 600_000.0, jitter, lost, rng) {
        meter.sample(sample);
        if let Some(report) = meter.latest()
            && report.window.begin == Micros::from_secs(1)
        {
            last = Some(report.window);
        }
    }
    let window = last.expect("the second window has closed");
    assert_eq!(window.covered, Micros::from_secs(1));
    let exact = truth.energy(SECOND, 2.0 * SECOND);
    let found = window.gross.as_f64() / 1_000.0;
    let covers = (found - exact).abs() <= 2.0 * window.deviation.as_f64() / 1_000.0 + 0.002;
    (found / exact - 1.0, covers)
}

fn ina(ms: u64) -> Sensor {
    Sensor::ina3221(Micros::from_millis(ms))
}

#[test]
fn a_second_is_right_within_one_per_cent_on_every_kind_of_plant() {
    let mut rng = Rng(7);
    let mut covered = 0;
    for round in 0..50 {
        let base = rng.within(4_500.0, 9_000.0);
        let steps = Truth::steps((0..45).map(|i| (f64::from(i) * 61_000.0, base + rng.within(0.0, 4_000.0))));
        let ramp = Truth { corners: vec![(0.0, base), (1.5 * SECOND, base + 6_000.0), (3.0 * SECOND, base)] };
        let phase = rng.within(0.0, 40_000.0);
        // Bursts of 4 ms, shorter than any sample period, every 40 ms.
        let bursts = Truth::steps((0..66).flat_map(|i| {
            let t = f64::from(i) * 40_000.0 + phase;
            [(t, base + 7_500.0), (t + 4_000.0, base)]
        }));
        let flat = Truth { corners: vec![(0.0, base)] };
        for (name, truth) in [("steps", &steps), ("ramp", &ramp), ("bursts", &bursts), ("flat", &flat)] {
            for (kind, jitter, lost) in [("even", 0.0, 0.0), ("jitter", 500.0, 0.0), ("gaps", 500.0, 0.02)] {
                let (error, covers) = second_window(truth, ina(10), jitter, lost, &mut rng);
                if name == "bursts" && kind == "gaps" {
                    // A lost sample takes its burst with it; the stated uncertainty must say so.
                    covered += u32::from(covers);
                } else {
                    assert!(error.abs() <= 0.01, "round {round} {name} {kind}: {error:.4}");
                }
            }
        }
    }
    assert!(covered >= 48, "bursts with lost samples: {covered} of 50 covered");
}

#[test]
fn the_stated_uncertainty_covers_the_truth() {
    let mut rng = Rng(11);
    let (mut covered, mut trials, mut width) = (0, 0, 0.0);
    for _ in 0..1_000 {
        let base = rng.within(3_000.0, 20_000.0);
        let swing = rng.within(0.0, 0.8) * base;
        let every = rng.within(3_000.0, 200_000.0);
        let mut t = 0.0;
        let truth = Truth::steps(core::iter::from_fn(|| {
            t += every * rng.within(0.3, 1.7);
            (t < 2.8 * SECOND).then(|| (t, base + rng.within(0.0, swing)))
        }));
        let period = 10 + rng.bits() % 40;
        let mut sensor = ina(period);
        if rng.bits().is_multiple_of(4) {
            sensor.averages_over = Micros(sensor.period.0 / 2);
        }
        sensor.step = Milliwatts([5, 40, 100][(rng.bits() % 3) as usize]);
        let jitter = rng.within(0.0, 0.2) * period as f64 * 1_000.0;
        let lost = rng.within(0.0, 0.1);
        let (error, covers) = second_window(&truth, sensor, jitter, lost, &mut rng);
        trials += 1;
        covered += u32::from(covers);
        width += error.abs();
    }
    println!("covered {covered} of {trials}, mean error {:.3} %", 100.0 * width / f64::from(trials));
    assert!(covered * 100 >= trials * 95, "covered {covered} of {trials}");
}

#[test]
fn gaps_wild_and_stuck_sensors_are_reported() {
    let mut meter = Meter::new(Micros::from_secs(1), ina(10));
    let mut put =
        |ms: u64, mw: u32| meter.sample(Sample { at: Micros::from_millis(ms), power: Milliwatts(mw) });
    for ms in (10..=1_000).step_by(10) {
        put(ms, 5_000 + (ms % 3) as u32 * 40);
    }
    put(900, 5_000);
    put(1_010, 900_000);
    put(1_600, 5_080);
    for ms in (1_610..=2_100).step_by(10) {
        put(ms, 5_080);
    }
    let faults = meter.faults();
    assert_eq!((faults.out_of_order, faults.wild, faults.gaps), (1, 1, 1));
    assert_eq!(faults.unchanged_for, Micros::from_millis(500));
    assert!(!faults.stuck());
    let window = meter.latest().expect("closed").window;
    assert!(window.gap >= Micros::from_millis(590) && window.gap <= Micros::from_millis(610));
    let sure = second_window(&Truth { corners: vec![(0.0, 5_000.0)] }, ina(10), 0.0, 0.0, &mut Rng(1));
    assert!(sure.1 && window.deviation.0 > 0);
    for ms in (2_110..=70_000).step_by(10) {
        meter.sample(Sample { at: Micros::from_millis(ms), power: Milliwatts(5_040) });
    }
    assert!(meter.faults().stuck());
}

#[test]
fn energy_is_divided_by_busy_time_and_known_when_the_window_closed() {
    let mut meter = Meter::new(Micros::from_secs(1), ina(10));
    let mut sequences = Vec::new();
    for ms in (10..3_200).step_by(10) {
        meter.sample(Sample { at: Micros::from_millis(ms), power: Milliwatts(6_000) });
        if ms % 40 == 0 {
            sequences.push(meter.inference(0, Micros::from_millis(ms), Micros(6_000)));
        }
        if ms % 100 == 0 {
            meter.inference(1, Micros::from_millis(ms), Micros(10_000));
        }
        if ms == 1_500 {
            let last = *sequences.last().expect("some");
            assert!(matches!(meter.energy(0, last), EnergyOf::Pending));
            assert!(matches!(meter.energy(0, last + 1_000), EnergyOf::Unknown));
        }
    }
    let EnergyOf::Known(report) = meter.energy(0, sequences[30]) else { panic!("the window has closed") };
    assert_eq!(report.window.begin, Micros::from_secs(1));
    assert_eq!((report.usage[0].inferences, report.usage[1].inferences), (25, 10));
    // Each model counts its own.
    assert_eq!((report.usage[0].sequence, report.usage[1].sequence), (Some((24, 48)), Some((9, 18))));
    assert!(matches!(meter.energy(1, 9), EnergyOf::Known(r) if r.window.begin == Micros::from_secs(1)));
    assert_eq!((meter.ended(0), meter.ended(1), meter.ended(2)), (79, 31, 0));
    assert_eq!(report.window.gross.0, 6_000_000);
    // 25 x 6 ms and 10 x 10 ms of 250 ms.
    assert_eq!(report.per_inference(0, report.window.gross).map(|e| e.0), Some(144_000));
    assert_eq!(report.per_inference(1, report.window.gross).map(|e| e.0), Some(240_000));
    assert_eq!(report.per_inference(2, report.window.gross), None);
    let point = Point { gpu: Hertz::from_mhz(612), emc: Hertz::from_mhz(2133) };
    let mut baselines: Baselines<4> = Baselines::default();
    assert_eq!(baselines.net(point, Condition::Lit, &report.window), None);
    let mut idle = Meter::new(Micros::from_secs(1), ina(10));
    for ms in (10..2_200).step_by(10) {
        idle.sample(Sample { at: Micros::from_millis(ms), power: Milliwatts(5_000) });
    }
    baselines.learn(point, Condition::Lit, &idle.latest().expect("closed").window);
    assert_eq!(baselines.get(point, Condition::Lit).map(|b| b.power), Some(Milliwatts(5_000)));
    assert_eq!(baselines.net(point, Condition::Lit, &report.window).map(|e| e.0), Some(1_000_000));
    assert_eq!(baselines.net(point, Condition::Parked, &report.window), None);
}
