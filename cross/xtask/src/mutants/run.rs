//! Compiles a mutant, runs the suites on it, and reads from their output what caught it.

use super::Mutant;
use crate::{kernels::COMPILERS, shell};
use anyhow::{Context, Result, bail};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Far above what a round takes: tests that run longer hang.
const LIMIT: Duration = Duration::from_secs(600);

/// One run of a test target.
pub struct Round {
    /// The target's name; `lib` for the unit tests.
    pub target: &'static str,
    /// Which of its tests, where the mutant does not say: a part of their names.
    pub tests: Option<&'static str>,
    /// Settings of the virtual Orin and of the tests.
    pub variables: &'static [(&'static str, &'static str)],
}

/// The folders in which mutants are made and tried.
pub struct Bench {
    folder: PathBuf,
    python: PathBuf,
    /// Executables of the tests, by target, while the copy's Rust sources stay as they are.
    built: RefCell<HashMap<&'static str, PathBuf>>,
}

impl Bench {
    /// Copies the tree and builds its suites.
    pub fn new() -> Result<Self> {
        let bench = Bench {
            folder: shell::target().join("mutants"),
            python: COMPILERS.interpreter()?,
            built: RefCell::default(),
        };
        bench.copy_tree()?;
        Ok(bench)
    }

    fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// Brings the copy in step with the files that git knows or would take; what is equal keeps its time stamp.
    fn copy_tree(&self) -> Result<()> {
        let list = shell::output("git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
        let names: Vec<&str> = list.split('\0').filter(|name| !name.is_empty()).collect();
        // A file that moved away would be built still: cargo looks no further than what it built from before.
        if names_differ(&self.folder.join("names.txt"), &list) && self.tree().exists() {
            fs::remove_dir_all(self.tree())?;
        }
        for name in names {
            let (from, to) = (shell::root().join(name), self.tree().join(name));
            // A file that git still lists may be gone.
            if from.is_file() {
                write(&to, &fs::read(&from).with_context(|| name.to_owned())?)?;
            }
        }
        write(&self.folder.join("names.txt"), list.as_bytes())
    }

    /// The source that a mutant changes.
    pub fn source(&self, mutant: &Mutant) -> Result<String> {
        fs::read_to_string(shell::root().join(mutant.file)).with_context(|| mutant.file.to_owned())
    }

    /// Runs the tests without a fault.
    ///
    /// # Errors
    /// They fail, and a mutant's failing would mean nothing.
    pub fn must_pass(&self, rounds: &[&Round], tests: &str) -> Result<()> {
        if let Some(how) = self.run(rounds, tests, None)? {
            bail!("without a fault the tests `{tests}` fail already: {how}");
        }
        Ok(())
    }

    /// Plants a mutant; says what caught it.
    pub fn plant(&self, mutant: &Mutant, rounds: &[&Round]) -> Result<Option<String>> {
        let good = self.source(mutant)?;
        let path = self.tree().join(mutant.file);
        write(&path, mutant.plant(&good)?.as_bytes())?;
        if !mutant.in_cuda() {
            self.built.take();
        }
        let caught = match mutant.in_cuda() {
            true => self.compile().and_then(|refused| match refused {
                Some(problem) => Ok(Some(problem)),
                None => self.run(rounds, mutant.tests, Some(&self.generated().join("pilotlight.ptx"))),
            }),
            false => self.run(rounds, mutant.tests, None),
        };
        write(&path, good.as_bytes())?;
        if !mutant.in_cuda() {
            self.built.take();
        }
        caught
    }

    /// Tries kernels of another text; says what caught them.
    pub fn try_ptx(&self, ptx: &str, rounds: &[&Round], tests: &str) -> Result<Option<String>> {
        let path = self.folder.join("weakened.ptx");
        write(&path, ptx.as_bytes())?;
        self.run(rounds, tests, Some(&path))
    }

    fn generated(&self) -> PathBuf {
        self.folder.join("generated")
    }

    /// Compiles the copy's CUDA sources; the reason if a check of the build refuses them.
    fn compile(&self) -> Result<Option<String>> {
        let generated = self.generated();
        fs::create_dir_all(&generated)?;
        let script = self.tree().join("kernels/regenerate.py");
        let output = Command::new(&self.python)
            .arg(script)
            .arg("--ptx-only")
            .arg("--sources")
            .arg(self.tree().join("kernels/cuda"))
            .arg("--out")
            .arg(&generated)
            .output()
            .context("Python cannot be started")?;
        if output.status.success() {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if text.contains("error:") || text.contains("Traceback") {
            bail!("the mutant is no valid CUDA: {text}");
        }
        Ok(Some(format!("kernel build: {}", text.trim())))
    }

    /// A test target's executable, built in the copy of the tree.
    fn build(&self, target: &'static str) -> Result<PathBuf> {
        if let Some(executable) = self.built.borrow().get(target) {
            return Ok(executable.clone());
        }
        let which: &[&str] = if target == "lib" { &["--lib"] } else { &["--test", target] };
        let output = Command::new("cargo")
            .args(["test", "--quiet", "--locked", "--package", "pilotlight-cuda"])
            .args(which)
            .args(["--no-run", "--message-format", "json"])
            // Compiled once for every fault of the host, and most of the time goes into the virtual Orin.
            .args(["--config", "profile.dev.package.pilotlight-cuda.opt-level=0"])
            .current_dir(self.tree())
            .env("CARGO_TARGET_DIR", self.folder.join("build"))
            .output()
            .context("cargo cannot be started")?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("the mutant does not compile: {text} {}", String::from_utf8_lossy(&output.stderr));
        }
        let name = if target == "lib" { "pilotlight_cuda" } else { target };
        let executable = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|message| message["target"]["name"] == name)
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .with_context(|| format!("cargo names no executable of {name}"))?;
        self.built.borrow_mut().insert(target, executable.clone());
        Ok(executable)
    }

    /// Runs the tests in each round; what caught a fault, if something did.
    fn run(&self, rounds: &[&Round], tests: &str, ptx: Option<&Path>) -> Result<Option<String>> {
        for round in rounds {
            let tests = round.tests.unwrap_or(tests);
            let mut command = Command::new(self.build(round.target)?);
            command
                .current_dir(self.tree().join("runtime/cuda"))
                .arg(tests)
                // The suites' matrix starts them again with settings of its own.
                .args(["--include-ignored", "--nocapture", "--skip", "matrix::"])
                .env("RUST_BACKTRACE", "0")
                .envs(round.variables.iter().copied());
            if let Some(ptx) = ptx {
                command.env("PILOTLIGHT_TEST_PTX", ptx);
            }
            let Some((passed, text)) = limited(command, &self.folder.join("output.txt"))? else {
                return Ok(Some(format!("the tests hang: stopped after {} s", LIMIT.as_secs())));
            };
            if text.contains("running 0 tests") {
                bail!("no test of {} has `{tests}` in its name", round.target);
            }
            if !passed {
                return Ok(Some(verdict(&text)));
            }
        }
        Ok(None)
    }
}

/// Runs a command with a limit, its output in a file; whether it passed and what it printed.
fn limited(mut command: Command, to: &Path) -> Result<Option<(bool, String)>> {
    let file = fs::File::create(to)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .context("the suites cannot be started")?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            let text = String::from_utf8_lossy(&fs::read(to)?).into_owned();
            return Ok(Some((status.success(), text)));
        }
        // One test that fails is enough.
        let text = String::from_utf8_lossy(&fs::read(to)?).into_owned();
        let failed = text.contains(" ... FAILED\n");
        if failed || start.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(failed.then_some((false, text)));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What caught a fault, from the output of the suites.
fn verdict(text: &str) -> String {
    let virtual_orin = text.lines().find_map(|line| line.strip_prefix("virtual Orin: "));
    if let Some(found) = virtual_orin {
        if let Some((_, race)) = found.split_once(": race on ") {
            return format!("race detector: {race}");
        }
        return match found.split_once(", PTX line ").and_then(|(_, rest)| rest.split_once(": ")) {
            Some((_, kind)) => format!("trap: {kind}"),
            None => found.to_owned(),
        };
    }
    let differs = text.lines().find(|line| line.contains("differs in"));
    if let Some((_, counts)) = differs.and_then(|line| line.rsplit_once("differs in")) {
        return format!("wrong values:{counts}");
    }
    let mut panic = text.lines().skip_while(|line| !line.contains("panicked at"));
    match (panic.next(), panic.next()) {
        // A list that is longer than a line.
        (Some(place), Some(message)) if message.len() < 4 => format!("a test: {place}"),
        (_, Some(message)) => format!("a test: {}", message.trim()),
        _ => "the tests fail without a message".to_owned(),
    }
}

/// Whether the list of files is another than when the copy was made.
fn names_differ(known: &Path, list: &str) -> bool {
    fs::read_to_string(known).map_or(true, |old| old != list)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes).with_context(|| path.display().to_string())
}
