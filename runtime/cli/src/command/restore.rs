//! `pilotlight restore` and `pilotlight helper`: putting clocks back, and setting them for others.

use anyhow::{Context, Result};
use pilotlight_boards::control::{Session, restore};
use pilotlight_boards::{Tree, helper};
use std::path::PathBuf;

/// Put clocks back as they were before a governor that was killed
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// Root of the file tree
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// Folder of the state file
    #[arg(long, default_value = "/run/pilotlight")]
    state: PathBuf,
}

impl Restore {
    pub fn run(self) -> Result<()> {
        match restore(&Tree::at(&self.root), &self.state)? {
            true => println!("restored; {} is removed", self.state.display()),
            false => println!("nothing to restore: no state file in {}", self.state.display()),
        }
        Ok(())
    }
}

/// Set clocks for an unprivileged program: requests on standard input, answers on standard output
///
/// Runs as root. It takes no paths and only clocks of the board's own table, and puts the board back when its
/// input ends.
#[derive(Debug, clap::Args)]
pub struct Helper {
    /// Root of the file tree
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// Folder of the state file
    #[arg(long, default_value = "/run/pilotlight")]
    state: PathBuf,
}

impl Helper {
    pub fn run(self) -> Result<()> {
        let mut session = Session::open(&Tree::at(&self.root), &self.state)?;
        helper::serve(&mut session, std::io::stdin().lock(), std::io::stdout().lock())
            .context("the board is restored as far as it could be")
    }
}
