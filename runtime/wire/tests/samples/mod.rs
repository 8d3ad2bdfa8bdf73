//! Messages that the vectors, the size table and the benchmark share.
#![allow(dead_code, reason = "each user takes some of them")]
#![allow(clippy::unwrap_used, reason = "the values are constants")]

use pilotlight_units::{Hertz, Microjoules, Micros, MilliCelsius};
use pilotlight_wire::*;

/// The fleet key of the frozen vectors: bytes 0 to 31. Never use it for devices.
pub fn fleet_key() -> FleetKey {
    FleetKey::new(std::array::from_fn(|at| at as u8))
}

/// A device that has reported every second for 34 days.
pub fn typical_header() -> Header {
    Header::new(1201, 318, 2_937_600)
}

/// The typical one-second report: 30 inferences a second on an Orin Nano, all groups but trouble and backlog.
pub fn typical_report() -> Report {
    Report {
        end: Micros::from_secs(34 * 86_400),
        window: Micros::from_millis(1_003),
        count: 30,
        latency: Some(Latency {
            p50: Bucket::of(Micros(4_210)),
            p90: Bucket::of(Micros(4_480)),
            p99: Bucket::of(Micros(5_120)),
            max: Bucket::of(Micros(6_030)),
        }),
        energy: Some(Energy {
            source: Source::Measured,
            gross: Microjoules(5_231_004),
            net: Microjoules(2_210_871),
            gross_spread: Spread::of(Microjoules(41_000)),
            net_spread: Spread::of(Microjoules(66_000)),
        }),
        operating: Some(Operating {
            gpu: Band::of(Hertz::from_mhz(612)),
            memory: Band::of(Hertz::from_mhz(2133)),
            cpu: Band::of(Hertz::from_mhz(1510)),
        }),
        temperature: Some(Temperature {
            gpu: Celsius::of(MilliCelsius(51_500)),
            module: Celsius::of(MilliCelsius(48_200)),
        }),
        trouble: Trouble::default(),
        backlog: Backlog::default(),
    }
}

/// A report with every group, as a device in trouble sends it.
pub fn full_report() -> Report {
    Report {
        trouble: Trouble { misses: 12, throttled: 2, over_current: 1 },
        backlog: Backlog { waiting: 310, dropped: 17, dropped_earlier: 4, unsampled: 9 },
        energy: typical_report().energy.map(|energy| Energy { source: Source::Mixed, ..energy }),
        ..typical_report()
    }
}

pub fn hello() -> Hello<'static> {
    let mut plans = heapless::Vec::new();
    let accuracy = Accuracy { measure: Measure::Top1, plan: 7102, reference: 7188 };
    plans.push(Plan { hash: *b"\x01\x23\x45\x67\x89\xab\xcd\xef", accuracy: Some(accuracy) }).unwrap();
    plans.push(Plan { hash: [0xff; 8], accuracy: None }).unwrap();
    Hello {
        schema: Hello::SCHEMA,
        name: "gate-7",
        board: "orin-nano-8gb",
        firmware: "0.1.0",
        rail: "VDD_IN",
        plans,
    }
}

/// Every message of schema 1, named.
pub fn all() -> Vec<(&'static str, Direction, Header, Message<'static>)> {
    let at = Micros(61_000_123);
    let event = |what| Message::Event(Event { at, what });
    let operating = typical_report().operating.unwrap();
    let slower = Operating { gpu: Band::of(Hertz::from_mhz(306)), ..operating };
    let plain = |sequence| Header::new(1201, 3, sequence);
    let two_way = Header { wants_ack: true, held: Some(17), ..plain(20) };
    use Direction::{Down, Up};
    vec![
        ("hello", Up, plain(1), Message::Hello(hello())),
        ("hello-bare", Up, plain(1), Message::Hello(Hello::default())),
        ("report-typical", Up, typical_header(), Message::Report(typical_report())),
        ("report-full", Up, two_way, Message::Report(full_report())),
        ("report-empty", Up, plain(2), Message::Report(Report::default())),
        ("event-governor", Up, plain(3), event(Occurrence::Governor { from: operating, to: slower })),
        (
            "event-alert",
            Up,
            plain(4),
            event(Occurrence::Alert { alert: Alert::TEMPERATURE, value: 86_500, limit: 85_000 }),
        ),
        ("event-park", Up, plain(5), event(Occurrence::Park { parked: true })),
        ("event-fault", Up, plain(6), event(Occurrence::Fault { code: 7, detail: 1 << 20 })),
        (
            "event-clock",
            Up,
            plain(7),
            event(Occurrence::Clock { offset: 1_793_000_000_123_456, uncertainty: Micros(412) }),
        ),
        ("event-unknown", Up, plain(8), event(Occurrence::Unknown { code: 200 })),
        ("log", Up, plain(9), Message::Log(Log { at, level: Level::Warn, text: "sensor VDD_IN is slow" })),
        (
            "closing",
            Up,
            plain(10),
            Message::Closing(Closing { at, dropped: 3, dropped_earlier: 1, unsampled: 0 }),
        ),
        (
            "ack",
            Down,
            plain(0),
            Message::Ack(Ack {
                up_to: 16,
                beyond: 0b1011,
                echo: 20,
                wall: Micros(1_793_000_061_123_456),
                held: Micros(48_112),
            }),
        ),
        ("command-period", Down, plain(1), Message::Command(Command::Period(Micros::from_secs(10)))),
        ("command-budget", Down, plain(2), Message::Command(Command::Budget(Micros(8_300)))),
        (
            "command-threshold",
            Down,
            plain(3),
            Message::Command(Command::Threshold { alert: Alert::ENERGY, limit: 250_000 }),
        ),
        ("command-unknown", Down, plain(4), Message::Command(Command::Unknown { code: 99 })),
        ("unknown-kind", Up, plain(11), Message::Unknown { kind: 30, body: b"later" }),
    ]
}
