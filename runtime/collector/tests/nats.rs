//! Through a real nats-server: forwarded once, stored once, whichever collector dies.
//!
//! Needs `nats-server` on PATH (Debian's package); without it the test is skipped and says so.
#![cfg(feature = "nats")]
#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]
mod common;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{config, count, fleet, here, number, until};
use pilotlight_collector::*;
use pilotlight_link::simulate::{Carrier, Faults, Fleet};

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A JetStream server of our own, or `None` where there is no nats-server.
fn server(folder: &Path) -> Option<(Killed, String)> {
    let port = TcpListener::bind(here()).unwrap().local_addr().unwrap().port();
    let spawned = Command::new("nats-server")
        .args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = spawned else {
        println!("1 skipped: no nats-server on PATH; install Debian's package nats-server");
        return None;
    };
    let child = Killed(child);
    until("nats-server answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    Some((child, format!("nats://127.0.0.1:{port}")))
}

/// Does nothing by itself: the test below starts it in a process of its own, to be killed.
#[test]
fn child_storing_collector() {
    let Ok(text) = std::env::var("PILOTLIGHT_CHILD") else { return };
    let (url, database) = text.split_once(' ').unwrap();
    let collector = Collector::start(config(Path::new(database))).unwrap();
    let (batches, verifier) = (collector.batches(), collector.verifier());
    let _source = NatsSource::start(Forward::new(url), "collectors", batches, verifier).unwrap();
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn two_collectors_share_a_stream_and_one_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_server, url)) = server(folder.path()) else { return };
    let databases: [PathBuf; 2] = [folder.path().join("killed.db"), folder.path().join("kept.db")];
    let mut forwarding = config(&folder.path().join("unused.db"));
    forwarding.destination = Destination::Nats(Forward::new(&url));
    let forwarder = Collector::start(forwarding).unwrap();
    let killed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_storing_collector", "--nocapture"])
        .env("PILOTLIGHT_CHILD", format!("{url} {}", databases[0].display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let killed = Killed(killed.unwrap());
    until("the first collector runs", || databases[0].exists());
    let kept = Collector::start(config(&databases[1])).unwrap();
    let source =
        NatsSource::start(Forward::new(&url), "collectors", kept.batches(), kept.verifier()).unwrap();
    let faults = Faults { loss: 0.1, duplicate: 0.1, reorder: 0.1, corrupt: 0.02, forge: 0.01 };
    let carrier = Carrier::udp(forwarder.udp_addresses()[0]).unwrap();
    let speaking = std::thread::spawn(move || Fleet { faults, ..fleet(100, 60) }.run(&carrier).unwrap());
    until("the first collector stores", || number(&databases[0], "SELECT count(*) FROM frames") > 200);
    drop(killed);
    let outcome = speaking.join().unwrap();
    assert_eq!(outcome.acknowledged, outcome.made);
    assert_eq!(count(&forwarder, "stored"), outcome.made);
    let paths = [databases[0].as_path(), databases[1].as_path()];
    // What the killed one had not acknowledged comes again after ten seconds.
    until("the merged view is whole", || merged_frames(&paths).unwrap().0 == outcome.made);
    let (merged, sum) = merged_frames(&paths).unwrap();
    println!("{merged} frames in the merged view, {} held by both collectors", sum - merged);
    drop(source);
    kept.stop();
    assert_eq!(merged_frames(&paths).unwrap().0, outcome.made);
}
