//! Governing this board beside a command that reports its latencies through a FIFO.

use super::Govern;
use anyhow::{Context, Result, bail};
use pilotlight_boards::Tree;
use pilotlight_boards::control::{ControlError, Session};
use pilotlight_power::advice::{self, Advice};
use pilotlight_power::governor::{Governor, Grid, Settings};
use pilotlight_power::line::state_name;
use pilotlight_power::live::{Live, Sensors, Time};
use pilotlight_units::Micros;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

pub fn run(options: &Govern, settings: Settings) -> Result<bool> {
    let tree = Tree::at(&options.root);
    let sensors = Sensors::new(&tree, Time::monotonic());
    let (gpu, mut emc) =
        sensors.board().governable().context("no GPU clock was found; `pilotlight boards` says why")?;
    let session = if options.observe { None } else { own(&tree, &options.state)? };
    if let Some(session) = &session {
        emc = session.emc_clocks().to_vec();
    }
    if emc.is_empty() {
        // Memory that cannot be locked is one point: wherever the board holds it.
        emc = vec![sensors.board().emc.now.unwrap_or(pilotlight_units::Hertz(1))];
    }
    let first = gpu.len().saturating_sub(pilotlight_power::governor::MAX_GPU);
    let governor = Governor::new(settings, Grid::new(&gpu[first..], &emc)?)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let fifo = Fifo::make()?;
    let mut child = Command::new(&options.command[0])
        .args(&options.command[1..])
        .env("PILOTLIGHT_CYCLES", &fifo.path)
        .spawn()
        .with_context(|| options.command[0].clone())?;
    // From here on the session restores the board whenever it is dropped: return, error, panic, signal.
    let mut live = Live::new(governor, sensors, session)?;
    let governed = govern(&mut live, &fifo.lines()?, &mut child, &stop);
    if governed.is_err() {
        let _ = child.kill();
    }
    let controls = live.controls();
    live.close()?;
    let (cycles, late, utilisation) = governed?;
    let status = child.wait()?;
    let role = if controls { "board restored" } else { "only observed" };
    eprintln!("{cycles} cycles, {late} late, {role}; {}", advise(utilisation));
    Ok(status.success())
}

/// Takes the clocks, or none where there is no right to.
fn own(tree: &Tree, state: &Path) -> Result<Option<Session>> {
    match Session::open(tree, state) {
        Ok(session) => Ok(Some(session)),
        Err(ControlError::Sys(error)) => {
            eprintln!("observing only: {error}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn govern(
    live: &mut Live<Session>,
    lines: &Receiver<String>,
    child: &mut Child,
    stop: &AtomicBool,
) -> Result<(u64, u64, f64)> {
    let (mut cycles, mut late) = (0u64, 0u64);
    let mut state = None;
    loop {
        if stop.load(Ordering::Relaxed) {
            let _ = child.kill();
            return Ok((cycles, late, live.governor().utilisation()));
        }
        let line = match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => match child.try_wait()? {
                Some(_) => return Ok((cycles, late, live.governor().utilisation())),
                None => continue,
            },
            Err(RecvTimeoutError::Disconnected) => bail!("the FIFO of the command was closed"),
        };
        let latency = line.trim().strip_prefix("latency_us=").and_then(|n| n.parse().ok()).map(Micros);
        let Some(latency) = latency else {
            eprintln!("'{:.60}' is no line `latency_us=N`: left out", line.trim());
            continue;
        };
        let answer = live.cycle(latency);
        cycles += 1;
        late += u64::from(answer.decision.late);
        if let Some(error) = answer.refused {
            eprintln!("{error}");
        }
        if state.replace(answer.decision.state) != Some(answer.decision.state) {
            let asked = live.governor().asked();
            let verb = if live.controls() { "asked for" } else { "would ask for" };
            eprintln!(
                "cycle {cycles}: {}, {verb} GPU {} EMC {}",
                state_name(answer.decision.state),
                asked.gpu,
                asked.emc
            );
        }
    }
}

fn advise(busy: f64) -> String {
    let what = match advice::for_utilisation(busy) {
        Advice::Tune => "room left: lower clocks, or more work on this board",
        Advice::Keep => "about as full as is sensible",
        Advice::MoreHardware => "too full for a tail to be held: more hardware or a smaller model",
    };
    format!("device busy {:.0} % of the period: {what}", 100.0 * busy)
}

/// A FIFO in a folder of its own, removed when dropped.
struct Fifo {
    path: std::path::PathBuf,
}

impl Fifo {
    fn make() -> Result<Self> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.subsec_nanos();
        let folder = std::env::temp_dir().join(format!("pilotlight-cycles-{}-{now}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let path = folder.join("cycles");
        let fifo = Self { path };
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo.path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )?;
        Ok(fifo)
    }

    /// Lines as they come, read on a thread of its own.
    fn lines(&self) -> Result<Receiver<String>> {
        // Opened for writing too, so that it never ends while programs come and go.
        let file: File = OpenOptions::new().read(true).write(true).open(&self.path)?;
        let (sender, receiver) = mpsc::sync_channel(1_024);
        std::thread::spawn(move || {
            for line in BufReader::new(file).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        if let Some(folder) = self.path.parent() {
            let _ = std::fs::remove_dir(folder);
        }
    }
}
