//! `pilotlight collect`: receives a fleet's telemetry, stores it and shows it.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use pilotlight_collector::{
    AlertRules, Collector, CollectorConfig, Destination, Keyring, Source, Store, StoreConfig, export_csv,
    merged_frames, queue_command,
};
use pilotlight_link::Target;
use pilotlight_units::{Bytes, Micros};
use pilotlight_wire::{Alert, Command};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Receive a fleet's telemetry, verify it, store it, and show it on a web page
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Collect {
    #[command(subcommand)]
    task: Option<Task>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// The fleet's key file, from `pilotlight wire keygen --fleet`; read again when it changes
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Take datagrams here; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:7600")]
    udp: Vec<SocketAddr>,
    /// Take frames from a serial port, as in serial:///dev/ttyUSB0?baud=115200; may be repeated
    #[arg(long, value_name = "TARGET")]
    serial: Vec<Target>,
    /// The database
    #[arg(long, value_name = "FILE", default_value = "pilotlight.db")]
    db: PathBuf,
    /// Serve the web page, /metrics and /export.csv here
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7680")]
    web: SocketAddr,
    /// Metrics for each device
    #[arg(long)]
    device_metrics: bool,
    /// Alert when a device is silent for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    silent_seconds: u64,
    /// Alert when an inference costs more than this, gross
    #[arg(long, value_name = "MILLIJOULES")]
    energy_mj: Option<f64>,
    /// Delete frames that are older
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    keep_days: u64,
    /// Delete the oldest frames when the database is larger
    #[arg(long, value_name = "MIB", default_value_t = 16_384)]
    cap_mib: u64,
    /// Forward to this JetStream instead of storing, as in nats://localhost:4222
    #[cfg(feature = "nats")]
    #[arg(long, value_name = "URL", conflicts_with = "from_nats")]
    to_nats: Option<String>,
    /// Take from this JetStream as well, sharing its durable consumer with other collectors
    #[cfg(feature = "nats")]
    #[arg(long, value_name = "URL")]
    from_nats: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Write stored reports as CSV to standard output
    Export(Export),
    /// Delete what is known of a device
    Delete(Delete),
    /// Queue a command; the collector of that database sends it
    Command(Send),
    /// Count what several databases hold together, by device, boot and sequence
    Merge(Merge),
}

#[derive(Debug, Parser)]
struct Export {
    /// The database
    #[arg(long, value_name = "FILE", default_value = "pilotlight.db")]
    db: PathBuf,
    /// One device only
    #[arg(long, value_name = "N")]
    device: Option<u32>,
}

#[derive(Debug, Parser)]
struct Delete {
    /// The database
    #[arg(long, value_name = "FILE", default_value = "pilotlight.db")]
    db: PathBuf,
    /// The device
    #[arg(long, value_name = "N")]
    device: u32,
}

#[derive(Debug, Parser)]
struct Send {
    /// The database
    #[arg(long, value_name = "FILE", default_value = "pilotlight.db")]
    db: PathBuf,
    /// The device
    #[arg(long, value_name = "N")]
    device: u32,
    /// What it should do
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Report every so often
    Period {
        /// Milliseconds
        milliseconds: u64,
    },
    /// Hold this latency budget
    Budget {
        /// Microseconds
        microseconds: u64,
    },
    /// Raise an alert above a limit: latency (us), energy (uJ an inference), temperature (m°C), backlog (messages)
    Threshold {
        /// Which figure
        #[arg(value_parser = alert)]
        figure: Alert,
        /// Its limit
        limit: i64,
    },
}

#[derive(Debug, Parser)]
struct Merge {
    /// The databases
    #[arg(required = true, value_name = "FILE")]
    db: Vec<PathBuf>,
}

fn alert(name: &str) -> Result<Alert, String> {
    Ok(match name {
        "latency" => Alert::LATENCY,
        "energy" => Alert::ENERGY,
        "temperature" => Alert::TEMPERATURE,
        "backlog" => Alert::BACKLOG,
        _ => return Err("expected latency, energy, temperature or backlog".into()),
    })
}

impl Collect {
    pub(super) fn run(self) -> Result<()> {
        match self.task {
            None => self.serve.run(),
            Some(Task::Export(Export { db, device })) => {
                export_csv(&db, device, &mut std::io::stdout().lock())?;
                Ok(())
            }
            Some(Task::Delete(Delete { db, device })) => {
                let deleted = open(&db)?.delete_device(device)?;
                println!("{deleted} frames of device {device} deleted");
                Ok(())
            }
            Some(Task::Command(Send { db, device, order })) => {
                let command = match order {
                    Order::Period { milliseconds } => Command::Period(Micros::from_millis(milliseconds)),
                    Order::Budget { microseconds } => Command::Budget(Micros(microseconds)),
                    Order::Threshold { figure, limit } => Command::Threshold { alert: figure, limit },
                };
                Ok(queue_command(&db, device, &command)?)
            }
            Some(Task::Merge(Merge { db })) => {
                let paths: Vec<&Path> = db.iter().map(PathBuf::as_path).collect();
                let (merged, sum) = merged_frames(&paths)?;
                println!("{merged} frames in the merged view, {} held more than once", sum - merged);
                Ok(())
            }
        }
    }
}

fn open(db: &Path) -> Result<Store> {
    if !db.exists() {
        bail!("{}: no such database", db.display());
    }
    Ok(Store::open(db, StoreConfig::default())?)
}

impl Serve {
    fn run(self) -> Result<()> {
        env_logger::Builder::new().filter_level(log::LevelFilter::Info).parse_default_env().init();
        let key = self
            .key
            .clone()
            .context("--key FILE is needed; `pilotlight wire keygen --fleet FILE` makes one")?;
        let keyring = Keyring::load(&key)?;
        let mut sources: Vec<Source> = self.udp.iter().map(|address| Source::Udp(*address)).collect();
        for target in &self.serial {
            match target {
                Target::Serial { path, baud } => {
                    sources.push(Source::Serial { path: path.clone(), baud: *baud })
                }
                Target::Udp { address } => bail!("--serial udp://{address}: give --udp {address}"),
            }
        }
        let config = CollectorConfig {
            sources,
            destination: self.destination(),
            keyring,
            key_file: Some(key),
            web: Some(self.web),
            device_metrics: self.device_metrics,
            alerts: AlertRules {
                silent_seconds: self.silent_seconds,
                gross_each_uj: self.energy_mj.map(|millijoules| (millijoules * 1000.0) as u64),
            },
            commit_every: Micros::from_millis(50),
        };
        let collector = Collector::start(config)?;
        for address in collector.udp_addresses() {
            eprintln!("taking datagrams at {address}");
        }
        if let Some(address) = collector.web_address() {
            eprintln!("web page at http://{address}/");
        }
        #[cfg(feature = "nats")]
        let _source = match &self.from_nats {
            None => None,
            Some(url) => {
                let forward = pilotlight_collector::Forward::new(url);
                let (batches, verifier) = (collector.batches(), collector.verifier());
                Some(pilotlight_collector::NatsSource::start(forward, "collectors", batches, verifier)?)
            }
        };
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, stop.clone())?;
        }
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("stopping");
        collector.stop();
        Ok(())
    }

    fn destination(&self) -> Destination {
        #[cfg(feature = "nats")]
        if let Some(url) = &self.to_nats {
            return Destination::Nats(pilotlight_collector::Forward::new(url));
        }
        let config = StoreConfig {
            keep_frames: Micros::from_secs(86_400 * self.keep_days),
            cap: Bytes(self.cap_mib << 20),
            ..StoreConfig::default()
        };
        Destination::Sqlite { path: self.db.clone(), config }
    }
}
