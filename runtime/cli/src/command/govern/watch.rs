//! What a live governor says while it runs: changes of state, faults, alerts; and a summary at the end.

use pilotlight_boards::control::Clocks;
use pilotlight_power::advice::{Advice, Alerts, Limits, Watched, for_utilisation};
use pilotlight_power::governor::{Faults, Point, RailHealth, State};
use pilotlight_power::line::state_name;
use pilotlight_power::live::{Live, LiveDecision};
use pilotlight_units::{Microjoules, MilliCelsius};
use serde::Serialize;
use std::io::Write;

/// Limits that raise an alert while governing.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct AlertOptions {
    /// Alert when an inference takes more energy than this, mJ (needs a module rail)
    #[arg(long, value_name = "MJ")]
    alert_energy_mj: Option<f64>,
    /// Alert when more than this share of recent cycles is late, per cent
    #[arg(long, value_name = "PERCENT")]
    alert_late: Option<f64>,
    /// Alert when a zone is hotter than this, degrees Celsius
    #[arg(long, value_name = "CELSIUS")]
    alert_temperature: Option<f64>,
    /// Alert on over-current and throttle events
    #[arg(long)]
    alert_throttling: bool,
}

impl AlertOptions {
    fn limits(&self) -> Limits {
        Limits {
            energy_per_inference: self.alert_energy_mj.map(|mj| Microjoules((mj * 1e3) as u64)),
            late: self.alert_late.map(|p| p / 100.0),
            temperature: self.alert_temperature.map(|c| MilliCelsius((c * 1e3) as i32)),
            throttling: self.alert_throttling,
        }
    }
}

/// Follows a governor and tells what changed.
pub struct Watch {
    limits: Limits,
    json: bool,
    state: Option<State>,
    faults: Faults,
    alerts: Alerts,
    raised: u64,
    cycles: u64,
    late: u64,
}

/// Something that changed, as `govern --json` prints it.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    State { cycle: u64, state: &'a str, gpu_hz: u64, emc_hz: u64, asked: bool },
    Fault { cycle: u64, fault: &'a str },
    Alert { cycle: u64, alert: &'a str, value: f64, limit: f64 },
    Refused { cycle: u64, reason: String },
}

/// What a governed run came to, as `govern --json` prints it at the end.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub event: &'static str,
    pub schema: u32,
    pub cycles: u64,
    pub late: u64,
    pub alerts: u64,
    /// Share of the period that the device was busy: at the clocks held, and at the top clocks.
    pub busy: f64,
    pub busy_at_top: f64,
    pub advice: &'static str,
    /// Of the last closed window; null where no rail measures it.
    pub energy_per_inference_uj: Option<u64>,
    /// False: the clocks were only observed.
    pub controlled: bool,
}

impl Watch {
    pub fn new(options: &AlertOptions, json: bool) -> Self {
        let (faults, alerts) = (Faults::default(), Alerts::default());
        Self { limits: options.limits(), json, state: None, faults, alerts, raised: 0, cycles: 0, late: 0 }
    }

    /// Takes in a cycle's decision.
    pub fn see(&mut self, seen: &LiveDecision, asked: Point, controls: bool) {
        self.cycles += 1;
        self.late += u64::from(seen.decision.late);
        let cycle = self.cycles;
        if let Some(error) = &seen.refused {
            self.tell(&Event::Refused { cycle, reason: error.to_string() }, || {
                format!("cycle {cycle}: {error}")
            });
        }
        let state = seen.decision.state;
        if self.state.replace(state) != Some(state) {
            let (name, verb) = (state_name(state), if controls { "asked for" } else { "would ask for" });
            let event = Event::State {
                cycle,
                state: name,
                gpu_hz: asked.gpu.0,
                emc_hz: asked.emc.0,
                asked: controls,
            };
            self.tell(&event, || {
                format!("cycle {cycle}: {name}, {verb} GPU {} EMC {}", asked.gpu, asked.emc)
            });
        }
        for fault in new_faults(self.faults, seen.decision.faults) {
            self.tell(&Event::Fault { cycle, fault }, || format!("cycle {cycle}: {fault}"));
        }
        self.faults = seen.decision.faults;
        if let Some(watched) = &seen.watched {
            self.alert(watched);
        }
    }

    fn alert(&mut self, seen: &Watched) {
        let now = self.limits.check(seen);
        let limits = self.limits;
        let mj = |e: Option<Microjoules>| e.map_or(0.0, |e| e.as_f64() / 1e3);
        let celsius = |t: Option<MilliCelsius>| t.map_or(0.0, |t| f64::from(t.0) / 1e3);
        let all = [
            (
                now.energy,
                self.alerts.energy,
                "energy_mj",
                mj(seen.energy_per_inference),
                mj(limits.energy_per_inference),
            ),
            (
                now.late,
                self.alerts.late,
                "late_percent",
                100.0 * seen.late,
                100.0 * limits.late.unwrap_or(0.0),
            ),
            (
                now.temperature,
                self.alerts.temperature,
                "temperature_c",
                celsius(seen.temperature),
                celsius(limits.temperature),
            ),
            (now.throttling, false, "throttle_events", seen.throttle_events as f64, 0.0),
        ];
        let cycle = self.cycles;
        for (raised, before, alert, value, limit) in all {
            if raised && !before {
                self.raised += 1;
                self.tell(&Event::Alert { cycle, alert, value, limit }, || {
                    format!("cycle {cycle}: ALERT {alert} {value:.2} above {limit:.2}")
                });
            }
        }
        self.alerts = now;
    }

    /// Tells it on standard error: standard output is the governed program's. A reader that has gone away must not
    /// end the governor.
    fn tell(&self, event: &Event, text: impl Fn() -> String) {
        let line = if self.json { serde_json::to_string(event).unwrap_or_default() } else { text() };
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    /// What it came to.
    pub fn summary<C: Clocks>(&self, live: &Live<C>) -> Summary {
        let governor = live.governor();
        let energy = live.energy_per_inference();
        Summary {
            event: "summary",
            schema: 1,
            cycles: self.cycles,
            late: self.late,
            alerts: self.raised,
            busy: governor.utilisation(),
            busy_at_top: governor.utilisation_at_top(),
            advice: match for_utilisation(governor.utilisation_at_top()) {
                Advice::Tune => "room left: lower clocks, or more work on this board",
                Advice::Keep => "about as full as is sensible",
                Advice::MoreHardware => "too full for a tail to be held: more hardware or a smaller model",
            },
            energy_per_inference_uj: energy.map(|e| e.0),
            controlled: live.controls(),
        }
    }

    /// Tells the summary.
    pub fn close(&self, summary: &Summary) {
        let line = if self.json {
            serde_json::to_string(summary).unwrap_or_default()
        } else {
            let energy = summary.energy_per_inference_uj.map_or("energy not measured".into(), |uj| {
                format!("{:.2} mJ an inference (gross)", uj as f64 / 1e3)
            });
            let role = if summary.controlled { "board restored" } else { "only observed" };
            format!(
                "{} cycles, {} late, {energy}, {role}; device busy {:.0} % of the period ({:.0} % at top clocks): {}",
                summary.cycles,
                summary.late,
                100.0 * summary.busy,
                100.0 * summary.busy_at_top,
                summary.advice
            )
        };
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// Faults that were not there before, in words.
fn new_faults(before: Faults, now: Faults) -> impl Iterator<Item = &'static str> {
    let rail = match now.rail {
        RailHealth::Good => "",
        RailHealth::Absent => "",
        RailHealth::Stuck => "the module rail stands still: not believed until it moves",
        RailHealth::Lost => "the module rail stopped answering",
    };
    [
        (
            now.gpu_limited && !before.gpu_limited,
            "the GPU clock does not follow: a cap, a refused write, or another owner",
        ),
        (
            now.emc_limited && !before.emc_limited,
            "the memory clock does not follow: a cap, a refused write, or another owner",
        ),
        (now.rail != before.rail && !rail.is_empty(), rail),
        (
            now.wild_readings > before.wild_readings,
            "a reading of the module rail was too far off to be believed",
        ),
    ]
    .into_iter()
    .filter_map(|(there, words)| there.then_some(words))
}
