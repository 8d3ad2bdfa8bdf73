//! The fuzz harness on the vectors' frames, their mutations and random bytes, with a stable compiler.
//!
//! `PILOTLIGHT_FUZZ_SECONDS=600 cargo test -p pilotlight-wire --test fuzz_corpus` goes on for that long.
#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]
use std::time::{Duration, Instant};

use pilotlight_wire::*;
use proptest::test_runner::{RngAlgorithm, TestRng};

mod harness;
mod samples;

use proptest::prelude::Rng;

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![];
    for (_, direction, header, message) in samples::all() {
        let key = samples::fleet_key().derive(direction, 2, header.device);
        let mut frame = [0; MAX_FRAME];
        let length = seal(&header, &message, &key, &mut frame).unwrap();
        let mut line = [0; MAX_SERIAL];
        let on_line = frame_serial(&frame[..length], &mut line).unwrap();
        let mut body = [0; MAX_BODY];
        let used = message.encode(&mut body).unwrap();
        seeds.push(frame[..length].to_vec());
        seeds.push(line[..on_line].to_vec());
        seeds.push([&[message.kind().0], &body[..used]].concat());
    }
    seeds
}

fn mutate(rng: &mut TestRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut pick = |below: usize| rng.next_u32() as usize % below.max(1);
    let mut bytes = seeds[pick(seeds.len())].clone();
    for _ in 0..pick(8) {
        let at = pick(bytes.len());
        match pick(6) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => bytes[at] ^= 1 << pick(8),
            2 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][pick(5)],
            3 => bytes.insert(at, pick(256) as u8),
            4 => {
                let other = &seeds[pick(seeds.len())];
                let from = pick(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => bytes.extend(std::iter::repeat_n(0xff, pick(400))),
        }
    }
    bytes
}

#[test]
fn no_bytes_break_the_decoder_or_the_deframer() {
    let seconds = std::env::var("PILOTLIGHT_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let seeds = seeds();
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runs = 0u64;
    for seed in &seeds {
        harness::decode(seed);
        harness::deframe(seed);
    }
    while runs < 100_000 || until.is_some_and(|until| Instant::now() < until) {
        let bytes = mutate(&mut rng, &seeds);
        harness::decode(&bytes);
        harness::deframe(&bytes);
        runs += 1;
    }
    println!("{runs} inputs, each decoded and deframed");
}
