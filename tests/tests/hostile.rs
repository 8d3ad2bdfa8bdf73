//! The fuzz harnesses over their committed seeds: every file that once crashed one stays here.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use pilotlight_tests::{hostile, models};

fn seeds(target: &str, harness: fn(&[u8])) {
    let folder = models(&format!("../tests/fuzz/seeds/{target}"));
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{}", folder.display());
    for file in files {
        println!("{}", file.display());
        let bytes = std::fs::read(&file).unwrap();
        harness(&bytes);
        // Cut short and with single bytes changed, a few dozen of each.
        for i in (0..bytes.len()).step_by(bytes.len() / 24 + 1) {
            harness(&bytes[..i]);
            let mut bad = bytes.clone();
            bad[i] ^= 0x41;
            harness(&bad);
        }
    }
}

#[test]
fn onnx() {
    seeds("onnx", hostile::onnx);
}

#[test]
fn plan() {
    seeds("plan", hostile::plan);
}

#[test]
fn npy() {
    seeds("npy", hostile::npy);
}

#[test]
fn picture() {
    seeds("picture", hostile::picture);
}
