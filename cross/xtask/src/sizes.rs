//! The size of a firmware: the C example, linked statically and stripped, by crate, against its budget.

use crate::abi::target;
use crate::c_programs::path;
use crate::shell::{self, run};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;

/// With the CPU device, without importer and model, in bytes. On the board's architecture it holds for the wholly
/// static program. On x86-64 it holds for the one that takes libc from the system: glibc's own part of a static
/// program (683 KB for an empty one on Debian 12) is not ours to shrink there.
const BUDGET: u64 = 1_500_000;

const FLAGS: [&str; 6] = ["-Os", "-Iruntime/capi/include", "-Wl,--gc-sections", "-lpthread", "-ldl", "-lm"];

#[derive(Default, clap::Args)]
pub struct Sizes {
    /// For aarch64, with cross/toolchain.sh
    #[arg(long)]
    pub aarch64: bool,
}

impl Sizes {
    pub fn run(self) -> Result<()> {
        let (arch, prefix) = if self.aarch64 { ("aarch64", "aarch64-linux-gnu-") } else { ("native", "") };
        let out = target()?.join("sizes").join(arch);
        let installed = out.join("prefix");
        run("bash", &["cross/package.sh", path(&installed)?, arch])?;
        let library = installed.join("lib/libpilotlight.a");
        let tool = |name: &str| format!("{prefix}{name}");
        let program = out.join("firmware");
        let link = |file: &str, more: &[&str]| -> Result<u64> {
            let source = [file, path(&library)?, "-o", path(&program)?];
            run(&tool("gcc"), &[&source[..], &FLAGS, more].concat())?;
            stripped(&tool("strip"), &program)
        };
        let metered = link("runtime/capi/examples/joules.c", &["-static"])?;
        let firmware = "runtime/capi/examples/firmware.c";
        let totals = [
            ("linked to the system's libc", link(firmware, &[])?),
            ("static, libc included", link(firmware, &["-static"])?),
        ];
        // The last one built is the static one, still with its symbols.
        let parts = parts(&tool("nm"), &program)?;
        let named: u64 = parts.values().sum();
        let (_, all) = totals[1];
        println!("{:>10}  {:<28} (code and data of the static program, by crate)", "bytes", "part");
        let mut parts: Vec<(String, u64)> = parts.into_iter().collect();
        parts.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
        for (name, size) in &parts {
            println!("{size:>10}  {name}");
        }
        println!("{:>10}  tables, alignment, unnamed data", all.saturating_sub(named));
        for (name, size) in &totals {
            println!("{size:>10}  firmware example, {arch}, stripped, {name}");
        }
        println!(
            "{metered:>10}  the same with a meter (examples/joules.c), static: what one pays who wants joules"
        );
        let (name, held) = &totals[usize::from(self.aarch64)];
        if *held > BUDGET {
            bail!("{held} bytes ({name}) are over the budget of {BUDGET}");
        }
        println!("{BUDGET:>10}  budget, held by: {name}");
        Ok(())
    }
}

fn stripped(strip: &str, program: &Path) -> Result<u64> {
    let to = program.with_extension("stripped");
    run(strip, &["-o", path(&to)?, path(program)?])?;
    Ok(std::fs::metadata(&to)?.len())
}

/// Bytes of named code and data by crate; what no crate made belongs to libc and the compiler.
fn parts(nm: &str, program: &Path) -> Result<BTreeMap<String, u64>> {
    let text = shell::output(nm, &["--print-size", "--demangle", "--defined-only", path(program)?])?;
    let mut parts = BTreeMap::new();
    // Symbols at one address are names of the same bytes.
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        let (Some(address), Some(size), Some(kind), Some(name)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        // Zeroed data takes no place in the file.
        if matches!(kind, "b" | "B") || !seen.insert(address.to_owned()) {
            continue;
        }
        let size = u64::from_str_radix(size, 16).with_context(|| format!("size in {line}"))?;
        *parts.entry(part(name)).or_default() += size;
    }
    Ok(parts)
}

/// The crate of a demangled name: `a::b`, `<a::b as c::d>::e`, `<&a::b>::c`; others are C's.
fn part(name: &str) -> String {
    let first = name
        .trim_start_matches(['<', '&', '*', '[', '('])
        .trim_start_matches("mut ")
        .trim_start_matches("dyn ");
    let end = first.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(first.len());
    let (word, rest) = first.split_at(end);
    if rest.starts_with("::") {
        word.to_owned()
    } else if name.starts_with("pl_") {
        "pilotlight_capi".to_owned()
    } else {
        "libc, compiler, unattributed".to_owned()
    }
}
