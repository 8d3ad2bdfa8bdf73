//! The device's side of the MLPerf Tiny EnergyRunner protocol, so that a third party's meter can measure a model.
//!
//! Commands are ASCII, at most 80 bytes, and end in `%`; every one is answered, and then with `m-ready`. Notes begin
//! with `m-`, errors with `e-`. The bytes of an input are given in hexadecimal and are the model's first input as it
//! lies in memory.
//!
//! # Source
//! mlcommons/tiny, `benchmark/api`: the firmware side of the runner's serial protocol.

use std::fmt::{Display, Write as _};
use std::io::{self, Read, Write};
use std::time::Instant;

/// The longest command, `%` included.
const LONGEST: usize = 80;
/// The most inferences that one command may ask for.
const MOST: u32 = 1_000_000;
/// Bytes of the input that one `db print` shows unless told.
const SHOWN: usize = 16;

/// A model that can be given an input, run, and asked for its result.
pub trait Subject {
    /// Why it could not.
    type Error: Display;
    /// The model's name, without `]`.
    fn name(&self) -> &str;
    /// Bytes of its input.
    fn input_length(&self) -> usize;
    /// Takes an input of that length.
    ///
    /// # Errors
    /// The model refuses it.
    fn give(&mut self, input: &[u8]) -> Result<(), Self::Error>;
    /// Runs one inference on the input.
    ///
    /// # Errors
    /// The inference failed.
    fn infer(&mut self) -> Result<(), Self::Error>;
    /// The last inference's result.
    fn results(&self) -> Vec<f32>;
}

/// The device side of the protocol for one model.
pub struct EnergyRunner<S> {
    subject: S,
    vendor: String,
    command: Vec<u8>,
    /// The command in hand is too long: it is skipped up to its end.
    overlong: bool,
    input: Vec<u8>,
    expected: Option<usize>,
    start: Instant,
}

impl<S: Subject> EnergyRunner<S> {
    /// A device under test of `vendor`.
    pub fn new(subject: S, vendor: &str) -> Self {
        Self {
            subject,
            vendor: vendor.to_owned(),
            command: Vec::new(),
            overlong: false,
            input: Vec::new(),
            expected: None,
            start: Instant::now(),
        }
    }

    /// What a device says when it has booted.
    pub const fn greeting() -> &'static str {
        "m-init-done\r\nm-ready\r\n"
    }

    /// Serves a line until it ends.
    ///
    /// # Errors
    /// The line cannot be written.
    pub fn serve(&mut self, line: &mut (impl Read + Write)) -> io::Result<()> {
        line.write_all(Self::greeting().as_bytes())?;
        let mut bytes = [0; 256];
        loop {
            let length = match line.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for &byte in &bytes[..length] {
                let answer = self.push(byte);
                if !answer.is_empty() {
                    line.write_all(answer.as_bytes())?;
                }
            }
        }
    }

    /// Takes one byte; at the end of a command does it and gives the answer, otherwise nothing.
    pub fn push(&mut self, byte: u8) -> String {
        match byte {
            b'%' => {
                let command = std::mem::take(&mut self.command);
                let mut answer = String::new();
                if std::mem::take(&mut self.overlong) {
                    let _ = write!(answer, "e-[command longer than {LONGEST} bytes]\r\n");
                } else {
                    self.answer(&String::from_utf8_lossy(&command), &mut answer);
                }
                answer += "m-ready\r\n";
                return answer;
            }
            b'\r' | b'\n' => {}
            _ if self.command.len() >= LONGEST - 1 => self.overlong = true,
            _ => self.command.push(byte),
        }
        String::new()
    }

    /// Writing into a string cannot fail, so its results are not looked at.
    fn answer(&mut self, command: &str, out: &mut String) {
        let words: Vec<&str> = command.split_ascii_whitespace().collect();
        let done = match words.as_slice() {
            ["name"] => {
                let _ = write!(out, "m-name-dut-[{}]\r\n", self.vendor);
                Ok(())
            }
            ["timestamp"] => {
                self.lap(out);
                Ok(())
            }
            ["profile"] => {
                let name = self.subject.name();
                let _ = write!(out, "m-profile-[pilotlight]\r\nm-model-[{name}]\r\n");
                Ok(())
            }
            ["help"] => {
                for line in [
                    "name%",
                    "timestamp%",
                    "profile%",
                    "results%",
                    "db load N%",
                    "db HEX%",
                    "db print [N] [OFFSET]%",
                ] {
                    let _ = write!(out, "m-[{line}]\r\n");
                }
                *out += "m-[infer N [WARM_UP]%]\r\n";
                Ok(())
            }
            ["results"] => {
                self.results(out);
                Ok(())
            }
            ["db", "load", bytes] => self.expect(bytes, out),
            ["db", "print", range @ ..] => self.print(range, out),
            ["db", hex] => self.load(hex, out),
            ["infer", count] => self.infer(count, "0", out),
            ["infer", count, warm_up] => self.infer(count, warm_up, out),
            _ => {
                Err(format!("unknown command {:?}, try help%", command.chars().take(20).collect::<String>()))
            }
        };
        if let Err(why) = done {
            let _ = write!(out, "e-[{why}]\r\n");
        }
    }

    fn lap(&self, out: &mut String) {
        let _ = write!(out, "m-lap-us-{}\r\n", self.start.elapsed().as_micros());
    }

    fn results(&self, out: &mut String) {
        let results: Vec<String> = self.subject.results().iter().map(|value| format!("{value:.3}")).collect();
        let _ = write!(out, "m-results-[{}]\r\n", results.join(","));
    }

    fn expect(&mut self, bytes: &str, out: &mut String) -> Result<(), String> {
        let allowed = self.subject.input_length();
        let expected = bytes.parse().ok().filter(|&bytes: &usize| bytes == allowed);
        let expected =
            expected.ok_or_else(|| format!("db load {bytes}: the model's input is {allowed} bytes"))?;
        self.input.clear();
        self.expected = Some(expected);
        let _ = write!(out, "m-[Expecting {expected} bytes]\r\n");
        Ok(())
    }

    fn load(&mut self, hex: &str, out: &mut String) -> Result<(), String> {
        let expected = self.expected.ok_or("db load N% comes first")?;
        let digits: Option<Vec<u8>> =
            hex.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
        let digits =
            digits.filter(|digits| digits.len() % 2 == 0).ok_or("db takes pairs of hexadecimal digits")?;
        if self.input.len() + digits.len() / 2 > expected {
            return Err(format!("db: more than the {expected} bytes expected"));
        }
        self.input.extend(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]));
        if self.input.len() == expected {
            self.subject.give(&self.input).map_err(|error| clean(&error))?;
            self.expected = None;
            *out += "m-load-done\r\n";
        }
        Ok(())
    }

    fn print(&self, range: &[&str], out: &mut String) -> Result<(), String> {
        let number = |at: usize, default: usize| match range.get(at) {
            None => Ok(default),
            Some(text) => text.parse::<usize>().map_err(|_| format!("db print: {text:?} is no number")),
        };
        let (count, offset) = (number(0, SHOWN)?, number(1, 0)?);
        if range.len() > 2 {
            return Err("db print takes a count and an offset".into());
        }
        *out += "m-buffer-";
        for byte in self.input.iter().skip(offset).take(count) {
            let _ = write!(out, "{byte:02X}");
        }
        *out += "\r\n";
        Ok(())
    }

    fn infer(&mut self, count: &str, warm_up: &str, out: &mut String) -> Result<(), String> {
        let number = |text: &str, least: u32| {
            let value = text.parse().ok().filter(|value| (least..=MOST).contains(value));
            value.ok_or_else(|| format!("infer: {text:?} is no number from {least} to {MOST}"))
        };
        let (count, warm_up) = (number(count, 1)?, number(warm_up, 0)?);
        let _ = write!(out, "m-warmup-start-{warm_up}\r\n");
        self.run(warm_up)?;
        let _ = write!(out, "m-warmup-done\r\nm-infer-start-{count}\r\n");
        self.lap(out);
        self.run(count)?;
        self.lap(out);
        *out += "m-infer-done\r\n";
        self.results(out);
        Ok(())
    }

    fn run(&mut self, count: u32) -> Result<(), String> {
        (0..count).try_for_each(|_| self.subject.infer()).map_err(|error| clean(&error))
    }
}

/// An error's text in one line, without the bracket that ends a note.
fn clean(error: &impl Display) -> String {
    error.to_string().replace([']', '\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds its input's bytes up.
    struct Adder(Vec<u8>, f32);

    impl Subject for Adder {
        type Error = String;
        fn name(&self) -> &str {
            "adder"
        }
        fn input_length(&self) -> usize {
            4
        }
        fn give(&mut self, input: &[u8]) -> Result<(), String> {
            self.0 = input.to_vec();
            Ok(())
        }
        fn infer(&mut self) -> Result<(), String> {
            if self.0.is_empty() {
                return Err("no input]\n".into());
            }
            self.1 = self.0.iter().map(|&byte| f32::from(byte)).sum();
            Ok(())
        }
        fn results(&self) -> Vec<f32> {
            vec![self.1]
        }
    }

    fn say(runner: &mut EnergyRunner<Adder>, text: &str) -> Vec<String> {
        let answer: String = text.bytes().map(|byte| runner.push(byte)).collect();
        answer.split_terminator("\r\n").map(str::to_owned).collect()
    }

    #[test]
    fn the_host_loads_an_input_and_times_inferences() {
        let mut runner = EnergyRunner::new(Adder(vec![], 0.0), "pilotlight");
        assert_eq!(say(&mut runner, "name%"), ["m-name-dut-[pilotlight]", "m-ready"]);
        assert_eq!(say(&mut runner, "profile%"), ["m-profile-[pilotlight]", "m-model-[adder]", "m-ready"]);
        assert_eq!(say(&mut runner, "infer 1%")[4..], ["e-[no input  ]", "m-ready"]);
        assert_eq!(say(&mut runner, "db load 4%"), ["m-[Expecting 4 bytes]", "m-ready"]);
        assert_eq!(say(&mut runner, "db 0102%"), ["m-ready"]);
        assert_eq!(say(&mut runner, "db 03fF%\r\n"), ["m-load-done", "m-ready"]);
        assert_eq!(say(&mut runner, "db print 2 2%"), ["m-buffer-03FF", "m-ready"]);
        let said = say(&mut runner, "infer 5 2%");
        let lap = |line: &str| line.strip_prefix("m-lap-us-").unwrap().parse::<u64>().unwrap();
        assert_eq!(said[..3], ["m-warmup-start-2", "m-warmup-done", "m-infer-start-5"]);
        assert!(lap(&said[3]) <= lap(&said[4]));
        assert_eq!(said[5..], ["m-infer-done", "m-results-[261.000]", "m-ready"]);
        assert_eq!(say(&mut runner, "results%"), ["m-results-[261.000]", "m-ready"]);
    }

    #[test]
    fn wrong_commands_are_answered_with_errors() {
        let mut runner = EnergyRunner::new(Adder(vec![], 0.0), "v");
        let long = format!("{}%", "x".repeat(5000));
        for wrong in [
            "%",
            "nmae%",
            "db 00%",
            "db load 5%",
            "db load x%",
            "infer 0%",
            "infer 99999999%",
            "infer 1 2 3%",
            "db print x%",
            "db print 1 2 3%",
            "\u{ff}%",
            &long,
        ] {
            let said = say(&mut runner, wrong);
            assert!(said[0].starts_with("e-[") && said.last().unwrap() == "m-ready", "{wrong}: {said:?}");
        }
        say(&mut runner, "db load 4%");
        for wrong in ["db 0%", "db zz%", "db 0102030405%"] {
            assert!(say(&mut runner, wrong)[0].starts_with("e-["), "{wrong}");
        }
    }
}
