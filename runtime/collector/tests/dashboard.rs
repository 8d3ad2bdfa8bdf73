//! The dashboard and the alert rules name only metrics that a collector shows.
#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]
mod common;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use common::{config, fleet, here};
use pilotlight_collector::{Collector, top_once};
use pilotlight_link::simulate::Carrier;

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn names(text: &str) -> BTreeSet<String> {
    let parts = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    parts.filter(|part| part.starts_with("pilotlight_")).map(str::to_owned).collect()
}

#[test]
fn the_pages_show_what_the_fleet_sent() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder.path().join("fleet.db"));
    config.web = Some(here());
    config.device_metrics = true;
    config.alerts.gross_each_uj = Some(1);
    let collector = Collector::start(config).unwrap();
    let web = collector.web_address().unwrap();
    let carrier = Carrier::udp(collector.udp_addresses()[0]).unwrap();
    let outcome = fleet(3, 5).run(&carrier).unwrap();
    assert_eq!(outcome.acknowledged, outcome.made);
    let metrics = get(web, "/metrics");
    let shown = names(&metrics);
    let dashboard = include_str!("../grafana/fleet.json");
    let parsed: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    assert!(parsed["panels"].as_array().unwrap().len() >= 10);
    let rules = include_str!("../grafana/alerts.yml");
    for text in [dashboard, rules] {
        let unknown: Vec<String> = names(text).into_iter().filter(|name| !shown.contains(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?} are not among {shown:?}");
    }
    assert!(metrics.contains("pilotlight_devices 3.0"), "{metrics}");
    assert!(metrics.contains("pilotlight_alerts{alert=\"energy\"} 3.0"), "{metrics}");
    let fleet = get(web, "/api/fleet");
    assert!(fleet.contains("\"device_count\":3") && fleet.contains("\"source\":\"modelled\""), "{fleet}");
    let drawn = top_once(web, 2).unwrap();
    assert!(
        drawn.starts_with("3 devices") && drawn.contains("simulated") && drawn.contains("and 1 more"),
        "{drawn}"
    );
    assert!(drawn.contains(" ~"), "modelled energy is marked: {drawn}");
    assert!(get(web, "/").contains("<title>Pilotlight fleet</title>"));
    assert_eq!(get(web, "/export.csv?device=1").lines().filter(|line| line.starts_with("1,1,")).count(), 5);
    for (path, status) in
        [("/nothing", "404"), ("/api/series?device=x", "400"), ("/api/series?device=1&level=7", "400")]
    {
        assert!(get(web, path).starts_with(&format!("HTTP/1.0 {status}")), "{path}");
    }
}
