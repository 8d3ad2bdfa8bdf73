//! The line protocol of an external plant, so that anyone can score the governor on a plant of their own.
//!
//! Text, UTF-8, one line a message, at most 1,024 bytes. Lines starting with `#` and empty lines are skipped.
//! A message is `key=value` pairs between spaces, or with `--json` the same keys in one JSON object.
//!
//! The governor speaks first: the clocks it wants before the first release. Then, for each release, the plant sends
//! one line when the result is there, and the governor answers with one line.
//!
//! Plant to governor:
//!
//! | key | unit | needed | meaning |
//! |---|---|---|---|
//! | `t_us` | microseconds | yes | when the result was there, on a clock that never goes back |
//! | `latency_us` | microseconds | yes | from release to result, waiting for earlier late work included |
//! | `gpu_hz`, `emc_hz` | Hz | no | clocks read back after the result; both or neither |
//! | `vdd_in_mw` | mW | no | latest reading of the rail that covers the whole module |
//! | `vdd_in_t_us` | microseconds | no | when that reading was taken (`t_us` where left out); repeat the pair until there is a newer one |
//! | `cycle` | - | no | ignored; for people |
//!
//! Governor to plant:
//!
//! | key | meaning |
//! |---|---|
//! | `gpu_hz`, `emc_hz` | the clocks wanted from now on; the same as before where nothing changes |
//! | `changed` | 1 when they differ from the previous line |
//! | `state` | `learning`, `holding`, `struggling` (no cell known to hold the budget) or `infeasible` (the budget is named infeasible, the fastest cell is held) |
//!
//! Unknown keys are an error that names the known ones. The end of the plant's input ends the run.

use std::io::{self, BufRead, Read, Write};

use pilotlight_units::{Hertz, Micros, Milliwatts};
use serde::{Deserialize, Serialize};

use crate::governor::{Decision, Governor, Instant, Observation, Point, RailReading, State};

/// Longest line.
const LONGEST: u64 = 1_024;

/// A cycle as the plant sends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlantLine {
    /// When the result was there.
    pub t_us: u64,
    /// From release to result.
    pub latency_us: u64,
    /// GPU clock read back.
    #[serde(default)]
    pub gpu_hz: Option<u64>,
    /// Memory clock read back.
    #[serde(default)]
    pub emc_hz: Option<u64>,
    /// Module rail.
    #[serde(default)]
    pub vdd_in_mw: Option<u32>,
    /// When it was read.
    #[serde(default)]
    pub vdd_in_t_us: Option<u64>,
    /// For people.
    #[serde(default)]
    pub cycle: Option<u64>,
}

/// Why a plant's line is refused.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// A stream failed.
    #[error("the plant's stream failed: {0}")]
    Io(#[from] io::Error),
    /// The line does not follow the protocol.
    #[error("line {line}: {problem}")]
    Line {
        /// Line, from 1.
        line: u64,
        /// What was found and what is allowed.
        problem: String,
    },
}

impl PlantLine {
    /// Parses a line of `key=value` pairs.
    ///
    /// # Errors
    /// A sentence with what was found and what is allowed.
    ///
    /// ```
    /// use pilotlight_power::line::PlantLine;
    /// let line = PlantLine::parse_text("t_us=44321 latency_us=4321 vdd_in_mw=6320")?;
    /// assert_eq!(line.vdd_in_mw, Some(6320));
    /// # Ok::<(), String>(())
    /// ```
    pub fn parse_text(text: &str) -> Result<Self, String> {
        let mut line = Self::default();
        let (mut time, mut latency) = (false, false);
        for pair in text.split_ascii_whitespace() {
            let (key, value) = pair.split_once('=').ok_or_else(|| format!("'{pair:.40}' is no key=value"))?;
            let number: u64 =
                value.parse().map_err(|_| format!("{key:.40} is '{value:.40}', not a whole number"))?;
            match key {
                "t_us" => (line.t_us, time) = (number, true),
                "latency_us" => (line.latency_us, latency) = (number, true),
                "gpu_hz" => line.gpu_hz = Some(number),
                "emc_hz" => line.emc_hz = Some(number),
                "vdd_in_mw" => {
                    let mw = u32::try_from(number)
                        .map_err(|_| format!("vdd_in_mw is {number}, above any rail"))?;
                    line.vdd_in_mw = Some(mw);
                }
                "vdd_in_t_us" => line.vdd_in_t_us = Some(number),
                "cycle" => line.cycle = Some(number),
                _ => {
                    return Err(format!(
                        "unknown key '{key:.40}'; known: t_us latency_us gpu_hz emc_hz vdd_in_mw vdd_in_t_us cycle"
                    ));
                }
            }
        }
        if !(time && latency) {
            return Err("t_us and latency_us are needed".to_owned());
        }
        line.check()
    }

    /// Parses a line with a JSON object.
    ///
    /// # Errors
    /// A sentence with what was found and what is allowed.
    pub fn parse_json(text: &str) -> Result<Self, String> {
        serde_json::from_str::<Self>(text).map_err(|e| e.to_string())?.check()
    }

    fn check(self) -> Result<Self, String> {
        if self.latency_us > self.t_us {
            return Err(format!(
                "latency_us {} began before time zero (t_us {})",
                self.latency_us, self.t_us
            ));
        }
        if self.gpu_hz.is_some() != self.emc_hz.is_some() {
            return Err("gpu_hz and emc_hz are read back both or neither".to_owned());
        }
        Ok(self)
    }

    /// The same for the governor.
    pub fn observation(&self) -> Observation {
        let readback = self.gpu_hz.zip(self.emc_hz);
        Observation {
            now: Instant::from_micros(self.t_us),
            latency: Micros(self.latency_us),
            readback: readback.map(|(gpu, emc)| Point { gpu: Hertz(gpu), emc: Hertz(emc) }),
            rail: self.vdd_in_mw.map(|mw| RailReading {
                at: Instant::from_micros(self.vdd_in_t_us.unwrap_or(self.t_us)),
                power: Milliwatts(mw),
            }),
        }
    }
}

/// What the governor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AnswerLine {
    /// GPU clock wanted.
    pub gpu_hz: u64,
    /// Memory clock wanted.
    pub emc_hz: u64,
    /// 1 when they differ from the previous answer.
    pub changed: u8,
    /// Whether the budget is held.
    pub state: &'static str,
}

impl AnswerLine {
    fn new(point: Point, changed: bool, state: State) -> Self {
        Self {
            gpu_hz: point.gpu.0,
            emc_hz: point.emc.0,
            changed: u8::from(changed),
            state: state_name(state),
        }
    }

    fn write(&self, json: bool, output: &mut impl Write) -> io::Result<()> {
        if json {
            serde_json::to_writer(&mut *output, self)?;
            writeln!(output)?;
        } else {
            let Self { gpu_hz, emc_hz, changed, state } = self;
            writeln!(output, "gpu_hz={gpu_hz} emc_hz={emc_hz} changed={changed} state={state}")?;
        }
        output.flush()
    }
}

/// The word of a state.
pub fn state_name(state: State) -> &'static str {
    match state {
        State::Learning => "learning",
        State::Holding => "holding",
        State::Struggling => "struggling",
        State::Infeasible => "infeasible",
    }
}

/// What a run over lines came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Cycles.
    pub cycles: u64,
    /// Late cycles.
    pub late: u64,
    /// Requests for other clocks.
    pub requests: u64,
}

/// Governs a plant that speaks the line protocol until its input ends.
///
/// # Errors
/// [`LineError`] for a stream that fails or a line that does not follow the protocol.
pub fn govern_lines(
    governor: &mut Governor,
    mut input: impl BufRead,
    mut output: impl Write,
    json: bool,
) -> Result<Summary, LineError> {
    let mut summary = Summary::default();
    AnswerLine::new(governor.start(), true, State::Struggling).write(json, &mut output)?;
    let (mut number, mut latest) = (0u64, 0u64);
    let mut line = Vec::new();
    loop {
        line.clear();
        number += 1;
        input.by_ref().take(LONGEST + 1).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(summary);
        }
        let wrong = |problem: String| LineError::Line { line: number, problem };
        if line.len() as u64 > LONGEST {
            return Err(wrong(format!("longer than {LONGEST} bytes")));
        }
        let text = std::str::from_utf8(&line).map_err(|e| wrong(e.to_string()))?.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let parsed = if json { PlantLine::parse_json(text) } else { PlantLine::parse_text(text) };
        let cycle = parsed.map_err(wrong)?;
        if cycle.t_us < latest {
            return Err(wrong(format!("t_us {} lies before the previous {latest}", cycle.t_us)));
        }
        latest = cycle.t_us;
        let Decision { request, state, late, .. } = governor.observe(&cycle.observation());
        summary.cycles += 1;
        summary.late += u64::from(late);
        summary.requests += u64::from(request.is_some());
        AnswerLine::new(governor.asked(), request.is_some(), state).write(json, &mut output)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::governor::{Grid, Settings};

    fn governor() -> Governor {
        let grid =
            Grid::new(&[306, 612, 1020].map(Hertz::from_mhz), &[2133, 3199].map(Hertz::from_mhz)).unwrap();
        Governor::new(Settings::new(Micros(8_000), 0.99, Micros(40_000)).unwrap(), grid).unwrap()
    }

    #[test]
    fn text_and_json_say_the_same() {
        let text = "cycle=1 t_us=9000 latency_us=4000 gpu_hz=612000000 emc_hz=2133000000 vdd_in_mw=5600 vdd_in_t_us=100";
        let json = r#"{"cycle":1,"t_us":9000,"latency_us":4000,"gpu_hz":612000000,"emc_hz":2133000000,"vdd_in_mw":5600,"vdd_in_t_us":100}"#;
        assert_eq!(PlantLine::parse_text(text), PlantLine::parse_json(json));
        for (json, input) in [(false, format!("# a plant\n\n{text}\n")), (true, format!("{json}\n"))] {
            let mut output = Vec::new();
            let summary = govern_lines(&mut governor(), input.as_bytes(), &mut output, json).unwrap();
            assert_eq!((summary.cycles, summary.late), (1, 0));
            let answers = String::from_utf8(output).unwrap();
            assert_eq!(answers.lines().count(), 2);
            assert!(answers.lines().all(|l| l.contains("1020000000") && l.contains("3199000000")));
        }
    }

    #[test]
    fn every_wrong_line_is_named() {
        for (line, part) in [
            ("t_us=5", "t_us and latency_us are needed"),
            ("t_us=x latency_us=1", "not a whole number"),
            ("t_us=5 latency_us=6", "before time zero"),
            ("t_us=5 latency_us=1 gpu=7", "unknown key 'gpu'"),
            ("t_us=5 latency_us=1 gpu_hz=7", "both or neither"),
            ("t_us=5 latency_us=1 vdd_in_mw=99999999999", "above any rail"),
            ("hello", "no key=value"),
        ] {
            let error = govern_lines(&mut governor(), line.as_bytes(), Vec::new(), false).unwrap_err();
            assert!(error.to_string().starts_with("line 1: ") && error.to_string().contains(part), "{error}");
        }
        let back = "t_us=9 latency_us=1\nt_us=8 latency_us=1\n";
        let error = govern_lines(&mut governor(), back.as_bytes(), Vec::new(), false).unwrap_err();
        assert!(error.to_string().contains("line 2: t_us 8 lies before"), "{error}");
        let long = "x".repeat(5_000);
        assert!(govern_lines(&mut governor(), long.as_bytes(), Vec::new(), true).is_err());
    }
}
