//! The fleet in a terminal: what `pilotlight top` draws.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

const PATIENCE: Duration = Duration::from_secs(5);
/// No answer of ours is longer.
const LONGEST: u64 = 64 << 20;

/// A collector that cannot be asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TopError {
    /// Nobody answers.
    #[error("collector at {address}: {source}; is `pilotlight collect` running with its web page there?")]
    Io {
        /// Where it was looked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Something else answers.
    #[error("{address} does not answer as a collector: {why}")]
    Answer {
        /// Who answered.
        address: SocketAddr,
        /// What is wrong.
        why: &'static str,
    },
}

/// Asks the collector's web page for the fleet and draws it as text of at most `rows` devices.
///
/// # Errors
/// Nobody answers there, or something else than a collector.
pub fn top_once(address: SocketAddr, rows: usize) -> Result<String, TopError> {
    let answer = ask(address).map_err(|source| TopError::Io { address, source })?;
    let wrong = |why| TopError::Answer { address, why };
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(wrong("no HTTP answer"))?;
    if !head.starts_with("HTTP/1.") || head.split(' ').nth(1) != Some("200") {
        return Err(wrong("not 200 OK"));
    }
    let fleet: Value = serde_json::from_str(body).map_err(|_| wrong("not JSON"))?;
    if fleet["version"] != 1 {
        return Err(wrong("not version 1 of the fleet's JSON"));
    }
    Ok(render_top(&fleet, rows))
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // HTTP/1.0: the answer is not cut into chunks and ends with the connection.
    write!(stream, "GET /api/fleet HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    Ok(answer)
}

/// The fleet's JSON as a table. What is modelled is marked with `~`, what is not known with `-`.
pub fn render_top(fleet: &Value, rows: usize) -> String {
    let now = fleet["now_ms"].as_i64().unwrap_or(0);
    let count = |name: &str| fleet["counters"][name].as_u64().unwrap_or(0);
    let mut text = format!(
        "{} devices, {} alerts; stored {}, duplicates {}, late {}, kernel drops {}\n",
        fleet["device_count"],
        fleet["alert_count"],
        count("stored"),
        count("duplicates"),
        count("late"),
        count("kernel_drops")
    );
    text += "  device name             heard   inf/s    p50 ms   p99 ms  gross mJ    net mJ    C  lost q/l\n";
    let devices = fleet["devices"].as_array().map_or(&[][..], Vec::as_slice);
    for device in devices.iter().take(rows) {
        let last = &device["last"];
        let figure = |value: &Value, scale: f64| {
            value.as_f64().map_or("-".to_owned(), |v| format!("{:.2}", v / scale))
        };
        let rate = last["count"].as_f64().zip(last["window_ms"].as_f64()).filter(|(_, ms)| *ms > 0.0);
        let energy = &last["energy"];
        let mark =
            if energy["source"].as_str().is_some_and(|source| source != "measured") { "~" } else { "" };
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "{:>8} {:<14.14} {:>5} s {:>7} {:>9} {:>8} {:>9} {:>9} {:>4}  {}/{}",
            device["device"],
            device["name"].as_str().unwrap_or(""),
            (now - device["heard_ms"].as_i64().unwrap_or(now)).max(0) / 1000,
            rate.map_or("-".to_owned(), |(count, ms)| format!("{:.1}", count / ms * 1000.0)),
            figure(&last["latency_us"]["p50"], 1e3),
            figure(&last["latency_us"]["p99"], 1e3),
            format!("{mark}{}", figure(&energy["gross_each_uj"], 1e3)),
            format!("{mark}{}", figure(&energy["net_each_uj"], 1e3)),
            last["celsius"]["gpu"].as_i64().map_or("-".to_owned(), |degrees| degrees.to_string()),
            device["lost_queue"],
            device["lost_link"],
        );
    }
    if devices.len() > rows {
        let _ = writeln!(text, "  and {} more", devices.len() - rows);
    }
    for alert in fleet["alerts"].as_array().iter().flat_map(|alerts| alerts.iter().take(10)) {
        let text_of = alert["text"].as_str().unwrap_or("");
        let _ = writeln!(
            text,
            "! device {} {}: {text_of}",
            alert["device"],
            alert["alert"].as_str().unwrap_or("")
        );
    }
    text
}
