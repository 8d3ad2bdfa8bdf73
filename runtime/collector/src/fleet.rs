//! The fleet as it is now: what the web page, the metrics and the alerts show.

use std::collections::{BTreeMap, VecDeque};

use pilotlight_wire::{Alert, Event, Hello, Message, Occurrence, Report};
use serde::Serialize;

use crate::stream::Losses;

/// Devices in the view; more are stored but not shown.
const DEVICES: usize = 200_000;
/// Events that are remembered.
const EVENTS: usize = 200;

/// When the collector raises an alert by itself.
#[derive(Clone, Copy, Debug)]
pub struct AlertRules {
    /// A device that said no closing word is silent after this many seconds.
    pub silent_seconds: u64,
    /// Gross energy of one inference above which a device is wasteful, in microjoules; `None` is never.
    pub gross_each_uj: Option<u64>,
}

impl Default for AlertRules {
    fn default() -> Self {
        Self { silent_seconds: 30, gross_each_uj: None }
    }
}

/// An alert that holds now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FleetAlert {
    /// The device.
    pub device: u32,
    /// `silent`, `energy`, `misses`, `throttled` or `over_current`.
    pub alert: &'static str,
    /// What was found and what is allowed.
    pub text: String,
}

/// What is known of a device now.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeviceView {
    /// Its name for people; empty before its first Hello.
    pub name: String,
    /// Its board.
    pub board: String,
    /// Its firmware.
    pub firmware: String,
    /// What its energy figures cover.
    pub rail: String,
    /// The boot that spoke last.
    pub boot: u32,
    /// When it was last heard, in milliseconds since 1970.
    pub heard_ms: i64,
    /// It said its closing word.
    pub closed: bool,
    /// Its last report, and that report's wall time in milliseconds.
    #[serde(skip)]
    pub report: Option<(Report, i64)>,
    /// Inferences since the collector started.
    pub inferences: u64,
    /// Gross energy since the collector started, in microjoules.
    pub gross_uj: u64,
    /// Net energy since the collector started, in microjoules.
    pub net_uj: u64,
    /// Missed budgets since the collector started.
    pub misses: u64,
    /// Messages that the last boot's queue dropped.
    pub lost_queue: u64,
    /// Messages of the last boot that the link lost.
    pub lost_link: u64,
    /// Messages of the last boot that may still come.
    pub awaited: u64,
}

/// All devices, and what happened lately.
#[derive(Debug, Default)]
pub struct Fleet {
    devices: BTreeMap<u32, DeviceView>,
    events: VecDeque<(i64, u32, String)>,
}

impl Fleet {
    /// The devices by number.
    pub fn devices(&self) -> &BTreeMap<u32, DeviceView> {
        &self.devices
    }

    /// The last events, oldest first: wall time in milliseconds, device, text.
    pub fn events(&self) -> impl Iterator<Item = &(i64, u32, String)> {
        self.events.iter()
    }

    pub(crate) fn hello(&mut self, device: u32, hello: &Hello) {
        if let Some(view) = self.view(device) {
            let own = |text: &str| text.to_owned();
            view.name = own(hello.name);
            view.board = own(hello.board);
            view.firmware = own(hello.firmware);
            view.rail = own(hello.rail);
        }
    }

    pub(crate) fn names(&mut self, device: u32, names: [String; 4]) {
        if let Some(view) = self.view(device) {
            [view.name, view.board, view.firmware, view.rail] = names;
        }
    }

    /// A stored message.
    pub(crate) fn take(
        &mut self,
        device: u32,
        boot: u32,
        message: Option<&Message>,
        at_ms: i64,
        arrived_ms: i64,
    ) {
        match message {
            Some(Message::Hello(hello)) => self.hello(device, hello),
            Some(Message::Event(event)) => self.event(device, event, at_ms),
            Some(Message::Log(log)) => self.remember(at_ms, device, format!("{:?}: {}", log.level, log.text)),
            _ => {}
        }
        let Some(view) = self.view(device) else { return };
        // Messages of an earlier boot may come after those of a later one.
        if boot >= view.boot {
            if boot > view.boot {
                view.closed = false;
            }
            view.boot = boot;
            view.closed |= matches!(message, Some(Message::Closing(_)));
        }
        view.heard_ms = view.heard_ms.max(arrived_ms);
        if let Some(Message::Report(report)) = message {
            view.inferences += u64::from(report.count);
            view.misses += u64::from(report.trouble.misses);
            if let Some(energy) = report.energy {
                view.gross_uj = view.gross_uj.saturating_add(energy.gross.0);
                view.net_uj = view.net_uj.saturating_add(energy.net.0);
            }
            if view.report.is_none_or(|(_, last)| last <= at_ms) {
                view.report = Some((*report, at_ms));
            }
        }
    }

    pub(crate) fn losses(&mut self, device: u32, boot: u32, losses: Losses) {
        if let Some(view) = self.devices.get_mut(&device).filter(|view| view.boot == boot) {
            (view.lost_queue, view.lost_link, view.awaited) = (losses.queue, losses.link, losses.awaited);
        }
    }

    /// The alerts that hold at `now_ms`.
    pub fn alerts(&self, rules: &AlertRules, now_ms: i64) -> Vec<FleetAlert> {
        let mut alerts = Vec::new();
        for (&device, view) in &self.devices {
            let mut raise = |alert, text| alerts.push(FleetAlert { device, alert, text });
            let silent = (now_ms - view.heard_ms).max(0) as u64 / 1000;
            if !view.closed && silent > rules.silent_seconds {
                raise("silent", format!("not heard for {silent} s ({} s allowed)", rules.silent_seconds));
            }
            let Some((report, _)) = view.report else { continue };
            if let Some(limit) = rules.gross_each_uj
                && let Some(each) =
                    report.energy.and_then(|energy| energy.gross.0.checked_div(report.count.into()))
                && each > limit
            {
                raise("energy", format!("{each} uJ gross an inference ({limit} uJ allowed)"));
            }
            let trouble = report.trouble;
            for (alert, count) in [
                ("misses", trouble.misses),
                ("throttled", trouble.throttled),
                ("over_current", trouble.over_current),
            ] {
                if count > 0 {
                    raise(alert, format!("{count} in the last report"));
                }
            }
        }
        alerts
    }

    fn view(&mut self, device: u32) -> Option<&mut DeviceView> {
        if self.devices.len() >= DEVICES && !self.devices.contains_key(&device) {
            return None;
        }
        Some(self.devices.entry(device).or_default())
    }

    fn event(&mut self, device: u32, event: &Event, at_ms: i64) {
        let text = match event.what {
            Occurrence::Alert { alert, value, limit } => {
                let name = match alert {
                    Alert::LATENCY => "latency p99 in us",
                    Alert::ENERGY => "gross energy an inference in uJ",
                    Alert::TEMPERATURE => "temperature in m\u{b0}C",
                    Alert::BACKLOG => "messages waiting",
                    _ => "an unknown figure",
                };
                format!("alert: {name} is {value}, limit {limit}")
            }
            Occurrence::Park { parked } => (if parked { "parked" } else { "woken" }).to_owned(),
            Occurrence::Fault { code, detail } => format!("fault {code} ({detail})"),
            Occurrence::Governor { .. } | Occurrence::Clock { .. } => return,
            _ => "an event of a later version".to_owned(),
        };
        self.remember(at_ms, device, text);
    }

    fn remember(&mut self, at_ms: i64, device: u32, text: String) {
        if self.events.len() >= EVENTS {
            self.events.pop_front();
        }
        self.events.push_back((at_ms, device, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilotlight_units::{Microjoules, Micros};
    use pilotlight_wire::{Closing, Energy, Source, Spread, Trouble};

    fn names(fleet: &Fleet, now_ms: i64) -> Vec<(u32, &'static str)> {
        let rules = AlertRules { silent_seconds: 30, gross_each_uj: Some(1000) };
        fleet.alerts(&rules, now_ms).iter().map(|alert| (alert.device, alert.alert)).collect()
    }

    #[test]
    fn alerts_hold_while_their_cause_does() {
        let mut fleet = Fleet::default();
        let energy = |uj| Energy {
            source: Source::Measured,
            gross: Microjoules(uj),
            net: Microjoules(0),
            gross_spread: Spread::default(),
            net_spread: Spread::default(),
        };
        let report = |uj, trouble| {
            let energy = Some(energy(uj));
            Message::Report(Report { end: Micros(1), count: 10, energy, trouble, ..Report::default() })
        };
        let trouble = Trouble { misses: 3, throttled: 1, over_current: 0 };
        fleet.take(1, 1, Some(&report(10_010, Trouble::default())), 500, 1_000);
        fleet.take(2, 1, Some(&report(10_000, trouble)), 500, 1_000);
        assert_eq!(names(&fleet, 31_000), [(1, "energy"), (2, "misses"), (2, "throttled")]);
        assert_eq!(names(&fleet, 32_000)[0], (1, "silent"));
        // Heard again, the alert ends; a device that said goodbye is not silent.
        fleet.take(1, 1, Some(&report(10_000, Trouble::default())), 40_000, 40_000);
        fleet.take(2, 1, Some(&Message::Closing(Closing::default())), 40_000, 40_000);
        assert_eq!(names(&fleet, 41_000), [(2, "misses"), (2, "throttled")]);
        assert_eq!(names(&fleet, 99_000), [(1, "silent"), (2, "misses"), (2, "throttled")]);
        // A new boot opens it again.
        fleet.take(2, 2, Some(&report(10_000, Trouble::default())), 50_000, 50_000);
        assert_eq!(names(&fleet, 60_000), []);
        assert_eq!(names(&fleet, 99_000), [(1, "silent"), (2, "silent")]);
    }
}
