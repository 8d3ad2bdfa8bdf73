//! A thousand simulated devices through a bad link into a real collector: nothing lost, nothing twice, nothing forged.
//!
//! The quick tests send thousands of reports. Those with a million are ignored unless asked for:
//! `cargo test --release -p pilotlight-collector --test million -- --ignored --nocapture --test-threads=1`
#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]
mod common;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::{config, count, fleet, number, terminal_of, until};
use pilotlight_collector::{Collector, CollectorConfig, Refusal, Source};
use pilotlight_link::simulate::{Carrier, Faults, Fleet, FleetOutcome, digest};

const BAD: Faults = Faults { loss: 0.2, duplicate: 0.1, reorder: 0.1, corrupt: 0.05, forge: 0.05 };

/// One test at a time: what is too fast for half a machine would show as drops of the kernel.
static ALONE: Mutex<()> = Mutex::new(());

#[derive(Clone, Copy)]
enum Link {
    Udp,
    /// A pseudo-terminal pair that all devices share.
    Serial,
}

/// A collector at one end of the link, and the link's other end.
fn connect(link: Link, mut config: CollectorConfig) -> (Collector, Carrier, Option<serial2::SerialPort>) {
    match link {
        Link::Udp => {
            let collector = Collector::start(config).unwrap();
            let carrier = Carrier::udp(collector.udp_addresses()[0]).unwrap();
            (collector, carrier, None)
        }
        Link::Serial => {
            let (near, far) = serial2::SerialPort::pair().unwrap();
            config.sources = vec![Source::Serial { path: terminal_of(&far), baud: 115_200 }];
            (Collector::start(config).unwrap(), Carrier::serial(near).unwrap(), Some(far))
        }
    }
}

fn say(what: &str, outcome: &FleetOutcome) {
    let FleetOutcome { made, sent, lost, corrupted, duplicated, reordered, forged, seconds, .. } = outcome;
    println!(
        "{what}: {made} messages in {seconds:.1} s, {sent} frames sent; injected: {lost} lost, {corrupted} damaged, \
         {duplicated} twice, {reordered} late, {forged} forged"
    );
}

fn refused(collector: &Collector) -> u64 {
    Refusal::ALL.iter().map(|why| collector.counters().refused(*why)).sum()
}

/// The sum of the digests of all frames in the database.
fn stored_digest(database: &Path) -> u64 {
    let db = rusqlite::Connection::open(database).unwrap();
    let mut select = db.prepare("SELECT device, boot, sequence, kind, body FROM frames").unwrap();
    let mut rows = select.query([]).unwrap();
    let mut sum = 0u64;
    while let Some(row) = rows.next().unwrap() {
        let body = row.get_ref(4).unwrap().as_blob().unwrap();
        let number = |at| row.get(at).unwrap();
        sum = sum.wrapping_add(digest(number(0), number(1), number(2), row.get(3).unwrap(), body));
    }
    sum
}

fn with_acknowledgements(link: Link, devices: u32, reports: u32) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("fleet.db");
    let (collector, carrier, _open) = connect(link, config(&database));
    let base = fleet(devices, reports);
    let outcome = Fleet { faults: BAD, patience: Duration::from_secs(1200), ..base }.run(&carrier).unwrap();
    say("with acknowledgements", &outcome);
    assert!(outcome.made >= u64::from(devices * (reports + 2)), "{outcome:?}");
    assert_eq!((outcome.acknowledged, outcome.dropped), (outcome.made, 0));
    // Every fault occurred.
    let n = outcome.made;
    let faults = [outcome.lost, outcome.corrupted, outcome.duplicated, outcome.reordered, outcome.forged];
    assert!(faults.iter().zip([6, 25, 20, 20, 25]).all(|(found, part)| *found > n / part), "{outcome:?}");
    // A frame that is delivered twice may still lie in a buffer.
    until("all frames are counted", || {
        count(&collector, "verified")
            == count(&collector, "stored") + count(&collector, "duplicates") + count(&collector, "late")
    });
    assert_eq!((count(&collector, "stored"), count(&collector, "late")), (outcome.made, 0));
    let spoilt = outcome.corrupted + outcome.forged;
    match link {
        Link::Udp if count(&collector, "kernel_drops") > 0 => assert!(refused(&collector) <= spoilt),
        Link::Udp => until("all that was spoilt is refused", || refused(&collector) == spoilt),
        // A damaged byte may part a line's frame in two.
        Link::Serial => assert!(refused(&collector) >= spoilt),
    }
    println!(
        "stored {}, duplicates refused {}, forged or damaged refused {}, kernel drops {}",
        count(&collector, "stored"),
        count(&collector, "duplicates"),
        refused(&collector),
        count(&collector, "kernel_drops")
    );
    let view = collector.fleet().lock().unwrap();
    assert_eq!(view.devices().len(), devices as usize);
    assert!(view.devices().values().all(|device| device.closed && device.lost_link + device.lost_queue == 0));
    drop(view);
    collector.stop();
    // What is in the database is what was made, message by message, and each once.
    assert_eq!(number(&database, "SELECT count(*) FROM frames") as u64, outcome.made);
    assert_eq!(stored_digest(&database), outcome.digest);
    let strange = "SELECT count(*) FROM streams WHERE floor != stored OR given_up != 0 OR closed != 1";
    assert_eq!(number(&database, strange), 0);
    for level in [1, 60, 3600] {
        let reports_of = format!("SELECT sum(reports) FROM rollups WHERE level = {level}");
        assert_eq!(number(&database, &reports_of), i64::from(devices * reports), "level {level}");
    }
}

fn without_acknowledgements(link: Link, devices: u32, reports: u32, rate: u32) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let (collector, carrier, _open) = connect(link, config(&folder.path().join("fleet.db")));
    let base = Fleet { faults: BAD, patience: Duration::from_secs(1200), ..fleet(devices, reports) };
    let outcome = Fleet { two_way: false, rate: Some(rate), ..base }.run(&carrier).unwrap();
    say("without acknowledgements", &outcome);
    let injected = outcome.lost + outcome.corrupted;
    until("all that was sent is stored", || count(&collector, "stored") == outcome.made - injected);
    assert_eq!(count(&collector, "kernel_drops"), 0, "the losses below would not be the link's alone");
    let spoilt = outcome.corrupted + outcome.forged;
    match link {
        Link::Udp => until("all that was spoilt is refused", || refused(&collector) == spoilt),
        Link::Serial => until("all that was spoilt is refused", || refused(&collector) >= spoilt),
    }
    let view = collector.fleet().lock().unwrap();
    let lost: u64 = view.devices().values().map(|device| device.lost_link).sum();
    let queue: u64 = view.devices().values().map(|device| device.lost_queue + device.awaited).sum();
    println!("losses counted {lost}, injected {injected}");
    assert_eq!((lost, queue), (injected, 0));
}

#[test]
fn over_udp_with_acknowledgements_nothing_is_lost_or_stored_twice() {
    with_acknowledgements(Link::Udp, 200, 50);
}

#[test]
fn over_a_serial_line_with_acknowledgements_nothing_is_lost_or_stored_twice() {
    with_acknowledgements(Link::Serial, 200, 50);
}

#[test]
fn over_udp_without_acknowledgements_losses_counted_are_those_injected() {
    without_acknowledgements(Link::Udp, 200, 50, 10_000);
}

#[test]
fn over_a_serial_line_without_acknowledgements_losses_counted_are_those_injected() {
    without_acknowledgements(Link::Serial, 200, 50, 10_000);
}

#[test]
#[ignore = "a minute and more: cargo xtask soak"]
fn a_million_over_udp_with_acknowledgements() {
    with_acknowledgements(Link::Udp, 1000, 1000);
}

#[test]
#[ignore = "a minute and more: cargo xtask soak"]
fn a_million_over_a_serial_line_with_acknowledgements() {
    with_acknowledgements(Link::Serial, 1000, 1000);
}

#[test]
#[ignore = "a minute and more: cargo xtask soak"]
fn a_million_over_udp_without_acknowledgements() {
    without_acknowledgements(Link::Udp, 1000, 1000, 20_000);
}

#[test]
#[ignore = "a minute and more: cargo xtask soak"]
fn a_million_over_a_serial_line_without_acknowledgements() {
    without_acknowledgements(Link::Serial, 1000, 1000, 20_000);
}
