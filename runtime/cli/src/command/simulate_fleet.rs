//! `pilotlight simulate-fleet`: many devices and a bad link, for collectors to prove themselves on.

use anyhow::{Context, Result};
use pilotlight_collector::Keyring;
use pilotlight_link::Target;
use pilotlight_link::simulate::{Carrier, Faults, Fleet};
use std::net::ToSocketAddrs as _;
use std::path::PathBuf;
use std::time::Duration;

/// Send made-up reports of many devices to a collector, through a link with injected faults
#[derive(Debug, clap::Args)]
pub struct SimulateFleet {
    /// The collector: udp://HOST:PORT, or a serial line that all devices share: serial:///dev/ttyX?baud=N
    #[arg(long, default_value = "udp://127.0.0.1:7600", value_name = "TARGET")]
    to: Target,
    /// The fleet's key file
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Devices
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    devices: u32,
    /// Number of the first device
    #[arg(long, default_value_t = 1, value_name = "N")]
    first: u32,
    /// Boot number of every device; the collector refuses what it has of a boot already
    #[arg(long, default_value_t = 1, value_name = "N")]
    boot: u32,
    /// Reports of each device
    #[arg(long, default_value_t = 60, value_name = "N")]
    reports: u32,
    /// Reports a second of the whole fleet; as fast as acknowledgements allow unless given
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Probability that a frame is lost
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = probability)]
    loss: f64,
    /// Probability that a frame is delivered twice
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = probability)]
    duplicate: f64,
    /// Probability that a frame is delivered late
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = probability)]
    reorder: f64,
    /// Probability that a frame is damaged
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = probability)]
    corrupt: f64,
    /// Probability that a forgery goes before a frame
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = probability)]
    forge: f64,
    /// The same seed, the same faults
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,
    /// Send each message once and wait for nothing; needs --rate
    #[arg(long, requires = "rate")]
    one_way: bool,
    /// Give up after so long
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    patience: u64,
}

fn probability(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|p| (0.0..=1.0).contains(p)).ok_or("expected a number from 0 to 1".into())
}

impl SimulateFleet {
    pub(super) fn run(self) -> Result<bool> {
        let (key_id, key) =
            Keyring::load(&self.key)?.current_key().context("the fleet has no current key")?;
        let fleet = Fleet {
            key,
            key_id,
            first_device: self.first,
            devices: self.devices,
            boot: self.boot,
            reports: self.reports,
            two_way: !self.one_way,
            rate: self.rate,
            faults: Faults {
                loss: self.loss,
                duplicate: self.duplicate,
                reorder: self.reorder,
                corrupt: self.corrupt,
                forge: self.forge,
            },
            seed: self.seed,
            patience: Duration::from_secs(self.patience),
        };
        let o = fleet.run(&self.carrier()?)?;
        println!(
            "{} devices made {} messages in {:.1} s ({:.0}/s); {} frames sent, {} of them again; {} acknowledged",
            self.devices,
            o.made,
            o.seconds,
            o.made as f64 / o.seconds.max(1e-9),
            o.sent,
            o.repeated,
            o.acknowledged
        );
        println!(
            "injected: {} lost, {} damaged, {} twice, {} late, {} forged; dropped by full outboxes {}; refused by devices {}",
            o.lost, o.corrupted, o.duplicated, o.reordered, o.forged, o.dropped, o.refused
        );
        if let Some(cpu) = o.cpu_seconds {
            println!("this command used {cpu:.1} s of one core");
        }
        Ok(self.one_way || o.acknowledged == o.made)
    }

    fn carrier(&self) -> Result<Carrier> {
        match &self.to {
            Target::Udp { address } => {
                let resolved = address.to_socket_addrs().with_context(|| address.clone())?.next();
                let collector = resolved.with_context(|| format!("{address}: the host has no address"))?;
                Ok(Carrier::udp(collector)?)
            }
            Target::Serial { path, baud } => {
                let port = serial2::SerialPort::open(path, *baud).with_context(|| path.clone())?;
                Ok(Carrier::serial(port)?)
            }
        }
    }
}
