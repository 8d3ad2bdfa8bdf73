//! Every message survives the wire; damaged, foreign and newer frames are told apart.
#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]
use pilotlight_units::{Hertz, Microjoules, Micros};
use pilotlight_wire::*;
use proptest::prelude::*;

mod samples;

fn key() -> FrameKey {
    samples::fleet_key().derive(Direction::Up, 2, 1201)
}

fn millis() -> impl Strategy<Value = Micros> {
    (0..=u64::MAX / 1000).prop_map(|ms| Micros(ms * 1000))
}

fn operating() -> impl Strategy<Value = Operating> {
    let band = || any::<u32>().prop_map(|hz| Band::of(Hertz(hz.into())));
    (band(), band(), band()).prop_map(|(gpu, memory, cpu)| Operating { gpu, memory, cpu })
}

fn report() -> impl Strategy<Value = Report> {
    let latency = [any::<u32>(); 4].prop_map(|mut us| {
        us.sort_unstable();
        let [p50, p90, p99, max] = us.map(|us| Bucket::of(Micros(us.into())));
        Latency { p50, p90, p99, max }
    });
    let source = prop_oneof![Just(Source::Measured), Just(Source::Modelled), Just(Source::Mixed)];
    let energy = (source, any::<[u64; 4]>()).prop_map(|(source, [gross, net, a, b])| Energy {
        source,
        gross: Microjoules(gross),
        net: Microjoules(net),
        gross_spread: Spread::of(Microjoules(a)),
        net_spread: Spread::of(Microjoules(b)),
    });
    let temperature = any::<(i8, i8)>()
        .prop_map(|(gpu, module)| Temperature { gpu: Celsius(gpu), module: Celsius(module) });
    let trouble = any::<(u32, u32, u32)>().prop_map(|(misses, throttled, over_current)| Trouble {
        misses,
        throttled,
        over_current,
    });
    let backlog = any::<[u32; 4]>().prop_map(|[waiting, dropped, dropped_earlier, unsampled]| Backlog {
        waiting,
        dropped,
        dropped_earlier,
        unsampled,
    });
    use proptest::option::of;
    (
        (millis(), 0..=1u64 << 31, any::<u32>()),
        (of(latency), of(energy), of(operating()), of(temperature), trouble, backlog),
    )
        .prop_map(
            |((end, window, count), (latency, energy, operating, temperature, trouble, backlog))| Report {
                end,
                window: Micros(window * 1000),
                count,
                latency,
                energy,
                operating,
                temperature,
                trouble,
                backlog,
            },
        )
}

fn occurrence() -> impl Strategy<Value = Occurrence> {
    prop_oneof![
        (operating(), operating()).prop_map(|(from, to)| Occurrence::Governor { from, to }),
        any::<(u8, i64, i64)>().prop_map(|(a, value, limit)| Occurrence::Alert {
            alert: Alert(a),
            value,
            limit
        }),
        any::<bool>().prop_map(|parked| Occurrence::Park { parked }),
        any::<(u16, u32)>().prop_map(|(code, detail)| Occurrence::Fault { code, detail }),
        any::<(i64, u64)>().prop_map(|(offset, us)| Occurrence::Clock { offset, uncertainty: Micros(us) }),
        (5u8..).prop_map(|code| Occurrence::Unknown { code }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        any::<u64>().prop_map(|us| Command::Period(Micros(us))),
        any::<u64>().prop_map(|us| Command::Budget(Micros(us))),
        any::<(u8, i64)>().prop_map(|(alert, limit)| Command::Threshold { alert: Alert(alert), limit }),
        (3u8..).prop_map(|code| Command::Unknown { code }),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let measure = prop_oneof![
        Just(Measure::Top1),
        Just(Measure::MeanAveragePrecision),
        Just(Measure::AreaUnderCurve),
        Just(Measure::Other)
    ];
    let accuracy = (measure, any::<(u16, u16)>()).prop_map(|(measure, (plan, reference))| Accuracy {
        measure,
        plan,
        reference,
    });
    (any::<[u8; 8]>(), proptest::option::of(accuracy)).prop_map(|(hash, accuracy)| Plan { hash, accuracy })
}

fn header() -> impl Strategy<Value = Header> {
    any::<(u32, u32, u32, bool, Option<u32>)>().prop_map(|(device, boot, sequence, wants_ack, held)| Header {
        device,
        boot,
        sequence,
        wants_ack,
        held,
    })
}

/// Sealed, parsed, verified and decoded, it is the same, with or without a serial line between.
fn survives(header: Header, message: &Message) -> Result<(), TestCaseError> {
    let mut frame = [0; MAX_FRAME];
    let length = seal(&header, message, &key(), &mut frame).unwrap();
    let mut line = [0; MAX_SERIAL];
    let on_line = frame_serial(&frame[..length], &mut line).unwrap();
    let mut deframer = Deframer::new();
    let (last, before) = line[..on_line].split_last().unwrap();
    for &byte in before {
        prop_assert!(byte != 0 && deframer.push(byte).is_none());
    }
    let found = deframer.push(*last).unwrap().unwrap();
    prop_assert_eq!(found, &frame[..length]);
    let (parsed, rest) = Frame::parse(found).unwrap();
    prop_assert!(rest.is_empty());
    let opened = parsed.verify(&key()).unwrap();
    prop_assert_eq!(opened.header, header);
    prop_assert_eq!(&opened.message().unwrap(), message);
    Ok(())
}

proptest! {
    #[test]
    fn a_report_survives(header in header(), report in report()) {
        survives(header, &Message::Report(report))?;
    }
    #[test]
    fn an_event_survives(header in header(), at: u64, what in occurrence()) {
        survives(header, &Message::Event(Event { at: Micros(at), what }))?;
    }
    #[test]
    fn a_command_survives(header in header(), command in command()) {
        survives(header, &Message::Command(command))?;
    }
    #[test]
    fn a_log_survives(header in header(), at: u64, level in 0u8..5, text in ".{0,60}") {
        survives(header, &Message::Log(Log { at: Micros(at), level: level.into(), text: &text }))?;
    }
    #[test]
    fn a_hello_survives(
        header in header(), schema: u32, name in ".{0,12}", firmware in ".{0,12}",
        plans in proptest::collection::vec(plan(), 0..=PLANS),
    ) {
        let plans = plans.into_iter().collect();
        survives(header, &Message::Hello(Hello { schema, name: &name, board: "b", firmware: &firmware, rail: "r", plans }))?;
    }
    #[test]
    fn a_closing_survives(header in header(), at: u64, [dropped, dropped_earlier, unsampled]: [u32; 3]) {
        survives(header, &Message::Closing(Closing { at: Micros(at), dropped, dropped_earlier, unsampled }))?;
    }
    #[test]
    fn an_ack_survives(header in header(), up_to: u32, beyond: u64, echo: u32, wall: u64, held: u64) {
        let ack = Ack { up_to, beyond, echo, wall: Micros(wall), held: Micros(held) };
        survives(header, &Message::Ack(ack))?;
    }
    #[test]
    fn an_unknown_kind_survives(header in header(), kind in 18u8..32, body in proptest::collection::vec(any::<u8>(), 0..=MAX_BODY)) {
        survives(header, &Message::Unknown { kind, body: &body })?;
    }

    /// One flipped bit anywhere is refused; no prefix of a frame is a frame.
    #[test]
    fn no_damaged_frame_is_accepted(header in header(), report in report(), at: prop::sample::Index, bit in 0u8..8) {
        let mut frame = [0; MAX_FRAME];
        let length = seal(&header, &Message::Report(report), &key(), &mut frame).unwrap();
        let at = at.index(length);
        prop_assert!(Frame::parse(&frame[..at]).is_err());
        frame[at] ^= 1 << bit;
        let accepted = Frame::parse(&frame[..length]).is_ok_and(|(frame, _)| frame.verify(&key()).is_ok());
        prop_assert!(!accepted);
    }

    /// A newer sender's extra fields are skipped, whatever they hold.
    #[test]
    fn fields_after_the_last_known_are_ignored(report in report(), what in occurrence(), extra in proptest::collection::vec(any::<u8>(), 0..40)) {
        for message in [Message::Report(report), Message::Event(Event { at: Micros(9), what })] {
            let mut body = [0; MAX_BODY];
            let length = message.encode(&mut body).unwrap();
            body[length..length + extra.len()].copy_from_slice(&extra);
            prop_assert_eq!(Message::decode(message.kind(), &body[..length + extra.len()]).unwrap(), message);
        }
    }
}

#[test]
fn a_key_of_another_device_direction_generation_or_fleet_opens_nothing() {
    let mut frame = [0; MAX_FRAME];
    let length =
        seal(&samples::typical_header(), &Message::Report(Report::default()), &key(), &mut frame).unwrap();
    let (parsed, _) = Frame::parse(&frame[..length]).unwrap();
    let fleet = samples::fleet_key();
    let others = [
        fleet.derive(Direction::Down, 2, 1201),
        fleet.derive(Direction::Up, 3, 1201),
        fleet.derive(Direction::Up, 2, 1202),
        FleetKey::new([9; 32]).derive(Direction::Up, 2, 1201),
    ];
    for other in others {
        assert_eq!(parsed.verify(&other), Err(FrameError::Tag { device: 1201, key_id: 2 }));
    }
    assert!(parsed.verify(&key()).is_ok());
}

#[test]
fn groups_of_a_later_schema_are_skipped() {
    let message = Message::Report(samples::typical_report());
    let mut body = [0; MAX_BODY];
    let length = message.encode(&mut body).unwrap();
    // The groups number grows a second byte, and the new group follows the last known one.
    let mut newer = vec![body[0] | 0x80, 0x01];
    newer.extend_from_slice(&body[1..length]);
    newer.extend_from_slice(&[1, 2, 3]);
    assert_eq!(Message::decode(Kind::REPORT, &newer).unwrap(), message);
}

#[test]
fn what_does_not_fit_is_refused_with_its_size() {
    let text = "x".repeat(300);
    let log = Message::Log(Log { at: Micros(0), level: Level::Info, text: &text });
    let mut out = [0; MAX_FRAME];
    assert!(matches!(seal(&Header::default(), &log, &key(), &mut out), Err(EncodeError::TooLong { .. })));
    let report = Message::Report(samples::typical_report());
    let needed = seal(&samples::typical_header(), &report, &key(), &mut out).unwrap();
    for short in 0..needed {
        let error = seal(&samples::typical_header(), &report, &key(), &mut out[..short]).unwrap_err();
        assert_eq!(error, EncodeError::Buffer { found: short, allowed: MAX_FRAME });
    }
    assert!(seal(&samples::typical_header(), &report, &key(), &mut out[..needed]).is_ok());
}

#[test]
fn out_of_range_fields_are_named() {
    let mut frame = [0; MAX_FRAME];
    let length =
        seal(&Header::new(1, 1, 1), &Message::Unknown { kind: 9, body: b"" }, &key(), &mut frame).unwrap();
    let error = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = frame[..length].to_vec();
        edit(&mut bytes);
        Frame::parse(&bytes).unwrap_err()
    };
    assert_eq!(error(&|bytes| bytes[0] = 0x72), FrameError::Version { found: 7, allowed: VERSION });
    assert_eq!(error(&|bytes| bytes[4] |= 0x80), FrameError::Malformed { field: "kind" });
    let long = |bytes: &mut Vec<u8>| drop(bytes.splice(1..2, [0xff; 6]));
    assert_eq!(error(&long), FrameError::Malformed { field: "device" });
    // end = 0, window = 1000 ms, count = 1, latency present: p50 in bucket 896.
    assert_eq!(
        Message::decode(Kind::REPORT, &[1, 0, 0, 1, 0x80, 0x07, 0, 0, 0]),
        Err(DecodeError::Range { message: "Report", field: "latency", found: 896, allowed: 895 })
    );
    // A window of -1 ms.
    assert!(matches!(
        Message::decode(Kind::REPORT, &[0, 0, 0xd1, 0x0f, 0]),
        Err(DecodeError::Range { field: "window", .. })
    ));
}
