//! A fleet of simulated devices behind a link that loses, repeats, re-orders and damages frames by seed.
//!
//! The devices are real [`Sender`]s; only their figures and their link are made up. Every report says that its
//! energy is modelled, and every Hello that its board is simulated.

mod carrier;
mod fault;

use std::io;
use std::time::{Duration, Instant};

use pilotlight_units::{Hertz, Microjoules, Micros, MilliCelsius};
use pilotlight_wire::{
    Band, Bucket, Celsius, Closing, Energy, FleetKey, Frame, Hello, Latency, MAX_FRAME, MAX_SERIAL, Message,
    Operating, Report, Source, Spread, TAG, Temperature,
};

pub use self::carrier::Carrier;
pub use self::fault::{Dice, Faults, FaultyLink};
use crate::outbox::Outbox;
use crate::sender::{Sender, SenderConfig};

/// The fleet to simulate.
#[derive(Clone, Debug)]
pub struct Fleet {
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
    /// Forgeries that were sent.
    pub forged: u64,
    /// The sum of [`digest`] over all messages that left the devices, each counted once.
    pub digest: u64,
    /// Messages that the devices' full outboxes dropped.
    pub dropped: u64,
    /// Downward frames that devices refused, damaged ones included.
    pub refused: u64,
    /// Wall time.
    pub seconds: f64,
    /// Processor time of the simulating thread, where the system tells it.
    pub cpu_seconds: Option<f64>,
}

/// A message as a number: what a collector stored is what was made where the sums of these are equal.
pub fn digest(device: u32, boot: u32, sequence: u32, kind: u8, body: &[u8]) -> u64 {
    let numbers = [device, boot, sequence].map(u32::to_le_bytes);
    let bytes = numbers.as_flattened().iter().chain([&kind]).chain(body);
    // FNV-1a.
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

struct Device {
    number: u32,
    sender: Sender,
    /// The last sequence in the outcome's digest.
    digested: u32,
    said_hello: bool,
    reports: u32,
    said_closing: bool,
    /// All is said, and acknowledged where that is wanted.
    closed: bool,
}

/// Messages that one simulated device holds.
const OUTBOX: usize = 256;
/// Datagrams between two looks at what came back.
const TURN: usize = 64;

impl Fleet {
    /// Runs the fleet until every device has said all, and on two-way links until all is acknowledged.
    ///
    /// # Errors
    /// The carrier cannot be used. A fleet that is not done when its patience ends is no error: the outcome tells.
    pub fn run(&self, carrier: &Carrier) -> io::Result<FleetOutcome> {
        let start = Instant::now();
        let cpu = thread_cpu_seconds();
        let mut dice = Dice::new(self.seed);
        let mut up = Uplink {
            carrier,
            link: FaultyLink::new(self.faults, dice.roll()).sparing(carrier.delimiter()),
            forge: self.faults.forge,
            line: [0; MAX_SERIAL],
        };
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
                    sent += self.turn(device, now, allowed, &mut outcome, &mut dice, &mut up)?;
                    open -= usize::from(device.closed);
                }
                if sent >= TURN {
                    break;
                }
            }
            let heard = self.listen(carrier, &mut devices, &mut down, start)?;
            idle = if sent + heard == 0 { idle + 1 } else { 0 };
            if idle > 0 {
                // What is late must not wait for frames that will not come.
                up.flush()?;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        up.flush()?;
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
        [outcome.lost, outcome.corrupted, outcome.duplicated, outcome.reordered] = up.link.counts;
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
            number,
            sender: Sender::new(&keys, self.boot, Outbox::new(OUTBOX), config),
            digested: 0,
            said_hello: false,
            reports: 0,
            said_closing: false,
            closed: false,
        }
    }

    /// Lets one device make a message and send what is due; returns the frames it sent.
    fn turn(
        &self,
        device: &mut Device,
        now: u64,
        allowed: Option<u64>,
        outcome: &mut FleetOutcome,
        dice: &mut Dice,
        up: &mut Uplink,
    ) -> io::Result<usize> {
        let room = device.sender.outbox().len() < OUTBOX / 2;
        // Every device has its turn: their shares of what is allowed add up to it.
        let (devices, place) = (u64::from(self.devices), u64::from(device.number - self.first_device));
        let may = allowed
            .is_none_or(|allowed| u64::from(device.reports) < (allowed + devices - 1 - place) / devices);
        let mut faultless = false;
        if !device.said_hello {
            device.said_hello = true;
            outcome.made += 1;
            self.hello(device)?;
        } else if device.reports < self.reports && room && may {
            device.reports += 1;
            outcome.made += 1;
            push(device, &Message::Report(report(device.number, now, dice)))?;
        } else if device.reports == self.reports && !device.said_closing {
            device.said_closing = true;
            outcome.made += 1;
            let dropped = device.sender.counts().dropped;
            push(device, &Message::Closing(Closing { at: Micros(now), dropped, ..Closing::default() }))?;
            // The last word of a one-way device is said without faults: it makes the losses countable.
            faultless = !self.two_way;
        }
        if faultless {
            up.flush()?;
        }
        let mut sent = 0;
        let mut frame = [0; MAX_FRAME];
        while let Some(length) = device.sender.next_frame(now, &mut frame).map_err(io::Error::other)? {
            let frame = &frame[..length];
            device.digest(frame, outcome);
            match faultless {
                true => up.send(frame)?,
                false => outcome.forged += up.pass(frame, dice)?,
            }
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

    /// Hands what came back to the devices; returns how many datagrams or frames that were.
    fn listen(
        &self,
        carrier: &Carrier,
        devices: &mut [Device],
        down: &mut FaultyLink,
        start: Instant,
    ) -> io::Result<usize> {
        let mut bytes = [0; 2048];
        let mut heard = 0;
        while heard < 4 * TURN {
            let Some(length) = carrier.receive(&mut bytes)? else { break };
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

impl Device {
    /// Takes a frame's message into the outcome's digest, unless it was sent before.
    fn digest(&mut self, frame: &[u8], outcome: &mut FleetOutcome) {
        let Ok((frame, _)) = Frame::parse(frame) else { return };
        let opened = frame.unverified();
        let header = opened.header;
        // Messages leave for the first time in the order of their sequences.
        if header.sequence > self.digested {
            self.digested = header.sequence;
            let one = digest(header.device, header.boot, header.sequence, opened.kind.0, opened.body);
            outcome.digest = outcome.digest.wrapping_add(one);
        }
    }
}

/// The way to the collector and what goes wrong on it.
struct Uplink<'a> {
    carrier: &'a Carrier,
    link: FaultyLink,
    forge: f64,
    line: [u8; MAX_SERIAL],
}

impl Uplink<'_> {
    /// Sends a frame through the faults; returns the forgeries that went before it.
    fn pass(&mut self, frame: &[u8], dice: &mut Dice) -> io::Result<u64> {
        let forged = dice.chance(self.forge);
        if forged {
            let mut forgery = frame.to_vec();
            let tag = forgery.len() - TAG;
            forgery[tag - 1] ^= 1;
            forgery[tag..].copy_from_slice(&dice.roll().to_le_bytes());
            self.send(&forgery)?;
        }
        let carrier = self.carrier;
        let packed = carrier.pack(frame, &mut self.line);
        self.link.pass(packed, |bytes| carrier.send(bytes))?;
        Ok(forged.into())
    }

    /// Sends a frame around the faults.
    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.carrier.send(self.carrier.pack(frame, &mut self.line))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.link.flush(|late| self.carrier.send(late))
    }
}

fn push(device: &mut Device, message: &Message) -> io::Result<()> {
    device.sender.push(message).map(drop).map_err(io::Error::other)
}

/// What a device would report if it were an Orin: slower clocks cost time and save power, and each drifts a little.
fn report(device: u32, now: u64, dice: &mut Dice) -> Report {
    let noise = dice.roll();
    let mhz = [612u64, 510, 408, 306][device as usize % 4];
    let drift = ((now as f64 / 2e7 + f64::from(device)).sin() * 200.0) as i64;
    let p50 = (2_600_000 / mhz).saturating_add_signed(drift) + (noise & 0xff);
    let latency = |part: u64| Bucket::of(Micros(p50 + part));
    let count = 20 + (noise >> 28 & 0x3);
    let net = count * (30 + mhz / 8) * 700 + (noise >> 10 & 0x3_ffff);
    let mean = 40_000 + 10 * mhz as i32;
    Report {
        end: Micros(now / 1000 * 1000),
        window: Micros::from_secs(1),
        count: count as u32,
        latency: Some(Latency { p50: latency(0), p90: latency(300), p99: latency(900), max: latency(1_900) }),
        energy: Some(Energy {
            source: Source::Modelled,
            gross: Microjoules(net + 3_000_000),
            net: Microjoules(net),
            gross_spread: Spread::of(Microjoules(40_000)),
            net_spread: Spread::of(Microjoules(60_000)),
        }),
        operating: Some(Operating {
            gpu: Band::of(Hertz::from_mhz(mhz)),
            memory: Band::of(Hertz::from_mhz(2133)),
            cpu: Band::of(Hertz::from_mhz(1510)),
        }),
        temperature: Some(Temperature {
            gpu: Celsius::of(MilliCelsius(mean + (noise >> 40 & 0xfff) as i32)),
            module: Celsius::of(MilliCelsius(mean - 2_000 + (noise >> 52 & 0xfff) as i32)),
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
