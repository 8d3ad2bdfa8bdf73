//! The C and C++ programs of runtime/capi: compiled with a compiler, run with a runner, counted.

use crate::shell::{self, root};
use anyhow::{Context, Result, bail};
use pilotlight_cli::golden::{Golden, entry};
use std::path::{Path, PathBuf};
use std::process::Command;

pub const DIGITS: &str = "models/digits/model.plan";
pub const EFFICIENTNET: &str = "models/efficientnet-lite0/model.plan";

/// What ran, failed, or was skipped with a reason.
#[derive(Default)]
pub struct Tally {
    pub passed: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    /// Notes and prints a result.
    pub fn note(&mut self, name: &str, good: bool) {
        println!("{} {name}", if good { "ok     " } else { "FAILED " });
        *(if good { &mut self.passed } else { &mut self.failed }) += 1;
    }

    pub fn skip(&mut self, name: &str, reason: &str) {
        println!("skipped {name}: {reason}");
        self.skipped += 1;
    }

    /// Adds the counts of a test program's last line; a program that ended without them has failed.
    fn add(&mut self, name: &str, text: &str) {
        let line = text.lines().last().unwrap_or_default();
        let counts: Vec<u32> =
            line.split(", ").filter_map(|part| part.split(' ').next()?.parse().ok()).collect();
        let [passed, failed, skipped] = counts[..] else {
            return self.note(&format!("{name} ended early"), false);
        };
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
    }

    /// Prints the counts.
    ///
    /// # Errors
    /// When anything failed, or nothing ran.
    pub fn close(self, name: &str) -> Result<()> {
        println!("{name}: {} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        if self.failed > 0 || self.passed == 0 {
            bail!("{} of the checks failed, {} passed", self.failed, self.passed);
        }
        Ok(())
    }
}

/// Compilers, what they link, and what runs the result.
pub struct Kit {
    pub name: &'static str,
    pub cc: &'static str,
    pub cxx: &'static str,
    pub flags: Vec<&'static str>,
    /// The static library.
    pub library: PathBuf,
    /// Goes before the program.
    pub runner: Vec<&'static str>,
    /// Where programs go.
    pub out: PathBuf,
}

impl Kit {
    /// Compiles a file of runtime/capi and gives the program's path.
    pub fn build(&self, source: &str) -> Result<PathBuf> {
        std::fs::create_dir_all(&self.out)?;
        let program = self.out.join(source.replace(['/', '.'], "_"));
        let cxx = source.ends_with(".cpp");
        let mut command = Command::new(if cxx { self.cxx } else { self.cc });
        command
            .current_dir(root())
            .args([
                if cxx { "-std=c++17" } else { "-std=c11" },
                "-D_GNU_SOURCE",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-O1",
            ])
            .args(["-g", "-fno-builtin-malloc", "-Iruntime/capi/include"])
            .args(&self.flags)
            .arg(format!("runtime/capi/{source}"))
            .arg("-o")
            .arg(&program)
            .arg(&self.library)
            .args(["-lpthread", "-ldl", "-lm"]);
        shell::run_command(command).with_context(|| format!("{source} with {}", self.name))?;
        Ok(program)
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut words = self.runner.iter().map(|w| (*w).into()).chain([program.as_os_str().to_owned()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.current_dir(root()).args(words).args(args);
        command
    }

    /// Runs a program and notes whether it ended with success; what it printed to stdout.
    pub fn run(&self, tally: &mut Tally, name: &str, program: &Path, args: &[&str]) -> Result<String> {
        let output = self.command(program, args).output().with_context(|| format!("{} {name}", self.name))?;
        let good = output.status.success();
        tally.note(&format!("{} {name}", self.name), good);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !good {
            eprintln!("{text}{}{}", String::from_utf8_lossy(&output.stderr), output.status);
        }
        Ok(text)
    }

    /// Runs a test program, which prints its own counts at the end.
    pub fn test(&self, tally: &mut Tally, source: &str, args: &[&str]) -> Result<u32> {
        let program = self.build(source)?;
        let output =
            self.command(&program, args).output().with_context(|| format!("{} {source}", self.name))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let before = tally.passed;
        println!("{} {source}:", self.name);
        print!("{text}");
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            tally.note(&format!("{} {source} ended with {}", self.name, output.status), false);
        }
        tally.add(source, &text);
        Ok(tally.passed - before)
    }

    /// The C example gives the golden outputs of ONNX Runtime on x86-64, bit for bit, for `cases` of each model.
    pub fn golden(&self, tally: &mut Tally, firmware: &Path, cases: usize) -> Result<()> {
        for plan in [DIGITS, EFFICIENTNET] {
            let folder = root().join(plan).with_file_name("golden/qdq");
            let golden = Golden::open(&folder)?;
            let expected = golden.outputs()?;
            let (_, expected) = expected.first().context("golden outputs")?;
            let (input, output) = (self.out.join("input.bin"), self.out.join("output.bin"));
            let (mut equal, cases) = (0, cases.min(golden.len()));
            for case in 0..cases {
                // Spread over all kinds of cases.
                let case = case * golden.len() / cases;
                std::fs::write(&input, golden.input(case)?)?;
                let args = [plan, path(&input)?, path(&output)?];
                let status = self.command(firmware, &args).stdout(std::process::Stdio::null()).status()?;
                equal += usize::from(status.success() && std::fs::read(&output)? == entry(expected, case));
            }
            tally.note(
                &format!("{} firmware.c on {plan}: {equal} of {cases} golden outputs", self.name),
                equal == cases,
            );
        }
        Ok(())
    }
}

/// A path as text.
pub fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not text", path.display()))
}
