//! The parsers of this crate on damaged input: no panic, and what is accepted is sound. The fuzz targets of
//! `tests/fuzz` call the same functions.

use pilotlight_boards::control::parse_state;
use pilotlight_boards::fixture::{self, JetPack};
use pilotlight_boards::helper::Request;
use pilotlight_boards::nvpmodel::{Conf, ConfError, Value};
use pilotlight_boards::{BoardData, all, named};

/// SplitMix64.
fn bits(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Damages a seed: bytes changed, stretches cut, doubled or moved, words of the grammar thrown in.
fn damaged(seed: &str, state: &mut u64) -> String {
    const WORDS: [&str; 12] =
        ["<", ">", "PARAM", "ID=", "-1", "=", "\n", "99999999999999999999", "\0", "..", "\"", "POWER_MODEL"];
    let mut bytes = seed.as_bytes().to_vec();
    for _ in 0..1 + bits(state) % 6 {
        let at = bits(state) as usize % (bytes.len() + 1);
        let to = (at + bits(state) as usize % 40).min(bytes.len());
        match bits(state) % 5 {
            0 if at < bytes.len() => bytes[at] = bits(state) as u8,
            1 => drop(bytes.drain(at..to)),
            2 => {
                let copy = bytes[at..to].to_vec();
                bytes.splice(at..at, copy);
            }
            3 => {
                let word = WORDS[bits(state) as usize % WORDS.len()];
                bytes.splice(at..at, word.bytes());
            }
            _ => bytes.truncate(to),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs a parser over damaged seeds; how many were still accepted.
fn hammer(seeds: &[String], rounds: u64, parser: impl Fn(&str) -> bool) -> u64 {
    let mut state = 1;
    let mut accepted = 0;
    for round in 0..rounds {
        let seed = &seeds[round as usize % seeds.len()];
        accepted += u64::from(parser(&damaged(seed, &mut state)));
    }
    accepted
}

#[test]
fn damaged_mode_files() {
    let seeds: Vec<String> =
        all().filter_map(named).flat_map(|d| JetPack::ALL.map(|j| fixture::conf(&d, j))).collect();
    for seed in &seeds {
        assert!(Conf::parse(seed).is_ok());
    }
    let accepted = hammer(&seeds, 20_000, |text| match Conf::parse(text) {
        Ok(conf) => {
            assert!(conf.modes.contains_key(&conf.default));
            for (name, arg, value) in conf.modes.values().flat_map(|m| &m.sets) {
                assert!(conf.params[name].args[arg].starts_with('/'));
                assert!(!matches!(value, Value::Clock(n) if *n < 0));
            }
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    });
    assert!(accepted > 100, "only {accepted}: the damage is too coarse to get past the first line");
}

#[test]
fn every_error_of_a_mode_file_is_reached() {
    let head = "< PARAM TYPE=CLOCK NAME=GPU >\nMAX /sys/x\n< POWER_MODEL ID=0 NAME=A >\n";
    type Case = (&'static str, fn(&ConfError) -> bool);
    let cases: [Case; 12] = [
        ("< PARAM TYPE=CLOCK NAME=GPU", |e| matches!(e, ConfError::Header { line: 1, .. })),
        ("< NONSENSE A=1 >", |e| matches!(e, ConfError::Header { .. })),
        ("< PARAM NAME=GPU >", |e| matches!(e, ConfError::Key { block: "PARAM", .. })),
        ("< POWER_MODEL ID=x NAME=A >", |e| matches!(e, ConfError::Key { block: "POWER_MODEL", .. })),
        ("word", |e| matches!(e, ConfError::Line { line: 1, .. })),
        ("< PARAM TYPE=FILE NAME=A >\nARG relative", |e| matches!(e, ConfError::Line { line: 2, .. })),
        ("< PARAM TYPE=FILE NAME=A >\nARG /sys/../etc", |e| matches!(e, ConfError::Line { .. })),
        ("< PARAM TYPE=FILE NAME=A >\n< PARAM TYPE=FILE NAME=A >", |e| matches!(e, ConfError::Twice { .. })),
        ("HEAD GPU MIN 3", |e| matches!(e, ConfError::Undeclared { line: 4, .. })),
        ("HEAD GPU MAX -2", |e| matches!(e, ConfError::Line { line: 4, .. })),
        ("HEAD < PM_CONFIG DEFAULT=7 >", |e| matches!(e, ConfError::Default { .. })),
        ("HEAD GPU MAX 3", |e| matches!(e, ConfError::Default { found } if found == "none")),
    ];
    for (text, right) in cases {
        let text = text.replace("HEAD ", head);
        let error = Conf::parse(&text).expect_err(&text);
        assert!(right(&error), "{text}: {error:?}");
    }
    let long = "# x\n".repeat(10_001);
    assert_eq!(Conf::parse(&long), Err(ConfError::Long { found: 10_001 }));
}

#[test]
fn damaged_board_files() {
    let seeds = vec![
        include_str!("../data/modules/orin-nano-8gb-super.toml").to_owned(),
        include_str!("../data/modules/agx-orin-64gb.toml").to_owned(),
    ];
    let accepted = hammer(&seeds, 3_000, |text| {
        BoardData::parse("damaged", text).is_ok_and(|d| {
            assert!(d.gpu.clocks_mhz.windows(2).all(|w| w[0] < w[1]) && !d.gpu.clocks_mhz.is_empty());
            assert!(d.int8_ops_per_second().is_finite());
            true
        })
    });
    assert!(accepted > 10, "{accepted}");
}

#[test]
fn damaged_state_files_and_requests() {
    let state = r#"{"schema":1,"pid":7,"attributes":[{"path":"/sys/class/devfreq/17000000.gpu/min_freq","value":"306000000"}]}"#;
    let accepted = hammer(&[state.to_owned()], 20_000, |text| {
        parse_state(text).is_ok_and(|list| {
            // Whatever was damaged: only clock attributes and numbers come through.
            for (path, value) in &list {
                assert!(path.starts_with("/sys/") && !path.contains(".."));
                assert!(value.bytes().all(|b| b.is_ascii_digit()));
            }
            true
        })
    });
    assert!(accepted > 10, "{accepted}");
    let requests = ["hello 1", "set 510000000 2133000000", "set 1 -", "read", "release"].map(str::to_owned);
    assert!(hammer(&requests, 20_000, |text| Request::parse(text).is_ok()) > 10);
}
