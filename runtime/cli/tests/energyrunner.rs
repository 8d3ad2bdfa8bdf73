//! MLPerf Tiny's EnergyRunner from the host's side, over a pseudo-terminal, with a committed model.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use pilotlight_cli::npy::Array;
use serial2::SerialPort;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn models(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(path)
}

/// The host: says a command and hears lines until the device is ready again.
struct Host {
    line: SerialPort,
    heard: Vec<u8>,
}

impl Host {
    fn line(&mut self) -> String {
        let start = Instant::now();
        loop {
            if let Some(end) = self.heard.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return String::from_utf8(line).unwrap().trim_end().to_owned();
            }
            assert!(start.elapsed() < Duration::from_secs(30), "the device is silent");
            let mut bytes = [0; 256];
            if let Ok(length) = self.line.read(&mut bytes) {
                self.heard.extend_from_slice(&bytes[..length]);
            }
        }
    }

    fn until_ready(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.line() {
                line if line == "m-ready" => return lines,
                line => lines.push(line),
            }
        }
    }

    fn say(&mut self, command: &str) -> Vec<String> {
        assert!(command.len() < 80, "the runner sends no longer commands");
        self.line.write_all(format!("{command}%").as_bytes()).unwrap();
        self.until_ready()
    }
}

struct Device(Child);

impl Drop for Device {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_host_loads_inputs_times_inferences_and_reads_the_models_results() {
    let (near, far) = SerialPort::pair().unwrap();
    let terminal = std::fs::read_link(format!("/proc/self/fd/{}", far.as_raw_fd())).unwrap();
    let spawned = Command::new(env!("CARGO_BIN_EXE_pilotlight"))
        .args(["energyrunner", models("digits").to_str().unwrap(), "--serial", terminal.to_str().unwrap()])
        .stderr(Stdio::null())
        .spawn();
    let mut device = Device(spawned.unwrap());
    let mut host = Host { line: near, heard: Vec::new() };
    host.line.set_read_timeout(Duration::from_millis(100)).unwrap();
    assert_eq!(host.until_ready(), ["m-init-done"]);
    assert_eq!(host.say("name"), ["m-name-dut-[pilotlight]"]);
    assert_eq!(host.say("profile"), ["m-profile-[pilotlight]", "m-model-[digits]"]);
    let inputs = Array::open(&models("digits/golden/inputs.npy")).unwrap();
    let expected = Array::open(&models("digits/golden/qdq/logits.npy")).unwrap();
    let size = 64 * 4;
    for (case, input) in inputs.bytes.chunks_exact(size).take(3).enumerate() {
        assert_eq!(host.say(&format!("db load {size}")), [format!("m-[Expecting {size} bytes]")]);
        for (at, part) in input.chunks(32).enumerate() {
            let hex: String = part.iter().map(|byte| format!("{byte:02X}")).collect();
            let last = (at + 1) * 32 == size;
            assert_eq!(host.say(&format!("db {hex}")), if last { vec!["m-load-done"] } else { vec![] });
        }
        let said = host.say("infer 100 10");
        assert_eq!(said[..3], ["m-warmup-start-10", "m-warmup-done", "m-infer-start-100"]);
        let lap = |line: &str| line.strip_prefix("m-lap-us-").unwrap().parse::<u64>().unwrap();
        assert!(lap(&said[3]) < lap(&said[4]), "{said:?}");
        let results: Vec<String> =
            (0..10).map(|class| format!("{:.3}", expected.value(10 * case + class))).collect();
        let results = format!("m-results-[{}]", results.join(","));
        assert_eq!(said[5..], ["m-infer-done", &results]);
        assert_eq!(host.say("results"), [results]);
    }
    assert!(host.say("db load 7")[0].starts_with("e-["));
    // The host hangs up: the command ends well.
    drop((host, far));
    let start = Instant::now();
    loop {
        if let Some(status) = device.0.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "the command goes on without a host");
        std::thread::sleep(Duration::from_millis(20));
    }
}
