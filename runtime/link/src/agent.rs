//! The thread that turns samples into reports and reports into frames.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pilotlight_units::Micros;
use pilotlight_wire::{
    Alert, Backlog, Closing, Command, DeviceKeys, EncodeError, Energy, Event, Frame, Hello, Histogram,
    MAX_BODY, MAX_FRAME, Message, Occurrence, Operating, PLANS, Plan, Report, Temperature, Trouble,
};
use thiserror::Error;

use crate::boot::{BootError, next_boot};
use crate::journal::{Journal, JournalError};
use crate::outbox::Outbox;
use crate::sender::{Incoming, Sender, SenderConfig, SenderCounts};
use crate::transport::Transport;

/// Samples that wait for the thread: at 100 ms a turn, 80,000 inferences a second.
const SAMPLES: usize = 8192;
/// Events and logs that wait for the thread.
const NOTICES: usize = 256;
/// The longest turn: how late an event may be sent.
const TURN: Micros = Micros::from_millis(100);
/// How much a power loss may cost of the outbox's file.
const SYNC: Micros = Micros::from_secs(1);
/// Who the device is, is said this often.
const HELLO: Micros = Micros::from_secs(600);
/// What a Period command may ask for.
const PERIODS: (Micros, Micros) = (Micros::from_millis(100), Micros::from_secs(3600));

/// One inference, as the inference path knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// From submission to result.
    pub latency: Micros,
    /// True when it was over the latency budget.
    pub missed: bool,
}

/// What a window cost besides time; the agent asks once a window, on its own thread.
pub trait Vitals: Send {
    /// The energy, clocks, temperatures and events of the window that ends now, in which so many inferences ended.
    fn read(&mut self, window: Micros, inferences: u32) -> VitalsReading;
}

/// What [`Vitals`] knows of a window; absent is "not known".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VitalsReading {
    /// The window's energy.
    pub energy: Option<Energy>,
    /// Clocks now.
    pub operating: Option<Operating>,
    /// Temperatures now.
    pub temperature: Option<Temperature>,
    /// Thermal throttling events in the window.
    pub throttled: u32,
    /// Over-current events in the window.
    pub over_current: u32,
}

/// Nothing is known but latency.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Vitals for Unobserved {
    fn read(&mut self, _window: Micros, _inferences: u32) -> VitalsReading {
        VitalsReading::default()
    }
}

/// How an agent works.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The device's keys.
    pub keys: DeviceKeys,
    /// A window's length.
    pub period: Micros,
    /// Folder of the boot counter and the outbox's file.
    pub state: PathBuf,
    /// Keep unacknowledged messages in a file, so that they survive a power loss.
    pub survive_power_loss: bool,
    /// Messages that may wait.
    pub capacity: usize,
    /// How to send.
    pub sender: SenderConfig,
    /// How long [`Agent::stop`] waits for acknowledgements.
    pub linger: Micros,
    /// The device's name for people.
    pub name: String,
    /// The board's name.
    pub board: String,
    /// What energy figures cover.
    pub rail: String,
    /// The plans that are loaded; the first [`PLANS`] are told.
    pub plans: Vec<Plan>,
}

impl AgentConfig {
    /// One-second reports on a two-way link, 4,096 messages in memory and on file.
    pub fn new(keys: DeviceKeys, state: PathBuf) -> Self {
        Self {
            keys,
            period: Micros::from_secs(1),
            state,
            survive_power_loss: true,
            capacity: 4096,
            sender: SenderConfig::default(),
            linger: Micros::from_secs(2),
            name: String::new(),
            board: String::new(),
            rail: String::new(),
            plans: Vec::new(),
        }
    }
}

/// An agent that cannot start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AgentError {
    /// No boot number.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The outbox's file cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Name, board and rail are too long for a frame.
    #[error("the device's name, board and rail do not fit into a frame: {0}")]
    Hello(#[from] EncodeError),
    /// The system gave no thread.
    #[error("no thread for telemetry: {0}")]
    Thread(std::io::Error),
}

/// What an agent has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentStatus {
    /// The boot number that its messages carry.
    pub boot: u32,
    /// What the sender counted.
    pub counts: SenderCounts,
    /// Messages that wait.
    pub waiting: usize,
    /// Times that the link refused.
    pub link_errors: u64,
    /// Samples and notices that found their queue full.
    pub unsampled: u32,
    /// Times that the outbox's file refused.
    pub journal_errors: u32,
}

/// The inference path's end: pushes samples and never waits.
#[derive(Debug)]
pub struct Publisher {
    samples: rtrb::Producer<Sample>,
    unsampled: Arc<AtomicU32>,
}

impl Publisher {
    /// Hands a sample over; wait-free, no system call. A sample that finds the queue full is counted.
    pub fn record(&mut self, sample: Sample) {
        if self.samples.push(sample).is_err() {
            self.unsampled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Hands events and logs to the agent, from any thread but the inference path.
#[derive(Clone, Debug)]
pub struct Notifier {
    notices: SyncSender<(pilotlight_wire::Kind, Vec<u8>)>,
    unsampled: Arc<AtomicU32>,
    start: Instant,
}

impl Notifier {
    /// Time on the clock that messages are stamped with.
    pub fn now(&self) -> Micros {
        micros(self.start.elapsed())
    }

    /// Hands a message over without waiting; one that finds the queue full is counted.
    ///
    /// # Errors
    /// The message does not fit into a frame.
    pub fn notify(&self, message: &Message) -> Result<(), EncodeError> {
        let mut body = [0; MAX_BODY];
        let length = message.encode(&mut body)?;
        let notice = (message.kind(), body[..length].to_vec());
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.notices.try_send(notice) {
            self.unsampled.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The telemetry thread's handle; dropping it stops the thread as [`Agent::stop`] does.
#[derive(Debug)]
pub struct Agent {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    status: Arc<Mutex<AgentStatus>>,
}

impl Agent {
    /// Starts the thread. `on_command` hears commands other than Period and Threshold, which the agent carries out.
    ///
    /// # Errors
    /// No boot number, no usable outbox file, or texts that do not fit into a Hello.
    pub fn start(
        config: AgentConfig,
        transport: Box<dyn Transport>,
        vitals: Box<dyn Vitals>,
        on_command: Box<dyn FnMut(Command) + Send>,
    ) -> Result<(Self, Publisher, Notifier), AgentError> {
        let boot = next_boot(&config.state)?;
        let (outbox, dropped) = if config.survive_power_loss {
            let (journal, records) = Journal::open(&config.state.join("outbox"))?;
            if journal.torn_bytes() > 0 {
                log::warn!("outbox file: {} bytes of a torn write were cut off", journal.torn_bytes());
            }
            Outbox::with_journal(config.capacity, journal, records)
        } else {
            (Outbox::new(config.capacity), 0)
        };
        let sender = Sender::new(&config.keys, boot, outbox, config.sender.clone());
        let (producer, consumer) = rtrb::RingBuffer::new(SAMPLES);
        let (notices, notified) = sync_channel(NOTICES);
        let unsampled = Arc::new(AtomicU32::new(0));
        let status = Arc::new(Mutex::new(AgentStatus { boot, ..AgentStatus::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let start = Instant::now();
        let mut worker = Worker {
            period: clamp(config.period),
            config,
            sender,
            dropped_at_start: dropped,
            transport,
            vitals,
            on_command,
            samples: consumer,
            notices: notified,
            unsampled: unsampled.clone(),
            start,
            histogram: Histogram::new(),
            misses: 0,
            limits: Vec::new(),
            window_start: Micros::ZERO,
            hello_due: Micros::ZERO,
            sync_due: SYNC,
            link_errors: 0,
            status: status.clone(),
        };
        worker.hello(Micros::ZERO)?;
        let flag = stop.clone();
        let thread = std::thread::Builder::new()
            .name("telemetry".into())
            .spawn(move || worker.run(&flag))
            .map_err(AgentError::Thread)?;
        let publisher = Publisher { samples: producer, unsampled: unsampled.clone() };
        Ok((Self { thread: Some(thread), stop, status }, publisher, Notifier { notices, unsampled, start }))
    }

    /// What was done so far, at most one turn old.
    pub fn status(&self) -> AgentStatus {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the last report and the closing message, waits for acknowledgements as configured, and ends the thread.
    pub fn stop(mut self) -> AgentStatus {
        self.end();
        self.status()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the telemetry thread had panicked; its last messages were not sent");
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

struct Worker {
    config: AgentConfig,
    period: Micros,
    sender: Sender,
    dropped_at_start: u32,
    transport: Box<dyn Transport>,
    vitals: Box<dyn Vitals>,
    on_command: Box<dyn FnMut(Command) + Send>,
    samples: rtrb::Consumer<Sample>,
    notices: Receiver<(pilotlight_wire::Kind, Vec<u8>)>,
    unsampled: Arc<AtomicU32>,
    start: Instant,
    histogram: Histogram,
    misses: u32,
    /// Limits that a collector has set, and whether they are passed now.
    limits: Vec<(Alert, i64, bool)>,
    window_start: Micros,
    hello_due: Micros,
    sync_due: Micros,
    link_errors: u64,
    status: Arc<Mutex<AgentStatus>>,
}

impl Worker {
    fn run(&mut self, stop: &AtomicBool) {
        // ORDER: pairs with the release in `end`.
        while !stop.load(Ordering::Acquire) {
            self.turn(TURN);
        }
        self.drain();
        let now = self.now();
        if self.histogram.count() > 0 {
            self.report(now);
        }
        let counts = self.sender.counts();
        self.push(&Message::Closing(Closing {
            at: now,
            dropped: counts.dropped,
            dropped_earlier: self.dropped_earlier(),
            unsampled: self.unsampled.load(Ordering::Relaxed),
        }));
        let until = now + self.config.linger;
        while !self.sender.outbox().is_empty() && self.now() < until {
            self.transmit(Micros::from_millis(20));
        }
        self.sender.outbox().sync();
        self.publish_status();
    }

    fn turn(&mut self, longest: Micros) {
        self.drain();
        let now = self.now();
        if now >= self.window_start + self.period {
            self.report(now);
        }
        if now >= self.hello_due
            && let Err(error) = self.hello(now)
        {
            log::warn!("hello: {error}");
        }
        if now >= self.sync_due {
            self.sender.outbox().sync();
            self.sync_due = now + SYNC;
        }
        self.publish_status();
        let report_due = self.window_start + self.period - now;
        self.transmit(longest.min(report_due));
    }

    /// Sends what is due and listens until something may be due again, `longest` at most.
    fn transmit(&mut self, longest: Micros) {
        let mut frame = [0; MAX_FRAME];
        let now = self.now();
        while let Ok(Some(length)) = self.sender.next_frame(now.0, &mut frame) {
            if let Err(error) = self.transport.send(&frame[..length]) {
                self.link_error(&error);
            }
        }
        let wait = self.sender.wait(self.now().0).map_or(longest.0, |wait| wait.min(longest.0));
        let wait = Duration::from_micros(wait.max(1));
        let mut bytes = [0; 1500];
        match self.transport.receive(&mut bytes, wait) {
            Ok(None) => {}
            Ok(Some(length)) => self.take(&bytes[..length]),
            Err(error) => {
                self.link_error(&error);
                std::thread::sleep(wait.min(Duration::from_millis(20)));
            }
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while let Ok((frame, rest)) = Frame::parse(bytes) {
            bytes = rest;
            match self.sender.receive(frame, self.now().0) {
                Ok(Incoming::Command(command)) => self.command(command),
                Ok(Incoming::Noted) => {}
                Err(error) => log::debug!("frame from the collector: {error}"),
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Period(period) => self.period = clamp(period),
            Command::Threshold { alert, limit } => {
                self.limits.retain(|(known, ..)| *known != alert);
                // There are 256 alerts, so this list is bounded.
                self.limits.push((alert, limit, false));
            }
            other => (self.on_command)(other),
        }
    }

    fn drain(&mut self) {
        while let Ok(sample) = self.samples.pop() {
            self.histogram.record(sample.latency);
            self.misses = self.misses.saturating_add(u32::from(sample.missed));
        }
        while let Ok((kind, body)) = self.notices.try_recv() {
            if let Ok(message) = Message::decode(kind, &body) {
                self.push(&message);
            }
        }
    }

    fn report(&mut self, now: Micros) {
        let window = now - self.window_start;
        let vitals = self.vitals.read(window, self.histogram.count());
        let counts = self.sender.counts();
        let unsampled = self.unsampled.load(Ordering::Relaxed);
        let waiting = self.sender.outbox().len() as u32;
        let lost = counts.dropped > 0 || self.dropped_earlier() > 0 || unsampled > 0;
        let report = Report {
            end: now,
            window,
            count: self.histogram.count(),
            latency: self.histogram.latency(),
            energy: vitals.energy,
            operating: vitals.operating,
            temperature: vitals.temperature,
            trouble: Trouble {
                misses: self.misses,
                throttled: vitals.throttled,
                over_current: vitals.over_current,
            },
            // A message or two in flight is no backlog.
            backlog: if waiting > 2 || lost {
                Backlog {
                    waiting,
                    dropped: counts.dropped,
                    dropped_earlier: self.dropped_earlier(),
                    unsampled,
                }
            } else {
                Backlog::default()
            },
        };
        self.push(&Message::Report(report));
        self.alerts(&report, waiting);
        self.histogram.clear();
        self.misses = 0;
        self.window_start = now;
    }

    fn alerts(&mut self, report: &Report, waiting: u32) {
        let mut limits = std::mem::take(&mut self.limits);
        for (alert, limit, passed) in &mut limits {
            let value = match *alert {
                Alert::LATENCY => report.latency.map(|latency| latency.p99.micros().0 as i64),
                Alert::ENERGY => report
                    .energy
                    .and_then(|energy| energy.gross.0.checked_div(report.count.into()))
                    .map(|each| each as i64),
                Alert::TEMPERATURE => report.temperature.and_then(|heat| {
                    let hottest = heat.gpu.degrees().max(heat.module.degrees())?;
                    Some(i64::from(hottest) * 1000)
                }),
                Alert::BACKLOG => Some(waiting.into()),
                _ => None,
            };
            let Some(value) = value else { continue };
            let over = value > *limit;
            if over && !*passed {
                let what = Occurrence::Alert { alert: *alert, value, limit: *limit };
                self.push(&Message::Event(Event { at: report.end, what }));
            }
            *passed = over;
        }
        self.limits = limits;
    }

    fn hello(&mut self, now: Micros) -> Result<(), EncodeError> {
        self.hello_due = now + HELLO;
        let hello = Hello {
            schema: Hello::SCHEMA,
            name: &self.config.name,
            board: &self.config.board,
            firmware: env!("CARGO_PKG_VERSION"),
            rail: &self.config.rail,
            plans: self.config.plans.iter().take(PLANS).copied().collect(),
        };
        self.sender.push(&Message::Hello(hello)).map(drop)
    }

    fn push(&mut self, message: &Message) {
        if let Err(error) = self.sender.push(message) {
            log::warn!("{}: {error}", message.kind().name());
        }
    }

    fn link_error(&mut self, error: &crate::TransportError) {
        if self.link_errors == 0 {
            log::warn!("{error}");
        }
        self.link_errors += 1;
    }

    fn dropped_earlier(&self) -> u32 {
        self.sender.counts().dropped_earlier.saturating_add(self.dropped_at_start)
    }

    fn now(&self) -> Micros {
        micros(self.start.elapsed())
    }

    fn publish_status(&mut self) {
        let status = AgentStatus {
            boot: self.status.lock().unwrap_or_else(PoisonError::into_inner).boot,
            counts: self.sender.counts(),
            waiting: self.sender.outbox().len(),
            link_errors: self.link_errors,
            unsampled: self.unsampled.load(Ordering::Relaxed),
            journal_errors: self.sender.outbox().journal_errors(),
        };
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

fn clamp(period: Micros) -> Micros {
    period.clamp(PERIODS.0, PERIODS.1)
}

fn micros(duration: Duration) -> Micros {
    Micros(duration.as_micros() as u64)
}
