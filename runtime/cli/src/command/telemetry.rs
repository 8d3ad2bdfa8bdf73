//! `--telemetry`: what `run` and `bench` tell a collector.

use super::vitals::BoardVitals;
use crate::device::Opened;
use anyhow::{Context, Result, bail};
use pilotlight_link::{Agent, AgentConfig, Publisher, Sample, Target};
use pilotlight_units::Micros;
use pilotlight_wire::DeviceKeys;
use std::path::PathBuf;
use std::time::Duration;

/// Where to report to, and as whom.
#[derive(Clone, Debug, clap::Args)]
pub struct TelemetryOptions {
    /// Report to a collector: udp://HOST:PORT or serial:///dev/ttyX?baud=N
    #[arg(long, value_name = "TARGET", requires = "key")]
    telemetry: Option<Target>,
    /// The device's key file, from `pilotlight wire keygen`
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Folder of the boot counter and of messages that wait; ~/.local/state/pilotlight/DEVICE unless given
    #[arg(long, value_name = "DIR", requires = "telemetry")]
    telemetry_state: Option<PathBuf>,
    /// Root of the file tree whose power, clocks and temperatures are reported; of a tree other than / the energy is
    /// called modelled
    #[arg(long, value_name = "DIR", default_value = "/", requires = "telemetry")]
    telemetry_root: PathBuf,
}

/// Telemetry while a command runs, or nothing.
pub struct Telemetry(Option<(Agent, Publisher)>);

impl TelemetryOptions {
    /// Starts to report, where that was asked for; a collector that does not answer is no error.
    ///
    /// # Errors
    /// A key file, folder or link that cannot be used; a virtual board.
    pub fn start(&self, model: &str, device: &Opened) -> Result<Telemetry> {
        let (Some(target), Some(key)) = (&self.telemetry, &self.key) else { return Ok(Telemetry(None)) };
        if device.is_virtual() {
            bail!(
                "--telemetry reports what was measured, and a virtual board measures nothing; leave out \
                 --telemetry or --board (`pilotlight simulate-fleet` makes reports that say modelled)"
            );
        }
        let text =
            std::fs::read_to_string(key).with_context(|| format!("{}: cannot be read", key.display()))?;
        let keys = DeviceKeys::parse(&text).with_context(|| key.display().to_string())?;
        let state = match &self.telemetry_state {
            Some(folder) => folder.clone(),
            None => default_state(keys.device)?,
        };
        let mut config = AgentConfig::new(keys, state);
        config.name = model.chars().take(40).collect();
        let vitals = BoardVitals::start(&self.telemetry_root).context("no thread to read power on")?;
        config.board = vitals.board().unwrap_or(std::env::consts::ARCH).to_owned();
        config.rail = vitals.rails();
        let (agent, publisher, _) = Agent::start(config, target.open()?, Box::new(vitals), Box::new(|_| {}))?;
        Ok(Telemetry(Some((agent, publisher))))
    }
}

impl Telemetry {
    /// Tells of one inference; never waits.
    pub fn record(&mut self, took: Duration) {
        if let Some((_, publisher)) = &mut self.0 {
            publisher.record(Sample { latency: Micros(took.as_micros() as u64), missed: false });
        }
    }

    /// Sends the rest and says what became of it.
    pub fn finish(self) {
        let Some((agent, _)) = self.0 else { return };
        let status = agent.stop();
        let counts = status.counts;
        eprintln!(
            "telemetry: boot {}, {} messages acknowledged, {} wait for the next run, {} dropped, {} link errors",
            status.boot, counts.acknowledged, status.waiting, counts.dropped, status.link_errors
        );
    }
}

fn default_state(device: u32) -> Result<PathBuf> {
    let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")));
    Ok(base.context("no HOME; give --telemetry-state DIR")?.join("pilotlight").join(device.to_string()))
}
