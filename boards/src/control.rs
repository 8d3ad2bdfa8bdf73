//! Setting clocks: only attributes on a list, only values of the board's tables, one owner at a time, and a state
//! file written first, so that a later process can undo what a killed one left.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pilotlight_units::Hertz;
use serde::{Deserialize, Serialize};

use crate::board::Board;
use crate::emc::{Emc, LOCK};
use crate::gpu::Gpu;
use crate::tree::{SysError, Tree};

/// Why clocks cannot be set or restored.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// An attribute failed.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// The board has no GPU clock to set.
    #[error("no GPU clock was found below {root}; `pilotlight boards` shows what is missing")]
    NoGpu {
        /// Root of the tree.
        root: PathBuf,
    },
    /// Another process owns the clocks.
    #[error("another process owns the clocks ({path} is locked); end it first")]
    Owned {
        /// What is locked.
        path: PathBuf,
    },
    /// `jetson_clocks` pinned them.
    #[error(
        "both GPU limits are {clock}: jetson_clocks or another program pinned the clocks; run `jetson_clocks --restore` first"
    )]
    Pinned {
        /// The clock.
        clock: Hertz,
    },
    /// A state file is there: a process was killed before it restored the board.
    #[error("{path} is left from a process that did not restore the board; run `pilotlight restore` first")]
    LeftOver {
        /// The state file.
        path: PathBuf,
    },
    /// The state file cannot be used.
    #[error("{path}: {problem}")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A clock that the board's table does not have.
    #[error("{domain} clock {found} is not in the board's table; allowed: {allowed}")]
    Clock {
        /// GPU or memory.
        domain: &'static str,
        /// What was asked.
        found: Hertz,
        /// What is allowed, MHz.
        allowed: String,
    },
    /// Some attributes could not be restored; the state file stays.
    #[error("{failed} of {total} attributes could not be restored; the first: {first}")]
    Restore {
        /// How many failed.
        failed: usize,
        /// Of how many.
        total: usize,
        /// The first failure.
        first: Box<SysError>,
    },
}

/// Clocks that a governor sets and reads.
pub trait Clocks {
    /// Asks for clocks; `emc` stays as it is where the board's memory cannot be locked.
    ///
    /// # Errors
    /// [`ControlError`] when a clock is not allowed, a write failed, or was not held.
    fn set(&mut self, gpu: Hertz, emc: Option<Hertz>) -> Result<(), ControlError>;

    /// Clocks read back: GPU and memory, each where it can be read.
    fn read(&mut self) -> (Option<Hertz>, Option<Hertz>);

    /// Puts the board back as it was found.
    ///
    /// # Errors
    /// [`ControlError::Restore`] when an attribute could not be restored.
    fn release(&mut self) -> Result<(), ControlError>;
}

/// An attribute and the value it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    path: String,
    value: String,
}

/// What a state file holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    schema: u32,
    pid: u32,
    /// In the order in which they are restored.
    attributes: Vec<Saved>,
}

/// Name of the state file in its folder.
const STATE_FILE: &str = "clocks.json";
/// Largest state file that is read.
const LARGEST_STATE: u64 = 64 * 1024;
/// Files whose writing a state file may ask for.
const RESTORABLE: [&str; 5] = ["/min_freq", "/max_freq", "/mrq_rate_locked", "/state", "/rate"];
/// Folders they may lie in.
const RESTORABLE_IN: [&str; 3] =
    ["/sys/class/devfreq/", "/sys/devices/", "/sys/kernel/debug/bpmp/debug/clk/emc/"];
/// Time that a step of a ramp takes hold in.
const RAMP_STEP: Duration = Duration::from_millis(6);

/// The clocks of a board, owned until dropped or released.
#[derive(Debug)]
pub struct Session {
    tree: Tree,
    gpu: Gpu,
    gpu_allowed: Vec<Hertz>,
    emc_allowed: Vec<Hertz>,
    emc_locks: bool,
    state: PathBuf,
    /// Held while the clocks are ours; none after release.
    lock: Option<File>,
}

impl Session {
    /// Takes ownership of the clocks: checks that nobody else has them, and writes the state file.
    ///
    /// # Errors
    /// [`ControlError`] when the board has no GPU clock, another program owns the clocks, a state file is left, or
    /// the state cannot be saved.
    pub fn open(tree: &Tree, state_folder: &Path) -> Result<Self, ControlError> {
        let board = Board::discover(tree);
        let (gpu_allowed, emc_allowed) =
            board.governable().ok_or_else(|| ControlError::NoGpu { root: tree.root().to_owned() })?;
        let gpu = board.gpu.ok_or_else(|| ControlError::NoGpu { root: tree.root().to_owned() })?;
        let lock = lock(&tree.path(&gpu.devfreq))?;
        let state = state_folder.join(STATE_FILE);
        if state.exists() {
            return Err(ControlError::LeftOver { path: state });
        }
        if let Some(now) = board.gpu_state.filter(|_| board.clocks_pinned) {
            return Err(ControlError::Pinned { clock: now.max });
        }
        let emc_locks = tree.has(&format!("{LOCK}/mrq_rate_locked")) && !emc_allowed.is_empty();
        let session =
            Self { tree: tree.clone(), gpu, gpu_allowed, emc_allowed, emc_locks, state, lock: Some(lock) };
        session.save()?;
        Ok(session)
    }

    /// GPU clocks that may be asked for.
    pub fn gpu_clocks(&self) -> &[Hertz] {
        &self.gpu_allowed
    }

    /// Memory clocks that may be asked for; empty where the memory clock cannot be locked.
    pub fn emc_clocks(&self) -> &[Hertz] {
        if self.emc_locks { &self.emc_allowed } else { &[] }
    }

    fn save(&self) -> Result<(), ControlError> {
        let mut attributes = Vec::new();
        let floor = self.gpu.clocks.first().map_or(0, |c| c.0);
        let devfreq = &self.gpu.devfreq;
        let read = |path: String| self.tree.read(&path).map(|value| Saved { path, value });
        // The floor first, so that the lowest never stands above the highest on the way back.
        attributes.push(Saved { path: format!("{devfreq}/min_freq"), value: floor.to_string() });
        attributes.push(read(format!("{devfreq}/max_freq"))?);
        attributes.push(read(format!("{devfreq}/min_freq"))?);
        if self.emc_locks {
            for name in ["rate", "state", "mrq_rate_locked"] {
                attributes.push(read(format!("{LOCK}/{name}"))?);
            }
        }
        let state = State { schema: 1, pid: std::process::id(), attributes };
        let text = serde_json::to_string_pretty(&state).map_err(|e| self.wrong(e.to_string()))?;
        let io = |e: std::io::Error| self.wrong(format!("the state cannot be saved: {e}"));
        if let Some(folder) = self.state.parent() {
            fs::create_dir_all(folder).map_err(io)?;
        }
        let temporary = self.state.with_extension("new");
        let mut file = File::create(&temporary).map_err(io)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
        fs::rename(&temporary, &self.state).map_err(io)
    }

    fn wrong(&self, problem: String) -> ControlError {
        ControlError::State { path: self.state.clone(), problem }
    }

    fn write_gpu(&self, clock: Hertz) -> Result<(), ControlError> {
        for (path, value) in self.gpu.pin(clock) {
            self.tree.write(&path, &value.to_string())?;
        }
        let path = format!("{}/max_freq", self.gpu.devfreq);
        held(&self.tree, &path, clock.0)
    }

    /// Raises in steps of a third of the range: a steep rise trips the over-current guard.
    fn ramp(&self, to: Hertz) -> Result<(), ControlError> {
        let now = self.tree.number(&format!("{}/max_freq", self.gpu.devfreq)).unwrap_or(0) as u64;
        let top = self.gpu_allowed.last().map_or(to.0, |c| c.0);
        let mut at = now;
        while to.0 > at.saturating_add(top / 3) {
            let step = self.gpu_allowed.iter().rfind(|c| c.0 <= at + top / 3 && c.0 > at);
            let Some(step) = step else { break };
            self.write_gpu(*step)?;
            std::thread::sleep(RAMP_STEP);
            at = step.0;
        }
        self.write_gpu(to)
    }
}

impl Clocks for Session {
    fn set(&mut self, gpu: Hertz, emc: Option<Hertz>) -> Result<(), ControlError> {
        check("GPU", gpu, &self.gpu_allowed)?;
        if let Some(emc) = emc.filter(|_| self.emc_locks) {
            check("memory", emc, &self.emc_allowed)?;
            for (path, value) in Emc::lock(emc) {
                self.tree.write(&path, &value.to_string())?;
            }
            held(&self.tree, &format!("{LOCK}/rate"), emc.0)?;
        }
        self.ramp(gpu)
    }

    fn read(&mut self) -> (Option<Hertz>, Option<Hertz>) {
        let clock = |path: &str| self.tree.number(path).ok().and_then(|n| u64::try_from(n).ok()).map(Hertz);
        (clock(&format!("{}/cur_freq", self.gpu.devfreq)), clock(&format!("{LOCK}/rate")))
    }

    fn release(&mut self) -> Result<(), ControlError> {
        match self.lock.take() {
            Some(_lock) => undo(&self.tree, &self.state),
            None => Ok(()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Nothing can be returned here; what failed keeps its state file for `restore`.
        let _ = self.release();
    }
}

/// Puts the board back as the state file says, and removes the file. True when there was one.
///
/// # Errors
/// [`ControlError`] when another process still owns the clocks, the file cannot be used, or an attribute cannot be
/// restored; the file then stays.
pub fn restore(tree: &Tree, state_folder: &Path) -> Result<bool, ControlError> {
    let state = state_folder.join(STATE_FILE);
    if !state.exists() {
        return Ok(false);
    }
    let _lock = match Gpu::find(tree) {
        Ok(gpu) => Some(lock(&tree.path(&gpu.devfreq))?),
        Err(_) => None,
    };
    undo(tree, &state)?;
    Ok(true)
}

fn undo(tree: &Tree, path: &Path) -> Result<(), ControlError> {
    let wrong = |problem: String| ControlError::State { path: path.to_owned(), problem };
    let size = fs::metadata(path).map_err(|e| wrong(e.to_string()))?.len();
    if size > LARGEST_STATE {
        return Err(wrong(format!("{size} bytes; a state file has at most {LARGEST_STATE}")));
    }
    let text = fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    let attributes = parse_state(&text).map_err(wrong)?;
    let mut failures = Vec::new();
    let total = attributes.len();
    for (attribute, value) in attributes {
        if let Err(error) = tree.write(&attribute, &value) {
            failures.push(error);
        }
    }
    if !failures.is_empty() {
        let failed = failures.len();
        return Err(ControlError::Restore { failed, total, first: Box::new(failures.swap_remove(0)) });
    }
    fs::remove_file(path).map_err(|e| wrong(format!("restored, but the file cannot be removed: {e}")))?;
    if let Some(folder) = path.parent() {
        // Ours if it is empty now; someone else's otherwise.
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

/// The attributes and values of a state file, in the order of restoring; refuses anything but clock attributes.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_state(text: &str) -> Result<Vec<(String, String)>, String> {
    let state: State =
        serde_json::from_str(text).map_err(|e| format!("no state file: {e}; remove it by hand"))?;
    if state.schema != 1 {
        return Err(format!("schema {}; this build reads schema 1", state.schema));
    }
    for saved in &state.attributes {
        let known = RESTORABLE.iter().any(|end| saved.path.ends_with(end))
            && RESTORABLE_IN.iter().any(|start| saved.path.starts_with(start))
            && !saved.path.contains("..");
        let number = !saved.value.is_empty() && saved.value.bytes().all(|b| b.is_ascii_digit());
        if !known || !number {
            return Err(format!(
                "'{}' = '{}' is no clock attribute; nothing was written",
                saved.path, saved.value
            ));
        }
    }
    Ok(state.attributes.into_iter().map(|s| (s.path, s.value)).collect())
}

fn check(domain: &'static str, found: Hertz, allowed: &[Hertz]) -> Result<(), ControlError> {
    if allowed.contains(&found) {
        return Ok(());
    }
    let allowed = allowed.iter().map(|c| format!("{:.1}", c.as_f64() / 1e6)).collect::<Vec<_>>().join(" ");
    Err(ControlError::Clock { domain, found, allowed })
}

/// Time that a readback may lag behind a write. Measured on Orin Nano: 7 ms for the GPU, 14 ms for memory.
const LAG: Duration = Duration::from_millis(30);

fn held(tree: &Tree, path: &str, wrote: u64) -> Result<(), ControlError> {
    let began = Instant::now();
    loop {
        let read = tree.number(path)?;
        if read == wrote as i64 {
            return Ok(());
        }
        if began.elapsed() > LAG {
            let (wrote, read) = (wrote.to_string(), read.to_string());
            return Err(SysError::NotHeld { path: tree.path(path), wrote, read }.into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Takes the clocks of a board, or its power mode, for as long as the handle lives.
///
/// # Errors
/// [`ControlError`] when there is no GPU clock or another process has them.
pub(crate) fn own_clocks(tree: &Tree) -> Result<File, ControlError> {
    lock(&tree.path(&Gpu::find(tree)?.devfreq))
}

/// Locks a folder of the board itself, so that there is one owner whatever state folder each uses. The lock ends
/// with the process.
fn lock(folder: &Path) -> Result<File, ControlError> {
    let owned = || ControlError::Owned { path: folder.to_owned() };
    let file = File::open(folder)
        .map_err(|source| ControlError::Sys(SysError::Io { path: folder.to_owned(), source }))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| owned())?;
    Ok(file)
}
