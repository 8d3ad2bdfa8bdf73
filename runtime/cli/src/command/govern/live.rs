//! Governing this board beside a command that reports its latencies through a FIFO.

use super::Govern;
use super::watch::Watch;
use anyhow::{Context, Result, bail};
use pilotlight_boards::Tree;
use pilotlight_boards::control::{Clocks, ControlError, Session};
use pilotlight_power::governor::{Governor, Grid, MAX_GPU, Settings, Urgency};
use pilotlight_power::live::{Live, Sensors, Time};
use pilotlight_units::Micros;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
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
    let first = gpu.len().saturating_sub(MAX_GPU);
    let mut governor = Governor::new(settings, Grid::new(&gpu[first..], &emc)?)?;
    governor.set_urgency(options.the_urgency()?);
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let fifo = Fifo::make()?;
    // From here on the session restores the board whenever it is dropped: return, error, panic, signal.
    let mut live = Live::new(governor, sensors, session)?;
    let mut child = Governed(
        Command::new(&options.command[0])
            .args(&options.command[1..])
            .env("PILOTLIGHT_CYCLES", &fifo.path)
            .spawn()
            .with_context(|| options.command[0].clone())?,
    );
    let mut watch = Watch::new(&options.alerts, options.json);
    let governed = govern(&mut live, &fifo.lines()?, &mut child.0, &stop, &mut watch, options.cap());
    let summary = watch.summary(&live);
    live.close()?;
    governed?;
    let status = child.0.wait()?;
    watch.close(&summary);
    Ok(status.success())
}

/// The governed program; it does not outlive a governor that fails.
struct Governed(Child);

impl Drop for Governed {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Takes the clocks, or none where there is no right to.
fn own(tree: &Tree, state: &Path) -> Result<Option<Session>> {
    match Session::open(tree, state) {
        Ok(session) => Ok(Some(session)),
        Err(ControlError::Sys(error)) => {
            let _ = writeln!(std::io::stderr(), "observing only: {error}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Governs until the program ends or `stop` is set.
fn govern<C: Clocks>(
    live: &mut Live<C>,
    lines: &Receiver<String>,
    child: &mut Child,
    stop: &AtomicBool,
    watch: &mut Watch,
    cap: Option<pilotlight_units::Hertz>,
) -> Result<()> {
    loop {
        if stop.load(Ordering::Relaxed) {
            let _ = child.kill();
            return Ok(());
        }
        let line = match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => match child.try_wait()? {
                Some(_) => return Ok(()),
                None => continue,
            },
            Err(RecvTimeoutError::Disconnected) => bail!("the FIFO of the command was closed"),
        };
        match Line::parse(&line, cap) {
            Ok(Line::Latency(latency)) => {
                let answer = live.cycle(latency);
                let (asked, controls) = (live.governor().asked(), live.controls());
                watch.see(&answer, asked, controls);
            }
            Ok(Line::Urgency(urgency)) => live.governor_mut().set_urgency(urgency),
            Err(problem) => {
                // Whoever reads this may be gone; the governor goes on.
                let _ = writeln!(std::io::stderr(), "{problem}: left out");
            }
        }
    }
}

/// What a governed program writes.
#[derive(Debug, PartialEq)]
enum Line {
    Latency(Micros),
    Urgency(Urgency),
}

impl Line {
    fn parse(line: &str, cap: Option<pilotlight_units::Hertz>) -> Result<Self, String> {
        let words = || {
            format!("'{:.60}' is no line `latency_us=N` or `urgency=normal|urgent|background`", line.trim())
        };
        match line.trim().split_once('=').ok_or_else(words)? {
            ("latency_us", n) => n.parse().map(|n| Self::Latency(Micros(n))).map_err(|_| words()),
            ("urgency", "normal") => Ok(Self::Urgency(Urgency::Normal)),
            ("urgency", "urgent") => Ok(Self::Urgency(Urgency::Urgent)),
            ("urgency", "background") => match cap {
                Some(cap) => Ok(Self::Urgency(Urgency::Background { cap })),
                None => Err("urgency=background needs --background-cap MHZ".to_owned()),
            },
            _ => Err(words()),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::super::watch::AlertOptions;
    use super::*;
    use pilotlight_boards::fixture::{self, JetPack};
    use pilotlight_boards::{Board, Tree};
    use pilotlight_units::Hertz;

    /// Clocks of a real session whose reading panics after some cycles.
    struct Panicking(Session, u32);

    impl Clocks for Panicking {
        fn set(&mut self, gpu: Hertz, emc: Option<Hertz>) -> Result<(), ControlError> {
            self.0.set(gpu, emc)
        }

        fn read(&mut self) -> (Option<Hertz>, Option<Hertz>) {
            self.1 += 1;
            assert!(self.1 < 20, "the twentieth cycle panics, as it is meant to");
            self.0.read()
        }

        fn release(&mut self) -> Result<(), ControlError> {
            self.0.release()
        }
    }

    #[test]
    fn a_panic_of_the_governing_loop_restores_the_board_and_ends_the_program() {
        let folder = tempfile::tempdir().expect("a folder");
        fixture::create(folder.path(), "orin-nano-8gb-super", JetPack::Six).expect("a fixture");
        let tree = Tree::at(folder.path());
        let clocks = || Board::discover(&tree).gpu_state.map(|s| (s.min, s.max));
        let before = clocks();
        let session = Session::open(&tree, &folder.path().join("run")).expect("free");
        let (gpu, emc) = Board::discover(&tree).governable().expect("clocks");
        let settings = Settings::new(Micros(8_000), 0.99, Micros(1_000)).expect("in range");
        let governor = Governor::new(settings, Grid::new(&gpu, &emc).expect("rising")).expect("in range");
        let sensors = Sensors::new(&tree, Time::monotonic());
        let mut live = Live::new(governor, sensors, Some(Panicking(session, 0))).expect("allowed");
        assert_ne!(clocks(), before);
        let mut child = Governed(Command::new("sleep").arg("600").spawn().expect("starts"));
        let id = child.0.id();
        let (sender, lines) = mpsc::sync_channel(64);
        (0..40).try_for_each(|_| sender.send("latency_us=900".to_owned())).expect("room");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let mut watch = Watch::new(&AlertOptions::default(), false);
            let _ = govern(&mut live, &lines, &mut child.0, &AtomicBool::new(false), &mut watch, None);
        }));
        assert!(panicked.is_err());
        assert_eq!(clocks(), before);
        assert!(!folder.path().join("run").exists());
        assert!(!Path::new(&format!("/proc/{id}/exe")).exists(), "the program lives on");
    }

    #[test]
    fn lines_of_a_program_are_read_or_named() {
        let cap = Some(Hertz::from_mhz(612));
        assert_eq!(Line::parse("latency_us=4300\n", None), Ok(Line::Latency(Micros(4_300))));
        assert_eq!(Line::parse("urgency=urgent", None), Ok(Line::Urgency(Urgency::Urgent)));
        let background = Urgency::Background { cap: Hertz::from_mhz(612) };
        assert_eq!(Line::parse("urgency=background", cap), Ok(Line::Urgency(background)));
        for (line, part) in [
            ("urgency=background", "--background-cap"),
            ("urgency=soon", "latency_us=N"),
            ("latency_us=-3", "latency_us=N"),
            ("", "latency_us=N"),
        ] {
            assert!(Line::parse(line, None).is_err_and(|e| e.contains(part)), "{line}");
        }
    }
}
