//! Runs INT8 neural networks from firmware.
//!
//! A compiled model is a [`Plan`] (a file, bytes, or linked into the program). A [`Session`] opens it on a device
//! and **lends** slots: fill one in place, **submit** it, **wait**, read the output; dropping the output frees the
//! slot. After the first inferences nothing is allocated, and with the default options nothing is asked of the
//! operating system either.
//!
//! ```
//! use pilotlight::{Options, Plan, Session};
//! # fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! let plan = Plan::open("digits.plan")?; // or Plan::from_static(include_bytes!("digits.plan"))
//! let session = Session::open(&plan, &Options::default())?;
//! let mut slot = session.lend()?;
//! slot.input_mut::<f32>(0)?.fill(0.5);
//! let output = slot.submit()?.wait()?;
//! println!("{:?}", output.output::<f32>(0)?);
//! # Ok(())
//! # }
//! ```
//!
//! # Threads
//! With [`Runner::Inline`] the thread that waits does the work; with [`Runner::Worker`] one thread for each session
//! does. A device with more than one thread keeps its own, a [`Meter`](energy::Meter) has one. There is no other
//! thread, no signal or exit handler, and nothing is printed: messages go to the [`log`] crate. [`Session`] is `Send` and `Sync`, [`Lent`], [`Pending`]
//! and [`Output`] are `Send`; requests run in the order of submission, whichever thread submits.
//!
//! # Ownership
//! A slot belongs to exactly one hand, and the compiler sees to it: [`Lent::submit`] consumes the slot, so it
//! cannot be written in flight; an output cannot be read before there is one.
//!
//! # Energy
//! Give a session a [`Meter`](energy::Meter), and each [`Report`] carries joules, or says why it does not.
//!
//! # Features
//! `onnx`: [`onnx`](https://onnx.ai) files become plans (`pilotlight::onnx`). It brings a protobuf reader and minutes
//! of compile time; firmware does without it. `cuda`: the CUDA device ([`DeviceKind::CudaGraph`]); it builds without
//! a GPU and without CUDA, and a machine that has no driver gets an error when a session is opened.
#![forbid(unsafe_code)]

pub mod energy;
mod error;
mod job;
mod options;
mod port;
mod report;
mod ring;
#[cfg(all(test, loom))]
mod ring_model;
mod session;
mod slots;
mod sync;
mod system;

pub use energy::Energy;
pub use error::{CloseError, Failure, LendError, OpenError, PortError, SubmitError};
pub use options::{DeviceKind, Options, Priority, Runner, Thread, Wait};
#[cfg(feature = "cuda")]
pub use pilotlight_cuda as cuda;
pub use pilotlight_device as device;
#[cfg(feature = "onnx")]
pub use pilotlight_onnx as onnx;
pub use pilotlight_plan::{DType, Plan, PlanError, Quant};
pub use port::{Element, InputKind, Port, Ports};
pub use report::Report;
pub use session::Session;
pub use slots::{Lent, Output, Pending};
