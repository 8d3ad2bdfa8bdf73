//! Frames for people: what `pilotlight wire decode` prints.

use std::fmt::Write as _;

use pilotlight_wire::{Deframer, Direction, Frame, Message, Opened};
use serde_json::json;

use crate::keyring::{Keyring, Lookup};

/// What the bytes to decode are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeInput<'a> {
    /// A datagram: whole frames.
    Datagram(&'a [u8]),
    /// Bytes of a serial line.
    Serial(&'a [u8]),
}

/// Decodes every frame in `input`, one line each; with `as_json` lines are JSON. Where no key vouches for a frame
/// the line says so: its content may be anyone's.
pub fn decode_text(input: DecodeInput, keyring: Option<&Keyring>, as_json: bool) -> Vec<String> {
    let mut lines = Vec::new();
    match input {
        DecodeInput::Datagram(bytes) => datagram(bytes, keyring, as_json, &mut lines),
        DecodeInput::Serial(bytes) => {
            let mut deframer = Deframer::new();
            for &byte in bytes {
                match deframer.push(byte) {
                    None => {}
                    Some(Ok(frame)) => datagram(frame, keyring, as_json, &mut lines),
                    Some(Err(error)) => lines.push(wrong(&error, as_json)),
                }
            }
        }
    }
    lines
}

fn datagram(bytes: &[u8], keyring: Option<&Keyring>, as_json: bool, lines: &mut Vec<String>) {
    let mut rest = bytes;
    while !rest.is_empty() {
        match Frame::parse(rest) {
            Err(error) => return lines.push(wrong(&error, as_json)),
            Ok((frame, after)) => {
                lines.push(one(frame, rest.len() - after.len(), keyring, as_json));
                rest = after;
            }
        }
    }
}

fn one(frame: Frame, length: usize, keyring: Option<&Keyring>, as_json: bool) -> String {
    let (device, key_id) = (frame.claimed_device(), frame.claimed_key());
    let (trust, opened) = match keyring.map(|keyring| keyring.look_up(device, key_id)) {
        None => ("not verified", frame.unverified()),
        Some(Lookup::Unknown) => ("unknown key", frame.unverified()),
        Some(Lookup::Revoked) => ("revoked", frame.unverified()),
        Some(Lookup::Key(fleet)) => {
            let by = |direction| frame.verify(&fleet.derive(direction, key_id, device));
            match by(Direction::Up).or_else(|_| by(Direction::Down)) {
                Ok(opened) => ("verified", opened),
                Err(_) => ("FORGED OR DAMAGED", frame.unverified()),
            }
        }
    };
    let header = opened.header;
    let message = opened.message();
    if as_json {
        let message =
            message.map_or_else(|error| json!({ "error": error.to_string() }), |message| json!(message));
        return json!({ "version": 1, "trust": trust, "bytes": length, "device": device, "boot": header.boot,
            "sequence": header.sequence, "key": key_id, "wants_ack": header.wants_ack, "held": header.held,
            "message": message })
        .to_string();
    }
    let mut line = format!(
        "{trust}: device {device}, boot {}, sequence {}, key {key_id}, {length} bytes",
        header.boot, header.sequence
    );
    if header.wants_ack {
        line += ", wants an acknowledgement";
    }
    if let Some(held) = header.held {
        // Writing into a string cannot fail.
        let _ = write!(line, ", holds from {held}");
    }
    line += "\n  ";
    line += &describe(&opened);
    line
}

fn wrong(error: &dyn std::fmt::Display, as_json: bool) -> String {
    if as_json {
        json!({ "version": 1, "error": error.to_string() }).to_string()
    } else {
        format!("no frame: {error}")
    }
}

/// A message in one line, with units.
pub fn describe(opened: &Opened) -> String {
    let message = match opened.message() {
        Ok(message) => message,
        Err(error) => return error.to_string(),
    };
    let Message::Report(report) = message else { return format!("{message:?}") };
    let mut text = format!("Report at {} over {}: {} inferences", report.end, report.window, report.count);
    if let Some(latency) = report.latency {
        let us = [latency.p50, latency.p90, latency.p99, latency.max].map(|bucket| bucket.micros());
        let _ = write!(text, "; latency p50 {}, p90 {}, p99 {}, max {}", us[0], us[1], us[2], us[3]);
    }
    if let Some(energy) = report.energy {
        let _ = write!(
            text,
            "; energy {}: gross {} (spread {}), net {} (spread {})",
            crate::export::source_name(energy.source),
            energy.gross,
            energy.gross_spread.microjoules(),
            energy.net,
            energy.net_spread.microjoules()
        );
    }
    for (name, band) in
        report.operating.iter().flat_map(|c| [("GPU", c.gpu), ("memory", c.memory), ("CPU", c.cpu)])
    {
        if let Some(hertz) = band.hertz() {
            let _ = write!(text, "; {name} {hertz}");
        }
    }
    for (name, heat) in
        report.temperature.iter().flat_map(|heat| [("GPU", heat.gpu), ("module", heat.module)])
    {
        if let Some(degrees) = heat.degrees() {
            let _ = write!(text, "; {name} {degrees} C");
        }
    }
    let (trouble, backlog) = (report.trouble, report.backlog);
    for (name, count) in [
        ("misses", trouble.misses),
        ("throttled", trouble.throttled),
        ("over-current", trouble.over_current),
        ("waiting", backlog.waiting),
        ("dropped", backlog.dropped),
        ("dropped of earlier boots", backlog.dropped_earlier),
        ("unsampled", backlog.unsampled),
    ] {
        if count > 0 {
            let _ = write!(text, "; {name} {count}");
        }
    }
    text
}
