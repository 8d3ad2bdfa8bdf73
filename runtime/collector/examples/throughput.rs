//! Reports a second that a collector verifies and makes durable, on this machine.
//!
//! `cargo run --release -p pilotlight-collector --example throughput -- [--reports N] [--devices N] [--runs N]`
//! into SQLite; with `--features nats` and `--nats` into JetStream (needs Debian's `nats-server`).
//! `--one-way RATE` sends without acknowledgements, at RATE reports a second, so that a collector that is too slow
//! shows as datagrams that the kernel dropped.
//!
//! The collector is a process of its own; this one simulates the devices, one datagram a report, and takes its
//! share of the same cores. Both shares are printed.
use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pilotlight_collector::{Collector, CollectorConfig, Keyring};
use pilotlight_link::simulate::{Carrier, Faults, Fleet};
use pilotlight_wire::FleetKey;

const KEY: FleetKey = FleetKey::new([5; 32]);
type Outcome<T> = Result<T, Box<dyn Error>>;

struct Options {
    reports: u32,
    devices: u32,
    runs: u32,
    one_way: Option<u32>,
    nats: bool,
}

impl Options {
    fn parse() -> Outcome<Self> {
        let mut options = Self { reports: 1_000_000, devices: 1000, runs: 3, one_way: None, nats: false };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut number = || -> Outcome<u32> {
                let text = words.next().ok_or(format!("{word} needs a number"))?;
                text.parse()
                    .ok()
                    .filter(|&n| n > 0)
                    .ok_or(format!("{word} {text}: not a number above 0").into())
            };
            match word.as_str() {
                "--reports" => options.reports = number()?,
                "--devices" => options.devices = number()?,
                "--runs" => options.runs = number()?,
                "--one-way" => options.one_way = Some(number()?),
                "--nats" if cfg!(feature = "nats") => options.nats = true,
                "--nats" => return Err("--nats needs --features nats".into()),
                _ => {
                    return Err(
                        format!("{word}: there are --reports, --devices, --runs, --one-way, --nats").into()
                    );
                }
            }
        }
        Ok(options)
    }
}

fn main() -> Outcome<()> {
    if let Ok(place) = std::env::var("PILOTLIGHT_CHILD") {
        return collect(&place);
    }
    let options = Options::parse()?;
    let place = if options.nats { "JetStream" } else { "SQLite" };
    let way = match options.one_way {
        None => "acknowledged, as fast as acknowledgements allow".to_owned(),
        Some(rate) => format!("one way, {rate} a second offered"),
    };
    println!(
        "into {place}; {} devices, {} reports a run, one a datagram; {way}",
        options.devices, options.reports
    );
    println!(
        "  stored/s   stored     lost  kernel drops   cores: collector  server  devices   MiB: at 1/3  2/3  end"
    );
    let mut rates = Vec::new();
    for _ in 0..options.runs {
        let run = Run::new(&options)?;
        println!(
            "{:>10.0} {:>8} {:>8} {:>13}   {:>16.2} {:>7} {:>8.2}   {:>11.0} {:>4.0} {:>4.0}",
            run.rate,
            run.stored,
            run.lost,
            run.drops,
            run.collector,
            run.server.map_or("-".to_owned(), |cores| format!("{cores:.2}")),
            run.devices,
            run.memory[0],
            run.memory[1],
            run.memory[2]
        );
        rates.push(run.rate);
    }
    rates.sort_by(f64::total_cmp);
    let (least, most) = (rates[0], rates[rates.len() - 1]);
    println!(
        "stored a second, {} runs: {least:.0} / {:.0} / {most:.0} (least, median, most)",
        rates.len(),
        rates[rates.len() / 2]
    );
    Ok(())
}

/// The collecting process: says where it listens, and its counters for every line that it reads.
fn collect(place: &str) -> Outcome<()> {
    let here = ([127, 0, 0, 1], 0).into();
    #[cfg_attr(not(feature = "nats"), allow(unused_mut, reason = "only JetStream is another place"))]
    let mut config = CollectorConfig::new(here, Path::new(place), Keyring::single(1, KEY));
    #[cfg(feature = "nats")]
    if place.starts_with("nats://") {
        config.destination =
            pilotlight_collector::Destination::Nats(pilotlight_collector::Forward::new(place));
    }
    let collector = Collector::start(config)?;
    println!("{}", collector.udp_addresses()[0]);
    for line in std::io::stdin().lines() {
        line?;
        let values = collector.counters().values();
        println!("{}", values.map(|(name, _, value)| format!("{name}={value}")).join(" "));
    }
    Ok(())
}

/// A child that is killed at the end.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Collecting {
    child: Killed,
    ask: ChildStdin,
    say: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Collecting {
    fn start(place: &str) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .env("PILOTLIGHT_CHILD", place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (ask, say) = (child.stdin.take().ok_or("no pipe")?, child.stdout.take().ok_or("no pipe")?);
        let mut say = BufReader::new(say);
        let child = Killed(child);
        let mut line = String::new();
        say.read_line(&mut line)?;
        Ok(Self { child, ask, say, address: line.trim().parse().map_err(|_| "the collector did not start")? })
    }

    fn count(&mut self, name: &str) -> Outcome<u64> {
        self.ask.write_all(b"\n")?;
        let mut line = String::new();
        self.say.read_line(&mut line)?;
        let mut pairs = line.split_whitespace().filter_map(|pair| pair.split_once('='));
        Ok(pairs.find(|(known, _)| *known == name).ok_or("no such counter")?.1.parse()?)
    }
}

/// What one run came to.
struct Run {
    rate: f64,
    stored: u64,
    lost: u64,
    drops: u64,
    /// Cores in use by the collector, by nats-server, and by the simulated devices.
    collector: f64,
    server: Option<f64>,
    devices: f64,
    memory: [f64; 3],
}

impl Run {
    fn new(options: &Options) -> Outcome<Self> {
        let folder = tempfile::tempdir_in(".")?;
        let (server, place) = if options.nats {
            let (server, url) = nats(folder.path())?;
            (Some(server), url)
        } else {
            (None, folder.path().join("fleet.db").display().to_string())
        };
        let mut collector = Collecting::start(&place)?;
        let id = collector.child.0.id();
        let done = AtomicBool::new(false);
        let start = Instant::now();
        let (before, server_before) =
            (cpu_seconds(id), server.as_ref().map(|server| cpu_seconds(server.0.id())));
        let carrier = Carrier::udp(collector.address)?;
        let fleet = Fleet {
            key: KEY,
            key_id: 1,
            first_device: 1,
            devices: options.devices,
            boot: 1,
            reports: options.reports.div_ceil(options.devices),
            two_way: options.one_way.is_none(),
            rate: options.one_way,
            faults: Faults::default(),
            seed: 1,
            patience: Duration::from_secs(600),
        };
        let (outcome, memory) = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut samples = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    samples.push(mebibytes(id));
                    std::thread::sleep(Duration::from_millis(100));
                }
                samples
            });
            let outcome = fleet.run(&carrier);
            done.store(true, Ordering::Relaxed);
            (outcome, watch.join().unwrap_or_default())
        });
        let outcome = outcome?;
        // One-way devices do not wait for what is still in the buffers.
        let mut stored = collector.count("stored")?;
        let mut drops = collector.count("kernel_drops")?;
        let mut seconds = start.elapsed().as_secs_f64();
        while options.one_way.is_some() && stored + drops < outcome.made && seconds < outcome.seconds + 30.0 {
            std::thread::sleep(Duration::from_millis(20));
            (stored, drops) = (collector.count("stored")?, collector.count("kernel_drops")?);
            seconds = start.elapsed().as_secs_f64();
        }
        let sample =
            |third: usize| memory.get((memory.len() * third / 3).saturating_sub(1)).copied().unwrap_or(0.0);
        Ok(Self {
            rate: stored as f64 / seconds,
            stored,
            lost: outcome.made - stored,
            drops,
            collector: (cpu_seconds(id) - before) / seconds,
            server: server
                .as_ref()
                .zip(server_before)
                .map(|(s, before)| (cpu_seconds(s.0.id()) - before) / seconds),
            devices: outcome.cpu_seconds.unwrap_or(f64::NAN) / seconds,
            memory: [sample(1), sample(2), sample(3)],
        })
    }
}

/// A JetStream server of our own.
fn nats(folder: &Path) -> Outcome<(Killed, String)> {
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let server = Command::new("nats-server")
        .args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
        .arg(folder)
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("nats-server: {error}; install Debian's package nats-server"))?;
    let server = Killed(server);
    let start = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if start.elapsed() > Duration::from_secs(10) {
            return Err("nats-server does not answer".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((server, format!("nats://127.0.0.1:{port}")))
}

fn read(path: PathBuf) -> String {
    let mut text = String::new();
    // A process that has gone has used nothing since.
    let _ = std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text));
    text
}

/// Processor time of a process, from proc(5): fields 14 and 15, in ticks of 1/100 s.
fn cpu_seconds(id: u32) -> f64 {
    let stat = read(format!("/proc/{id}/stat").into());
    let ticks = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
    ticks.into_iter().flatten().filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Memory in use by a process.
fn mebibytes(id: u32) -> f64 {
    let status = read(format!("/proc/{id}/status").into());
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
