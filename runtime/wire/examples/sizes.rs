//! The typical one-second report, authenticated, in five encodings of the same content.
//!
//! `cargo run -p pilotlight-wire --example sizes`
//!
//! JSON, CBOR and protobuf carry the header as fields and, as they know no authentication, the same 8-byte tag
//! beside them (in hexadecimal in JSON). MAVLink 2 is counted by its public framing rules: 10 bytes of header,
//! 2 of checksum, 13 of signature, fixed-width fields, trailing zero bytes cut; it has an 8-bit sequence and no boot.
use pilotlight_wire::*;
use serde::Serialize;

#[path = "../tests/samples/mod.rs"]
mod samples;

/// The content of header and report as plain numbers, in the units in which people read them.
#[derive(Serialize, prost::Message)]
struct Plain {
    #[prost(uint32, tag = "1")]
    device: u32,
    #[prost(uint32, tag = "2")]
    boot: u32,
    #[prost(uint32, tag = "3")]
    sequence: u32,
    #[prost(uint64, tag = "4")]
    end_ms: u64,
    #[prost(uint32, tag = "5")]
    window_ms: u32,
    #[prost(uint32, tag = "6")]
    count: u32,
    #[prost(uint32, tag = "7")]
    latency_p50_us: u32,
    #[prost(uint32, tag = "8")]
    latency_p90_us: u32,
    #[prost(uint32, tag = "9")]
    latency_p99_us: u32,
    #[prost(uint32, tag = "10")]
    latency_max_us: u32,
    #[prost(uint64, tag = "11")]
    energy_gross_uj: u64,
    #[prost(uint64, tag = "12")]
    energy_net_uj: u64,
    #[prost(uint32, tag = "13")]
    energy_gross_spread_uj: u32,
    #[prost(uint32, tag = "14")]
    energy_net_spread_uj: u32,
    #[prost(uint32, tag = "15")]
    gpu_mhz: u32,
    #[prost(uint32, tag = "16")]
    memory_mhz: u32,
    #[prost(uint32, tag = "17")]
    cpu_mhz: u32,
    #[prost(sint32, tag = "18")]
    gpu_celsius: i32,
    #[prost(sint32, tag = "19")]
    module_celsius: i32,
    #[prost(uint32, tag = "20")]
    energy_source: u32,
    /// Misses, throttled, over-current, waiting, dropped, dropped earlier, unsampled: zero here.
    #[prost(uint32, repeated, tag = "21")]
    trouble: Vec<u32>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (header, report) = (samples::typical_header(), samples::typical_report());
    let (latency, energy) = (report.latency.ok_or("latency")?, report.energy.ok_or("energy")?);
    let (clocks, heat) = (report.operating.ok_or("clocks")?, report.temperature.ok_or("heat")?);
    let us = |bucket: Bucket| bucket.micros().0 as u32;
    let mhz = |band: Band| band.hertz().map_or(0, |hertz| (hertz.0 / 1_000_000) as u32);
    let plain = Plain {
        device: header.device,
        boot: header.boot,
        sequence: header.sequence,
        end_ms: report.end.0 / 1000,
        window_ms: (report.window.0 / 1000) as u32,
        count: report.count,
        latency_p50_us: us(latency.p50),
        latency_p90_us: us(latency.p90),
        latency_p99_us: us(latency.p99),
        latency_max_us: us(latency.max),
        energy_gross_uj: energy.gross.0,
        energy_net_uj: energy.net.0,
        energy_gross_spread_uj: energy.gross_spread.microjoules().0 as u32,
        energy_net_spread_uj: energy.net_spread.microjoules().0 as u32,
        gpu_mhz: mhz(clocks.gpu),
        memory_mhz: mhz(clocks.memory),
        cpu_mhz: mhz(clocks.cpu),
        gpu_celsius: heat.gpu.0.into(),
        module_celsius: heat.module.0.into(),
        energy_source: 1,
        trouble: vec![],
    };
    let mut frame = [0; MAX_FRAME];
    let key = samples::fleet_key().derive(Direction::Up, 0, header.device);
    let ours = seal(&header, &Message::Report(report), &key, &mut frame)?;
    let mut line = [0; MAX_SERIAL];
    let serial = frame_serial(&frame[..ours], &mut line)?;
    let json = serde_json::to_vec(&plain)?.len();
    let mut cbor = Vec::new();
    ciborium::into_writer(&plain, &mut cbor)?;
    let protobuf = prost::Message::encoded_len(&plain);
    // device 4, boot 4, end 8, window 4, count 4, latency 4 x 4, energy 2 x 8 + 2 x 4, clocks 3 x 2, heat 2 x 1,
    // source 1; the seven zero counters at the end are cut.
    let mavlink = 4 + 4 + 8 + 4 + 4 + 16 + 24 + 6 + 2 + 1;
    println!("typical one-second report        content  authenticated  of ours");
    let row = |name: &str, content: usize, all: usize| {
        println!("{name:<32} {content:>7} {all:>14} {:>7.1}x", all as f64 / ours as f64);
    };
    row("pilotlight, UDP", ours - TAG, ours);
    row("pilotlight, serial (CRC, COBS)", ours - TAG, serial);
    row("protobuf + 8-byte tag", protobuf, protobuf + TAG + 2);
    row("MAVLink 2, signed", mavlink, mavlink + 10 + 2 + 13);
    row("CBOR + 8-byte tag", cbor.len(), cbor.len() + TAG + 1 + 4);
    row("JSON + 8-byte tag in hex", json, json + r#","tag":"""#.len() + 2 * TAG);
    Ok(())
}
