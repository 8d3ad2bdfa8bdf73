//! Collector and device killed at random points: nothing acknowledged is missing, nothing is stored twice.
//!
//! The quick tests kill each a few times. Those that kill each 100 times are ignored unless asked for:
//! `cargo test --release -p pilotlight-collector --test kill -- --ignored --nocapture --test-threads=1`
#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]
mod common;

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{FLEET, config, here, number, until};
use pilotlight_collector::{Collector, Source, Store, StoreConfig};
use pilotlight_link::simulate::Dice;
use pilotlight_link::{Agent, AgentConfig, Outbox, Sender, SenderConfig, Target, Unobserved};
use pilotlight_units::Micros;
use pilotlight_wire::*;

/// A copy of this test program that runs one of the two children below, for ever.
struct Killed(Child);

impl Killed {
    fn spawn(child: &str, address: SocketAddr, folder: &Path) -> Self {
        let exe = std::env::current_exe().unwrap();
        let spawned = Command::new(exe)
            .args(["--exact", child, "--nocapture", "--test-threads=1"])
            .env("PILOTLIGHT_CHILD", format!("{address} {}", folder.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(spawned.unwrap())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // SIGKILL: no destructor runs, nothing is flushed.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn child() -> Option<(SocketAddr, PathBuf)> {
    let text = std::env::var("PILOTLIGHT_CHILD").ok()?;
    let (address, folder) = text.split_once(' ').unwrap();
    Some((address.parse().unwrap(), folder.into()))
}

/// Does nothing by itself: the tests below start it in a process of its own.
#[test]
fn child_collector() {
    let Some((address, folder)) = child() else { return };
    let mut config = config(&folder.join("fleet.db"));
    config.sources = vec![Source::Udp(address)];
    let _collector = Collector::start(config).unwrap();
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Does nothing by itself: the tests below start it in a process of its own.
#[test]
fn child_device() {
    let Some((address, folder)) = child() else { return };
    let mut config = AgentConfig::new(FLEET.device_keys(1, 31), folder);
    config.period = Micros::from_millis(100);
    let transport = format!("udp://{address}").parse::<Target>().unwrap().open().unwrap();
    let (_agent, _, notifier) =
        Agent::start(config, transport, Box::new(Unobserved), Box::new(|_| {})).unwrap();
    loop {
        notifier
            .notify(&Message::Log(Log { at: notifier.now(), level: Level::Info, text: "alive" }))
            .unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn free_address() -> SocketAddr {
    UdpSocket::bind(here()).unwrap().local_addr().unwrap()
}

#[test]
fn a_killed_collector_forgets_nothing_that_it_acknowledged() {
    kill_collectors(6);
}

#[test]
#[ignore = "a minute and more: cargo xtask soak"]
fn a_hundred_killed_collectors_forget_nothing_that_they_acknowledged() {
    kill_collectors(100);
}

#[test]
fn a_killed_device_loses_no_message_that_it_numbered() {
    kill_devices(6);
}

#[test]
#[ignore = "a minute and more: cargo xtask soak"]
fn a_hundred_killed_devices_lose_no_message_that_they_numbered() {
    kill_devices(100);
}

fn kill_collectors(kills: u32) {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("fleet.db");
    let address = free_address();
    let socket = UdpSocket::bind(here()).unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let mut sender = Sender::new(&FLEET.device_keys(1, 30), 1, Outbox::new(400), SenderConfig::default());
    let (mut frame, mut dice, start) = ([0; MAX_FRAME], Dice::new(11), Instant::now());
    let mut exchange = |sender: &mut Sender, until: Instant, push: bool| {
        while Instant::now() < until && (push || !sender.outbox().is_empty()) {
            let now = start.elapsed().as_micros() as u64;
            if push && sender.outbox().len() < 200 {
                sender.push(&Message::Log(Log { at: Micros(now), level: Level::Info, text: "x" })).unwrap();
            }
            while let Ok(Some(length)) = sender.next_frame(now, &mut frame) {
                // Nobody may be listening just now.
                let _ = socket.send(&frame[..length]);
            }
            if let Ok(length) = socket.recv(&mut frame) {
                let _ = sender
                    .receive(Frame::parse(&frame[..length]).unwrap().0, start.elapsed().as_micros() as u64);
            }
        }
    };
    let (mut acknowledged_before, mut lives) = (0, 0);
    let half = kills / 2;
    for kill in 0..kills {
        let collector = Killed::spawn("child_collector", address, folder.path());
        // Every third dies while it starts, the others some time after they began to acknowledge.
        let (so_far, start) = (sender.counts().acknowledged, Instant::now());
        while kill % 3 != 2 && sender.counts().acknowledged == so_far {
            assert!(start.elapsed() < Duration::from_secs(60), "the collector does not answer");
            exchange(&mut sender, Instant::now() + Duration::from_millis(20), true);
        }
        exchange(&mut sender, Instant::now() + Duration::from_millis(dice.below(400)), true);
        drop(collector);
        // What the device has no longer, the dead collector's database must have.
        let waiting: BTreeSet<u32> = sender.outbox().waiting().map(|record| record.sequence).collect();
        let acknowledged = (1..=sender.last_sequence()).filter(|sequence| !waiting.contains(sequence));
        let acknowledged: BTreeSet<u32> = acknowledged.collect();
        lives += u32::from(acknowledged.len() > acknowledged_before);
        acknowledged_before = acknowledged.len();
        if !acknowledged.is_empty() {
            let missing = &acknowledged - &sequences(&database, 30, 1);
            assert!(missing.is_empty(), "acknowledged and missing: {missing:?}");
        }
    }
    assert!(lives >= half, "only {lives} collectors lived long enough to acknowledge anything");
    let collector = Killed::spawn("child_collector", address, folder.path());
    exchange(&mut sender, Instant::now() + Duration::from_secs(30), false);
    assert_eq!((sender.outbox().len(), sender.counts().dropped), (0, 0));
    drop(collector);
    // Opening catches up with what came after the last checkpoint: the sums are those of the frames.
    drop(Store::open(&database, StoreConfig::default()).unwrap());
    let last = sender.last_sequence();
    assert_eq!(sequences(&database, 30, 1).len(), last as usize);
    let stream =
        format!("SELECT count(*) FROM streams WHERE floor = {last} AND stored = {last} AND given_up = 0");
    assert_eq!(number(&database, &stream), 1);
    println!("{kills} lives of the collector, {lives} of which acknowledged something; {last} messages");
}

fn kill_devices(kills: u32) {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let database = folder.path().join("fleet.db");
    let collector = Collector::start(config(&database)).unwrap();
    let address = collector.udp_addresses()[0];
    let mut dice = Dice::new(12);
    for _ in 0..kills {
        let device = Killed::spawn("child_device", address, &state);
        std::thread::sleep(Duration::from_millis(100 + dice.below(400)));
        drop(device);
    }
    // The last life sends what the others left.
    let device = Killed::spawn("child_device", address, &state);
    let boots = format!("SELECT count(DISTINCT boot) FROM frames WHERE boot <= {kills}");
    // A process that was killed before it said anything has no boot, or one without frames.
    until("the last boot speaks", || number(&database, "SELECT coalesce(max(boot), 0) FROM frames") > 1);
    until("earlier boots have no gaps", || {
        let gaps = "SELECT count(*) FROM (SELECT boot, max(sequence) AS last, count(*) AS n FROM frames
                    WHERE boot < (SELECT max(boot) FROM frames) GROUP BY boot) WHERE n != last";
        number(&database, gaps) == 0
    });
    println!("{} lives of the device, {} boots heard", kills + 1, number(&database, &boots) + 1);
    drop(device);
    collector.stop();
}

fn sequences(database: &Path, device: u32, boot: u32) -> BTreeSet<u32> {
    let db = rusqlite::Connection::open(database).unwrap();
    let mut select = db.prepare("SELECT sequence FROM frames WHERE device = ? AND boot = ?").unwrap();
    select.query_map([device, boot], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}
