//! Reports as CSV, and the merged view of several databases.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pilotlight_wire::{Band, Celsius, Source};
use rusqlite::{Connection, OpenFlags, params};
use thiserror::Error;

use crate::store::stored_report;

/// An export that cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The database cannot be read.
    #[error("store {}: {source}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The output cannot be written.
    #[error("export: {0}")]
    Io(#[from] io::Error),
}

const COLUMNS: &str = "device,boot,sequence,end_ms,window_ms,count,p50_us,p90_us,p99_us,max_us,energy_source,gross_uj,\
net_uj,gross_spread_uj,net_spread_uj,gpu_mhz,memory_mhz,cpu_mhz,gpu_celsius,module_celsius,misses,throttled,\
over_current,waiting,dropped,dropped_earlier,unsampled";

/// Opens a database to read from while a collector writes.
pub(crate) fn open_read_only(path: &Path) -> Result<Connection, ExportError> {
    let open = || {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        db.busy_timeout(std::time::Duration::from_secs(10))?;
        Ok(db)
    };
    open().map_err(|source| ExportError::Sqlite { path: path.to_owned(), source })
}

/// Writes the stored reports as CSV, one line each, of one device or all; what is not known is empty.
/// Returns the lines written, the heading not counted.
///
/// # Errors
/// The database cannot be read or the output not written.
pub fn export_csv(path: &Path, device: Option<u32>, out: &mut dyn Write) -> Result<u64, ExportError> {
    let db = open_read_only(path)?;
    writeln!(out, "{COLUMNS}")?;
    let wrap = |source| ExportError::Sqlite { path: path.to_owned(), source };
    let mut select = db
        .prepare(
            "SELECT device, boot, sequence, at_ms, kind, body FROM frames
             WHERE device BETWEEN ? AND ? AND kind = 2 ORDER BY device, boot, sequence",
        )
        .map_err(wrap)?;
    let (low, high) = device.map_or((0, u32::MAX), |device| (device, device));
    let mut rows = select.query(params![low, high]).map_err(wrap)?;
    let mut lines = 0;
    while let Some(row) = rows.next().map_err(wrap)? {
        let line = csv_line(row).map_err(wrap)?;
        if let Some(line) = line {
            writeln!(out, "{line}")?;
            lines += 1;
        }
    }
    out.flush()?;
    Ok(lines)
}

fn csv_line(row: &rusqlite::Row) -> rusqlite::Result<Option<String>> {
    let (device, boot, sequence, at_ms): (u32, u32, u32, i64) =
        (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
    let Some(report) = stored_report(row.get(4)?, row.get_ref(5)?.as_blob()?) else { return Ok(None) };
    let text = |value: Option<u64>| value.map_or(String::new(), |value| value.to_string());
    let latency = |pick: fn(&pilotlight_wire::Latency) -> pilotlight_wire::Bucket| {
        text(report.latency.as_ref().map(|latency| pick(latency).micros().0))
    };
    let energy = report.energy;
    let mhz = |band: Option<Band>| text(band.and_then(Band::hertz).map(|hertz| hertz.0 / 1_000_000));
    let degrees = |celsius: Option<Celsius>| {
        celsius.and_then(Celsius::degrees).map_or(String::new(), |d| d.to_string())
    };
    let clocks = report.operating;
    let (trouble, backlog) = (report.trouble, report.backlog);
    let fields = [
        device.to_string(),
        boot.to_string(),
        sequence.to_string(),
        at_ms.to_string(),
        (report.window.0 / 1000).to_string(),
        report.count.to_string(),
        latency(|latency| latency.p50),
        latency(|latency| latency.p90),
        latency(|latency| latency.p99),
        latency(|latency| latency.max),
        energy.map_or("", |energy| source_name(energy.source)).to_owned(),
        text(energy.map(|energy| energy.gross.0)),
        text(energy.map(|energy| energy.net.0)),
        text(energy.map(|energy| energy.gross_spread.microjoules().0)),
        text(energy.map(|energy| energy.net_spread.microjoules().0)),
        mhz(clocks.map(|clocks| clocks.gpu)),
        mhz(clocks.map(|clocks| clocks.memory)),
        mhz(clocks.map(|clocks| clocks.cpu)),
        degrees(report.temperature.map(|heat| heat.gpu)),
        degrees(report.temperature.map(|heat| heat.module)),
        trouble.misses.to_string(),
        trouble.throttled.to_string(),
        trouble.over_current.to_string(),
        backlog.waiting.to_string(),
        backlog.dropped.to_string(),
        backlog.dropped_earlier.to_string(),
        backlog.unsampled.to_string(),
    ];
    Ok(Some(fields.join(",")))
}

/// The word for where an energy figure comes from.
pub(crate) fn source_name(source: Source) -> &'static str {
    match source {
        Source::Measured => "measured",
        Source::Modelled => "modelled",
        Source::Mixed => "mixed",
    }
}

/// Frames of several databases taken together, each counted once by (device, boot, sequence), and the sum of the
/// databases' own counts: the difference is what more than one of them holds.
///
/// # Errors
/// A database cannot be read.
pub fn merged_frames(paths: &[&Path]) -> Result<(u64, u64), ExportError> {
    let mut merged = BTreeSet::new();
    let mut sum = 0;
    for path in paths {
        let db = open_read_only(path)?;
        let mut add = || {
            let mut select = db.prepare("SELECT device, boot, sequence FROM frames")?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                merged.insert((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?, row.get::<_, u32>(2)?));
                sum += 1;
            }
            Ok(())
        };
        add().map_err(|source| ExportError::Sqlite { path: path.to_path_buf(), source })?;
    }
    Ok((merged.len() as u64, sum))
}
