//! The rail, the thread that reads it, and the handle that sessions are opened with.

use super::books::{Books, shown};
use super::place::Place;
use super::{Basis, Condition, Energy, Faults, NotMeasured};
use pilotlight_boards::Tree;
use pilotlight_device::Device;
use pilotlight_power::Point;
use pilotlight_power::module::{ModulePower, NoPower};
use pilotlight_units::{Microjoules, Micros, Milliwatts};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How a meter reads the rail.
///
/// ```
/// use pilotlight::energy::MeterOptions;
/// let options = MeterOptions::default().rate(100).window(std::time::Duration::from_secs(1));
/// ```
#[derive(Clone, Debug)]
pub struct MeterOptions {
    root: PathBuf,
    rate: u32,
    window: Duration,
}

impl Default for MeterOptions {
    fn default() -> Self {
        Self { root: "/".into(), rate: 100, window: Duration::from_secs(1) }
    }
}

impl MeterOptions {
    /// Root of the file tree whose sensors are read; `/` unless set. What another tree shows is
    /// [`Basis::Modelled`].
    #[must_use]
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }

    /// Samples a second, 10 to 1000; 100 unless set.
    #[must_use]
    pub fn rate(mut self, rate: u32) -> Self {
        self.rate = rate;
        self
    }

    /// Length of a window, 100 ms to 60 s, and ten samples at least; a second unless set.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }
}

/// Why a meter could not be opened. A machine that shows no power is none: [`Meter::module`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeterError {
    /// A setting is out of range.
    #[error("meter option {option} is {found}; {allowed}")]
    Option {
        /// Which option.
        option: &'static str,
        /// Its value.
        found: String,
        /// The values that it may have.
        allowed: &'static str,
    },
    /// The system refused a thread.
    #[error("the meter's thread cannot be started: {0}; allow the process more threads")]
    Thread(#[from] std::io::Error),
}

/// Why a baseline was not learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LearnError {
    /// There is nothing to read.
    #[error(transparent)]
    NotMeasured(#[from] NotMeasured),
    /// The GPU's clock cannot be read, and a baseline belongs to clocks.
    #[error("the GPU's clock cannot be read, and a baseline belongs to clocks")]
    NoClocks,
    /// In no window was it undisturbed.
    #[error(
        "none of {windows} windows was undisturbed: a session worked, clocks moved, or samples were missing; \
         hold the clocks and let sessions rest"
    )]
    Disturbed {
        /// Windows that were waited for.
        windows: u32,
    },
}

/// What a meter reads, and the whole rail's last window.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Module {
    /// The rails that are added up.
    pub rails: Vec<String>,
    /// What the figures rest on.
    pub basis: Basis,
    /// Gross energy and its standard deviation in the last window that closed, and how long that has been over.
    pub window: Option<(Microjoules, Microjoules, Duration)>,
    /// Samples that told nothing.
    pub faults: Faults,
}

/// Windows that [`Meter::learn`] wants, and after how many it gives up.
const LEARN_WINDOWS: u64 = 2;
const LEARN_PATIENCE: u32 = 10;

/// Reads the power of the module, and tells sessions what their inferences cost.
///
/// Open one for the process and give it to every session ([`Options::meter`](crate::Options::meter)): energy is
/// divided among the sessions of one meter. Clones are handles to the same one. It keeps one thread, which ends with
/// [`close`](Self::close) or with the last handle and session; on a machine without readable power it keeps none.
///
/// ```
/// # fn demo(plan: &pilotlight::Plan) -> Result<(), Box<dyn std::error::Error>> {
/// use pilotlight::energy::{Energy, Meter, MeterOptions};
/// use pilotlight::{Options, Session};
/// let meter = Meter::open(&MeterOptions::default())?;
/// let session = Session::open(plan, &Options::default().meter(&meter))?;
/// let output = session.lend()?.submit()?.wait()?;
/// match output.report().energy {
///     Energy::Window(w) => println!("{} an inference, {:?} ago", w.gross, w.age),
///     Energy::NotMeasured(why) => println!("not measured: {why}"),
///     _ => {}
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Meter(Arc<Handle>);

/// What all handles share; the last of them ends the thread.
struct Handle {
    core: Option<Arc<Core>>,
    /// Why there is none.
    missing: String,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the handles and the thread share.
struct Core {
    books: Mutex<Books>,
    began: Instant,
    basis: Basis,
    rails: Vec<String>,
    length: Micros,
    stop: AtomicBool,
    /// The clocks when last looked at.
    point: Mutex<Option<Point>>,
    /// Held while somebody learns: the board is in one condition at a time.
    learning: Mutex<()>,
}

impl Core {
    fn time(&self, at: Instant) -> Micros {
        Micros(at.saturating_duration_since(self.began).as_micros() as u64)
    }

    fn now(&self) -> Micros {
        self.time(Instant::now())
    }

    /// A panic of another holder does not spoil the books: no holder runs foreign code but a device's `lit`, between
    /// two changes.
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn point(&self) -> MutexGuard<'_, Option<Point>> {
        self.point.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: reads the rail until it is told to stop.
    fn sample(&self, mut power: ModulePower, period: Duration) {
        let (mut next, mut window) = (Instant::now(), None);
        while !self.stop.load(Ordering::Acquire) {
            let reading = power.read().ok();
            let now = self.now();
            // Clocks are looked at once a window: reading them takes longer than reading the rail.
            let number = now.0 / self.length.0;
            if window.replace(number) != Some(number) {
                *self.point() = power.point();
            }
            let point = *self.point();
            self.books().look(now, reading, point);
            // What was missed while the process stood still is a gap, not made up for.
            let now = Instant::now();
            next = (next + period).max(now);
            std::thread::park_timeout(next - now);
        }
        self.books().tell(Some(NotMeasured::Closed));
    }
}

impl Meter {
    /// A meter of the power that a file tree shows.
    ///
    /// # Errors
    /// [`MeterError`] for an option out of range, or when the system refuses a thread.
    pub fn open(options: &MeterOptions) -> Result<Self, MeterError> {
        let refuse = |option, found: String, allowed| Err(MeterError::Option { option, found, allowed });
        if !(10..=1_000).contains(&options.rate) {
            return refuse("rate", options.rate.to_string(), "use 10 to 1000 samples a second");
        }
        let least = (Duration::from_secs(10) / options.rate).max(Duration::from_millis(100));
        if !(least..=Duration::from_secs(60)).contains(&options.window) {
            let allowed = "use 100 ms to 60 s, and the time of ten samples at least";
            return refuse("window", format!("{:?}", options.window), allowed);
        }
        let period = Duration::from_secs(1) / options.rate;
        let power = match ModulePower::open(&Tree::at(&options.root), period) {
            Ok(power) => power,
            Err(why) => return Ok(Self::without(&why)),
        };
        let length = Micros(options.window.as_micros() as u64);
        let core = Arc::new(Core {
            books: Mutex::new(Books::new(length, power.sensor(), power.basis())),
            began: Instant::now(),
            basis: power.basis(),
            rails: power.rails().to_vec(),
            length,
            stop: AtomicBool::new(false),
            point: Mutex::new(None),
            learning: Mutex::new(()),
        });
        let shared = Arc::clone(&core);
        let thread = std::thread::Builder::new().name("pilotlight-rail".into());
        let thread = thread.spawn(move || shared.sample(power, period))?;
        log::debug!("energy is read from {}", core.rails.join(" + "));
        Ok(Self(Arc::new(Handle {
            core: Some(core),
            missing: String::new(),
            thread: Mutex::new(Some(thread)),
        })))
    }

    fn without(why: &NoPower) -> Self {
        log::info!("energy is not measured: {why}");
        let handle = Handle { core: None, missing: why.to_string(), thread: Mutex::new(None) };
        Self(Arc::new(handle))
    }

    /// What it reads.
    ///
    /// # Errors
    /// Why it reads nothing, for people.
    pub fn module(&self) -> Result<Module, &str> {
        let core = self.0.core.as_deref().ok_or(self.0.missing.as_str())?;
        let (books, now) = (core.books(), core.now());
        let window = books.latest().map(|r| {
            let age = Duration::from_micros((now - r.window.end()).0);
            (r.window.gross, r.window.deviation, age)
        });
        Ok(Module { rails: core.rails.clone(), basis: books.basis(), window, faults: books.faults() })
    }

    /// Power in a condition at the clocks now in force, if it was learned. Windows in which no session works teach
    /// it by themselves: [`Condition::Lit`] while a session's device keeps a kernel resident, else
    /// [`Condition::Parked`].
    pub fn baseline(&self, condition: Condition) -> Option<Milliwatts> {
        let core = self.0.core.as_deref()?;
        let point = (*core.point())?;
        core.books().baseline(point, condition)
    }

    /// Learns a baseline at the clocks now in force: calls `work` again and again for two whole windows at least.
    ///
    /// The caller sees to it that the board is in that condition: [`Condition::Busy`] is work back to back that is
    /// not a metered session's. For the other two `work` sleeps.
    ///
    /// # Errors
    /// [`LearnError`] when there is no rail, or no window was undisturbed.
    pub fn learn(&self, condition: Condition, mut work: impl FnMut()) -> Result<Milliwatts, LearnError> {
        let core = self.0.core.as_deref().ok_or(NotMeasured::NoPower)?;
        let _alone = core.learning.lock().unwrap_or_else(PoisonError::into_inner);
        core.books().say(Some(condition));
        let (taught, begin) = (core.books().taught, core.now());
        let patience = Micros(core.length.0 * u64::from(LEARN_PATIENCE));
        let learned = loop {
            if core.stop.load(Ordering::Acquire) {
                break Err(NotMeasured::Closed.into());
            }
            work();
            if core.books().taught >= taught + LEARN_WINDOWS {
                break Ok(());
            }
            if core.now() - begin > patience {
                let clocks = core.point().is_some();
                let disturbed = LearnError::Disturbed { windows: LEARN_PATIENCE };
                break Err(if clocks { disturbed } else { LearnError::NoClocks });
            }
        };
        core.books().say(None);
        learned?;
        self.baseline(condition).ok_or(LearnError::Disturbed { windows: LEARN_PATIENCE })
    }

    /// Stops reading and ends the thread; returns when it has. Sessions go on, without energies
    /// ([`NotMeasured::Closed`]). Closing twice does nothing.
    pub fn close(&self) {
        self.0.close();
    }

    /// A session begins to be metered.
    pub(crate) fn attach(&self, device: &Arc<dyn Device>) -> Metering {
        let Some(core) = self.0.core.as_ref() else { return Metering::Not(NotMeasured::NoPower) };
        let device: Weak<dyn Device> = Arc::downgrade(device);
        let lit = move || device.upgrade().is_some_and(|device| device.lit());
        let (place, told) = core.books().admit(Box::new(lit));
        Metering::By(Attached { _meter: self.clone(), core: Arc::clone(core), place, told })
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.core {
            Some(core) => write!(f, "Meter({})", core.rails.join(" + ")),
            None => write!(f, "Meter(not measured: {})", self.0.missing),
        }
    }
}

impl Handle {
    fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(core), Some(thread)) = (&self.core, thread) {
            core.stop.store(true, Ordering::Release);
            thread.thread().unpark();
            // A thread that panicked reads nothing more, either.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// How a session comes by energies.
pub(crate) enum Metering {
    Not(NotMeasured),
    By(Attached),
}

/// A session's tie to its meter.
pub(crate) struct Attached {
    /// Keeps the thread.
    _meter: Meter,
    core: Arc<Core>,
    place: Arc<Place>,
    /// Which session of the meter it is, and how many inferences of earlier ones its place has seen.
    told: Option<(usize, u64)>,
}

impl Metering {
    /// An inference begins.
    pub(crate) fn begin(&self) {
        if let Self::By(attached) = self {
            attached.place.begin();
        }
    }

    /// An inference ended now, after so long on the device (`None`: it failed). What its session knows of energy.
    pub(crate) fn end(&self, now: Instant, busy: Option<Duration>) -> Energy {
        match self {
            Self::Not(why) => Energy::NotMeasured(*why),
            Self::By(Attached { core, place, told, .. }) => {
                place.end(busy);
                match told {
                    Some(_) => shown(place, core.time(now), core.basis),
                    None => Energy::NotMeasured(NotMeasured::Crowded),
                }
            }
        }
    }

    /// The energy of inference `number` of `ended`. Takes a lock: not for an inference's path.
    pub(crate) fn energy(&self, number: u64, ended: u64) -> Energy {
        let not = Energy::NotMeasured;
        match self {
            _ if number == 0 || number > ended => not(NotMeasured::Unknown),
            Self::Not(why) => not(*why),
            Self::By(Attached { core, told: Some(told), .. }) => {
                let now = core.now();
                core.books().energy(*told, number, now)
            }
            Self::By(_) => not(NotMeasured::Crowded),
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some((index, _)) = self.told {
            let now = self.core.now();
            self.core.books().dismiss(index, now);
        }
    }
}
