//! A fleet of simulated devices behind a link that loses, repeats, re-orders and damages frames by seed.
//!
//! The devices are real [`Sender`]s; only their figures and their link are made up. Every report says that its
//! energy is modelled, and every Hello that its board is simulated.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use pilotlight_units::{Hertz, Microjoules, Micros, MilliCelsius};
use pilotlight_wire::{
    Band, Bucket, Celsius, Closing, Energy, FleetKey, Frame, Hello, Latency, MAX_FRAME, Message, Operating,
    Report, Source, Spread, Temperature,
};

use crate::outbox::Outbox;
use crate::sender::{Sender, SenderConfig};

/// What goes wrong on the link, as probabilities for each frame; both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Lost.
    pub loss: f64,
    /// Delivered twice.
    pub duplicate: f64,
    /// Delivered up to 32 frames late.
    pub reorder: f64,
    /// Delivered with a flipped bit.
    pub corrupt: f64,
}

/// The fleet to simulate.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Where the collector listens.
    pub collector: SocketAddr,
    /// The fleet's secret and its key id.
    pub key: FleetKey,
    /// The generation of `key`.
    pub key_id: u8,
    /// Number of the first device.
    pub first_device: u32,
    /// Devices.
    pub devices: u32,
    /// The boot number of each.
    pub boot: u32,
    /// Reports that each device makes, besides a Hello, a Closing, and Events about its clock.
    pub reports: u32,
    /// Devices keep messages until they are acknowledged.
    pub two_way: bool,
    /// Reports a second of the whole fleet; `None` is as fast as acknowledgements allow.
    pub rate: Option<u32>,
    /// What goes wrong on the way.
    pub faults: Faults,
    /// Same seed, same faults in the same order of frames.
    pub seed: u64,
    /// Give up after this long.
    pub patience: Duration,
}

/// What the fleet did and what was done to it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FleetOutcome {
    /// Messages made: Hellos, reports, Closings and what devices told of their clocks.
    pub made: u64,
    /// Frames that left the devices, repetitions included.
    pub sent: u64,
    /// Frames that the devices sent again.
    pub repeated: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Upward frames that the link lost.
    pub lost: u64,
    /// Upward frames that the link damaged.
    pub corrupted: u64,
    /// Upward frames that the link delivered twice.
    pub duplicated: u64,
    /// Upward frames that the link delivered late.
    pub reordered: u64,
    /// Messages that the devices' full outboxes dropped.
    pub dropped: u64,
    /// Downward frames that devices refused, damaged ones included.
    pub refused: u64,
    /// Wall time.
    pub seconds: f64,
    /// Processor time of the simulating thread, where the system tells it.
    pub cpu_seconds: Option<f64>,
}

/// A small generator of pseudo-random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        ((self.roll() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// A number below `bound`; zero for a bound of zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll().checked_rem(bound).unwrap_or(0)
    }
}

/// A link that does to frames what [`Faults`] says.
#[derive(Debug)]
pub struct FaultyLink {
    faults: Faults,
    dice: Dice,
    /// Frames under way: how many others go first, and the bytes.
    late: VecDeque<(u32, Vec<u8>)>,
    /// Lost, corrupted, duplicated, reordered.
    counts: [u64; 4],
}

impl FaultyLink {
    /// A link with its own dice.
    pub fn new(faults: Faults, seed: u64) -> Self {
        Self { faults, dice: Dice::new(seed), late: VecDeque::new(), counts: [0; 4] }
    }

    /// Takes a frame in and delivers what comes out, if anything.
    ///
    /// # Errors
    /// What `deliver` returned.
    pub fn pass<E>(
        &mut self,
        frame: &[u8],
        mut deliver: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for (others, _) in &mut self.late {
            *others = others.saturating_sub(1);
        }
        while self.late.front().is_some_and(|(others, _)| *others == 0) {
            if let Some((_, late)) = self.late.pop_front() {
                deliver(&late)?;
            }
        }
        // One fate a frame, so that what was lost can be counted.
        let Faults { loss, duplicate, reorder, corrupt } = self.faults;
        if self.dice.chance(loss) {
            self.counts[0] += 1;
        } else if self.dice.chance(corrupt) {
            self.counts[1] += 1;
            let mut damaged = frame.to_vec();
            let bit = self.dice.below(8 * frame.len() as u64) as usize;
            damaged[bit / 8] ^= 1 << (bit % 8);
            deliver(&damaged)?;
        } else if self.dice.chance(duplicate) {
            self.counts[2] += 1;
            deliver(frame)?;
            deliver(frame)?;
        } else if self.dice.chance(reorder) {
            self.counts[3] += 1;
            self.late.push_back((1 + self.dice.below(32) as u32, frame.to_vec()));
        } else {
            deliver(frame)?;
        }
        Ok(())
    }

    /// Delivers what is still under way.
    ///
    /// # Errors
    /// What `deliver` returned.
    pub fn flush<E>(&mut self, mut deliver: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.late.drain(..).try_for_each(|(_, late)| deliver(&late))
    }

    /// Frames lost so far, those that were damaged included: either way they did not arrive.
    pub fn lost(&self) -> u64 {
        self.counts[0] + self.counts[1]
    }
}

struct Device {
    sender: Sender,
    said_hello: bool,
    reports: u32,
    said_closing: bool,
    /// All is said, and acknowledged where that is wanted.
    closed: bool,
}

/// Messages that one simulated device holds.
const OUTBOX: usize = 64;
/// Datagrams between two looks at what came back.
const TURN: usize = 64;

impl Fleet {
    /// Runs the fleet until every device has said all, and on two-way links until all is acknowledged.
    ///
    /// # Errors
    /// The socket cannot be used. A fleet that is not done when its patience ends is no error: the outcome tells.
    pub fn run(&self) -> io::Result<FleetOutcome> {
        let socket = UdpSocket::bind(if self.collector.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.set_nonblocking(true)?;
        let start = Instant::now();
        let cpu = thread_cpu_seconds();
        let mut dice = Dice::new(self.seed);
        let mut up = FaultyLink::new(self.faults, dice.roll());
        let mut down = FaultyLink::new(self.faults, dice.roll());
        let mut devices: Vec<Device> = (0..self.devices).map(|at| self.device(at)).collect();
        let mut outcome = FleetOutcome::default();
        let mut next = 0;
        let mut idle = 0;
        let mut open = devices.len();
        while open > 0 && start.elapsed() < self.patience {
            let now = start.elapsed().as_micros() as u64;
            let allowed = self.rate.map(|rate| (u128::from(rate) * u128::from(now) / 1_000_000) as u64);
            let mut sent = 0;
            for _ in 0..devices.len() {
                let device = &mut devices[next];
                next = (next + 1) % self.devices as usize;
                if !device.closed {
                    sent += self.turn(device, now, allowed, &mut outcome, &mut dice, &mut up, &socket)?;
                    open -= usize::from(device.closed);
                }
                if sent >= TURN {
                    break;
                }
            }
            let heard = self.listen(&socket, &mut devices, &mut down, start)?;
            idle = if sent + heard == 0 { idle + 1 } else { 0 };
            if idle > 0 {
                // What is late must not wait for frames that will not come.
                up.flush(|frame| send(&socket, self.collector, frame))?;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        up.flush(|frame| send(&socket, self.collector, frame))?;
        outcome.made = 0;
        for device in &mut devices {
            let counts = device.sender.counts();
            outcome.made += u64::from(device.sender.last_sequence());
            outcome.sent += counts.sent;
            outcome.repeated += counts.repeated;
            outcome.acknowledged += counts.acknowledged;
            outcome.dropped += u64::from(counts.dropped);
            outcome.refused += counts.refused;
        }
        [outcome.lost, outcome.corrupted, outcome.duplicated, outcome.reordered] = up.counts;
        outcome.seconds = start.elapsed().as_secs_f64();
        outcome.cpu_seconds = cpu.zip(thread_cpu_seconds()).map(|(before, after)| after - before);
        Ok(outcome)
    }

    fn device(&self, at: u32) -> Device {
        let number = self.first_device + at;
        let keys = self.key.device_keys(self.key_id, number);
        let config =
            SenderConfig { two_way: self.two_way, frames_per_second: 1_000_000, burst: OUTBOX as u32 };
        Device {
            sender: Sender::new(&keys, self.boot, Outbox::new(OUTBOX), config),
            said_hello: false,
            reports: 0,
            said_closing: false,
            closed: false,
        }
    }

    /// Lets one device make a message and send what is due; returns the frames it sent.
    #[allow(clippy::too_many_arguments, reason = "the loop's state, spelt out")]
    fn turn(
        &self,
        device: &mut Device,
        now: u64,
        allowed: Option<u64>,
        outcome: &mut FleetOutcome,
        dice: &mut Dice,
        up: &mut FaultyLink,
        socket: &UdpSocket,
    ) -> io::Result<usize> {
        let room = device.sender.outbox().len() < OUTBOX / 2;
        let may = allowed.is_none_or(|allowed| outcome.made < allowed);
        if !device.said_hello {
            device.said_hello = true;
            outcome.made += 1;
            self.hello(device)?;
        } else if device.reports < self.reports && room && may {
            device.reports += 1;
            outcome.made += 1;
            push(device, &Message::Report(report(now, dice)))?;
        } else if device.reports == self.reports && !device.said_closing {
            device.said_closing = true;
            outcome.made += 1;
            let dropped = device.sender.counts().dropped;
            push(device, &Message::Closing(Closing { at: Micros(now), dropped, ..Closing::default() }))?;
            if !self.two_way {
                // The last word of a one-way device is said without faults: it makes the losses countable.
                device.closed = true;
                let mut frame = [0; MAX_FRAME];
                while let Some(length) = next(device, now, &mut frame)? {
                    up.flush(|late| send(socket, self.collector, late))?;
                    send(socket, self.collector, &frame[..length])?;
                }
            }
        }
        let mut sent = 0;
        let mut frame = [0; MAX_FRAME];
        while let Some(length) = next(device, now, &mut frame)? {
            up.pass(&frame[..length], |bytes| send(socket, self.collector, bytes))?;
            sent += 1;
        }
        device.closed |= device.said_closing && device.sender.outbox().is_empty();
        Ok(sent)
    }

    fn hello(&self, device: &mut Device) -> io::Result<()> {
        let hello = Hello {
            schema: Hello::SCHEMA,
            name: "simulated",
            board: "simulated",
            rail: "modelled",
            ..Hello::default()
        };
        push(device, &Message::Hello(hello))
    }

    /// Hands what came back to the devices; returns how many datagrams that were.
    fn listen(
        &self,
        socket: &UdpSocket,
        devices: &mut [Device],
        down: &mut FaultyLink,
        start: Instant,
    ) -> io::Result<usize> {
        let mut bytes = [0; 2048];
        let mut heard = 0;
        while heard < 4 * TURN {
            let length = match socket.recv(&mut bytes) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The collector is not there, for now.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            heard += 1;
            let now = start.elapsed().as_micros() as u64;
            let take = |bytes: &[u8]| -> io::Result<()> {
                let mut rest = bytes;
                while let Ok((frame, after)) = Frame::parse(rest) {
                    rest = after;
                    let at = frame.claimed_device().wrapping_sub(self.first_device) as usize;
                    if let Some(device) = devices.get_mut(at) {
                        // Refusals are counted by the sender.
                        let _ = device.sender.receive(frame, now);
                    }
                }
                Ok(())
            };
            down.pass(&bytes[..length], take)?;
        }
        Ok(heard)
    }
}

fn push(device: &mut Device, message: &Message) -> io::Result<()> {
    device.sender.push(message).map(drop).map_err(io::Error::other)
}

fn next(device: &mut Device, now: u64, frame: &mut [u8]) -> io::Result<Option<usize>> {
    device.sender.next_frame(now, frame).map_err(io::Error::other)
}

/// Sends, waiting while the socket's buffer is full; a collector that is away is the link's matter.
fn send(socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    loop {
        match socket.send_to(bytes, to) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_micros(50));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn report(now: u64, dice: &mut Dice) -> Report {
    let noise = dice.roll();
    let p50 = 4_000 + (noise & 0x3ff);
    let latency = |part: u64| Bucket::of(Micros(p50 + part));
    let net = 1_800_000 + (noise >> 10 & 0x3_ffff);
    Report {
        end: Micros(now / 1000 * 1000),
        window: Micros::from_secs(1),
        count: 25 + (noise >> 28 & 0xf) as u32,
        latency: Some(Latency { p50: latency(0), p90: latency(300), p99: latency(900), max: latency(1_900) }),
        energy: Some(Energy {
            source: Source::Modelled,
            gross: Microjoules(net + 3_000_000),
            net: Microjoules(net),
            gross_spread: Spread::of(Microjoules(40_000)),
            net_spread: Spread::of(Microjoules(60_000)),
        }),
        operating: Some(Operating {
            gpu: Band::of(Hertz::from_mhz(612)),
            memory: Band::of(Hertz::from_mhz(2133)),
            cpu: Band::of(Hertz::from_mhz(1510)),
        }),
        temperature: Some(Temperature {
            gpu: Celsius::of(MilliCelsius(48_000 + (noise >> 40 & 0xfff) as i32)),
            module: Celsius::of(MilliCelsius(46_000 + (noise >> 52 & 0xfff) as i32)),
        }),
        ..Report::default()
    }
}

/// Processor time of this thread in seconds, from /proc.
pub fn thread_cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
    // Fields 14 and 15 of proc(5), counted after the name in parentheses, in ticks of 1/100 s.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}
