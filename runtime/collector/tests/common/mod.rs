//! A collector on this machine, and fleets that speak to it.
#![allow(dead_code, reason = "each test takes some of it")]
#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use pilotlight_collector::*;
use pilotlight_link::simulate::{Faults, Fleet};
use pilotlight_units::Micros;
use pilotlight_wire::FleetKey;

pub const FLEET: FleetKey = FleetKey::new([5; 32]);

pub fn here() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

pub fn config(database: &Path) -> CollectorConfig {
    CollectorConfig {
        commit_every: Micros::from_millis(20),
        ..CollectorConfig::new(here(), database, Keyring::single(1, FLEET))
    }
}

pub fn fleet(devices: u32, reports: u32) -> Fleet {
    Fleet {
        key: FLEET,
        key_id: 1,
        first_device: 1,
        devices,
        boot: 1,
        reports,
        two_way: true,
        rate: None,
        faults: Faults::default(),
        seed: 1,
        patience: Duration::from_secs(120),
    }
}

pub fn count(collector: &Collector, name: &str) -> u64 {
    collector.counters().values().iter().find(|(known, ..)| *known == name).unwrap().2
}

/// Waits for a condition, ten seconds at most.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Frames in the database, and rows of `sql` that should not be.
pub fn number(database: &Path, sql: &str) -> i64 {
    let db = rusqlite::Connection::open(database).unwrap();
    db.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// The path of a pseudo-terminal's end, which the collector can open.
pub fn terminal_of(port: &serial2::SerialPort) -> String {
    use std::os::fd::AsRawFd as _;
    let terminal = std::fs::read_link(format!("/proc/self/fd/{}", port.as_raw_fd())).unwrap();
    terminal.to_str().unwrap().to_owned()
}
