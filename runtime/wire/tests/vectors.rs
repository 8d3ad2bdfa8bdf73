//! The frozen byte vectors: what was once sent must read the same for ever, here and in Python.
//!
//! `PILOTLIGHT_BLESS=1 cargo test -p pilotlight-wire --test vectors` writes the file anew: only ever to add.
#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]
use pilotlight_wire::*;

mod samples;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/v1.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn render() -> String {
    let mut text = String::from(
        "# Frozen frames of version 1. Fleet key: bytes 00 to 1f. Key id 2. Lines: name, direction, header,\n\
         # frame, the frame on a serial line, message (quantities as their wire codes and microseconds).\n",
    );
    for (name, direction, header, message) in samples::all() {
        let key = samples::fleet_key().derive(direction, 2, header.device);
        let mut frame = [0; MAX_FRAME];
        let length = seal(&header, &message, &key, &mut frame).unwrap();
        let mut line = [0; MAX_SERIAL];
        let on_line = frame_serial(&frame[..length], &mut line).unwrap();
        let Header { device, boot, sequence, wants_ack, held } = header;
        let header = serde_json::json!({ "device": device, "boot": boot, "sequence": sequence,
            "wants_ack": wants_ack, "held": held });
        text += &format!(
            "\nname: {name}\ndirection: {direction:?}\nheader: {header}\nframe: {}\nserial: {}\nmessage: {}\n",
            hex(&frame[..length]),
            hex(&line[..on_line]),
            serde_json::to_value(&message).unwrap()
        );
    }
    text
}

#[test]
fn the_encoder_still_writes_the_frozen_bytes() {
    let rendered = render();
    if std::env::var_os("PILOTLIGHT_BLESS").is_some() {
        std::fs::write(FILE, &rendered).unwrap();
    }
    let frozen = std::fs::read_to_string(FILE).unwrap();
    for (now, then) in rendered.lines().zip(frozen.lines()) {
        assert_eq!(now, then);
    }
    assert_eq!(rendered.lines().count(), frozen.lines().count());
}

#[test]
fn the_decoder_still_reads_the_frozen_bytes() {
    let frozen = std::fs::read_to_string(FILE).unwrap();
    let frames = frozen.lines().filter_map(|line| line.strip_prefix("frame: "));
    let lines = frozen.lines().filter_map(|line| line.strip_prefix("serial: "));
    let mut read = 0;
    for ((frame, line), (name, direction, header, message)) in frames.zip(lines).zip(samples::all()) {
        let frame = unhex(frame);
        let (parsed, rest) = Frame::parse(&frame).unwrap();
        let key = samples::fleet_key().derive(direction, parsed.claimed_key(), parsed.claimed_device());
        let opened = parsed.verify(&key).unwrap();
        assert_eq!((opened.header, opened.message().unwrap(), rest.len()), (header, message, 0), "{name}");
        let mut deframer = Deframer::new();
        let mut found = Vec::new();
        for byte in unhex(line) {
            if let Some(frame) = deframer.push(byte) {
                found.push(frame.unwrap().to_vec());
            }
        }
        assert_eq!(found, [frame], "{name}");
        read += 1;
    }
    assert_eq!(read, samples::all().len());
}

#[test]
fn the_typical_report_takes_at_most_48_bytes() {
    let key = samples::fleet_key().derive(Direction::Up, 0, 1201);
    let mut frame = [0; MAX_FRAME];
    let report = Message::Report(samples::typical_report());
    let length = seal(&samples::typical_header(), &report, &key, &mut frame).unwrap();
    assert!(length <= 48, "{length} bytes");
}

#[test]
fn the_python_reader_reads_the_frozen_bytes() {
    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/python/pilotlight_wire.py");
    let output = match std::process::Command::new("python3").args([reader, "check", FILE]).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("1 skipped: python3 is not on PATH");
            return;
        }
        Err(error) => panic!("python3: {error}"),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{wrong}");
    assert_eq!(said.trim(), format!("{} frames read", samples::all().len()));
}
