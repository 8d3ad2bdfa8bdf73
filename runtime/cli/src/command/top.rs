//! `pilotlight top`: the fleet in a terminal.

use anyhow::Result;
use pilotlight_collector::top_once;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

/// Watch the fleet of a running collector in the terminal
#[derive(Debug, clap::Args)]
pub struct Top {
    /// The collector's web page
    #[arg(default_value = "127.0.0.1:7680", value_name = "ADDRESS:PORT")]
    collector: SocketAddr,
    /// Devices shown
    #[arg(long, default_value_t = 40, value_name = "N")]
    rows: usize,
    /// Draw once and end, as always where the output is no terminal
    #[arg(long)]
    once: bool,
}

impl Top {
    pub(super) fn run(self) -> Result<()> {
        let mut out = std::io::stdout();
        if self.once || !out.is_terminal() {
            print!("{}", top_once(self.collector, self.rows)?);
            return Ok(());
        }
        loop {
            let text = top_once(self.collector, self.rows)?;
            // Home, then clear what is left of the last drawing.
            write!(out, "\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))?;
            out.flush()?;
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}
