//! What a board's sensors say of a report's window: energy, clocks, temperatures, over-current events.

use pilotlight_boards::emc::Emc;
use pilotlight_boards::rails::{self, Basis};
use pilotlight_boards::{Board, Tree, thermal};
use pilotlight_link::{Vitals, VitalsReading};
use pilotlight_power::live::{Sensors, Time};
use pilotlight_power::meter::{Meter, Sample};
use pilotlight_power::module::sensor_of;
use pilotlight_units::{Hertz, Microjoules, Micros, MilliCelsius, Milliwatts};
use pilotlight_wire::{Band, Celsius, Energy, Operating, Source, Spread, Temperature};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The rail is read this often, on a thread of its own.
const SAMPLE: Duration = Duration::from_millis(20);
/// Energy is gathered in pieces of this length, which a report adds up.
const PIECE: Micros = Micros::from_millis(200);

/// Energy of the pieces that closed since the last report.
#[derive(Clone, Copy, Debug, Default)]
struct Gathered {
    covered: Micros,
    gross: Microjoules,
    /// Variance, microjoules squared.
    variance: f64,
}

/// A board's sensors; what the board does not have is absent from its reports.
pub struct BoardVitals {
    tree: Tree,
    sensors: Sensors,
    source: Source,
    gathered: Arc<Mutex<Gathered>>,
    /// Mean power of the last window without an inference.
    idle: Option<Milliwatts>,
    stop: Arc<AtomicBool>,
    sampler: Option<JoinHandle<()>>,
}

impl BoardVitals {
    /// The sensors of the tree at `root`. Only those of `/` measure: what a made-up tree says is called modelled.
    pub fn start(root: &Path) -> std::io::Result<Self> {
        let tree = Tree::at(root);
        let sensors = Sensors::new(&tree, Time::monotonic());
        let board = sensors.board().clone();
        let basis = Basis::of(&tree, board.data.as_ref());
        let (gathered, stop) = (Arc::<Mutex<Gathered>>::default(), Arc::new(AtomicBool::new(false)));
        let sampler = match board.data {
            None => None,
            Some(_) => {
                let (tree, gathered, stop) = (tree.clone(), gathered.clone(), stop.clone());
                let sample = move || sample(&tree, &board, &gathered, &stop);
                Some(std::thread::Builder::new().name("power".into()).spawn(sample)?)
            }
        };
        let source = if basis == Basis::Measured { Source::Measured } else { Source::Modelled };
        Ok(Self { tree, sensors, source, gathered, idle: None, stop, sampler })
    }

    /// The board's name.
    pub fn board(&self) -> Option<&str> {
        Some(&self.sensors.board().data.as_ref()?.name)
    }

    /// The rails that the energy covers.
    pub fn rails(&self) -> String {
        self.sensors.board().data.as_ref().map_or(String::new(), |data| data.total.rails.join("+"))
    }

    fn energy(&mut self, window: Micros, inferences: u32) -> Option<Energy> {
        let Gathered { covered, gross, variance } =
            std::mem::take(&mut *self.gathered.lock().unwrap_or_else(PoisonError::into_inner));
        if covered.0 == 0 {
            return None;
        }
        // Pieces and windows do not begin together: the pieces' mean power is taken for the window's.
        let scale = window.as_f64() / covered.as_f64();
        let (gross, deviation) = (gross.as_f64() * scale, variance.sqrt() * scale);
        if inferences == 0 && window.0 > 0 {
            self.idle = Some(Milliwatts((gross * 1e3 / window.as_f64()) as u32));
        }
        // Without a baseline net energy is anything from nothing to all of it, and its spread says so.
        let (net, net_deviation) = match self.idle {
            Some(idle) => {
                ((gross - idle.over(window).as_f64()).max(0.0), deviation * std::f64::consts::SQRT_2)
            }
            None => (gross, gross.max(deviation)),
        };
        let number = |value: f64| Microjoules(value as u64);
        Some(Energy {
            source: self.source,
            gross: number(gross),
            net: number(net),
            gross_spread: Spread::of(number(deviation)),
            net_spread: Spread::of(number(net_deviation)),
        })
    }
}

impl Vitals for BoardVitals {
    fn read(&mut self, window: Micros, inferences: u32) -> VitalsReading {
        let gpu = self.sensors.board().gpu.as_ref().and_then(|gpu| gpu.state(&self.tree).ok());
        let memory = Emc::read(&self.tree, &mut Vec::new()).now;
        let band = |clock: Option<Hertz>| Band::of(clock.unwrap_or(Hertz(0)));
        let operating = (gpu.is_some() || memory.is_some()).then(|| Operating {
            gpu: band(gpu.map(|state| state.now)),
            memory: band(memory),
            cpu: band(None),
        });
        let zones = thermal::zones(&self.tree);
        let celsius = |heat: Option<MilliCelsius>| heat.map_or(Celsius::UNKNOWN, Celsius::of);
        let of_gpu = zones.iter().find(|zone| zone.name.to_ascii_lowercase().starts_with("gpu"));
        let temperature = thermal::hottest(&zones).map(|hottest| Temperature {
            gpu: celsius(of_gpu.and_then(|zone| zone.temperature)),
            module: celsius(Some(hottest)),
        });
        VitalsReading {
            energy: self.energy(window, inferences),
            operating,
            temperature,
            throttled: 0,
            over_current: u32::try_from(self.sensors.throttle_events()).unwrap_or(u32::MAX),
        }
    }
}

impl Drop for BoardVitals {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sampler) = self.sampler.take() {
            // A sampler that panicked has nothing more to say.
            let _ = sampler.join();
        }
    }
}

fn sample(tree: &Tree, board: &Board, gathered: &Mutex<Gathered>, stop: &AtomicBool) {
    let Some(data) = &board.data else { return };
    let sensor = sensor_of(&board.rails, Micros(SAMPLE.as_micros() as u64));
    let mut meter = Meter::new(PIECE, sensor);
    let (began, mut taken) = (Instant::now(), None);
    while !stop.load(Ordering::Relaxed) {
        let readings: Vec<_> = board
            .rails
            .iter()
            .filter(|rail| rail.channel > 0)
            .filter_map(|rail| Some((rail.label.clone(), rail.power(tree).ok()?)))
            .collect();
        if let Some(total) = rails::total(tree, data, &readings) {
            meter.sample(Sample { at: Micros(began.elapsed().as_micros() as u64), power: total.power });
        }
        if let Some(report) = meter.latest().filter(|report| taken != Some(report.window.begin)) {
            taken = Some(report.window.begin);
            let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
            gathered.covered += report.window.covered;
            gathered.gross = Microjoules(gathered.gross.0.saturating_add(report.window.gross.0));
            gathered.variance += report.window.deviation.as_f64().powi(2);
        }
        std::thread::sleep(SAMPLE);
    }
}
