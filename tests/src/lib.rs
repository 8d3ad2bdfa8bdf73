//! Suites that every device must pass. A runner in `tests/` names the device.
#![forbid(unsafe_code)]

pub mod conformance;
pub mod golden;
pub mod hostile;

use std::path::PathBuf;

/// A path below `models/`.
pub fn models(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models").join(path)
}
