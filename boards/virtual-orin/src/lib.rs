//! A Jetson Orin without the Jetson: the CUDA driver API on a strict PTX emulator.
//!
//! Built as `libcuda.so`, this crate is what a CUDA program opens instead of NVIDIA's driver. It runs the very
//! PTX that ships, and is strict and adversarial, so that a pass means something. **It cannot show** real time,
//! faults of SASS or of the JIT compiler, or the coherence of mapped memory on a real Orin.
#![deny(unsafe_code)]

pub mod blocks;
pub mod board;
pub mod code;
pub mod counters;
pub mod driver;
pub mod emulator;
pub mod exec;
pub mod grid;
pub mod l2;
pub mod liveness;
pub mod lower;
pub mod memory;
pub mod ptx;
pub mod race;
pub mod rng;
pub mod table;
pub mod weak;
