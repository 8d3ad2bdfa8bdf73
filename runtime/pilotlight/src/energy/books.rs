//! Windows, baselines, and whose part is whose. Time is an argument: the same code runs on a board and in a test.

use super::place::{Place, WORDS};
use super::{Energy, Net, NotMeasured, WindowEnergy};
use pilotlight_power::Point;
use pilotlight_power::meter::{
    Baselines, Condition, EnergyOf, Faults, KEPT, MODELS, Meter, Report, Sample, Sensor, Window,
};
use pilotlight_power::module::Basis;
use pilotlight_units::{Microjoules, Micros, Milliwatts};
use std::sync::Arc;
use std::time::Duration;

/// Sessions that are told apart; the meter's last model stands for all further ones.
pub(super) const SESSIONS: usize = MODELS - 1;
/// Pairs of clocks and condition whose baselines are kept.
const BASELINES: usize = 48;
/// The sensor is lost when it has not answered for so long.
const LOST_AFTER: Micros = Micros(2_000_000);

/// Whether a session's device is lit.
pub(super) type Lit = Box<dyn Fn() -> bool + Send>;

/// A session that is told apart.
struct Told {
    place: Arc<Place>,
    lit: Lit,
}

/// What is known of a window besides its energy.
#[derive(Clone, Copy)]
struct Mark {
    number: u64,
    /// Clocks when it began; once it has ended `None` where they moved or cannot be read.
    point: Option<Point>,
    /// A session worked in it.
    worked: bool,
    /// Looks at which a device was lit, and at which none was.
    lit: bool,
    dark: bool,
    /// What the caller says that it was, at every look, if it was the same.
    said: Option<Condition>,
    contradicted: bool,
}

pub(super) struct Books {
    meter: Box<Meter>,
    length: Micros,
    basis: Basis,
    baselines: Box<Baselines<BASELINES>>,
    marks: Box<[Option<Mark>; KEPT]>,
    told: [Option<Told>; SESSIONS],
    others: Arc<Place>,
    /// The begin of the last window that was shown.
    shown: Option<Micros>,
    answered: Micros,
    said: Option<Condition>,
    /// Why nothing is measured now.
    trouble: Option<NotMeasured>,
    /// Windows that taught a baseline that the caller had said.
    pub(super) taught: u64,
}

impl Books {
    pub(super) fn new(length: Micros, sensor: Sensor, basis: Basis) -> Self {
        Self {
            meter: Box::new(Meter::new(length, sensor)),
            length,
            basis,
            baselines: Box::default(),
            marks: Box::new([None; KEPT]),
            told: std::array::from_fn(|_| None),
            others: Arc::new(Place::new()),
            shown: None,
            answered: Micros(0),
            said: None,
            trouble: None,
            taught: 0,
        }
    }

    /// A place for a session: which one, and how many inferences of earlier sessions it has seen. All further
    /// sessions share one, without a number.
    pub(super) fn admit(&mut self, lit: Lit) -> (Arc<Place>, Option<(usize, u64)>) {
        match self.told.iter().position(Option::is_none) {
            Some(index) => {
                let place = Arc::new(Place::new());
                place.set_trouble(self.trouble);
                self.told[index] = Some(Told { place: Arc::clone(&place), lit });
                (place, Some((index, self.meter.ended(index))))
            }
            None => (Arc::clone(&self.others), None),
        }
    }

    /// The session has ended; what it did up to now is still counted.
    pub(super) fn dismiss(&mut self, index: usize, now: Micros) {
        self.tally(now);
        self.told[index] = None;
    }

    /// What the caller says that the board does from now on.
    pub(super) fn say(&mut self, condition: Option<Condition>) {
        self.said = condition;
    }

    /// Takes in a reading of the rail, and what ended since the last look.
    ///
    /// `point`: the clocks in force; looked at only in a window's first call.
    pub(super) fn look(&mut self, now: Micros, power: Option<Milliwatts>, point: Option<Point>) {
        self.mark(now, point);
        let Some(power) = power else {
            if now - self.answered > LOST_AFTER {
                self.tell(Some(NotMeasured::SensorLost));
            }
            return;
        };
        self.answered = now;
        self.meter.sample(Sample { at: now, power });
        self.tell(self.meter.faults().stuck().then_some(NotMeasured::SensorStuck));
        let closed = self.meter.latest().filter(|r| self.shown != Some(r.window.begin)).copied();
        if let Some(report) = closed {
            self.shown = Some(report.window.begin);
            self.teach(&report.window);
            self.show(&report);
        }
    }

    /// Marks the window of a look.
    fn mark(&mut self, now: Micros, point: Option<Point>) {
        let number = now.0 / self.length.0;
        let worked = self.tally(now);
        let lit = self.told.iter().flatten().any(|told| (told.lit)());
        let slot = |n: u64| (n % KEPT as u64) as usize;
        if self.marks[slot(number)].is_none_or(|mark| mark.number != number) {
            let said = self.said;
            let fresh =
                Mark { number, point, worked: false, lit: false, dark: false, said, contradicted: false };
            self.marks[slot(number)] = Some(fresh);
            // The window before has ended: its clocks held if they are the same now.
            if let Some(before) = number.checked_sub(1).and_then(|n| self.marks[slot(n)].as_mut()) {
                let same = before.number + 1 == number && before.point == point;
                before.point = before.point.filter(|_| same);
            }
        }
        if let Some(mark) = &mut self.marks[slot(number)] {
            mark.worked |= worked;
            mark.lit |= lit;
            mark.dark |= !lit;
            mark.contradicted |= mark.said != self.said;
        }
    }

    /// Hands what ended since the last call to the meter; whether anybody worked.
    fn tally(&mut self, now: Micros) -> bool {
        let told = self.told.iter().enumerate().filter_map(|(i, t)| Some((i, &t.as_ref()?.place)));
        let mut worked = false;
        for (index, place) in told.chain([(SESSIONS, &self.others)]) {
            // In this order: what is no longer under way has been counted.
            worked |= place.runs();
            let (count, busy) = place.take();
            if count > 0 {
                worked = true;
                self.meter.inferences(index, now, count, busy);
            }
        }
        worked
    }

    fn mark_of(&self, window: &Window) -> Option<&Mark> {
        let number = window.begin.0 / self.length.0;
        self.marks[(number % KEPT as u64) as usize].as_ref().filter(|mark| mark.number == number)
    }

    /// A window in which no session worked tells what the board draws without.
    fn teach(&mut self, window: &Window) {
        let Some(mark) = self.mark_of(window).copied() else { return };
        let condition = match (mark.said, mark.lit, mark.dark) {
            _ if mark.worked || mark.contradicted => None,
            (Some(said), ..) => Some(said),
            (None, true, false) => Some(Condition::Lit),
            (None, false, true) => Some(Condition::Parked),
            (None, ..) => None,
        };
        // A tenth of it may be missing, as on a machine whose sampling is held up.
        let whole = (window.covered - window.gap).0 * 10 >= window.length.0 * 9;
        if let (Some(condition), Some(point), true) = (condition, mark.point, whole) {
            self.baselines.learn(point, condition, window);
            self.taught += u64::from(mark.said.is_some());
        }
    }

    /// Publishes each session's part.
    fn show(&self, report: &Report) {
        for (index, told) in self.told.iter().enumerate() {
            if let Some(told) = told
                && let Some(part) = self.part(index, report)
            {
                told.place.publish(part.words(report.window.end()));
            }
        }
    }

    fn part(&self, index: usize, report: &Report) -> Option<Part> {
        let window = &report.window;
        let each = |energy| report.per_inference(index, energy);
        let point = self.mark_of(window).and_then(|mark| mark.point);
        let net = |condition| self.baselines.net(point?, condition, window).and_then(each);
        Some(Part {
            gross: each(window.gross)?,
            deviation: each(window.deviation)?,
            parked: net(Condition::Parked),
            lit: net(Condition::Lit),
            busy: net(Condition::Busy),
            inferences: report.usage[index].inferences,
            length: window.length,
            covered: window.covered,
        })
    }

    /// The energy of inference `number` (from 1) of a session that began after `base` others.
    pub(super) fn energy(&mut self, (index, base): (usize, u64), number: u64, now: Micros) -> Energy {
        self.tally(now);
        let sequence = base + number - 1;
        // While the sensor is silent no window closes.
        let open = self.trouble.unwrap_or(NotMeasured::Open);
        match self.meter.energy(index, sequence) {
            EnergyOf::Pending => Energy::NotMeasured(open),
            EnergyOf::Known(report) => match self.part(index, report) {
                Some(part) => Energy::Window(part.energy(now - report.window.end(), self.basis)),
                None => Energy::NotMeasured(NotMeasured::Forgotten),
            },
            // Counted by the session, not yet here: it ends this very moment.
            EnergyOf::Unknown if sequence >= self.meter.ended(index) => Energy::NotMeasured(open),
            EnergyOf::Unknown => Energy::NotMeasured(NotMeasured::Forgotten),
        }
    }

    pub(super) fn basis(&self) -> Basis {
        self.basis
    }

    pub(super) fn latest(&self) -> Option<&Report> {
        self.meter.latest()
    }

    pub(super) fn faults(&self) -> Faults {
        self.meter.faults()
    }

    /// A baseline at some clocks.
    pub(super) fn baseline(&self, point: Point, condition: Condition) -> Option<Milliwatts> {
        self.baselines.get(point, condition).map(|b| b.power)
    }

    /// Tells every session why nothing is measured now; `None` when it is again.
    pub(super) fn tell(&mut self, why: Option<NotMeasured>) {
        self.trouble = why;
        for told in self.told.iter().flatten() {
            told.place.set_trouble(why);
        }
    }
}

/// A session's part of a window, an inference each.
struct Part {
    gross: Microjoules,
    deviation: Microjoules,
    parked: Option<Microjoules>,
    lit: Option<Microjoules>,
    busy: Option<Microjoules>,
    inferences: u32,
    length: Micros,
    covered: Micros,
}

/// How `None` is published.
const NONE: u64 = u64::MAX;

impl Part {
    fn words(&self, end: Micros) -> [u64; WORDS] {
        let net = |e: Option<Microjoules>| e.map_or(NONE, |e| e.0);
        let net = [net(self.parked), net(self.lit), net(self.busy)];
        let times = [self.length.0, self.covered.0, end.0];
        [
            self.gross.0,
            self.deviation.0,
            net[0],
            net[1],
            net[2],
            u64::from(self.inferences),
            times[0],
            times[1],
            times[2],
        ]
    }

    fn energy(&self, age: Micros, basis: Basis) -> WindowEnergy {
        let duration = |t: Micros| Duration::from_micros(t.0);
        WindowEnergy {
            gross: self.gross,
            deviation: self.deviation,
            net: Net { parked: self.parked, lit: self.lit, busy: self.busy },
            inferences: self.inferences,
            length: duration(self.length),
            covered: duration(self.covered),
            age: duration(age),
            basis,
        }
    }
}

/// What a place shows at a time.
pub(super) fn shown(place: &Place, now: Micros, basis: Basis) -> Energy {
    if let Some(why) = place.trouble() {
        return Energy::NotMeasured(why);
    }
    let Some([gross, deviation, parked, lit, busy, inferences, length, covered, end]) = place.latest() else {
        return Energy::NotMeasured(NotMeasured::Open);
    };
    let net = |word: u64| (word != NONE).then_some(Microjoules(word));
    let part = Part {
        gross: Microjoules(gross),
        deviation: Microjoules(deviation),
        parked: net(parked),
        lit: net(lit),
        busy: net(busy),
        inferences: inferences as u32,
        length: Micros(length),
        covered: Micros(covered),
    };
    Energy::Window(part.energy(now - Micros(end), basis))
}
