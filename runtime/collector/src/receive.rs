//! From bytes of a link to verified frames: UDP sockets and serial lines, each with its own thread.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use pilotlight_wire::{Deframer, Direction, Frame, FrameKey};
use serial2::SerialPort;
use thiserror::Error;

use crate::batch::{Batch, Reply};
use crate::clock::WallClock;
use crate::counters::{Counters, Refusal, add};
use crate::keyring::{Keyring, Lookup};

/// Frames that travel together at most.
const BATCH: usize = 1024;
/// A batch is handed on when it is this old.
const LINGER: Duration = Duration::from_millis(10);
/// Bytes that the kernel may hold for a socket: about a second at full speed.
const RECEIVE_BUFFER: usize = 32 << 20;
/// A port that is gone is looked for this often.
const REST: Duration = Duration::from_secs(1);
/// The kernel's count of drops is read this often.
const DROPS_EVERY: Duration = Duration::from_millis(200);
/// Keys that are kept ready.
const KEYS: usize = 200_000;

/// A link that cannot be opened.
#[derive(Debug, Error)]
#[error("cannot listen on {name}: {source}")]
pub struct ReceiveError {
    pub(crate) name: String,
    pub(crate) source: io::Error,
}

/// The keyring in use: replaced as a whole, and its version tells receivers to forget derived keys.
#[derive(Debug, Default)]
pub(crate) struct SharedKeys {
    keyring: RwLock<(u64, Arc<Keyring>)>,
}

impl SharedKeys {
    pub(crate) fn new(keyring: Keyring) -> Self {
        Self { keyring: RwLock::new((0, Arc::new(keyring))) }
    }

    pub(crate) fn get(&self) -> (u64, Arc<Keyring>) {
        self.keyring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn replace(&self, keyring: Keyring) {
        let mut place = self.keyring.write().unwrap_or_else(PoisonError::into_inner);
        *place = (place.0 + 1, Arc::new(keyring));
    }
}

/// Tells authentic frames from all others, and counts the others.
pub struct Verifier {
    shared: Arc<SharedKeys>,
    version: u64,
    keyring: Arc<Keyring>,
    /// Only keys that have vouched for a frame are kept: made-up device numbers take no memory.
    ready: HashMap<(u32, u8), FrameKey>,
    counters: Arc<Counters>,
}

impl Verifier {
    /// A verifier with its own keyring and counters.
    pub fn new(keyring: Keyring, counters: Arc<Counters>) -> Self {
        Self::shared(Arc::new(SharedKeys::new(keyring)), counters)
    }

    pub(crate) fn shared(shared: Arc<SharedKeys>, counters: Arc<Counters>) -> Self {
        let (version, keyring) = shared.get();
        Self { shared, version, keyring, ready: HashMap::new(), counters }
    }

    /// Takes a new keyring over when there is one.
    pub fn refresh(&mut self) {
        let (version, keyring) = self.shared.get();
        if version != self.version {
            (self.version, self.keyring) = (version, keyring);
            self.ready.clear();
        }
    }

    /// Adds the authentic frames of one datagram or serial frame to `batch`, and counts the rest.
    pub fn take(&mut self, bytes: &[u8], arrived: u64, reply: Reply, batch: &mut Batch) {
        add(&self.counters.received, 1);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (frame, after) = match Frame::parse(rest) {
                Ok(parsed) => parsed,
                Err(error) => return self.counters.refuse(error.into()),
            };
            let whole = &rest[..rest.len() - after.len()];
            rest = after;
            if let Err(why) = self.open(frame, whole, arrived, reply, batch) {
                self.counters.refuse(why);
                // Its length is not to be believed either, so what follows cannot be found.
                if why == Refusal::Forged {
                    return;
                }
            }
        }
    }

    fn open(
        &mut self,
        frame: Frame,
        whole: &[u8],
        arrived: u64,
        reply: Reply,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        let id = (frame.claimed_device(), frame.claimed_key());
        let opened = match self.ready.get(&id) {
            Some(key) => frame.verify(key)?,
            None => {
                let key = match self.keyring.look_up(id.0, id.1) {
                    Lookup::Key(fleet) => fleet.derive(Direction::Up, id.1, id.0),
                    Lookup::Unknown => return Err(Refusal::UnknownKey),
                    Lookup::Revoked => return Err(Refusal::Revoked),
                };
                let opened = frame.verify(&key)?;
                if self.ready.len() >= KEYS {
                    self.ready.clear();
                }
                self.ready.insert(id, key);
                opened
            }
        };
        add(&self.counters.verified, 1);
        batch.push(&opened, whole, arrived, reply);
        Ok(())
    }
}

/// What every receiving thread has.
pub(crate) struct Intake {
    pub(crate) verifier: Verifier,
    pub(crate) batches: SyncSender<Batch>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) clock: Arc<WallClock>,
}

impl Intake {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Hands a batch on; waits while the store is busy, so that the kernel's buffer fills and its drops are counted.
    fn hand_on(&mut self, batch: &mut Batch) {
        self.verifier.refresh();
        if batch.is_empty() {
            return;
        }
        let mut full = std::mem::take(batch);
        loop {
            match self.batches.try_send(full) {
                Ok(()) | Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(back)) if !self.stopped() => full = back,
                Err(TrySendError::Full(_)) => return,
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A socket with a large buffer, and a time-out that lets its thread look at the stop flag.
pub(crate) fn bind_udp(address: SocketAddr) -> Result<UdpSocket, ReceiveError> {
    let open = || {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        let granted = socket.recv_buffer_size()?;
        if granted < RECEIVE_BUFFER {
            log::info!(
                "udp://{address}: the kernel buffers {granted} bytes; net.core.rmem_max allows no more"
            );
        }
        socket.bind(&address.into())?;
        socket.set_read_timeout(Some(LINGER))?;
        Ok(UdpSocket::from(socket))
    };
    open().map_err(|source| ReceiveError { name: format!("udp://{address}"), source })
}

/// Receives datagrams until told to stop.
pub(crate) fn receive_udp(socket: &UdpSocket, number: usize, mut intake: Intake) {
    let mut bytes = [0; 2048];
    let mut batch = Batch::default();
    let mut handed = Instant::now();
    let (mut drops, mut looked) = (0, handed);
    while !intake.stopped() {
        let mut quiet = false;
        match socket.recv_from(&mut bytes) {
            Ok((length, from)) => {
                let now = intake.clock.now();
                intake.verifier.take(&bytes[..length], now, Reply::Udp(number, from), &mut batch);
            }
            Err(error) if is_quiet(&error) => quiet = true,
            Err(error) => {
                quiet = true;
                log::warn!("udp socket {number}: {error}");
                std::thread::sleep(LINGER);
            }
        }
        // Looking at the clock for every datagram would cost as much as a tenth of the receiving.
        let due = batch.len().is_multiple_of(32) && handed.elapsed() > LINGER;
        if quiet || batch.len() >= BATCH || due {
            intake.hand_on(&mut batch);
            handed = Instant::now();
            if handed.duration_since(looked) > DROPS_EVERY
                && let Some(now) = kernel_drops(socket)
            {
                looked = handed;
                add(&intake.counters.kernel_drops, now.saturating_sub(drops));
                drops = now;
            }
        }
    }
    intake.hand_on(&mut batch);
}

/// Datagrams that the kernel dropped for this socket, from the last column of /proc/net/udp.
fn kernel_drops(socket: &UdpSocket) -> Option<u64> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).ok()?;
    let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
    ["/proc/net/udp", "/proc/net/udp6"].iter().find_map(|table| {
        let table = std::fs::read_to_string(table).ok()?;
        let row = table.lines().find(|row| row.split_whitespace().nth(9) == Some(&inode))?;
        row.split_whitespace().last()?.parse().ok()
    })
}

/// A serial port that one thread reads and another answers through.
pub(crate) type SharedPort = Arc<RwLock<Option<Arc<SerialPort>>>>;

/// Receives from a serial port until told to stop; a port that is gone is looked for again.
pub(crate) fn receive_serial(path: &str, baud: u32, number: usize, shared: &SharedPort, mut intake: Intake) {
    let mut deframer = Deframer::new();
    let mut batch = Batch::default();
    let mut bytes = [0; 4096];
    let mut warned = false;
    while !intake.stopped() {
        let open = shared.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(port) = open else {
            match open_serial(path, baud) {
                Ok(port) => {
                    *shared.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(port));
                    deframer = Deframer::new();
                    warned = false;
                }
                Err(error) => {
                    if !warned {
                        log::warn!("serial://{path}: {error}; looking for it every second");
                        warned = true;
                    }
                    pause(REST, &intake.stop);
                }
            }
            continue;
        };
        match port.read(&mut bytes) {
            Ok(length) if length > 0 => {
                for &byte in &bytes[..length] {
                    match deframer.push(byte) {
                        None => {}
                        Some(Ok(frame)) => {
                            let now = intake.clock.now();
                            intake.verifier.take(frame, now, Reply::Serial(number), &mut batch);
                        }
                        Some(Err(error)) => intake.counters.refuse(error.into()),
                    }
                }
            }
            Err(error) if is_quiet(&error) => {}
            Ok(_) | Err(_) => {
                add(&intake.counters.unplugged, 1);
                *shared.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
        intake.hand_on(&mut batch);
    }
}

/// Writes answers to a serial port until there will be no more. One that the port does not take is counted; the
/// device asks again.
pub(crate) fn answer_serial(
    answers: &Receiver<Vec<u8>>,
    port: &SharedPort,
    counters: &Counters,
    stop: &AtomicBool,
) {
    let mut stuck = false;
    while let Ok(line) = answers.recv() {
        let open = port.read().unwrap_or_else(PoisonError::into_inner).clone();
        // A line that is stuck must not hold up the end.
        let give_up = stuck && stop.load(Ordering::Relaxed);
        stuck = give_up || open.is_none_or(|port| port.write_all(&line).is_err());
        add(&counters.unsent, u64::from(stuck));
    }
}

fn open_serial(path: &str, baud: u32) -> io::Result<SerialPort> {
    let mut port = SerialPort::open(path, baud)?;
    port.set_read_timeout(LINGER)?;
    port.set_write_timeout(Duration::from_millis(200))?;
    Ok(port)
}

fn pause(time: Duration, stop: &AtomicBool) {
    let until = Instant::now() + time;
    while Instant::now() < until && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LINGER);
    }
}

fn is_quiet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::TimedOut
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionRefused
    )
}
