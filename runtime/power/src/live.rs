//! The governor on a board: reads rails and clocks from a tree, asks a [`Clocks`] for clocks, or only observes.
//!
//! Cycles come from whoever runs the inferences; this module keeps time and hands on.

use std::time::{Duration, Instant};

use pilotlight_boards::control::{Clocks, ControlError};
use pilotlight_boards::thermal::{self, OverCurrent};
use pilotlight_boards::{Board, Tree, rails};
use pilotlight_units::{Micros, MilliCelsius, Milliwatts};

use crate::governor::{Decision, Governor, Observation, Point, RailReading};

/// Time between two readings of the rails.
pub const RAIL_EVERY: Duration = Duration::from_millis(100);

/// Rails and temperatures of a board, read on demand.
#[derive(Clone, Debug)]
pub struct Sensors {
    tree: Tree,
    board: Board,
    began: Instant,
    read_at: Option<Instant>,
    latest: Option<RailReading>,
    over_current: Option<OverCurrent>,
}

impl Sensors {
    /// The sensors of a tree; time counts from now.
    pub fn new(tree: &Tree) -> Self {
        let board = Board::discover(tree);
        let over_current = board.over_current;
        Self { tree: tree.clone(), board, began: Instant::now(), read_at: None, latest: None, over_current }
    }

    /// The board as it was found.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Time since the sensors were made.
    pub fn now(&self) -> Micros {
        Micros(self.began.elapsed().as_micros() as u64)
    }

    /// Every rail that answers now.
    pub fn readings(&self) -> Vec<(String, Milliwatts)> {
        let inas = self.board.rails.iter().filter(|r| r.channel > 0);
        inas.filter_map(|r| Some((r.label.clone(), r.power(&self.tree).ok()?))).collect()
    }

    /// The module's power: read at most every [`RAIL_EVERY`], the last reading between. `None` where the board
    /// has no such rail or it stopped answering.
    pub fn module(&mut self) -> Option<RailReading> {
        if self.read_at.is_none_or(|at| at.elapsed() >= RAIL_EVERY) {
            self.read_at = Some(Instant::now());
            let data = self.board.data.as_ref()?;
            if let Some(total) = rails::total(data, &self.readings()) {
                self.latest = Some(RailReading { at: self.now(), power: total.power });
            }
        }
        self.latest
    }

    /// The hottest zone.
    pub fn hottest(&self) -> Option<MilliCelsius> {
        thermal::hottest(&thermal::zones(&self.tree))
    }

    /// Over-current events since the last call.
    pub fn throttle_events(&mut self) -> u64 {
        let now = OverCurrent::read(&self.tree);
        let events = now.zip(self.over_current).map(|(now, then)| now.since(then));
        self.over_current = now;
        events.map_or(0, |e| e.under_voltage + e.average + e.instantaneous)
    }
}

/// A governor bound to a board.
pub struct Live<C: Clocks> {
    governor: Box<Governor>,
    sensors: Sensors,
    /// `None`: without rights it observes and says what it would ask for.
    clocks: Option<C>,
    failures: u32,
}

/// What a live cycle came to.
#[derive(Debug)]
pub struct LiveDecision {
    /// The governor's decision.
    pub decision: Decision,
    /// Why the clocks asked for were not set, where that failed; the governor goes on and sees it in readbacks.
    pub refused: Option<ControlError>,
}

/// Failed writes in a row after which the governor stops asking and only observes.
const GIVE_UP: u32 = 20;

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
        Ok(Self { governor: Box::new(governor), sensors, clocks, failures: 0 })
    }

    /// Whether clocks are set, or only observed.
    pub fn controls(&self) -> bool {
        self.clocks.is_some()
    }

    /// The governor.
    pub fn governor(&self) -> &Governor {
        &self.governor
    }

    /// The sensors.
    pub fn sensors(&mut self) -> &mut Sensors {
        &mut self.sensors
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
        let seen = Observation { now, latency, readback, rail: self.sensors.module() };
        let decision = self.governor.observe(&seen);
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
        LiveDecision { decision, refused }
    }

    /// Puts the board back as it was found.
    ///
    /// # Errors
    /// [`ControlError`] when an attribute could not be restored; `pilotlight restore` can try again.
    pub fn close(mut self) -> Result<(), ControlError> {
        self.clocks.take().map_or(Ok(()), |mut clocks| clocks.release())
    }
}
