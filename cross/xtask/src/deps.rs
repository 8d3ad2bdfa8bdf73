//! Which crate may depend on which: arrows go one way.

use crate::shell;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Every crate of the workspace and the crates of the workspace that it may use (build and run time).
const ALLOWED: &[(&str, &[&str])] = &[
    ("pilotlight-units", &[]),
    ("pilotlight-wire", &["pilotlight-units"]),
    ("pilotlight-plan", &["pilotlight-units"]),
    ("pilotlight-onnx", &["pilotlight-plan", "pilotlight-units"]),
    ("pilotlight-device", &["pilotlight-plan", "pilotlight-units"]),
    ("pilotlight-kernels", &["pilotlight-units"]),
    ("pilotlight-cuda", &["pilotlight-device", "pilotlight-plan", "pilotlight-kernels", "pilotlight-units"]),
    ("pilotlight-boards", &["pilotlight-units"]),
    ("pilotlight-virtual-orin", &["pilotlight-boards", "pilotlight-kernels", "pilotlight-units"]),
    ("pilotlight-power", &["pilotlight-units", "pilotlight-boards"]),
    ("pilotlight-link", &["pilotlight-wire", "pilotlight-units"]),
    ("pilotlight-collector", &["pilotlight-wire", "pilotlight-units"]),
    ("pilotlight", FACADE),
    ("pilotlight-capi", &["pilotlight", "pilotlight-units"]),
];

const FACADE: &[&str] = &[
    "pilotlight-units",
    "pilotlight-plan",
    "pilotlight-device",
    "pilotlight-cuda",
    "pilotlight-power",
    "pilotlight-link",
    "pilotlight-boards",
    "pilotlight-onnx",
];

/// Crates that may use all others; nothing may use them but each other.
const TOPS: &[&str] = &["pilotlight-cli", "pilotlight-tests", "xtask"];

/// Crates that firmware links, and what none of them may bring in.
const FIRMWARE: &[&str] = &["pilotlight", "pilotlight-capi"];
const NOT_IN_FIRMWARE: &[&str] =
    &["tract-onnx", "tract-core", "prost", "tokio", "rusqlite", "libsqlite3-sys"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    rust_version: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

pub fn run() -> Result<()> {
    let json = shell::output("cargo", &["metadata", "--format-version", "1", "--locked"])?;
    let metadata: Metadata = serde_json::from_str(&json).context("cargo metadata")?;
    let members: BTreeSet<&str> = metadata.workspace_members.iter().map(String::as_str).collect();
    let ours: Vec<&Package> = metadata.packages.iter().filter(|p| members.contains(p.id.as_str())).collect();
    let names: BTreeSet<&str> = ours.iter().map(|p| p.name.as_str()).collect();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();

    let mut problems = Vec::new();
    for package in &ours {
        let name = package.name.as_str();
        let normal = package.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev"));
        for used in normal.map(|d| d.name.as_str()).filter(|d| names.contains(d)) {
            let fits = match allowed.get(name) {
                Some(list) => list.contains(&used),
                None if TOPS.contains(&name) => true,
                None => false,
            };
            if !fits {
                problems.push(format!("{name} uses {used}: not in the list of cross/xtask/src/deps.rs"));
            }
        }
    }
    problems.extend(rust_versions(&metadata, &ours)?);
    for firmware in FIRMWARE.iter().filter(|f| names.contains(**f)) {
        let tree = shell::output(
            "cargo",
            &["tree", "--package", firmware, "--edges", "normal", "--prefix", "none", "--locked"],
        )?;
        for line in tree.lines() {
            let used = line.split(' ').next().unwrap_or_default();
            if NOT_IN_FIRMWARE.contains(&used) {
                problems.push(format!("{firmware} brings {used} into firmware"));
            }
        }
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    println!("deps: {} crates keep to the list; no dependency needs a newer Rust", ours.len());
    Ok(())
}

/// Dependencies that state a newer Rust than the workspace does.
fn rust_versions(metadata: &Metadata, ours: &[&Package]) -> Result<Vec<String>> {
    let parse = |v: &str| -> Vec<u32> { v.split('.').filter_map(|p| p.parse().ok()).collect() };
    let stated = ours
        .iter()
        .find_map(|p| p.rust_version.as_deref())
        .context("the workspace states no rust-version")?;
    let newer = metadata.packages.iter().filter_map(|p| {
        let needs = p.rust_version.as_deref()?;
        let over = parse(needs)[..2.min(parse(needs).len())] > parse(stated)[..2.min(parse(stated).len())];
        over.then(|| format!("{} {} needs Rust {needs}, the workspace states {stated}", p.name, p.version))
    });
    Ok(newer.collect())
}
