//! What the telemetry protocol takes on a device without an operating system: flash and stack, by target.
//!
//! Flash is what the smallest linked program loads. Stack is the longest path through the program's call graph, with
//! the frame sizes that the compiler states; a path that cannot be known (recursion, a call through a pointer) is an
//! error, so the figure is a bound and not an estimate.

use crate::abi::target;
use crate::shell::{self, run};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};

struct Target {
    triple: &'static str,
    /// Of Debian's binutils.
    prefix: &'static str,
    package: &'static str,
}

const TARGETS: [Target; 2] = [
    Target { triple: "thumbv7em-none-eabi", prefix: "arm-none-eabi-", package: "binutils-arm-none-eabi" },
    Target {
        triple: "aarch64-unknown-none",
        prefix: "aarch64-linux-gnu-",
        package: "binutils-aarch64-linux-gnu",
    },
];

/// Bytes that the larger of the two programs may take.
const FLASH: u64 = 32_768;
const STACK: u64 = 8_192;

/// Prints the table, and fails above the limits.
pub fn run_all() -> Result<()> {
    run("bash", &["cross/toolchain.sh", "setup", "--no-std"])?;
    for Target { prefix, package, .. } in &TARGETS {
        if shell::output(&format!("{prefix}ld"), &["--version"]).is_err() {
            run("apt-get", &["-q", "install", "-y", "--no-install-recommends", package])?;
        }
    }
    let mut rows = Vec::new();
    for target in &TARGETS {
        for (what, features) in [("sends", &[][..]), ("sends and receives", &["--features", "receive"][..])] {
            rows.push((target.triple, what, measure(target, features)?));
        }
    }
    println!("{:<22} {:<20} {:>8} {:>8}   deepest call", "target", "program", "flash", "stack");
    for (triple, what, size) in &rows {
        println!("{triple:<22} {what:<20} {:>8} {:>8}   {}", size.flash, size.stack, size.path.join(" > "));
    }
    match rows.iter().find(|(.., size)| size.flash > FLASH || size.stack > STACK) {
        Some((triple, what, _)) => bail!("{triple}, {what}: over {FLASH} bytes of flash or {STACK} of stack"),
        None => Ok(()),
    }
}

struct Size {
    flash: u64,
    stack: u64,
    path: Vec<String>,
}

fn measure(target: &Target, features: &[&str]) -> Result<Size> {
    let Target { triple, prefix, .. } = target;
    let manifest = ["--manifest-path", "runtime/wire/firmware/Cargo.toml", "--release", "--locked"];
    let args = [&["cross/toolchain.sh", "nostd", triple], &manifest[..], features].concat();
    let mut build = shell::command("bash", &args);
    build.env("RUSTFLAGS", format!("-Z emit-stack-sizes -C linker-flavor=ld -C linker={prefix}ld"));
    shell::run_command(build)?;
    let program = self::target()?.join("cross/build").join(triple).join("release/pilotlight-wire-firmware");
    let program = program.to_str().context("a path that is not text")?;
    let tool = |name: &str, args: &[&str]| shell::output(&format!("{prefix}{name}"), args);
    let flash = flash(&tool("size", &["-B", program])?)?;
    let sections = tool("objdump", &["-s", "-j", ".stack_sizes", program])?;
    let wide = triple.starts_with("aarch64");
    let frames = frames(&hex_dump(&sections), wide).context(".stack_sizes does not read as frames")?;
    let calls = calls(&tool("objdump", &["-d", "--demangle", program])?, &frames)?;
    let (stack, path) = deepest("_start", &calls, &mut Vec::new())?;
    Ok(Size { flash, stack, path })
}

/// Code, constants and initial data, from `size`'s second line: text, data.
fn flash(table: &str) -> Result<u64> {
    let line = table.lines().nth(1).context("size printed no line")?;
    let numbers: Vec<u64> = line.split_whitespace().take(2).map_while(|word| word.parse().ok()).collect();
    match numbers[..] {
        [text, data] => Ok(text + data),
        _ => bail!("size printed {line:?}"),
    }
}

/// The bytes of an `objdump -s` dump: an address, four groups of hexadecimal digits, two spaces, text.
fn hex_dump(text: &str) -> Vec<u8> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(' ')?.split_once(' '));
    let digits: String =
        lines.flat_map(|(_, rest)| rest.split("  ").next().unwrap_or("").split(' ')).collect();
    digits.as_bytes().as_chunks::<2>().0.iter().filter_map(|pair| byte(*pair)).collect()
}

fn byte(pair: [u8; 2]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()
}

/// Address to frame size: an address of the target's width, then a LEB128 number, and so on.
fn frames(mut bytes: &[u8], wide: bool) -> Option<BTreeMap<u64, u64>> {
    let mut frames = BTreeMap::new();
    while !bytes.is_empty() {
        let address = if wide {
            let (address, rest) = bytes.split_first_chunk::<8>()?;
            bytes = rest;
            u64::from_le_bytes(*address)
        } else {
            let (address, rest) = bytes.split_first_chunk::<4>()?;
            bytes = rest;
            // The lowest bit of a Thumb address is no part of it.
            u64::from(u32::from_le_bytes(*address) & !1)
        };
        let (mut size, mut shift) = (0u64, 0);
        loop {
            let (&next, rest) = bytes.split_first()?;
            bytes = rest;
            size |= u64::from(next & 0x7f).checked_shl(shift)?;
            shift += 7;
            if next & 0x80 == 0 {
                break;
            }
        }
        frames.insert(address, size);
    }
    Some(frames)
}

#[derive(Default)]
struct Function {
    frame: u64,
    calls: BTreeSet<String>,
}

/// The call graph out of a disassembly.
fn calls(text: &str, frames: &BTreeMap<u64, u64>) -> Result<BTreeMap<String, Function>> {
    let mut graph: BTreeMap<String, Function> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some((address, name)) = line.strip_suffix(">:").and_then(|head| head.split_once(" <")) {
            current = name.to_owned();
            let address = u64::from_str_radix(address, 16).with_context(|| line.to_owned())?;
            // Assembly of the compiler's own library states no frame and uses none.
            graph.entry(current.clone()).or_default().frame = frames.get(&address).copied().unwrap_or(0);
            continue;
        }
        let mut columns = line.split('\t').skip(2);
        let (Some(code), operands) = (columns.next(), columns.next().unwrap_or("")) else { continue };
        let code = code.trim();
        if matches!(code, "blr" | "blx") || (code == "br" || code == "bx" && operands.trim() != "lr") {
            bail!("{current}: a call through a pointer ({code} {operands}): the stack cannot be bounded");
        }
        let Some((_, name)) = operands.split_once('<') else { continue };
        // Names hold angle brackets of their own: only the last one is the disassembler's.
        let name = name.trim_end().strip_suffix('>').unwrap_or(name);
        // A jump within a function names it with an offset.
        if code.starts_with('b') && name != current && !name.starts_with(&format!("{current}+")) {
            let name = name.rsplit_once("+0x").map_or(name, |(name, _)| name);
            graph.entry(current.clone()).or_default().calls.insert(name.to_owned());
        }
    }
    Ok(graph)
}

/// The most stack that a function takes with all that it calls, and the path on which it does.
fn deepest(
    name: &str,
    graph: &BTreeMap<String, Function>,
    above: &mut Vec<String>,
) -> Result<(u64, Vec<String>)> {
    if above.iter().any(|caller| caller == name) {
        bail!("{name} calls itself: the stack cannot be bounded");
    }
    let function = graph.get(name).with_context(|| format!("{name} is called and not there"))?;
    above.push(name.to_owned());
    let mut most = (0, Vec::new());
    for callee in &function.calls {
        let below = deepest(callee, graph, above)?;
        if below.0 > most.0 {
            most = below;
        }
    }
    above.pop();
    let short = name.rsplit("::").next().unwrap_or(name).to_owned();
    let path = [vec![short], most.1].concat();
    Ok((function.frame + most.0, path))
}
