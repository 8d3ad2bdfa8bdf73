//! The collector's and the fleet's figures in Prometheus' text format.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::counters::{Counters, Refusal};
use crate::fleet::{AlertRules, DeviceView, Fleet};

type Labels = Vec<(&'static str, String)>;
type Value = Gauge<f64, AtomicU64>;
type Sum = Counter<f64, AtomicU64>;

/// The page at /metrics. Device labels are made only where asked for: a large fleet's would swamp the reader.
pub(crate) fn render(
    counters: &Counters,
    fleet: &Fleet,
    rules: &AlertRules,
    now_ms: i64,
    devices: bool,
) -> String {
    let mut registry = Registry::with_prefix("pilotlight");
    for (name, help, value) in counters.values() {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(format!("collector_{name}"), help, counter);
    }
    let refused = Family::<Labels, Counter>::default();
    for why in Refusal::ALL {
        refused.get_or_create(&vec![("reason", why.name().to_owned())]).inc_by(counters.refused(why));
    }
    registry.register("collector_refused", "Bytes and frames that were refused", refused);

    let alerts = Family::<Labels, Value>::default();
    for alert in ["silent", "energy", "misses", "throttled", "over_current"] {
        alerts.get_or_create(&vec![("alert", alert.to_owned())]).set(0.0);
    }
    for alert in fleet.alerts(rules, now_ms) {
        alerts.get_or_create(&vec![("alert", alert.alert.to_owned())]).inc();
    }
    registry.register("alerts", "Alerts that hold now", alerts);
    let known = Value::default();
    known.set(fleet.devices().len() as f64);
    registry.register("devices", "Devices known", known);

    type Figure = (&'static str, &'static str, fn(&DeviceView) -> f64);
    let sums: [Figure; 4] = [
        ("inferences", "Inferences reported", |view| view.inferences as f64),
        ("energy_gross_joules", "Gross energy reported, modelled figures included", |view| {
            view.gross_uj as f64 / 1e6
        }),
        ("energy_net_joules", "Net energy reported, modelled figures included", |view| {
            view.net_uj as f64 / 1e6
        }),
        ("misses", "Inferences over their budget", |view| view.misses as f64),
    ];
    for (name, help, figure) in sums {
        if devices {
            let family = Family::<Labels, Sum>::default();
            for (device, view) in fleet.devices() {
                family.get_or_create(&labels(*device, view)).inc_by(figure(view));
            }
            registry.register(format!("device_{name}"), help, family);
        }
        let sum: Sum = Counter::default();
        sum.inc_by(fleet.devices().values().map(figure).sum());
        registry.register(name, help, sum);
    }
    let lost = Family::<Labels, Value>::default();
    let totals =
        fleet.devices().values().fold((0, 0), |sum, view| (sum.0 + view.lost_queue, sum.1 + view.lost_link));
    lost.get_or_create(&vec![("by", "queue".to_owned())]).set(totals.0 as f64);
    lost.get_or_create(&vec![("by", "link".to_owned())]).set(totals.1 as f64);
    registry.register("lost", "Messages lost in the devices' last boots", lost);
    if devices {
        let figures: [Figure; 5] = [
            ("latency_p99_seconds", "99th percentile of the last report", |view| {
                latest(view, |report| Some(report.latency?.p99.micros().as_f64() / 1e6))
            }),
            ("energy_each_joules", "Gross energy of an inference in the last report", |view| {
                latest(view, |report| Some(report.energy?.gross.as_f64() / 1e6 / f64::from(report.count)))
            }),
            ("gpu_celsius", "GPU temperature of the last report", |view| {
                latest(view, |report| Some(f64::from(report.temperature?.gpu.degrees()?)))
            }),
            ("heard_timestamp_seconds", "When the device was last heard", |view| view.heard_ms as f64 / 1e3),
            ("energy_modelled", "1 where the last report's energy is not all measured", |view| {
                latest(view, |report| {
                    Some(f64::from(report.energy?.source != pilotlight_wire::Source::Measured))
                })
            }),
        ];
        for (name, help, figure) in figures {
            let family = Family::<Labels, Value>::default();
            for (device, view) in fleet.devices() {
                let value = figure(view);
                if value.is_finite() {
                    family.get_or_create(&labels(*device, view)).set(value);
                }
            }
            registry.register(format!("device_{name}"), help, family);
        }
    }
    let mut text = String::new();
    // Writing into a string fails only where a metric's encoder does, and none here can.
    if let Err(error) = encode(&mut text, &registry) {
        log::error!("metrics: {error}");
    }
    text
}

fn labels(device: u32, view: &DeviceView) -> Labels {
    vec![("device", device.to_string()), ("name", view.name.clone())]
}

/// A figure of the last report, not a number where it is not known.
fn latest(view: &DeviceView, figure: impl Fn(&pilotlight_wire::Report) -> Option<f64>) -> f64 {
    view.report.as_ref().and_then(|(report, _)| figure(report)).unwrap_or(f64::NAN)
}
