//! The CUDA device: a plan lowered to kernel launches, sent one by one or as one graph.
//!
//! It gives the bits of every other device. A [`Slot`](pilotlight_device::Slot)'s bytes lie in pinned memory that
//! kernels read and write in place, so an inference copies nothing; each slot has launches, or a graph, with its
//! own addresses. Without a driver, [`Cuda::open`] says so; nothing panics.
//!
//! ```
//! use pilotlight_cuda::{Cuda, Mode};
//! match Cuda::open(Mode::Graph) {
//!     Ok(cuda) => println!("{}", pilotlight_device::Device::describe(&cuda)),
//!     Err(error) => println!("{error}"),
//! }
//! ```

// The tests' helper names the crate as its users do.
#[cfg(test)]
extern crate self as pilotlight_cuda;

mod driver;
mod lower;
mod memory;
mod persist;
mod program;
mod virtual_board;

pub use driver::{Cuda, FUNCTIONS, Mode, OpenError};
pub use lower::{Launch, Lowered, Unsupported, issued_macs, lower};
pub use persist::{LEAST_IDLE, Part, Pause, Settings, Wait, outline};
pub use virtual_board::{VirtualBoard, VirtualError};
