//! A sender over a bad link, an outbox over power losses, an agent over real sockets and pseudo-terminals.
#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use pilotlight_link::simulate::{Dice, Faults, FaultyLink};
use pilotlight_link::*;
use pilotlight_units::Micros;
use pilotlight_wire::*;
use proptest::prelude::*;

const FLEET: FleetKey = FleetKey::new([5; 32]);
const DEVICE: u32 = 42;

fn keys() -> DeviceKeys {
    FLEET.device_keys(1, DEVICE)
}

fn log_line(text: &str) -> Message<'_> {
    Message::Log(Log { at: Micros(1), level: Level::Info, text })
}

/// The collector's rules of PROTOCOL.md section 6 and nothing else.
#[derive(Default)]
struct Ideal {
    windows: std::collections::BTreeMap<u32, Window>,
    stored: BTreeSet<(u32, u32)>,
    twice: u32,
    refused: u32,
    closing: Option<Closing>,
}

impl Ideal {
    fn take(&mut self, bytes: &[u8], now: u64) -> Option<Vec<u8>> {
        let key = FLEET.derive(Direction::Up, 1, DEVICE);
        let Ok(opened) = Frame::parse(bytes).and_then(|(frame, _)| frame.verify(&key)) else {
            self.refused += 1;
            return None;
        };
        let Header { boot, sequence, held, wants_ack, .. } = opened.header;
        let window = self.windows.entry(boot).or_default();
        if let Some(held) = held {
            window.give_up_below(held);
        }
        if window.check(sequence) == Arrival::Fresh {
            window.settle(sequence);
            if !self.stored.insert((boot, sequence)) {
                self.twice += 1;
            }
            if let Ok(Message::Closing(closing)) = opened.message() {
                self.closing = Some(closing);
            }
        }
        wants_ack.then(|| {
            let ack = Ack {
                up_to: window.floor(),
                beyond: window.seen_after_floor(),
                echo: sequence,
                wall: Micros(1_000_000_000_000 + now),
                held: Micros(0),
            };
            let mut frame = vec![0; MAX_FRAME];
            let down = FLEET.derive(Direction::Down, 1, DEVICE);
            let length = seal(&Header::new(DEVICE, boot, 0), &Message::Ack(ack), &down, &mut frame).unwrap();
            frame.truncate(length);
            frame
        })
    }
}

/// Runs `messages` through a faulty link until nothing waits; returns the collector's and the link's view.
fn exchange(mut sender: Sender, messages: u32, faults: Faults, seed: u64) -> (Ideal, Sender, u64) {
    let mut ideal = Ideal::default();
    let mut dice = Dice::new(seed);
    let (mut up, mut down) = (FaultyLink::new(faults, dice.roll()), FaultyLink::new(faults, dice.roll()));
    let mut now = 0;
    let mut frame = [0; MAX_FRAME];
    let mut made = 0;
    while made < messages || !sender.outbox().is_empty() {
        if made < messages {
            sender.push(&log_line("x")).unwrap();
            made += 1;
        }
        while let Some(length) = sender.next_frame(now, &mut frame).unwrap() {
            let mut answers = vec![];
            up.pass(&frame[..length], |bytes| {
                answers.extend(ideal.take(bytes, now));
                Ok::<(), ()>(())
            })
            .unwrap();
            for answer in answers {
                down.pass(&answer, |bytes| {
                    if let Ok((frame, _)) = Frame::parse(bytes) {
                        let _ = sender.receive(frame, now + 500);
                    }
                    Ok::<(), ()>(())
                })
                .unwrap();
            }
        }
        now += sender.wait(now).unwrap_or(0).clamp(1_000, 1_000_000);
        assert!(now < 36_000_000_000, "an hour of retries must do");
    }
    up.flush(|bytes| {
        ideal.take(bytes, now);
        Ok::<(), ()>(())
    })
    .unwrap();
    (ideal, sender, up.lost())
}

fn faults() -> impl Strategy<Value = Faults> {
    (0.0..0.5f64, 0.0..0.3f64, 0.0..0.3f64, 0.0..0.2f64).prop_map(|(loss, duplicate, reorder, corrupt)| {
        Faults { loss, duplicate, reorder, corrupt, forge: 0.0 }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn with_acknowledgements_nothing_is_lost_or_stored_twice(faults in faults(), seed: u64, messages in 1u32..800) {
        let sender = Sender::new(&keys(), 1, Outbox::new(2000), SenderConfig::default());
        let (ideal, sender, _) = exchange(sender, messages, faults, seed);
        prop_assert_eq!(ideal.stored.len() as u32, sender.last_sequence());
        prop_assert_eq!((ideal.twice, ideal.windows[&1].missing()), (0, 0));
        prop_assert_eq!(sender.counts().acknowledged, u64::from(sender.last_sequence()));
    }

    #[test]
    fn without_acknowledgements_every_loss_is_counted(faults in faults(), seed: u64, messages in 1u32..800) {
        let config = SenderConfig { two_way: false, ..SenderConfig::default() };
        let (mut ideal, mut sender, lost) = exchange(Sender::new(&keys(), 1, Outbox::new(2000), config), messages, faults, seed);
        sender.push(&Message::Closing(Closing::default())).unwrap();
        let mut frame = [0; MAX_FRAME];
        let length = sender.next_frame(u64::MAX / 2, &mut frame).unwrap().unwrap();
        ideal.take(&frame[..length], 0);
        prop_assert_eq!(u64::from(ideal.windows[&1].missing()), lost);
        prop_assert_eq!(ideal.twice, 0);
    }

    /// A small outbox on a bad link drops; what it drops is what the collector misses, and the link goes on.
    #[test]
    fn a_full_outbox_drops_the_oldest_and_says_so(seed: u64, capacity in 1usize..40) {
        let mut sender = Sender::new(&keys(), 1, Outbox::new(capacity), SenderConfig::default());
        for _ in 0..500 {
            sender.push(&log_line("x")).unwrap();
        }
        prop_assert_eq!(sender.counts().dropped as usize, 500 - capacity);
        let faults = Faults { loss: 0.2, ..Faults::default() };
        let (ideal, sender, _) = exchange(sender, 0, faults, seed);
        prop_assert_eq!(ideal.windows[&1].missing(), sender.counts().dropped);
        prop_assert_eq!(u64::from(sender.last_sequence()), ideal.stored.len() as u64 + u64::from(sender.counts().dropped));
    }
}

fn record(boot: u32, sequence: u32) -> Record {
    Record { boot, sequence, kind: Kind::LOG, body: vec![sequence as u8; sequence as usize % 40].into() }
}

#[test]
fn a_torn_write_costs_only_what_was_torn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox");
    let (mut journal, found) = Journal::open(&path).unwrap();
    assert!(found.is_empty());
    let mut ends = vec![std::fs::metadata(&path).unwrap().len()];
    for sequence in 1..=20 {
        journal.append(&record(3, sequence)).unwrap();
        ends.push(std::fs::metadata(&path).unwrap().len());
    }
    drop(journal);
    let whole = std::fs::read(&path).unwrap();
    for cut in ends[0] as usize..=whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let (journal, found) = Journal::open(&path).unwrap();
        let intact = ends.iter().filter(|&&end| end <= cut as u64).count() - 1;
        let expected: Vec<_> = (1..=intact as u32).map(|sequence| record(3, sequence)).collect();
        assert_eq!(found, expected, "cut at {cut}");
        assert_eq!(journal.torn_bytes(), cut as u64 - ends[intact]);
    }
    // A damaged byte hides its entry and what follows, and never makes up a record.
    for at in ends[0] as usize..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        let (_, found) = Journal::open(&path).unwrap();
        let intact = ends.iter().filter(|&&end| end <= at as u64).count() - 1;
        assert_eq!(found.len(), intact, "damaged at {at}");
    }
    std::fs::write(&path, b"something else entirely").unwrap();
    assert!(matches!(Journal::open(&path), Err(JournalError::Foreign { .. })));
}

#[test]
fn an_outbox_file_stays_small_and_keeps_what_is_not_settled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox");
    let open = |path: &Path| {
        let (journal, records) = Journal::open(path).unwrap();
        Outbox::with_journal(64, journal, records)
    };
    let mut sender = Sender::new(&keys(), 1, open(&path).0, SenderConfig::default());
    let mut ideal = Ideal::default();
    let mut frame = [0; MAX_FRAME];
    let mut largest = 0;
    for turn in 0..20_000u64 {
        sender.push(&log_line("a line of some length, to make the file grow")).unwrap();
        let now = turn * 10_000;
        let length = sender.next_frame(now, &mut frame).unwrap().unwrap();
        let answer = ideal.take(&frame[..length], now).unwrap();
        sender.receive(Frame::parse(&answer).unwrap().0, now).unwrap();
        if turn % 100 == 0 {
            sender.outbox().sync();
            largest = largest.max(std::fs::metadata(&path).unwrap().len());
        }
    }
    assert!(largest < 128 << 10, "{largest}");
    for _ in 0..10 {
        sender.push(&log_line("left behind")).unwrap();
    }
    let waiting = sender.outbox().len();
    drop(sender);
    // The next boot sends what the last one left, under its old numbers.
    let (outbox, surplus) = open(&path);
    assert_eq!((outbox.len(), surplus), (waiting, 0));
    let next = Sender::new(&keys(), 2, outbox, SenderConfig::default());
    let before = ideal.stored.len();
    let (after, mut next, _) = exchange(next, 5, Faults { loss: 0.3, ..Faults::default() }, 9);
    assert_eq!(after.stored.iter().filter(|(boot, _)| *boot == 1).count(), waiting);
    assert!(after.stored.iter().filter(|(boot, _)| *boot == 2).count() >= 5 && before == 20_000);
    next.outbox().sync();
    assert!(Journal::open(&path).unwrap().1.is_empty());
}

#[test]
fn a_file_that_fails_is_counted_and_the_link_goes_on() {
    assert!(matches!(Journal::open(Path::new("/dev/full")), Err(JournalError::Foreign { .. })));
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(&folder.path().join("outbox")).unwrap();
    let mut sender =
        Sender::new(&keys(), 1, Outbox::with_journal(8, journal, vec![]).0, SenderConfig::default());
    // The old file is stale, and its folder is gone: it cannot be written anew.
    for _ in 0..5_000 {
        sender.push(&log_line("a line of some length")).unwrap();
    }
    assert_eq!(sender.outbox().journal_errors(), 0);
    drop(folder);
    sender.outbox().sync();
    assert_eq!((sender.outbox().journal_errors(), sender.outbox().len()), (1, 8));
    let (ideal, sender, _) = exchange(sender, 3, Faults::default(), 1);
    assert_eq!(ideal.stored.len() as u32 + sender.counts().dropped, sender.last_sequence());
}

#[test]
fn a_replayed_command_is_carried_out_once() {
    let mut sender = Sender::new(&keys(), 7, Outbox::new(8), SenderConfig::default());
    let down = FLEET.derive(Direction::Down, 1, DEVICE);
    let command = Message::Command(Command::Budget(Micros(5_000)));
    let mut give = |boot, sequence, key: &FrameKey| {
        let mut frame = [0; MAX_FRAME];
        let length = seal(&Header::new(DEVICE, boot, sequence), &command, key, &mut frame).unwrap();
        sender.receive(Frame::parse(&frame[..length]).unwrap().0, 0)
    };
    let done = Ok(Incoming::Command(Command::Budget(Micros(5_000))));
    assert_eq!(give(7, 1, &down), done);
    assert_eq!(give(7, 1, &down), Ok(Incoming::Noted));
    assert_eq!(give(6, 2, &down), Ok(Incoming::Noted));
    assert_eq!(give(7, 2, &down), done);
    assert!(give(7, 3, &FLEET.derive(Direction::Up, 1, DEVICE)).is_err(), "its own key direction is refused");
    let counts = sender.counts();
    assert_eq!((counts.replayed, counts.refused), (2, 1));
}

#[test]
fn the_wall_clock_is_estimated_within_its_uncertainty() {
    let mut sender = Sender::new(&keys(), 1, Outbox::new(64), SenderConfig::default());
    let down = FLEET.derive(Direction::Down, 1, DEVICE);
    let (offset, mut now) = (1_700_000_000_000_000u64, 5_000_000u64);
    let mut dice = Dice::new(3);
    let mut frame = [0; MAX_FRAME];
    for sequence in 1..=20 {
        sender.push(&log_line("x")).unwrap();
        while sender.next_frame(now, &mut frame).unwrap().is_some() {}
        let (there, held, back) = (100 + dice.below(5_000), 40_000, 100 + dice.below(5_000));
        let ack = Ack {
            up_to: sequence,
            beyond: 0,
            echo: sequence,
            wall: Micros(offset + now + there),
            held: Micros(held),
        };
        now += there + held + back;
        let length = seal(&Header::new(DEVICE, 1, 0), &Message::Ack(ack), &down, &mut frame).unwrap();
        sender.receive(Frame::parse(&frame[..length]).unwrap().0, now).unwrap();
        if let Some((estimate, uncertainty)) = sender.clock_offset() {
            assert!(estimate.abs_diff(offset as i64) <= uncertainty.0 + 1, "{estimate} {uncertainty}");
        }
    }
    assert!(sender.clock_offset().unwrap().1 < Micros(2_500));
}

/// Tries for ten seconds.
fn until(mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The path of a pseudo-terminal's open end.
fn terminal_of(port: &serial2::SerialPort) -> std::path::PathBuf {
    use std::os::fd::AsRawFd as _;
    std::fs::read_link(format!("/proc/self/fd/{}", port.as_raw_fd())).unwrap()
}

/// After an outage of an hour the link is in use again within seconds, not when the longest pause has passed.
#[test]
fn an_outage_is_made_up_for_at_once() {
    let mut sender = Sender::new(&keys(), 1, Outbox::new(400), SenderConfig::default());
    let (mut ideal, mut frame, mut now) = (Ideal::default(), [0; MAX_FRAME], 0);
    for _ in 0..300 {
        sender.push(&log_line("x")).unwrap();
    }
    while now < 3_600_000_000 {
        while sender.next_frame(now, &mut frame).unwrap().is_some() {}
        now += sender.wait(now).unwrap().max(1000);
    }
    let back = now;
    while !sender.outbox().is_empty() {
        while let Some(length) = sender.next_frame(now, &mut frame).unwrap() {
            let answer = ideal.take(&frame[..length], now).unwrap();
            sender.receive(Frame::parse(&answer).unwrap().0, now + 500).unwrap();
        }
        now += sender.wait(now).unwrap_or(0).max(1000);
    }
    assert!(now - back < 12_000_000, "{} us", now - back);
    assert_eq!((ideal.stored.len(), ideal.twice), (300, 0));
}

struct Steady;

impl Vitals for Steady {
    fn read(&mut self, window: Micros, _inferences: u32) -> VitalsReading {
        let gross = pilotlight_units::Milliwatts(5_000).over(window);
        let energy = Energy {
            source: Source::Modelled,
            gross,
            net: gross,
            gross_spread: Spread::of(gross),
            net_spread: Spread::of(gross),
        };
        VitalsReading { energy: Some(energy), ..VitalsReading::default() }
    }
}

fn agent_config(state: &Path) -> AgentConfig {
    let mut config = AgentConfig::new(keys(), state.to_owned());
    config.period = Micros::from_millis(100);
    config
}

#[test]
fn an_agent_reports_over_udp_and_carries_out_commands() {
    let folder = tempfile::tempdir().unwrap();
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    collector.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let target: Target = format!("udp://{}", collector.local_addr().unwrap()).parse().unwrap();
    let (heard, commands) = std::sync::mpsc::channel();
    let on_command = Box::new(move |command| heard.send(command).unwrap());
    let (agent, mut publisher, notifier) =
        Agent::start(agent_config(folder.path()), target.open().unwrap(), Box::new(Steady), on_command)
            .unwrap();
    for us in 1..=1000 {
        publisher.record(Sample { latency: Micros(us), missed: us > 990 });
    }
    notifier.notify(&log_line("hello from the test")).unwrap();
    let budget = Message::Command(Command::Budget(Micros(9_000)));
    let down = FLEET.derive(Direction::Down, 1, DEVICE);
    let mut ideal = Ideal::default();
    let mut kinds = BTreeSet::new();
    let (mut count, mut misses, mut frame) = (0, 0, [0; 2048]);
    let mut agent = Some(agent);
    let mut stopping: Option<std::thread::JoinHandle<_>> = None;
    let started = std::time::Instant::now();
    // The agent may ask again for what was answered late: it is served until it has gone.
    while ideal.closing.is_none() || stopping.as_ref().is_some_and(|s| !s.is_finished()) {
        assert!(started.elapsed() < Duration::from_secs(60), "the agent does not close");
        let Ok((length, from)) = collector.recv_from(&mut frame) else { continue };
        let (parsed, _) = Frame::parse(&frame[..length]).unwrap();
        let opened = parsed.verify(&FLEET.derive(Direction::Up, 1, DEVICE)).unwrap();
        kinds.insert(opened.kind.name());
        if let Message::Report(report) = opened.message().unwrap()
            && !ideal.stored.contains(&(opened.header.boot, opened.header.sequence))
        {
            (count, misses) = (count + report.count, misses + report.trouble.misses);
            assert_eq!(report.energy.unwrap().source, Source::Modelled);
        }
        let answer = ideal.take(&frame[..length], 0).unwrap();
        collector.send_to(&answer, from).unwrap();
        if kinds.len() >= 3
            && let Some(agent) = agent.take()
        {
            let length = seal(&Header::new(DEVICE, 1, 1), &budget, &down, &mut frame).unwrap();
            collector.send_to(&frame[..length], from).unwrap();
            assert_eq!(commands.recv_timeout(Duration::from_secs(10)), Ok(Command::Budget(Micros(9_000))));
            stopping = Some(std::thread::spawn(move || agent.stop()));
        }
    }
    let status = stopping.unwrap().join().unwrap();
    assert_eq!((count, misses), (1000, 10));
    assert_eq!((status.boot, status.waiting, status.unsampled), (1, 0, 0));
    assert!(kinds.is_superset(&BTreeSet::from(["Hello", "Report", "Log", "Closing"])));
}

#[test]
fn an_unsent_report_survives_a_killed_agent() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody listens there.
    let nowhere = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target: Target = format!("udp://{nowhere}").parse().unwrap();
    let mut config = agent_config(folder.path());
    config.linger = Micros::ZERO;
    for boot in 1..=3 {
        let (agent, mut publisher, _) =
            Agent::start(config.clone(), target.open().unwrap(), Box::new(Unobserved), Box::new(|_| {}))
                .unwrap();
        publisher.record(Sample { latency: Micros(7), missed: false });
        std::thread::sleep(Duration::from_millis(150));
        let status = agent.stop();
        assert_eq!(status.boot, boot);
        assert!(status.waiting >= 3 * boot as usize, "{status:?}");
    }
    let (_, records) = Journal::open(&folder.path().join("outbox")).unwrap();
    let boots: BTreeSet<u32> = records.iter().map(|record| record.boot).collect();
    assert_eq!(boots, BTreeSet::from([1, 2, 3]));
}

#[test]
fn frames_cross_a_noisy_serial_line_and_a_port_that_goes_and_comes() {
    let (near, far) = serial2::SerialPort::pair().unwrap();
    let mut device = SerialTransport::from_port("near", near);
    let mut collector = SerialTransport::from_port("far", far.try_clone().unwrap());
    let mut noise = far;
    noise.set_write_timeout(Duration::from_secs(1)).unwrap();
    let mut out = [0; MAX_FRAME];
    let wait = Duration::from_millis(500);
    for size in [1, 8, 48, 250, MAX_FRAME] {
        let frame: Vec<u8> = (0..size).map(|at| at as u8).collect();
        device.send(&frame).unwrap();
        let length = collector.receive(&mut out, wait).unwrap().unwrap();
        assert_eq!(&out[..length], frame);
    }
    // Noise before a frame costs at most that frame: the sender's next delimiter ends it.
    noise.write_all(&[0x55, 0xaa, 0x13, 0x00, 0x07, 0x01]).unwrap();
    collector.send(b"lost to the noise").unwrap();
    collector.send(b"found again").unwrap();
    let length = device.receive(&mut out, wait).unwrap().unwrap();
    assert_eq!(&out[..length], b"found again");
    assert!(device.noise() >= 1);
    assert!(device.receive(&mut out, Duration::from_millis(20)).unwrap().is_none());

    // Unplugged: typed errors, no panic. Plugged in again under the same path: it goes on.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tty");
    let mut absent = SerialTransport::new(path.to_str().unwrap(), 115_200);
    assert!(absent.send(b"x").unwrap_err().to_string().contains("tty"));
    assert!(absent.receive(&mut out, Duration::from_millis(1)).is_err());
    let (far, near) = serial2::SerialPort::pair().unwrap();
    std::os::unix::fs::symlink(terminal_of(&near), &path).unwrap();
    let mut far = SerialTransport::from_port("far", far);
    until(|| absent.send(b"here again").is_ok());
    let length = far.receive(&mut out, wait).unwrap().unwrap();
    assert_eq!(&out[..length], b"here again");
    drop((far, near));
    until(|| absent.receive(&mut out, Duration::from_millis(10)).is_err());
}
