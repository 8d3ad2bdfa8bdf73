//! The built-in web page, its data, the metrics and the export: read-only, no outside resources.

use std::io::Cursor;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pilotlight_wire::{Band, Celsius, Report};
use serde_json::{Value, json};
use tiny_http::{Header, Method, Request, Response, Server, StatusCode};

use crate::counters::{Counters, Refusal};
use crate::export::{ExportError, export_csv, open_read_only, source_name};
use crate::fleet::{AlertRules, DeviceView, Fleet};
use crate::metrics;
use crate::serve::unix_micros;
use crate::store::read_rollup;

const PAGE: &str = include_str!("../web/index.html");
const WORKERS: usize = 4;
/// Devices that one answer lists.
const LISTED: usize = 1000;
/// Points that one answer draws.
const POINTS: i64 = 1000;

pub(crate) struct Web {
    server: Server,
    database: Option<PathBuf>,
    fleet: Arc<Mutex<Fleet>>,
    counters: Arc<Counters>,
    rules: AlertRules,
    device_metrics: bool,
}

type Answer = Response<Cursor<Vec<u8>>>;

impl Web {
    pub(crate) fn bind(
        address: SocketAddr,
        database: Option<PathBuf>,
        fleet: Arc<Mutex<Fleet>>,
        counters: Arc<Counters>,
        rules: AlertRules,
        device_metrics: bool,
    ) -> Result<Self, String> {
        let server = Server::http(address).map_err(|error| error.to_string())?;
        Ok(Self { server, database, fleet, counters, rules, device_metrics })
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.server.server_addr().to_ip()
    }

    pub(crate) fn run(&self, stop: &AtomicBool) {
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        if let Ok(Some(request)) = self.server.recv_timeout(Duration::from_millis(100)) {
                            self.answer(request);
                        }
                    }
                });
            }
        });
    }

    fn answer(&self, request: Request) {
        let url = request.url().to_owned();
        let (path, query) = url.split_once('?').unwrap_or((&url, ""));
        let answer = match (request.method(), path) {
            (Method::Get, "/") => typed(PAGE, "text/html; charset=utf-8"),
            (Method::Get, "/metrics") => typed(self.metrics(), "text/plain; version=0.0.4; charset=utf-8"),
            (Method::Get, "/api/fleet") => {
                typed(self.fleet(number(query, "from")).to_string(), "application/json")
            }
            (Method::Get, "/api/series") => self.series(query),
            (Method::Get, "/export.csv") => self.export(query),
            (Method::Get, _) => failed(404, "there is /, /api/fleet, /api/series, /export.csv and /metrics"),
            _ => failed(405, "this page can only be read"),
        };
        // A reader that went away is no error of ours.
        let _ = request.respond(answer);
    }

    fn metrics(&self) -> String {
        let fleet = self.fleet.lock().unwrap_or_else(PoisonError::into_inner);
        metrics::render(&self.counters, &fleet, &self.rules, now_ms(), self.device_metrics)
    }

    /// The fleet from device number `from` on, at most [`LISTED`] devices.
    fn fleet(&self, from: Option<i64>) -> Value {
        let now = now_ms();
        let from = u32::try_from(from.unwrap_or(0)).unwrap_or(0);
        let fleet = self.fleet.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = fleet.devices().range(from..).take(LISTED);
        let devices: Vec<Value> = shown.map(|(device, view)| device_json(*device, view)).collect();
        let mut alerts = fleet.alerts(&self.rules, now);
        let alert_count = alerts.len();
        alerts.truncate(LISTED);
        let events: Vec<Value> = fleet
            .events()
            .map(|(at_ms, device, text)| json!({ "at_ms": at_ms, "device": device, "text": text }))
            .collect();
        let counters: serde_json::Map<String, Value> = self
            .counters
            .values()
            .iter()
            .map(|(name, _, value)| ((*name).to_owned(), json!(value)))
            .collect();
        let refused: serde_json::Map<String, Value> = Refusal::ALL
            .iter()
            .map(|why| (why.name().to_owned(), json!(self.counters.refused(*why))))
            .collect();
        json!({ "version": 1, "now_ms": now, "device_count": fleet.devices().len(), "devices": devices,
            "alert_count": alert_count, "alerts": alerts, "events": events, "counters": counters, "refused": refused })
    }

    /// Roll-ups of one device, oldest first.
    fn series(&self, query: &str) -> Answer {
        let Some(database) = &self.database else {
            return failed(404, "this collector forwards, it keeps nothing");
        };
        let Some(device) = number(query, "device").and_then(|device| u32::try_from(device).ok()) else {
            return failed(400, "device must be a number: /api/series?device=N&level=1|60|3600");
        };
        let level = number(query, "level").unwrap_or(1);
        if ![1, 60, 3600].contains(&level) {
            return failed(400, "level must be 1, 60 or 3600 seconds");
        }
        match series(database, device, level) {
            Ok(points) => {
                let series = json!({ "version": 1, "device": device, "level": level, "points": points });
                typed(series.to_string(), "application/json")
            }
            Err(error) => failed(500, &error.to_string()),
        }
    }

    fn export(&self, query: &str) -> Answer {
        let Some(database) = &self.database else {
            return failed(404, "this collector forwards, it keeps nothing");
        };
        let Some(device) = number(query, "device").and_then(|device| u32::try_from(device).ok()) else {
            return failed(
                400,
                "name a device: /export.csv?device=N; `pilotlight collect export` writes the whole fleet",
            );
        };
        let mut csv = Vec::new();
        match export_csv(database, Some(device), &mut csv) {
            Ok(_) => typed(csv, "text/csv; charset=utf-8"),
            Err(error) => failed(500, &error.to_string()),
        }
    }
}

fn series(database: &Path, device: u32, level: i64) -> Result<Vec<Value>, ExportError> {
    let db = open_read_only(database)?;
    let read = || {
        let mut select = db.prepare(
            "SELECT start_ms, reports, count, energy_count, gross_uj, net_uj, sources, p50_sum, latency_count, p99_us,
             max_us, misses, throttled, over_current, hottest
             FROM rollups WHERE device = ? AND level = ? ORDER BY start_ms DESC LIMIT ?",
        )?;
        let rows = select.query_map([i64::from(device), level, POINTS], |row| {
            let sum = read_rollup(row, 1)?;
            let net_each = sum.gross_each().map(|_| sum.net_uj as f64 / sum.energy_count as f64);
            Ok(json!({ "start_ms": row.get::<_, i64>(0)?, "count": sum.count, "gross_each_uj": sum.gross_each(),
                "net_each_uj": net_each, "modelled": sum.sources & 2 != 0, "p50_us": sum.p50_mean(),
                "p99_us": (sum.latency_count > 0).then_some(sum.p99_us), "max_us": sum.max_us, "misses": sum.misses,
                "hottest": Celsius(sum.hottest).degrees() }))
        })?;
        rows.collect::<rusqlite::Result<Vec<Value>>>()
    };
    let mut points = read().map_err(|source| ExportError::Sqlite { path: database.to_owned(), source })?;
    points.reverse();
    Ok(points)
}

fn device_json(device: u32, view: &DeviceView) -> Value {
    let mut json = json!(view);
    json["device"] = json!(device);
    json["last"] = match &view.report {
        None => Value::Null,
        Some((report, at_ms)) => report_json(report, *at_ms),
    };
    json
}

fn report_json(report: &Report, at_ms: i64) -> Value {
    let mhz = |band: Band| band.hertz().map(|hertz| hertz.0 / 1_000_000);
    let each = |uj: u64| (report.count > 0).then(|| uj as f64 / f64::from(report.count));
    json!({
        "at_ms": at_ms, "window_ms": report.window.0 / 1000, "count": report.count,
        "latency_us": report.latency.map(|latency| json!({
            "p50": latency.p50.micros().0, "p90": latency.p90.micros().0,
            "p99": latency.p99.micros().0, "max": latency.max.micros().0 })),
        "energy": report.energy.map(|energy| json!({
            "source": source_name(energy.source),
            "gross_uj": energy.gross.0, "net_uj": energy.net.0,
            "gross_each_uj": each(energy.gross.0), "net_each_uj": each(energy.net.0),
            "gross_each_spread_uj": each(energy.gross_spread.microjoules().0),
            "net_each_spread_uj": each(energy.net_spread.microjoules().0) })),
        "clocks_mhz": report.operating.map(|clocks| json!({
            "gpu": mhz(clocks.gpu), "memory": mhz(clocks.memory), "cpu": mhz(clocks.cpu) })),
        "celsius": report.temperature.map(|heat| json!({
            "gpu": heat.gpu.degrees(), "module": heat.module.degrees() })),
        "misses": report.trouble.misses, "throttled": report.trouble.throttled,
        "over_current": report.trouble.over_current, "waiting": report.backlog.waiting,
        "unsampled": report.backlog.unsampled,
    })
}

fn number(query: &str, name: &str) -> Option<i64> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name)?.1.parse().ok()
}

fn typed(body: impl Into<Vec<u8>>, kind: &str) -> Answer {
    let mut answer = Response::from_data(body.into());
    for (name, value) in [
        ("Content-Type", kind),
        (
            "Content-Security-Policy",
            "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'",
        ),
        ("X-Content-Type-Options", "nosniff"),
        ("Cache-Control", "no-store"),
    ] {
        if let Ok(header) = Header::from_bytes(name, value) {
            answer.add_header(header);
        }
    }
    answer
}

fn failed(status: u16, why: &str) -> Answer {
    typed(format!("{why}\n"), "text/plain; charset=utf-8").with_status_code(StatusCode(status))
}

fn now_ms() -> i64 {
    (unix_micros() / 1000) as i64
}
