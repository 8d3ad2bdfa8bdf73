//! The governor on a board: reads rails and clocks from a tree, asks a [`Clocks`] for clocks, or only observes.
//!
//! Cycles come from whoever runs the inferences; this module keeps time, measures energy by the window, and hands on.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pilotlight_boards::control::{Clocks, ControlError};
use pilotlight_boards::rails::TotalSensor;
use pilotlight_boards::thermal::{self, OverCurrent};
use pilotlight_boards::{Board, Tree};
use pilotlight_units::{Microjoules, Micros, MilliCelsius};

use crate::advice::Watched;
use crate::governor::{self, Decision, Governor, Observation, Point, RailReading, micros};
use crate::meter::{Meter, Report, Sample, Sensor, Window};
use crate::module::sensor_of;

/// Time between two readings of the rails.
pub const RAIL_EVERY: Micros = Micros::from_millis(100);
/// Length of an energy window.
pub const WINDOW: Micros = Micros::from_secs(1);

/// What tells the time: embassy's driver (this machine's clock, in the command), a virtual board's, or a test's.
#[derive(Clone)]
pub struct Time(Arc<dyn Fn() -> Micros + Send + Sync>);

impl Time {
    /// The clock of the program's embassy time driver, from now.
    #[cfg(feature = "driver")]
    pub fn monotonic() -> Self {
        let began = embassy_time::Instant::now();
        Self::from_fn(move || Micros(began.elapsed().as_micros()))
    }

    /// Any clock that never goes back.
    pub fn from_fn(now: impl Fn() -> Micros + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time now.
    pub fn now(&self) -> Micros {
        (self.0)()
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Time({})", self.now())
    }
}

/// Rails and temperatures of a board, read on demand.
#[derive(Debug)]
pub struct Sensors {
    tree: Tree,
    board: Board,
    time: Time,
    total: Option<TotalSensor>,
    read_at: Option<Micros>,
    latest: Option<RailReading>,
    over_current: Option<OverCurrent>,
}

impl Sensors {
    /// The sensors of a tree.
    pub fn new(tree: &Tree, time: Time) -> Self {
        let board = Board::discover(tree);
        let over_current = board.over_current;
        let total = board.data.as_ref().and_then(|d| TotalSensor::open(tree, d));
        Self { tree: tree.clone(), board, time, total, read_at: None, latest: None, over_current }
    }

    /// The board as it was found.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The time.
    pub fn now(&self) -> Micros {
        self.time.now()
    }

    /// The module's power: read at most every [`RAIL_EVERY`], the last reading between. `None` where the board
    /// has no such rail or it never answered.
    pub fn module(&mut self) -> Option<RailReading> {
        let now = self.now();
        if self.read_at.is_none_or(|at| now >= at + RAIL_EVERY) {
            self.read_at = Some(now);
            if let Some(Ok(power)) = self.total.as_mut().map(TotalSensor::read) {
                self.latest = Some(RailReading { at: governor::Instant::from_micros(self.now().0), power });
            }
        }
        self.latest
    }

    /// What the rail's sensor is like when read every [`RAIL_EVERY`].
    pub fn sensor(&self) -> Sensor {
        sensor_of(&self.board.rails, RAIL_EVERY)
    }

    /// The hottest zone.
    pub fn hottest(&self) -> Option<MilliCelsius> {
        thermal::hottest(&thermal::zones(&self.tree))
    }

    /// Over-current events since the last call.
    pub fn throttle_events(&mut self) -> u64 {
        let now = OverCurrent::read(&self.tree);
        let events = now.zip(self.over_current).map(|(now, then)| now.since(then));
        // A look that failed is made up for by the next.
        self.over_current = now.or(self.over_current);
        events.map_or(0, OverCurrent::all)
    }
}

/// A governor bound to a board.
pub struct Live<C: Clocks> {
    governor: Box<Governor>,
    sensors: Sensors,
    meter: Box<Meter>,
    /// `None`: without rights it observes and says what it would ask for.
    clocks: Option<C>,
    failures: u32,
    late: f64,
    watched_at: Micros,
}

/// What a live cycle came to.
#[derive(Debug)]
pub struct LiveDecision {
    /// The governor's decision.
    pub decision: Decision,
    /// Why the clocks asked for were not set, where that failed; the governor goes on and sees it in readbacks.
    pub refused: Option<ControlError>,
    /// A look at what alerts watch, once a [`WINDOW`].
    pub watched: Option<Watched>,
}

/// Failed writes in a row after which the governor stops asking and only observes.
const GIVE_UP: u32 = 20;
/// Weight of a cycle in the share of late cycles.
const LATE_WEIGHT: f64 = 0.01;

impl<C: Clocks> Live<C> {
    /// Binds a governor to a board, and asks for its first clocks.
    ///
    /// # Errors
    /// [`ControlError`] when the board refuses the first clocks.
    pub fn new(governor: Governor, sensors: Sensors, mut clocks: Option<C>) -> Result<Self, ControlError> {
        if let Some(clocks) = &mut clocks {
            let start = governor.start();
            clocks.set(start.gpu, Some(start.emc))?;
        }
        let meter = Box::new(Meter::new(WINDOW, sensors.sensor()));
        let watched_at = sensors.now();
        Ok(Self { governor: Box::new(governor), sensors, meter, clocks, failures: 0, late: 0.0, watched_at })
    }

    /// Whether clocks are set, or only observed.
    pub fn controls(&self) -> bool {
        self.clocks.is_some()
    }

    /// The governor.
    pub fn governor(&self) -> &Governor {
        &self.governor
    }

    /// The governor, to change its urgency.
    pub fn governor_mut(&mut self) -> &mut Governor {
        &mut self.governor
    }

    /// The sensors.
    pub fn sensors(&mut self) -> &mut Sensors {
        &mut self.sensors
    }

    /// The last closed energy window, and how long ago it ended. `None` where the board has no module rail, or
    /// no window has closed yet.
    pub fn window(&self) -> Option<(&Report, Micros)> {
        let report = self.meter.latest()?;
        Some((report, self.sensors.now() - report.window.end()))
    }

    /// The meter: energy of single inferences by their sequence number, faults of the sensor.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Gross energy of an inference in the last closed window.
    pub fn energy_per_inference(&self) -> Option<Microjoules> {
        let report = self.meter.latest()?;
        report.per_inference(0, report.window.gross)
    }

    /// Takes in an inference that just ended, and sets clocks where the governor asks for them.
    pub fn cycle(&mut self, latency: Micros) -> LiveDecision {
        let readback = match &mut self.clocks {
            Some(clocks) => {
                let (gpu, emc) = clocks.read();
                let asked = self.governor.asked();
                gpu.map(|gpu| Point { gpu, emc: emc.unwrap_or(asked.emc) })
            }
            None => None,
        };
        let now = self.sensors.now().max(latency);
        let before = self.sensors.latest;
        let rail = self.sensors.module();
        if let Some(reading) = rail.filter(|_| rail != before) {
            self.meter.sample(Sample { at: micros(reading.at), power: reading.power });
        }
        self.meter.inference(0, now, latency);
        let decision = self.governor.observe(&Observation {
            now: governor::Instant::from_micros(now.0),
            latency,
            readback,
            rail,
        });
        self.late += (f64::from(u8::from(decision.late)) - self.late) * LATE_WEIGHT;
        let mut refused = None;
        if let (Some(clocks), Some(point)) = (&mut self.clocks, decision.request) {
            match clocks.set(point.gpu, Some(point.emc)) {
                Ok(()) => self.failures = 0,
                Err(error) => {
                    self.failures += 1;
                    refused = Some(error);
                }
            }
        }
        if self.failures >= GIVE_UP
            && let Some(mut clocks) = self.clocks.take()
        {
            refused = clocks.release().err().or(refused);
        }
        let watched = (now >= self.watched_at + WINDOW).then(|| {
            self.watched_at = now;
            Watched {
                energy_per_inference: self.energy_per_inference(),
                late: self.late,
                temperature: self.sensors.hottest(),
                throttle_events: self.sensors.throttle_events(),
            }
        });
        LiveDecision { decision, refused, watched }
    }

    /// Puts the board back as it was found.
    ///
    /// # Errors
    /// [`ControlError`] when an attribute could not be restored; `pilotlight restore` can try again.
    pub fn close(mut self) -> Result<(), ControlError> {
        self.clocks.take().map_or(Ok(()), |mut clocks| clocks.release())
    }
}

/// A rail sampled on a thread of its own while something else runs.
#[derive(Debug)]
pub struct Recorder {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<Vec<Sample>>,
    sensor: Sensor,
    time: Time,
}

impl Recorder {
    /// Starts sampling a board's module power, `rate` times a second; `None` where it has no such rail.
    pub fn start(tree: &Tree, board: &Board, rate: u32, time: &Time) -> Option<Self> {
        let mut total = TotalSensor::open(tree, board.data.as_ref()?)?;
        total.read().ok()?;
        let period = Duration::from_secs(1) / rate.max(1);
        let sensor = sensor_of(&board.rails, Micros(period.as_micros() as u64));
        let (stop, stopped) = std::sync::mpsc::channel();
        let clock = time.clone();
        let thread = std::thread::Builder::new().name("rails".into()).spawn(move || {
            let mut samples = Vec::new();
            let mut next = Instant::now();
            loop {
                if let Ok(power) = total.read() {
                    samples.push(Sample { at: clock.now(), power });
                }
                // What was missed while the process stood still is a gap, not made up for.
                let now = Instant::now();
                next = (next + period).max(now);
                match stopped.recv_timeout(next - now) {
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                    _ => return samples,
                }
            }
        });
        Some(Self { stop, thread: thread.ok()?, sensor, time: time.clone() })
    }

    /// The time that samples are stamped with.
    pub fn time(&self) -> &Time {
        &self.time
    }

    /// Stops sampling, once the sensor has shown everything up to now.
    pub fn stop(self) -> Recording {
        // Half the averaging time and two periods later the last stretch is known.
        let wait = Micros(self.sensor.averages_over.0 / 2 + 2 * self.sensor.period.0);
        std::thread::sleep(Duration::from_micros(wait.0.min(1_000_000)));
        // The thread may have ended by itself; then there is nobody to tell.
        let _ = self.stop.send(());
        Recording { samples: self.thread.join().unwrap_or_default(), sensor: self.sensor }
    }
}

/// What a [`Recorder`] read.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The samples, in the order of time.
    pub samples: Vec<Sample>,
    /// What the sensor is like.
    pub sensor: Sensor,
}

impl Recording {
    /// Energy between two times; `None` when no sample tells, or less than half of it is covered.
    pub fn between(&self, begin: Micros, end: Micros) -> Option<Window> {
        let length = end - begin;
        let mut meter = Box::new(Meter::new(length, self.sensor));
        // Shifted so that the meter's second window is the one asked for.
        for sample in self.samples.iter().filter(|s| s.at + length > begin) {
            meter.sample(Sample { at: sample.at + length - begin, power: sample.power });
            if let Some(report) = meter.latest().filter(|r| r.window.begin == length) {
                return (report.window.covered.0 * 2 >= length.0).then_some(report.window);
            }
        }
        None
    }
}
