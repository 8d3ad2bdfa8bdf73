//! The CUDA device: a plan lowered to kernel launches, sent one by one or as one graph.
//!
//! It gives the bits of every other device. Inputs and outputs lie in pinned memory that kernels read and
//! write in place; a [`Slot`](pilotlight_device::Slot)'s bytes are copied to and from it by the host. Without
//! a driver, [`Cuda::open`] says so; nothing panics.
//!
//! ```
//! use pilotlight_cuda::{Cuda, Mode};
//! match Cuda::open(Mode::Graph) {
//!     Ok(cuda) => println!("{}", pilotlight_device::Device::describe(&cuda)),
//!     Err(error) => println!("{error}"),
//! }
//! ```

mod driver;
mod lower;
mod program;

pub use driver::{Cuda, Mode, OpenError};
pub use lower::{Launch, Unsupported};
