//! The collector: receivers, one storing thread that acknowledges, and the web page.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use pilotlight_units::Micros;
use pilotlight_wire::{Ack, Header, MAX_FRAME, MAX_SERIAL, Message, frame_serial, seal};
use thiserror::Error;

use crate::backend::{Backend, SqliteBackend};
use crate::batch::{Batch, Reply};
use crate::clock::{WallClock, system_micros};
use crate::counters::{Counters, add};
use crate::fleet::{AlertRules, Fleet};
use crate::http::Web;
use crate::keyring::{Keyring, KeyringError};
use crate::receive::{
    Intake, ReceiveError, SharedKeys, SharedPort, Verifier, answer_serial, bind_udp, receive_serial,
    receive_udp,
};
use crate::store::{StoreConfig, StoreError};

/// Batches between receivers and store: with [`Batch`]es of a thousand frames, some tens of megabytes, and enough for
/// the receivers to go on through a slow commit.
const QUEUE: usize = 256;
/// Frames in one commit at most.
const COMMIT: usize = 50_000;
/// Answers that wait for a serial line to take them.
const ANSWERS: usize = 1024;
const CHECKPOINT: Duration = Duration::from_secs(5);
const RETENTION: Duration = Duration::from_secs(60);
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Where frames come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Datagrams to this address.
    Udp(SocketAddr),
    /// A serial port.
    Serial {
        /// The port's path.
        path: String,
        /// Symbols a second.
        baud: u32,
    },
}

/// Where frames go.
pub enum Destination {
    /// Into this database.
    Sqlite {
        /// The file.
        path: PathBuf,
        /// How much is kept.
        config: StoreConfig,
    },
    /// To a JetStream.
    #[cfg(feature = "nats")]
    Nats(crate::nats::Forward),
}

/// How a collector works.
pub struct CollectorConfig {
    /// Where frames come from.
    pub sources: Vec<Source>,
    /// Where they go.
    pub destination: Destination,
    /// The fleet's keys.
    pub keyring: Keyring,
    /// The file that the keys came from: looked at every second, so that rotation needs no restart.
    pub key_file: Option<PathBuf>,
    /// Where the web page, the metrics and the export are served; `None` is nowhere.
    pub web: Option<SocketAddr>,
    /// Metrics for each device: costly for a large fleet.
    pub device_metrics: bool,
    /// When alerts are raised.
    pub alerts: AlertRules,
    /// How long frames wait for others to be committed with.
    pub commit_every: Micros,
}

impl CollectorConfig {
    /// A collector of datagrams into a database, without a web page.
    pub fn new(udp: SocketAddr, database: &Path, keyring: Keyring) -> Self {
        Self {
            sources: vec![Source::Udp(udp)],
            destination: Destination::Sqlite { path: database.to_owned(), config: StoreConfig::default() },
            keyring,
            key_file: None,
            web: None,
            device_metrics: false,
            alerts: AlertRules::default(),
            commit_every: Micros::from_millis(50),
        }
    }
}

/// A collector that cannot start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CollectorError {
    /// A link.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keys.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The web page's address.
    #[error("cannot serve the web page on {address}: {why}")]
    Web {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        why: String,
    },
    /// No thread.
    #[error("no thread for the collector: {0}")]
    Thread(std::io::Error),
    /// The JetStream.
    #[cfg(feature = "nats")]
    #[error(transparent)]
    Nats(#[from] crate::nats::NatsError),
}

/// A running collector; dropping it stops it.
pub struct Collector {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
    fleet: Arc<Mutex<Fleet>>,
    udp: Vec<SocketAddr>,
    web: Option<SocketAddr>,
    batches: SyncSender<Batch>,
    keys: Arc<SharedKeys>,
}

impl Collector {
    /// Opens everything, then starts the threads.
    ///
    /// # Errors
    /// A link, the database or the web address cannot be opened; nothing runs then. A serial port that is not
    /// there is no error: it may come.
    pub fn start(config: CollectorConfig) -> Result<Self, CollectorError> {
        let counters = Arc::new(Counters::default());
        let fleet = Arc::new(Mutex::new(Fleet::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let keys = Arc::new(SharedKeys::new(config.keyring));
        let clock = Arc::new(WallClock::start());
        let (batches, to_store) = sync_channel(QUEUE);
        let mut links = Links::default();
        let mut receivers: Vec<(String, Box<dyn FnOnce() + Send>)> = Vec::new();
        let mut udp = Vec::new();
        for source in &config.sources {
            let intake = Intake {
                verifier: Verifier::shared(keys.clone(), counters.clone()),
                batches: batches.clone(),
                counters: counters.clone(),
                stop: stop.clone(),
                clock: clock.clone(),
            };
            match source {
                Source::Udp(address) => {
                    let socket = bind_udp(*address)?;
                    let wrap = |source| ReceiveError { name: format!("udp://{address}"), source };
                    udp.push(socket.local_addr().map_err(wrap)?);
                    let number = links.udp.len();
                    links.udp.push(socket.try_clone().map_err(wrap)?);
                    let receive = move || receive_udp(&socket, number, intake);
                    receivers.push((format!("udp {address}"), Box::new(receive)));
                }
                Source::Serial { path, baud } => {
                    let port = SharedPort::default();
                    let (answers, to_write) = sync_channel(ANSWERS);
                    links.serial.push(answers);
                    let (number, path, baud) = (links.serial.len() - 1, path.clone(), *baud);
                    let name = format!("serial {path}");
                    let (line, counters, stop) = (port.clone(), counters.clone(), stop.clone());
                    let answer = move || answer_serial(&to_write, &line, &counters, &stop);
                    receivers.push((format!("answers {path}"), Box::new(answer)));
                    let receive = move || receive_serial(&path, baud, number, &port, intake);
                    receivers.push((name, Box::new(receive)));
                }
            }
        }
        let (backend, database): (Box<dyn Backend>, _) = match config.destination {
            Destination::Sqlite { path, config } => {
                let backend = SqliteBackend::open(&path, config)?;
                let mut view = fleet.lock().unwrap_or_else(PoisonError::into_inner);
                for (device, names) in backend.known_devices() {
                    view.names(device, names);
                }
                (Box::new(backend), Some(path))
            }
            #[cfg(feature = "nats")]
            Destination::Nats(forward) => (Box::new(crate::nats::Forwarder::connect(forward)?), None),
        };
        let storing = Storing {
            backend,
            batches: to_store,
            links,
            keys: keys.clone(),
            key_file: config.key_file,
            counters: counters.clone(),
            fleet: fleet.clone(),
            stop: stop.clone(),
            clock,
            commit_every: Duration::from_micros(config.commit_every.0),
        };
        let web = match config.web {
            None => None,
            Some(address) => Some(
                Web::bind(
                    address,
                    database,
                    fleet.clone(),
                    counters.clone(),
                    config.alerts,
                    config.device_metrics,
                )
                .map_err(|why| CollectorError::Web { address, why })?,
            ),
        };
        let web_address = web.as_ref().and_then(Web::address);
        let mut collector = Self {
            threads: Vec::new(),
            stop: stop.clone(),
            counters,
            fleet,
            udp,
            web: web_address,
            batches,
            keys,
        };
        for (name, receive) in receivers {
            collector.spawn(name, receive)?;
        }
        collector.spawn("store".into(), Box::new(move || storing.run()))?;
        if let Some(web) = web {
            collector.spawn("web".into(), Box::new(move || web.run(&stop)))?;
        }
        Ok(collector)
    }

    /// The addresses that datagrams are taken at, in the order of the sources.
    pub fn udp_addresses(&self) -> &[SocketAddr] {
        &self.udp
    }

    /// The web page's address.
    pub fn web_address(&self) -> Option<SocketAddr> {
        self.web
    }

    /// What was counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The fleet as it is now.
    pub fn fleet(&self) -> &Mutex<Fleet> {
        &self.fleet
    }

    /// Hands verified frames to the store, as a receiver does; waits while the store is busy. False once it ended.
    pub fn submit(&self, batch: Batch) -> bool {
        self.batches.send(batch).is_ok()
    }

    /// Where a source of one's own hands its verified frames.
    pub fn batches(&self) -> SyncSender<Batch> {
        self.batches.clone()
    }

    /// A verifier with this collector's keys and counters, for a source of one's own.
    pub fn verifier(&self) -> Verifier {
        Verifier::shared(self.keys.clone(), self.counters.clone())
    }

    /// Stores what has come, writes the checkpoint, and ends all threads.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a thread of the collector had panicked; what it held was not acknowledged");
            }
        }
    }

    fn spawn(&mut self, name: String, run: Box<dyn FnOnce() + Send>) -> Result<(), CollectorError> {
        let thread = std::thread::Builder::new().name(name).spawn(run).map_err(CollectorError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where answers go out.
#[derive(Default)]
struct Links {
    udp: Vec<UdpSocket>,
    serial: Vec<SyncSender<Vec<u8>>>,
}

impl Links {
    fn send(&self, frame: &[u8], to: Reply) -> bool {
        match to {
            Reply::None => true,
            Reply::Udp(number, address) => {
                self.udp.get(number).is_some_and(|socket| socket.send_to(frame, address).is_ok())
            }
            Reply::Serial(number) => {
                let mut line = [0; MAX_SERIAL];
                let Ok(length) = frame_serial(frame, &mut line) else { return false };
                // A line that does not take its answers must not hold up the others: this one's are dropped, and
                // the device asks again.
                let line = line[..length].to_vec();
                self.serial.get(number).is_some_and(|answers| answers.try_send(line).is_ok())
            }
        }
    }
}

struct Storing {
    backend: Box<dyn Backend>,
    batches: Receiver<Batch>,
    links: Links,
    keys: Arc<SharedKeys>,
    key_file: Option<PathBuf>,
    counters: Arc<Counters>,
    fleet: Arc<Mutex<Fleet>>,
    stop: Arc<AtomicBool>,
    clock: Arc<WallClock>,
    commit_every: Duration,
}

impl Storing {
    fn run(mut self) {
        let now = Instant::now();
        let (mut checkpoint, mut retention, mut housekeeping) = (now + CHECKPOINT, now + RETENTION, now);
        let mut key_time = self.key_file.as_deref().and_then(modified);
        loop {
            let stopping = self.stop.load(Ordering::Acquire);
            let gathered = self.gather(stopping);
            let empty = gathered.is_empty();
            if !empty {
                self.commit(gathered);
            }
            let now = Instant::now();
            if now >= housekeeping {
                housekeeping = now + HOUSEKEEPING;
                if self.clock.follow(system_micros()) {
                    add(&self.counters.clock_steps, 1);
                }
                self.reload_keys(&mut key_time);
                self.send_commands();
            }
            if now >= checkpoint {
                checkpoint = now + CHECKPOINT;
                log_error(self.backend.checkpoint());
            }
            if now >= retention {
                retention = now + RETENTION;
                log_error(self.backend.retain(self.clock.now()));
            }
            if stopping && empty {
                break;
            }
        }
        log_error(self.backend.checkpoint());
    }

    /// Waits for a batch, then for more until the commit is due.
    fn gather(&mut self, stopping: bool) -> Vec<Batch> {
        let mut gathered: Vec<Batch> = Vec::new();
        let mut frames = 0;
        let mut until = Instant::now() + if stopping { Duration::from_millis(1) } else { self.commit_every };
        loop {
            let wait = until.saturating_duration_since(Instant::now());
            match self.batches.recv_timeout(wait) {
                Ok(batch) => {
                    if gathered.is_empty() {
                        until = Instant::now() + self.commit_every;
                    }
                    frames += batch.len();
                    gathered.push(batch);
                    if frames >= COMMIT {
                        return gathered;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return gathered,
            }
        }
    }

    fn commit(&mut self, mut batches: Vec<Batch>) {
        let start = Instant::now();
        let frames: usize = batches.iter().map(Batch::len).sum();
        let fleet = self.fleet.clone();
        let mut each = |item: &crate::Item, message: Option<&Message>, at_ms: i64| {
            let mut fleet = fleet.lock().unwrap_or_else(PoisonError::into_inner);
            fleet.take(item.header.device, item.header.boot, message, at_ms, (item.arrived / 1000) as i64);
        };
        let stored = self.backend.store(&batches, &mut each);
        match stored {
            Err(error) => {
                add(&self.counters.failed_commits, 1);
                add(&self.counters.unstored, frames as u64);
                log::error!("{error}; {frames} frames were not stored and are not acknowledged");
                // A full disk does not empty at once; the kernel's buffer holds what comes meanwhile.
                std::thread::sleep(Duration::from_millis(200));
            }
            Ok(stored) => {
                let counters = &self.counters;
                add(&counters.commits, 1);
                add(&counters.stored, stored.stored);
                add(&counters.duplicates, stored.duplicates);
                add(&counters.late, stored.late);
                add(&counters.unreadable, stored.unreadable);
                self.acknowledge(&batches);
                batches.iter_mut().filter_map(|batch| batch.when_durable.take()).for_each(|tell| tell());
            }
        }
        add(&self.counters.commit_micros, start.elapsed().as_micros() as u64);
    }

    /// One acknowledgement for each stream that wants it, with the last frame that came.
    fn acknowledge(&mut self, batches: &[Batch]) {
        let mut last = std::collections::HashMap::new();
        for item in batches.iter().flat_map(Batch::items) {
            last.insert((item.header.device, item.header.boot), *item);
        }
        let (_, keyring) = self.keys.get();
        let now = self.clock.now();
        let mut fleet = self.fleet.lock().unwrap_or_else(PoisonError::into_inner);
        for ((device, boot), item) in last {
            let Some(stream) = self.backend.stream(device, boot) else { continue };
            fleet.losses(device, boot, stream.losses());
            if !item.header.wants_ack || item.reply == Reply::None {
                continue;
            }
            let ack = Ack {
                up_to: stream.window.floor(),
                beyond: stream.window.seen_after_floor(),
                echo: item.header.sequence,
                wall: Micros(item.arrived),
                held: Micros(now.saturating_sub(item.arrived)),
            };
            let Some(key) = keyring.down_key(device, item.key_id) else { continue };
            let mut frame = [0; MAX_FRAME];
            let sealed = seal(&Header::new(device, boot, 0), &Message::Ack(ack), &key, &mut frame);
            let sent = sealed.is_ok_and(|length| self.links.send(&frame[..length], item.reply));
            add(if sent { &self.counters.acknowledgements } else { &self.counters.unsent }, 1);
        }
    }

    fn send_commands(&mut self) {
        let (_, keyring) = self.keys.get();
        let links = &self.links;
        log_error(self.backend.send_commands(&keyring, &|frame, reply| links.send(frame, reply)));
    }

    /// Takes a changed key file over; one that cannot be read is reported, and the old keys stay.
    fn reload_keys(&mut self, key_time: &mut Option<SystemTime>) {
        let Some(path) = &self.key_file else { return };
        let time = modified(path);
        if time == *key_time {
            return;
        }
        *key_time = time;
        match Keyring::load(path) {
            Ok(keyring) => self.keys.replace(keyring),
            Err(error) => log::error!("{error}; the old keys stay in use"),
        }
    }
}

/// Wall time now, in microseconds since 1970: what [`Verifier::take`] wants as the time of arrival.
pub fn unix_micros() -> u64 {
    system_micros()
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

fn log_error<E: std::fmt::Display>(result: Result<(), E>) {
    if let Err(error) = result {
        log::error!("{error}");
    }
}
