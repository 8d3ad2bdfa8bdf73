//! The C ABI: the committed header and symbol list are those of the code, or the check fails.

use crate::shell::{self, root, run};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

#[derive(Default, clap::Args)]
pub struct Abi {
    /// Rewrite the header and the symbol list
    #[arg(long)]
    bless: bool,
}

const HEADER: &str = "runtime/capi/include/pilotlight.h";
const SYMBOLS: &str = "runtime/capi/abi/symbols.txt";

impl Abi {
    pub fn run(self) -> Result<()> {
        let header = header()?;
        let version = abi_version(&header)?;
        run("cargo", &["build", "--package", "pilotlight-capi", "--locked"])?;
        let library = target()?.join("debug/libpilotlight_capi.so");
        let library = library.to_str().context("path is not text")?;
        let symbols = symbols(library)?;
        let list = format!("abi {version}\n{}\n", symbols.iter().cloned().collect::<Vec<_>>().join("\n"));
        if self.bless {
            return bless(&header, version, &symbols, &list);
        }
        let mut problems = Vec::new();
        for (file, now) in [(HEADER, &header), (SYMBOLS, &list)] {
            let committed = fs::read_to_string(root().join(file)).with_context(|| file.to_owned())?;
            if let Some(difference) = difference(&committed, now) {
                problems.push(format!("{file} is not that of the code: {difference}"));
            }
        }
        let soname = soname(library)?;
        let expected = format!("libpilotlight.so.{}", soversion());
        if soname != expected {
            problems.push(format!("SONAME is {soname}, should be {expected}"));
        }
        let documented = fs::read_to_string(root().join("runtime/capi/ABI.md")).context("ABI.md")?;
        if !documented.contains(&format!("ABI {version}:")) {
            problems.push(format!("runtime/capi/ABI.md says nothing of ABI {version}"));
        }
        if !problems.is_empty() {
            bail!("{}\nread runtime/capi/ABI.md, then `cargo xtask abi --bless`", problems.join("\n"));
        }
        println!("abi: version {version}, {} symbols, {soname}", symbols.len());
        Ok(())
    }
}

/// Where cargo puts what it builds.
pub fn target() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    std::path::absolute(root().join(target)).context("target folder")
}

/// Below 1.0 every minor version may break the ABI, so it is part of the SONAME.
pub fn soversion() -> &'static str {
    concat!("0.", env!("CARGO_PKG_VERSION_MINOR"))
}

fn header() -> Result<String> {
    let crate_dir = root().join("runtime/capi");
    let config = cbindgen::Config::from_file(crate_dir.join("cbindgen.toml")).map_err(anyhow::Error::msg)?;
    let bindings = cbindgen::Builder::new().with_crate(crate_dir).with_config(config).generate()?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    Ok(String::from_utf8(text)?)
}

fn abi_version(header: &str) -> Result<u32> {
    let line = header.lines().find_map(|l| l.strip_prefix("#define PL_ABI_VERSION "));
    line.context("the header has no PL_ABI_VERSION")?.trim().parse().context("PL_ABI_VERSION")
}

/// What the shared library exports.
fn symbols(library: &str) -> Result<BTreeSet<String>> {
    let text = shell::output("nm", &["--dynamic", "--defined-only", "--format=posix", library])?;
    Ok(text.lines().filter_map(|l| l.split(' ').next()).map(str::to_owned).collect())
}

fn soname(library: &str) -> Result<String> {
    let text = shell::output("readelf", &["--dynamic", "--wide", library])?;
    let line = text.lines().find(|l| l.contains("(SONAME)")).context("the library has no SONAME")?;
    Ok(line.split(['[', ']']).nth(1).context("SONAME")?.to_owned())
}

fn difference(committed: &str, now: &str) -> Option<String> {
    let (a, b): (BTreeSet<&str>, BTreeSet<&str>) = (committed.lines().collect(), now.lines().collect());
    if committed == now {
        return None;
    }
    let gone = a.difference(&b).map(|l| format!("\n  - {l}"));
    let new = b.difference(&a).map(|l| format!("\n  + {l}"));
    let lines: Vec<String> = gone.chain(new).take(20).collect();
    Some(if lines.is_empty() { "the order differs".into() } else { lines.concat() })
}

/// Writes both files; a symbol may go only with a new ABI version.
fn bless(header: &str, version: u32, symbols: &BTreeSet<String>, list: &str) -> Result<()> {
    let old = fs::read_to_string(root().join(SYMBOLS)).unwrap_or_default();
    let mut lines = old.lines();
    let same = lines.next() == Some(&format!("abi {version}"));
    let gone: Vec<&str> = lines.filter(|l| !symbols.contains(*l)).collect();
    if same && !gone.is_empty() {
        bail!("{} would go from ABI {version}: raise PL_ABI_VERSION and say so in ABI.md", gone.join(", "));
    }
    fs::write(root().join(HEADER), header)?;
    fs::write(root().join(SYMBOLS), list)?;
    println!("abi: wrote {HEADER} and {SYMBOLS}");
    Ok(())
}
