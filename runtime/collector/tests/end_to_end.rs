//! What a real collector does with forgeries, noise, full disks, old frames, commands and changing keys.
#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]
mod common;

use std::net::UdpSocket;
use std::time::Duration;

use common::{FLEET, config, count, here, number, until};
use pilotlight_collector::Source;
use pilotlight_collector::*;
use pilotlight_link::simulate::Dice;
use pilotlight_link::{Incoming, Outbox, Sender, SenderConfig, SerialTransport, Transport as _};
use pilotlight_units::Micros;
use pilotlight_wire::*;

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
        let path = common::terminal_of(&collector);
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

/// The collector's serial port goes and comes under the same name; the device goes on where it was.
#[test]
fn a_serial_port_that_is_unplugged_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("fleet.db");
    let path = folder.path().join("tty");
    let mut config = config(&database);
    config.sources = vec![Source::Serial { path: path.to_str().unwrap().to_owned(), baud: 115_200 }];
    let collector = Collector::start(config).unwrap();
    let keys = FLEET.device_keys(1, 600);
    let mut sender = Sender::new(&keys, 1, Outbox::new(100), SenderConfig::default());
    let (mut frame, start) = ([0; MAX_FRAME], std::time::Instant::now());
    for plugged in 1..=3 {
        let (near, far) = serial2::SerialPort::pair().unwrap();
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(common::terminal_of(&far), &path).unwrap();
        let mut line = SerialTransport::from_port("test", near);
        for _ in 0..20 {
            sender
                .push(&Message::Log(Log { at: Micros(5), level: Level::Info, text: "plugged in" }))
                .unwrap();
        }
        while !sender.outbox().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(60));
            let now = start.elapsed().as_micros() as u64;
            while let Some(length) = sender.next_frame(now, &mut frame).unwrap() {
                line.send(&frame[..length]).unwrap();
            }
            if let Ok(Some(length)) = line.receive(&mut frame, Duration::from_millis(20)) {
                let now = start.elapsed().as_micros() as u64;
                let _ = sender.receive(Frame::parse(&frame[..length]).unwrap().0, now);
            }
        }
        drop((line, far));
        until("the unplugged port is noticed", || count(&collector, "unplugged") == plugged);
    }
    collector.stop();
    assert_eq!(number(&database, "SELECT count(*) FROM frames WHERE kind = 4"), 60);
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
