//! The line protocol between an unprivileged program and the root helper that sets clocks for it.
//!
//! One request a line, one answer a line, at most 128 bytes each, ASCII.
//!
//! | request | answer | what happens |
//! |---|---|---|
//! | `hello 1` | `ok 1 gpu <Hz>... emc <Hz>...` | names the protocol and the clocks that may be asked for (no length limit) |
//! | `set <gpu Hz> <emc Hz>` | `ok` | sets clocks of the table; `-` for emc leaves the memory clock |
//! | `read` | `ok <gpu Hz> <emc Hz>` | clocks read back; `-` where one cannot be read |
//! | `release` | `ok` | restores the board and ends |
//!
//! Any other line gets `err <sentence>`. The helper takes no paths and no values outside the board's tables, and
//! it restores the board when its input ends, whatever the reason.

use std::io::{self, BufRead, Read, Write};

use pilotlight_units::Hertz;

use crate::control::{Clocks, ControlError, Session};

/// Version of the protocol.
pub const VERSION: u32 = 1;
/// Longest request.
const LONGEST: u64 = 128;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Names the protocol version.
    Hello(u32),
    /// Asks for clocks.
    Set {
        /// GPU clock.
        gpu: Hertz,
        /// Memory clock; `None` leaves it.
        emc: Option<Hertz>,
    },
    /// Asks for the clocks in force.
    Read,
    /// Ends and restores.
    Release,
}

impl Request {
    /// Parses a line.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let clock = |w: &str| w.parse().map(Hertz).map_err(|_| format!("'{:.20}' is no clock in Hz", w));
        match words[..] {
            ["hello", version] => {
                let version = version.parse().map_err(|_| "hello takes a version number".to_owned())?;
                Ok(Self::Hello(version))
            }
            ["set", gpu, "-"] => Ok(Self::Set { gpu: clock(gpu)?, emc: None }),
            ["set", gpu, emc] => Ok(Self::Set { gpu: clock(gpu)?, emc: Some(clock(emc)?) }),
            ["read"] => Ok(Self::Read),
            ["release"] => Ok(Self::Release),
            _ => Err("unknown request; allowed: hello 1, set <gpu> <emc>, read, release".to_owned()),
        }
    }
}

/// Serves requests until `release` or the end of the input, then restores the board.
///
/// # Errors
/// [`io::Error`] of the two streams; the board is restored before it is returned.
pub fn serve(session: &mut Session, mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let result = answer_all(session, &mut input, &mut output);
    let restored = session.release();
    result?;
    restored.map_err(io::Error::other)
}

fn answer_all(session: &mut Session, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        input.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && line.len() as u64 == LONGEST {
            writeln!(output, "err a request has at most {LONGEST} bytes")?;
            return output.flush();
        }
        let text = String::from_utf8_lossy(&line);
        let request = Request::parse(&text);
        match &request {
            Ok(request) => writeln!(output, "{}", answer(session, *request))?,
            Err(problem) => writeln!(output, "err {problem}")?,
        }
        output.flush()?;
        if request == Ok(Request::Release) {
            return Ok(());
        }
    }
}

fn answer(session: &mut Session, request: Request) -> String {
    match request {
        Request::Hello(VERSION) => {
            let list = |clocks: &[Hertz]| clocks.iter().map(|c| format!(" {}", c.0)).collect::<String>();
            format!("ok {VERSION} gpu{} emc{}", list(session.gpu_clocks()), list(session.emc_clocks()))
        }
        Request::Hello(other) => format!("err protocol {other} is not spoken; this helper speaks {VERSION}"),
        Request::Set { gpu, emc } => reply(session.set(gpu, emc)),
        Request::Read => {
            let (gpu, emc) = session.read();
            let show = |c: Option<Hertz>| c.map_or("-".to_owned(), |c| c.0.to_string());
            format!("ok {} {}", show(gpu), show(emc))
        }
        Request::Release => reply(session.release()),
    }
}

fn reply(result: Result<(), ControlError>) -> String {
    match result {
        Ok(()) => "ok".to_owned(),
        // One line, whatever the error holds.
        Err(error) => format!("err {error}").replace('\n', " "),
    }
}

/// The unprivileged end: asks a helper over two streams.
pub struct Client<R, W> {
    input: R,
    output: W,
    /// GPU clocks that may be asked for.
    pub gpu_clocks: Vec<Hertz>,
    /// Memory clocks that may be asked for.
    pub emc_clocks: Vec<Hertz>,
}

impl<R: BufRead, W: Write> Client<R, W> {
    /// Greets the helper and learns the clocks it allows.
    ///
    /// # Errors
    /// [`io::Error`] when a stream fails or the helper does not speak this protocol.
    pub fn connect(input: R, output: W) -> io::Result<Self> {
        let mut client = Self { input, output, gpu_clocks: Vec::new(), emc_clocks: Vec::new() };
        let greeting = client.ask(&format!("hello {VERSION}"))?;
        let mut to_emc = false;
        for word in greeting.split_ascii_whitespace().skip(2) {
            match word.parse().map(Hertz) {
                Ok(clock) if to_emc => client.emc_clocks.push(clock),
                Ok(clock) => client.gpu_clocks.push(clock),
                Err(_) => to_emc = word == "emc",
            }
        }
        Ok(client)
    }

    fn ask(&mut self, request: &str) -> io::Result<String> {
        writeln!(self.output, "{request}")?;
        self.output.flush()?;
        let mut line = String::new();
        self.input.by_ref().take(4_096).read_line(&mut line)?;
        match line.trim().strip_prefix("err ") {
            Some(problem) => Err(io::Error::other(format!("helper: {problem}"))),
            None if line.starts_with("ok") => Ok(line.trim().to_owned()),
            None => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the helper ended or spoke another protocol"))
            }
        }
    }

    /// Asks for clocks.
    ///
    /// # Errors
    /// [`io::Error`] with the helper's sentence when it refuses or the write was not held.
    pub fn set(&mut self, gpu: Hertz, emc: Option<Hertz>) -> io::Result<()> {
        let emc = emc.map_or("-".to_owned(), |c| c.0.to_string());
        self.ask(&format!("set {} {emc}", gpu.0)).map(drop)
    }

    /// Clocks read back: GPU and memory.
    ///
    /// # Errors
    /// [`io::Error`] when a stream fails.
    pub fn read(&mut self) -> io::Result<(Option<Hertz>, Option<Hertz>)> {
        let answer = self.ask("read")?;
        let mut clocks = answer.split_ascii_whitespace().skip(1).map(|w| w.parse().ok().map(Hertz));
        Ok((clocks.next().flatten(), clocks.next().flatten()))
    }

    /// Ends: the helper restores the board.
    ///
    /// # Errors
    /// [`io::Error`] when the helper could not restore it.
    pub fn release(&mut self) -> io::Result<()> {
        self.ask("release").map(drop)
    }
}
