//! The parts of the `pilotlight` command: model folders, pictures, arrays, golden files, and its subcommands.
#![forbid(unsafe_code)]

pub mod card;
pub mod command;
pub mod counted;
pub mod device;
pub mod energy;
pub mod feed;
pub mod golden;
pub mod model;
pub mod modelled;
pub mod npy;
pub mod picture;
pub mod stats;
pub mod virtual_orin;
