//! Known faults planted one at a time, to see that the tests find each.
//!
//! A mutant is a text of a source file and what stands there instead. CUDA sources are compiled by
//! `kernels/regenerate.py`, with all its checks, and the tests open the faulty PTX. Rust sources are patched in a
//! copy of the tree with a target folder of its own, so nothing in production knows of faults. The tests are
//! the device suites on the virtual Orin: random small plans of every operation, compared with the reference.

pub mod kernels;
mod run;

use anyhow::{Result, bail};
use run::Bench;
use std::time::Instant;

/// A fault.
pub struct Mutant {
    /// What is wrong, in words.
    pub name: &'static str,
    /// The file, from the repository's root.
    pub file: &'static str,
    /// A text that occurs in it exactly once.
    pub find: &'static str,
    /// What stands there instead.
    pub replace: &'static str,
    /// The suites that exercise it: a part of their tests' names.
    pub tests: &'static str,
}

impl Mutant {
    /// The file with the fault in it.
    fn plant(&self, text: &str) -> Result<String> {
        let found = text.matches(self.find).count();
        if found != 1 {
            bail!(
                "{}: its text occurs {found} times in {}, and must occur once; bring the list in step with the source",
                self.name,
                self.file
            );
        }
        Ok(text.replacen(self.find, self.replace, 1))
    }

    fn in_cuda(&self) -> bool {
        self.file.ends_with(".cuh")
    }
}

#[derive(clap::Args)]
pub struct Options {
    /// Only mutants whose name holds this
    only: Option<String>,
    /// List the mutants and run nothing
    #[arg(long)]
    list: bool,
}

/// Plants every mutant and prints who caught it; fails if one survives.
pub fn run(mutants: &[Mutant], options: &Options) -> Result<()> {
    let wanted: Vec<&Mutant> =
        mutants.iter().filter(|m| options.only.as_deref().is_none_or(|part| m.name.contains(part))).collect();
    if options.list {
        wanted.iter().for_each(|m| println!("{}: {}", m.file, m.name));
        return Ok(());
    }
    if wanted.is_empty() {
        bail!("no mutant has this in its name; --list shows them");
    }
    let bench = Bench::new()?;
    for mutant in &wanted {
        mutant.plant(&bench.source(mutant)?)?;
    }
    // Only where the suites pass without a fault does a failure mean that the fault was caught.
    let mut suites: Vec<(bool, &str)> = wanted.iter().map(|m| (m.in_cuda(), m.tests)).collect();
    suites.sort_unstable();
    suites.dedup();
    for (in_cuda, tests) in suites {
        if let Some(how) = bench.clean(in_cuda, tests)? {
            bail!("without a fault the suites `{tests}` fail already: {how}");
        }
    }
    let mut survivors = 0;
    println!("{:<58} {:>6}  caught by", "fault", "time");
    for mutant in &wanted {
        let start = Instant::now();
        let how = bench.try_out(mutant)?;
        survivors += usize::from(how.is_none());
        let seconds = start.elapsed().as_secs_f32();
        println!(
            "{:<58} {seconds:>4.0} s  {}",
            mutant.name,
            how.as_deref().unwrap_or("NOTHING: it survives")
        );
    }
    println!("{} faults planted, {} caught, {survivors} survived", wanted.len(), wanted.len() - survivors);
    if survivors > 0 {
        bail!("{survivors} faults were not caught");
    }
    Ok(())
}
