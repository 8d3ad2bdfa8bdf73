//! The books in virtual time, beside a meter that is fed by hand: what sessions are shown is what it knows.

use super::books::{Books, shown};
use super::place::Place;
use super::{Energy, NotMeasured, WindowEnergy};
use pilotlight_power::Point;
use pilotlight_power::meter::{Condition, Meter, Report, Sample, Sensor};
use pilotlight_power::module::Basis;
use pilotlight_units::{Hertz, Micros, Milliwatts};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const SECOND: Micros = Micros::from_secs(1);
const FAST: Point = Point { gpu: Hertz(1_020_000_000), emc: Hertz(3_199_000_000) };
const SLOW: Point = Point { gpu: Hertz(306_000_000), emc: Hertz(2_133_000_000) };

fn sensor() -> Sensor {
    Sensor::ina3221(Micros::from_millis(10))
}

/// Books, and the meter beside them; a look every 10 ms.
struct Bench {
    books: Books,
    meter: Meter,
    now: Micros,
    point: Option<Point>,
}

impl Bench {
    fn new() -> Self {
        let books = Books::new(SECOND, sensor(), Basis::Measured);
        Self { books, meter: Meter::new(SECOND, sensor()), now: Micros(0), point: Some(FAST) }
    }

    fn look(&mut self, mw: u32) {
        self.now += Micros::from_millis(10);
        self.books.look(self.now, Some(Milliwatts(mw)), self.point);
        self.meter.sample(Sample { at: self.now, power: Milliwatts(mw) });
    }

    /// Looks until a time, in ms, at a power; before each look `work` may end inferences.
    fn run(&mut self, until: u64, mw: impl Fn(u64) -> u32, mut work: impl FnMut(&mut Meter, Micros)) {
        while self.now < Micros::from_millis(until) {
            work(&mut self.meter, self.now + Micros::from_millis(10));
            self.look(mw(self.now.0 / 1_000));
        }
    }

    fn idle(&mut self, until: u64, mw: u32) {
        self.run(until, |_| mw, |_, _| {});
    }
}

fn end(place: &Place, us: u64) {
    place.begin();
    place.end(Some(Duration::from_micros(us)));
}

fn dark() -> Box<dyn Fn() -> bool + Send> {
    Box::new(|| false)
}

fn window(energy: Energy) -> WindowEnergy {
    *energy.window().unwrap_or_else(|| panic!("{energy:?}"))
}

#[test]
fn what_sessions_are_shown_is_what_the_meter_knows() {
    let mut bench = Bench::new();
    let (a, told_a) = bench.books.admit(dark());
    let (b, told_b) = bench.books.admit(dark());
    let (told_a, told_b) = (told_a.unwrap(), told_b.unwrap());
    assert_eq!((told_a, told_b), ((0, 0), (1, 0)));
    // Steps, a ramp and bursts.
    let power = |ms: u64| 5_000 + (ms % 700) as u32 + if (ms / 300).is_multiple_of(2) { 2_000 } else { 0 };
    let (mut reports, mut numbers): (Vec<Report>, Vec<(u64, u64)>) = (Vec::new(), Vec::new());
    let mut count = (0, 0);
    for step in 1..=1_000u64 {
        // A ends one at every look, B two at every third; at some time none.
        let busy = step % 250 < 200;
        if busy {
            end(&a, 1_300);
            bench.meter.inference(0, bench.now + Micros::from_millis(10), Micros(1_300));
            count.0 += 1;
        }
        if busy && step % 3 == 0 {
            for _ in 0..2 {
                end(&b, 2_700);
                bench.meter.inference(1, bench.now + Micros::from_millis(10), Micros(2_700));
            }
            count.1 += 2;
        }
        bench.look(power(bench.now.0 / 1_000));
        let Some(report) = bench.meter.latest().copied() else { continue };
        if reports.last().is_none_or(|last| last.window.begin < report.window.begin) {
            reports.push(report);
            numbers.push(count);
        }
        for (index, place) in [(0, &a), (1, &b)] {
            // The last closed window in which this session ended an inference.
            let Some(of) = reports.iter().rfind(|r| r.usage[index].inferences > 0) else { continue };
            let seen = window(shown(place, bench.now, Basis::Measured));
            assert_eq!(Some(seen.gross), of.per_inference(index, of.window.gross));
            assert_eq!(Some(seen.deviation), of.per_inference(index, of.window.deviation));
            assert_eq!(seen.inferences, of.usage[index].inferences);
            assert_eq!(seen.age, Duration::from_micros((bench.now - of.window.end()).0));
            assert_eq!((seen.length, seen.basis), (Duration::from_secs(1), Basis::Measured));
        }
    }
    assert_eq!(reports.len(), 9);
    // Each inference by its number, against the meter's own book of it.
    for (index, told, all) in [(0, told_a, count.0), (1, told_b, count.1)] {
        for number in 1..=all {
            let seen = bench.books.energy(told, number, bench.now);
            match bench.meter.energy(index, number - 1) {
                pilotlight_power::meter::EnergyOf::Known(report) => {
                    assert_eq!(Some(window(seen).gross), report.per_inference(index, report.window.gross));
                }
                _ => assert_eq!(seen, Energy::NotMeasured(NotMeasured::Open)),
            }
        }
        let next = bench.books.energy(told, all + 1, bench.now);
        assert_eq!(next, Energy::NotMeasured(NotMeasured::Open), "counted by the session, not yet here");
    }
}

#[test]
fn three_baselines_are_learned_each_at_its_clocks() {
    let mut bench = Bench::new();
    let lit = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&lit);
    let (place, told) = bench.books.admit(Box::new(move || asked.load(Relaxed)));
    bench.idle(3_000, 4_000);
    lit.store(true, Relaxed);
    bench.idle(6_000, 4_600);
    bench.books.say(Some(Condition::Busy));
    bench.idle(9_000, 7_000);
    bench.books.say(None);
    bench.run(12_000, |_| 9_000, |_, _| end(&place, 5_000));
    // The sensor averages: half a period of the next condition shows in the last window of each.
    for (condition, mw) in [(Condition::Parked, 4_000), (Condition::Lit, 4_600), (Condition::Busy, 7_000)] {
        let found = bench.books.baseline(FAST, condition).expect("learned");
        assert!(found.0.abs_diff(mw) <= 5, "{condition:?} {found}");
    }
    assert_eq!(bench.books.baseline(SLOW, Condition::Parked), None);
    let seen = window(shown(&place, bench.now, Basis::Measured));
    let truth =
        [(Some(seen.gross), 9_000), (seen.net.parked, 5_000), (seen.net.lit, 4_400), (seen.net.busy, 2_000)];
    for (found, mj) in truth {
        let all = found.expect("known").0 * u64::from(seen.inferences);
        assert!(all.abs_diff(mj * 1_000) <= 5_000 + 100, "{mj} mJ: {seen:?}");
    }
    // Other clocks: no baseline there. Clocks that move within a window, or are not shown: none at all.
    for (until, point) in [(13_990, Some(SLOW)), (16_500, Some(FAST)), (19_000, None)] {
        bench.point = point;
        bench.run(until, |_| 9_000, |_, _| end(&place, 5_000));
    }
    let mut at = |ms: u64| {
        let number = (ms - 9_000) / 10 + 1;
        window(bench.books.energy(told.unwrap(), number, bench.now)).net.parked.is_some()
    };
    let times = [9_500, 10_500, 12_500, 13_500, 14_500, 15_500, 17_500];
    assert_eq!(times.map(&mut at), [true, true, false, false, true, true, false]);
}

#[test]
fn a_long_inference_is_not_a_rest() {
    let mut bench = Bench::new();
    let (place, _) = bench.books.admit(dark());
    place.begin();
    bench.idle(4_000, 9_000);
    assert_eq!(bench.books.baseline(FAST, Condition::Parked), None);
    // It fails: it costs what it costs, but is none of those that ended.
    place.end(None);
    bench.idle(6_500, 4_000);
    assert_eq!(bench.books.baseline(FAST, Condition::Parked), Some(Milliwatts(4_000)));
    assert_eq!(shown(&place, bench.now, Basis::Measured), Energy::NotMeasured(NotMeasured::Open));
}

#[test]
fn silence_and_a_sensor_that_stands_still_are_told_until_they_end() {
    let mut bench = Bench::new();
    let (place, told) = bench.books.admit(dark());
    bench.run(1_500, |ms| 5_000 + (ms % 50) as u32, |_, _| end(&place, 5_000));
    window(shown(&place, bench.now, Basis::Measured));
    for _ in 0..300 {
        bench.now += Micros::from_millis(10);
        bench.books.look(bench.now, None, bench.point);
    }
    let lost = Energy::NotMeasured(NotMeasured::SensorLost);
    assert_eq!(shown(&place, bench.now, Basis::Measured), lost);
    assert_eq!(bench.books.energy(told.unwrap(), 150, bench.now), lost, "its window cannot close");
    // A session that comes now is told as well.
    let (late, _) = bench.books.admit(dark());
    assert_eq!(shown(&late, bench.now, Basis::Measured), lost);
    bench.look(5_000);
    window(shown(&place, bench.now, Basis::Measured));
    bench.idle(70_000, 5_000);
    let stuck = Energy::NotMeasured(NotMeasured::SensorStuck);
    assert_eq!(shown(&place, bench.now, Basis::Measured), stuck);
    bench.look(5_040);
    assert!(shown(&place, bench.now, Basis::Measured).window().is_some());
}
