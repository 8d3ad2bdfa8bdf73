//! Known faults planted one at a time, to see that the tests find each.
//!
//! A mutant is a text of a source file and what stands there instead. CUDA sources are compiled by
//! `kernels/regenerate.py`, which refuses forbidden forms, and the tests open the faulty PTX. Rust sources are patched in a
//! copy of the tree with a target folder of its own, so nothing in production knows of faults. The tests are
//! the device suites on the virtual Orin: random small plans of every operation, compared with the reference.

pub mod kernels;
mod run;
mod sites;
pub mod sync;

use anyhow::{Result, bail};
use run::{Bench, Round};
use std::time::Instant;

/// A fault.
#[derive(Clone, Copy)]
pub struct Mutant {
    /// What is wrong, in words.
    pub name: &'static str,
    /// The file, from the repository's root.
    pub file: &'static str,
    /// A text that occurs in it exactly once.
    pub find: &'static str,
    /// What stands there instead.
    pub replace: &'static str,
    /// The tests that exercise it: a part of their names; the rounds say of which targets.
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

#[derive(clap::Args, Default)]
pub struct Options {
    /// Only mutants whose name, or file, holds this
    only: Option<String>,
    /// List the mutants and run nothing
    #[arg(long)]
    list: bool,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|part| name.contains(part))
    }
}

/// Counts of a run.
#[derive(Default)]
struct Tally {
    planted: usize,
    caught: usize,
    argued: usize,
    survivors: Vec<String>,
}

impl Tally {
    /// Prints the line of a fault; `argument` says why one that nothing caught does no harm.
    fn line(&mut self, name: &str, since: Instant, how: Option<&str>, argument: Option<&str>) {
        self.planted += 1;
        let verdict = match (how, argument) {
            (Some(how), None) => {
                self.caught += 1;
                how.to_owned()
            }
            // An argument must be true, not only unrefuted.
            (Some(how), Some(argument)) => {
                self.survivors.push(format!("{name} (argued)"));
                format!("{how}; so this is WRONG: {argument}")
            }
            (None, Some(argument)) => {
                self.argued += 1;
                format!("not caught, and harmless: {argument}")
            }
            (None, None) => {
                self.survivors.push(name.to_owned());
                "NOTHING: it survives".to_owned()
            }
        };
        println!("{name:<66} {:>4.0} s  {verdict}", since.elapsed().as_secs_f32());
    }

    fn finish(self) -> Result<()> {
        let Tally { planted, caught, argued, survivors } = self;
        println!(
            "{planted} faults planted: {caught} caught, {argued} argued harmless, {} survived",
            survivors.len()
        );
        if !survivors.is_empty() {
            bail!("not caught, or argued wrongly: {}", survivors.join("; "));
        }
        Ok(())
    }
}

/// Plants every mutant of the kernels and of lowering, and prints who caught it; fails if one survives.
pub fn kernel_mutants(options: &Options) -> Result<()> {
    let wanted: Vec<&Mutant> = kernels::MUTANTS.iter().filter(|m| options.wants(m.name)).collect();
    if options.list {
        wanted.iter().for_each(|m| println!("{}: {}", m.file, m.name));
        return Ok(());
    }
    if wanted.is_empty() {
        bail!("no mutant has this in its name; --list shows them");
    }
    let bench = Bench::new()?;
    // Only where the suites pass without a fault does a failure mean that the fault was caught.
    let mut suites: Vec<&str> = wanted.iter().map(|m| m.tests).collect();
    suites.sort_unstable();
    suites.dedup();
    // Part of the names of others, which it covers.
    let covered = |t: &&str| !wanted.iter().any(|m| m.tests != *t && t.starts_with(m.tests));
    suites.retain(covered);
    let rounds: Vec<&Round> = kernels::ROUNDS.iter().collect();
    for tests in suites {
        bench.must_pass(&rounds, tests)?;
    }
    let mut tally = Tally::default();
    for mutant in wanted {
        let since = Instant::now();
        let how = bench.plant(mutant, &rounds)?;
        tally.line(mutant.name, since, how.as_deref(), None);
    }
    tally.finish()
}
