//! `pilotlight boards`: what this board is, and what its sysfs shows.

use super::print_json;
use anyhow::{Result, bail};
use pilotlight_boards::fixture::{self, JetPack};
use pilotlight_boards::{Board, Tree, all, named};
use std::path::{Path, PathBuf};

/// Show the board: clocks, rails, modes, temperatures, and what is missing
#[derive(Debug, clap::Args)]
pub struct Boards {
    /// Root of the file tree to look at
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    /// List the boards that are known instead
    #[arg(long)]
    list: bool,
    /// Make a tree of this board below --root instead (made-up readings, for trying things out)
    #[arg(long, value_name = "BOARD")]
    fixture: Option<String>,
    /// Switch to this power mode, where its SM mask is that of the mode now (needs root)
    #[arg(long, value_name = "ID", conflicts_with = "fixture")]
    mode: Option<u32>,
    /// Layout of that tree: JetPack 5, 6 or 7
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(5..=7))]
    jetpack: u8,
}

impl Boards {
    pub fn run(self) -> Result<()> {
        if self.list {
            let known: Vec<_> = all().filter_map(named).collect();
            if self.json {
                return print_json(&known);
            }
            for data in known {
                println!(
                    "{:20} {:34} {} SMs, {}",
                    data.name,
                    data.title,
                    data.gpu.sms,
                    data.modules.join(" ")
                );
            }
            return Ok(());
        }
        if let Some(name) = self.fixture {
            if self.root.as_path() == Path::new("/") {
                bail!("--fixture writes a whole tree: name an empty folder with --root");
            }
            let layout = match self.jetpack {
                5 => JetPack::Five,
                6 => JetPack::Six,
                _ => JetPack::Seven,
            };
            if named(&name).is_none() {
                bail!("unknown board '{name}'; known: {}", all().collect::<Vec<_>>().join(", "));
            }
            fixture::create(&self.root, &name, layout)?;
            println!("made {name} with the layout of JetPack {} below {}", self.jetpack, self.root.display());
            return Ok(());
        }
        if let Some(mode) = self.mode {
            for path in pilotlight_boards::modes::switch(&Tree::at(&self.root), mode)? {
                eprintln!("left out, not there: {path}");
            }
        }
        let board = Board::discover(&Tree::at(&self.root));
        if self.json {
            return print_json(&board);
        }
        print!("{board}");
        Ok(())
    }
}
