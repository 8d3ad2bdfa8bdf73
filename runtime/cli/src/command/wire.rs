//! `pilotlight wire`: keys for the fleet, and frames for people.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use pilotlight_collector::{DecodeInput, Keyring, decode_text, new_fleet_key};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Make telemetry keys, and decode telemetry frames
#[derive(Debug, clap::Args)]
pub struct Wire {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Make a fleet's key file, add a generation to it, or make a device's key file from it
    Keygen(Keygen),
    /// Show frames: from hexadecimal digits, a file, or as they come in
    Decode(Decode),
}

#[derive(Debug, Parser)]
struct Keygen {
    /// The fleet's key file
    #[arg(long, value_name = "FILE")]
    fleet: PathBuf,
    /// Make the key file of this device; without it, make the fleet's
    #[arg(long, value_name = "N", requires = "out")]
    device: Option<u32>,
    /// The device's key file
    #[arg(long, value_name = "FILE", requires = "device")]
    out: Option<PathBuf>,
    /// Add a generation to an existing fleet key file; the old ones stay accepted
    #[arg(long, conflicts_with = "device")]
    rotate: bool,
}

#[derive(Debug, Parser)]
struct Decode {
    /// Hexadecimal digits of a datagram
    #[arg(value_name = "HEX", required_unless_present_any = ["file", "listen"])]
    hex: Option<String>,
    /// Bytes of a serial line, or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "hex")]
    file: Option<PathBuf>,
    /// Take datagrams here, until interrupted
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with_all = ["hex", "file"])]
    listen: Option<SocketAddr>,
    /// The fleet's key file, to verify with
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// One line of JSON for each frame
    #[arg(long)]
    json: bool,
}

impl Wire {
    pub(super) fn run(self) -> Result<bool> {
        match self.task {
            Task::Keygen(keygen) => keygen.run().map(|()| true),
            Task::Decode(decode) => decode.run(),
        }
    }
}

impl Keygen {
    fn run(self) -> Result<()> {
        let read = || {
            std::fs::read_to_string(&self.fleet)
                .with_context(|| format!("{}: cannot be read", self.fleet.display()))
        };
        if let (Some(device), Some(out)) = (self.device, &self.out) {
            let keys =
                Keyring::parse(&read()?)?.device_keys(device).context("the fleet has no current key")?;
            write_secret(out, &keys.to_file().to_string(), false)?;
            eprintln!("{}: keys of device {device}, generation {}", out.display(), keys.key_id);
            return Ok(());
        }
        let text = if self.rotate { new_fleet_key(Some(&read()?))? } else { new_fleet_key(None)? };
        write_secret(&self.fleet, &text, self.rotate)?;
        eprintln!("{}: keep it where only the collector can read it", self.fleet.display());
        Ok(())
    }
}

/// Writes a file that only its owner can read; an existing one is replaced only where that was asked for.
fn write_secret(path: &Path, text: &str, replace: bool) -> Result<()> {
    if path.exists() && !replace {
        bail!("{}: exists; a key file is not overwritten", path.display());
    }
    let new = path.with_extension("new");
    let write = || {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().with_context(|| format!("{}: cannot be written", path.display()))
}

impl Decode {
    fn run(self) -> Result<bool> {
        let keyring = self.key.as_deref().map(Keyring::load).transpose()?;
        if let Some(address) = self.listen {
            let socket = UdpSocket::bind(address).with_context(|| address.to_string())?;
            let mut bytes = [0; 2048];
            loop {
                let (length, _) = socket.recv_from(&mut bytes)?;
                print(&decode_text(DecodeInput::Datagram(&bytes[..length]), keyring.as_ref(), self.json));
            }
        }
        let lines = match (&self.hex, &self.file) {
            (Some(hex), _) => decode_text(DecodeInput::Datagram(&unhex(hex)?), keyring.as_ref(), self.json),
            (None, Some(path)) => {
                let mut bytes = Vec::new();
                match path.to_str() {
                    Some("-") => std::io::stdin().read_to_end(&mut bytes),
                    _ => std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)),
                }
                .with_context(|| path.display().to_string())?;
                decode_text(DecodeInput::Serial(&bytes), keyring.as_ref(), self.json)
            }
            (None, None) => bail!("give hexadecimal digits, --file or --listen"),
        };
        print(&lines);
        Ok(!lines.is_empty()
            && !lines.iter().any(|line| line.starts_with("no frame") || line.contains("\"error\"")))
    }
}

fn print(lines: &[String]) {
    for line in lines {
        println!("{line}");
    }
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).with_context(|| format!("{c:?} is no hexadecimal digit")))
        .collect::<Result<_>>()?;
    if !digits.len().is_multiple_of(2) {
        bail!("{} hexadecimal digits; a byte has two", digits.len());
    }
    Ok(digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}
