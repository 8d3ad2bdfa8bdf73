//! Simulated devices through a bad link into a real collector: nothing lost, nothing twice, nothing forged.
#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]
mod common;

use std::net::UdpSocket;
use std::time::Duration;

use common::{FLEET, config, count, fleet, here, number, until};
use pilotlight_collector::Source;
use pilotlight_collector::*;
use pilotlight_link::simulate::{Dice, Faults};
use pilotlight_link::{Incoming, Outbox, Sender, SenderConfig, SerialTransport, Transport as _};
use pilotlight_units::Micros;
use pilotlight_wire::*;

const BAD: Faults = Faults { loss: 0.2, duplicate: 0.1, reorder: 0.1, corrupt: 0.05 };

#[test]
fn with_acknowledgements_a_bad_link_loses_nothing_and_stores_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("fleet.db");
    let collector = Collector::start(config(&database)).unwrap();
    let fleet =
        pilotlight_link::simulate::Fleet { faults: BAD, ..fleet(collector.udp_addresses()[0], 200, 50) };
    let outcome = fleet.run().unwrap();
    assert!(outcome.made >= 200 * 52 && outcome.acknowledged == outcome.made, "{outcome:?}");
    assert_eq!(outcome.dropped, 0);
    assert!(
        outcome.lost > 1000 && outcome.corrupted > 100 && outcome.duplicated > 100 && outcome.reordered > 100
    );
    // A frame that is delivered twice may still lie in the socket's buffer.
    until("all frames are counted", || {
        count(&collector, "verified")
            == count(&collector, "stored") + count(&collector, "duplicates") + count(&collector, "late")
    });
    assert_eq!(count(&collector, "stored"), outcome.made);
    let view = collector.fleet().lock().unwrap();
    assert_eq!(view.devices().len(), 200);
    assert!(view.devices().values().all(|device| device.closed && device.lost_link + device.lost_queue == 0));
    drop(view);
    collector.stop();
    assert_eq!(number(&database, "SELECT count(*) FROM frames") as u64, outcome.made);
    let strange =
        "SELECT count(*) FROM streams WHERE floor != stored OR given_up != 0 OR stored < 52 OR closed != 1";
    assert_eq!(number(&database, strange), 0);
    for level in [1, 60, 3600] {
        let reports = format!("SELECT sum(reports) FROM rollups WHERE level = {level}");
        assert_eq!(number(&database, &reports), 200 * 50, "level {level}");
    }
}

#[test]
fn without_acknowledgements_counted_losses_are_the_injected_ones() {
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::start(config(&folder.path().join("fleet.db"))).unwrap();
    let base = fleet(collector.udp_addresses()[0], 100, 50);
    let fleet = pilotlight_link::simulate::Fleet { faults: BAD, two_way: false, rate: Some(10_000), ..base };
    let outcome = fleet.run().unwrap();
    let arrived = outcome.made - outcome.lost - outcome.corrupted;
    until("all that was sent is stored", || count(&collector, "stored") == arrived);
    assert_eq!(count(&collector, "kernel_drops"), 0, "the losses below would not be the link's alone");
    let refused: u64 = Refusal::ALL.iter().map(|why| collector.counters().refused(*why)).sum();
    assert_eq!(refused, outcome.corrupted);
    let view = collector.fleet().lock().unwrap();
    let lost: u64 = view.devices().values().map(|device| device.lost_link).sum();
    let queue: u64 = view.devices().values().map(|device| device.lost_queue + device.awaited).sum();
    assert_eq!((lost, queue), (outcome.lost + outcome.corrupted, 0));
}

/// Garbage, cut frames, forged tags, unknown keys, revoked devices, replays: counted, and nothing stored.
#[test]
fn what_is_not_authentic_is_counted_and_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("fleet.db");
    let mut config = config(&database);
    config.keyring.revoke_device(66);
    config.keyring = config.keyring.with_key(3, FleetKey::new([8; 32]));
    config.keyring.revoke_key(3);
    let collector = Collector::start(config).unwrap();
    let socket = UdpSocket::bind(here()).unwrap();
    socket.connect(collector.udp_addresses()[0]).unwrap();
    let seal_with = |key: &FrameKey, device, sequence| {
        let mut frame = vec![0; MAX_FRAME];
        let report = Message::Report(Report { end: Micros(1_000_000), ..Report::default() });
        let length = seal(&Header::new(device, 1, sequence), &report, key, &mut frame).unwrap();
        frame.truncate(length);
        frame
    };
    let up = |device| FLEET.derive(Direction::Up, 1, device);
    let mut dice = Dice::new(7);
    for _ in 0..100 {
        let garbage: Vec<u8> = (0..dice.below(60)).map(|_| dice.roll() as u8 | 0xe0).collect();
        socket.send(&garbage).unwrap();
    }
    let good = seal_with(&up(5), 5, 1);
    for cut in 1..good.len() {
        socket.send(&good[..cut]).unwrap();
    }
    for device in 100..200 {
        socket.send(&seal_with(&FleetKey::new([9; 32]).derive(Direction::Up, 1, device), device, 1)).unwrap();
    }
    for sequence in 1..=20 {
        socket.send(&seal_with(&up(66), 66, sequence)).unwrap();
        socket.send(&seal_with(&FleetKey::new([8; 32]).derive(Direction::Up, 3, 7), 7, sequence)).unwrap();
        socket.send(&seal_with(&FLEET.derive(Direction::Up, 9, 7), 7, sequence)).unwrap();
        // The collector's own answers, thrown back at it.
        socket.send(&seal_with(&FLEET.derive(Direction::Down, 1, 7), 7, sequence)).unwrap();
    }
    for _ in 0..10 {
        socket.send(&good).unwrap();
    }
    let refused = |why| collector.counters().refused(why);
    until("everything is counted", || count(&collector, "duplicates") == 9);
    assert_eq!(refused(Refusal::Forged), 100 + 20);
    assert_eq!((refused(Refusal::Revoked), refused(Refusal::UnknownKey)), (40, 20));
    assert!(refused(Refusal::Malformed) >= good.len() as u64 - 1);
    assert_eq!(count(&collector, "stored"), 1);
    collector.stop();
    assert_eq!(number(&database, "SELECT count(*) FROM frames"), 1);
    // Restarted, it still knows what it has.
    let collector = Collector::start(common::config(&database)).unwrap();
    socket.connect(collector.udp_addresses()[0]).unwrap();
    socket.send(&good).unwrap();
    until("the replay is refused", || count(&collector, "duplicates") == 1);
    assert_eq!(count(&collector, "stored"), 0);
}

/// Two devices on two serial lines, one of them noisy, into one collector beside UDP.
#[test]
fn serial_lines_with_noise_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("fleet.db");
    let mut lines = Vec::new();
    let mut config = config(&database);
    for number in 0..2 {
        let (device, collector) = serial2::SerialPort::pair().unwrap();
        use std::os::fd::AsRawFd as _;
        let terminal = std::fs::read_link(format!("/proc/self/fd/{}", collector.as_raw_fd())).unwrap();
        let path = terminal.to_str().unwrap().to_owned();
        config.sources.push(Source::Serial { path, baud: 115_200 });
        lines.push((number, device, collector));
    }
    let collector = Collector::start(config).unwrap();
    let devices = lines.into_iter().map(|(number, port, keep_open)| {
        std::thread::spawn(move || {
            let keys = FLEET.device_keys(1, 500 + number);
            let mut sender = Sender::new(&keys, 1, Outbox::new(400), SenderConfig::default());
            for _ in 0..300 {
                let log = Log { at: Micros(5), level: Level::Info, text: "over a serial line" };
                sender.push(&Message::Log(log)).unwrap();
            }
            let mut noise = port.try_clone().unwrap();
            noise.set_write_timeout(Duration::from_secs(1)).unwrap();
            let mut line = SerialTransport::from_port("test", port);
            let (mut frame, mut dice, start) = ([0; MAX_FRAME], Dice::new(9), std::time::Instant::now());
            let now = || start.elapsed().as_micros() as u64;
            while !sender.outbox().is_empty() {
                assert!(start.elapsed() < Duration::from_secs(60));
                while let Some(length) = sender.next_frame(now(), &mut frame).unwrap() {
                    if number == 0 && dice.chance(0.1) {
                        let burst: Vec<u8> = (0..1 + dice.below(20)).map(|_| dice.roll() as u8).collect();
                        noise.write_all(&burst).unwrap();
                    }
                    line.send(&frame[..length]).unwrap();
                }
                if let Ok(Some(length)) = line.receive(&mut frame, Duration::from_millis(20)) {
                    let _ = sender.receive(Frame::parse(&frame[..length]).unwrap().0, now());
                }
            }
            drop(keep_open);
            sender.counts()
        })
    });
    let counts: Vec<_> =
        devices.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(counts.iter().all(|count| count.acknowledged >= 300), "{counts:?}");
    collector.stop();
    assert_eq!(number(&database, "SELECT count(*) FROM frames WHERE kind = 4"), 600);
}

#[test]
fn a_full_disk_acknowledges_nothing_and_room_makes_it_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(&folder.path().join("small.db"), StoreConfig::default()).unwrap();
    let mut verifier = Verifier::new(Keyring::single(1, FLEET), Default::default());
    let key = FLEET.derive(Direction::Up, 1, 9);
    let text = "x".repeat(180);
    let mut batch_of = |from: u32| {
        let mut batch = Batch::default();
        for sequence in from..from + 100 {
            let log = Message::Log(Log { at: Micros(1), level: Level::Info, text: &text });
            let mut frame = [0; MAX_FRAME];
            let length = seal(&Header::new(9, 1, sequence), &log, &key, &mut frame).unwrap();
            verifier.take(&frame[..length], 5_000_000, Reply::None, &mut batch);
        }
        batch
    };
    let pages: u32 = 60;
    store.limit_pages(pages).unwrap();
    let mut stored = 0;
    let refused = loop {
        match store.store(&[batch_of(1 + stored)], |_, _, _| {}) {
            Ok(outcome) => stored += outcome.stored as u32,
            Err(error) => break error,
        }
        assert!(stored < 5000);
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    assert!(stored >= 100);
    assert_eq!(store.frames().unwrap(), u64::from(stored), "a refused batch leaves nothing behind");
    store.limit_pages(pages * 10).unwrap();
    let again = store.store(&[batch_of(1 + stored)], |_, _, _| {}).unwrap();
    assert_eq!((again.stored, again.duplicates), (100, 0));
}

#[test]
fn retention_cap_and_deletion_free_space_and_old_frames_stay_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kept.db");
    let day = Micros::from_secs(86_400);
    let mut store = Store::open(&path, StoreConfig { keep_frames: day, ..StoreConfig::default() }).unwrap();
    let mut verifier = Verifier::new(Keyring::single(1, FLEET), Default::default());
    let start = 1_700_000_000_000_000;
    let mut batch_of = |device: u32, hours: std::ops::Range<u32>| {
        let key = FLEET.derive(Direction::Up, 1, device);
        let mut batch = Batch::default();
        for hour in hours {
            let made = 3_600_000_000 * u64::from(hour);
            let report =
                Report { end: Micros(made), window: Micros::from_secs(1), count: 2, ..Report::default() };
            let mut frame = [0; MAX_FRAME];
            let length =
                seal(&Header::new(device, 1, hour + 1), &Message::Report(report), &key, &mut frame).unwrap();
            verifier.take(&frame[..length], start + made, Reply::None, &mut batch);
        }
        batch
    };
    let batches = [batch_of(1, 0..100), batch_of(2, 0..100)];
    assert_eq!(store.store(&batches, |_, _, _| {}).unwrap().stored, 200);
    let now = start + 99 * 3_600_000_000;
    assert_eq!(store.retain(now).unwrap(), 2 * 75);
    assert_eq!(number(&path, "SELECT min(sequence) FROM frames"), 76);
    assert_eq!(number(&path, "SELECT count(*) FROM rollups WHERE level = 3600"), 200);
    assert_eq!(number(&path, "SELECT count(*) FROM rollups WHERE level = 1"), 2 * 25);
    assert_eq!(store.delete_device(2).unwrap(), 25);
    drop(store);
    let mut store = Store::open(&path, StoreConfig::default()).unwrap();
    let again = store.store(&batches, |_, _, _| {}).unwrap();
    assert_eq!((again.stored, again.duplicates), (0, 200));
    assert_eq!(number(&path, "SELECT count(*) FROM rollups WHERE device = 2"), 0);
    // The cap wins over the time to keep.
    drop(store);
    let small = StoreConfig { cap: pilotlight_units::Bytes(90_000), ..StoreConfig::default() };
    let mut store = Store::open(&path, small).unwrap();
    let more: Vec<Batch> = (10..60).map(|device| batch_of(device, 0..100)).collect();
    store.store(&more, |_, _, _| {}).unwrap();
    assert!(store.retain(now).unwrap() > 0);
}

#[test]
fn a_command_reaches_its_device_once() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("fleet.db");
    let collector = Collector::start(config(&database)).unwrap();
    queue_command(&database, 77, &Command::Budget(Micros(8_000))).unwrap();
    let socket = UdpSocket::bind(here()).unwrap();
    socket.connect(collector.udp_addresses()[0]).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut sender = Sender::new(&FLEET.device_keys(1, 77), 4, Outbox::new(10), SenderConfig::default());
    sender.push(&Message::Log(Log { at: Micros(5), level: Level::Info, text: "here" })).unwrap();
    let mut frame = [0; MAX_FRAME];
    let mut heard = Vec::new();
    let start = std::time::Instant::now();
    while sender.counts().replayed < 2 {
        assert!(start.elapsed() < Duration::from_secs(30));
        let now = start.elapsed().as_micros() as u64;
        while let Some(length) = sender.next_frame(now, &mut frame).unwrap() {
            socket.send(&frame[..length]).unwrap();
        }
        let mut bytes = [0; 2048];
        let Ok(length) = socket.recv(&mut bytes) else { continue };
        let now = start.elapsed().as_micros() as u64;
        if let Incoming::Command(command) =
            sender.receive(Frame::parse(&bytes[..length]).unwrap().0, now).unwrap()
        {
            heard.push(command);
        }
    }
    assert_eq!(heard, [Command::Budget(Micros(8_000))]);
    assert!(sender.clock_offset().is_some() && sender.counts().acknowledged >= 1);
}

#[test]
fn keys_are_rotated_and_revoked_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("fleet.key");
    let first = new_fleet_key(None).unwrap();
    std::fs::write(&key_file, &first).unwrap();
    let old = Keyring::parse(&first).unwrap();
    let mut config = CollectorConfig::new(here(), &folder.path().join("fleet.db"), old.clone());
    config.key_file = Some(key_file.clone());
    let collector = Collector::start(config).unwrap();
    let socket = UdpSocket::bind(here()).unwrap();
    socket.connect(collector.udp_addresses()[0]).unwrap();
    let mut sequence = 0;
    let mut send = |ring: &Keyring| {
        sequence += 1;
        let mut frame = [0; MAX_FRAME];
        let key = ring.device_keys(3).unwrap().key(Direction::Up);
        let length =
            seal(&Header::new(3, 1, sequence), &Message::Closing(Closing::default()), &key, &mut frame);
        socket.send(&frame[..length.unwrap()]).unwrap();
    };
    send(&old);
    until("the old key is accepted", || count(&collector, "stored") == 1);
    let second = new_fleet_key(Some(&first)).unwrap();
    let new = Keyring::parse(&second).unwrap();
    std::fs::write(&key_file, &second).unwrap();
    until("both keys are accepted", || {
        send(&new);
        std::thread::sleep(Duration::from_millis(100));
        count(&collector, "stored") > 1
    });
    let so_far = count(&collector, "stored");
    send(&old);
    until("the old key is accepted still", || count(&collector, "stored") > so_far);
    // A moment, so that the file's time differs.
    std::fs::write(&key_file, second.replacen("revoked = false", "revoked = true", 1)).unwrap();
    until("the old key is refused", || {
        send(&old);
        std::thread::sleep(Duration::from_millis(100));
        collector.counters().refused(Refusal::Revoked) > 0
    });
}
