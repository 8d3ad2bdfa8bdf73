//! Jetson Orin boards: facts as validated data, and the live board over sysfs.
//!
//! | part | what it knows |
//! |---|---|
//! | [`BoardData`] | a module's clocks, memory points, rails, modes and roofline constants, with sources |
//! | [`Tree`] | a file tree with a settable root: a real `/`, a fixture, or the virtual board |
//! | [`Board`] | what was found on a tree, and what was not |
//! | [`gpu`], [`cpu`], [`emc`], [`rails`], [`thermal`] | one domain each |
//! | [`nvpmodel`], [`modes`] | the power mode file in its real dialect; switching where the SM mask stays |
//! | [`control`] | writes on an allow-list, a state file that undoes them, one owner at a time |
//! | [`helper`] | the line protocol by which an unprivileged program asks a root helper for those writes |
//! | [`model`] | modelled time and energy of GPU work, from counts |
//! | [`fixture`] | trees of every module and JetPack layout, made by us in the same grammar |
//! | [`virtual_tree`] | such a tree that lives: clocks, rails and temperatures moved by the model |
//!
//! ```
//! use pilotlight_boards::{Board, Tree, fixture};
//! let folder = std::env::temp_dir().join(format!("pilotlight-doc-{}", std::process::id()));
//! fixture::create(&folder, "orin-nano-8gb-super", fixture::JetPack::Six)?;
//! let board = Board::discover(&Tree::at(&folder));
//! assert_eq!(board.data.as_ref().map(|d| d.name.as_str()), Some("orin-nano-8gb-super"));
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod board;
pub mod control;
pub mod cpu;
mod data;
pub mod emc;
pub mod fixture;
pub mod gpu;
pub mod helper;
pub mod model;
pub mod modes;
pub mod nvpmodel;
pub mod rails;
pub mod thermal;
mod tree;
pub mod virtual_tree;

pub use board::{Board, Identity, Release};
pub use data::{
    BoardData, CpuData, DataError, GpuData, MemoryData, ModeData, RailData, ThermalData, TotalData, all,
    named,
};
pub use tree::{SysError, Tree};
