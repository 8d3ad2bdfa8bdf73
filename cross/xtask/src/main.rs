//! Developer commands: `cargo xtask`.
#![forbid(unsafe_code)]

mod abi;
mod bless;
mod c_programs;
mod capi;
mod ci;
mod cross;
mod cutlass;
mod deps;
mod exact;
mod fuzz;
mod kernels;
mod loom;
mod mutants;
mod python;
mod rivals;
mod shell;
mod sizes;
mod soak;
mod start;
mod steps;
mod test_gpu;
mod timing_model;
mod twins;
mod wire_size;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Developer commands of Pilotlight
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the checks that every change must pass, or only those named
    Ci(ci::Ci),
    /// Check which crate may depend on which, and the Rust version that dependencies need
    Deps,
    /// Rewrite the committed files that are made by the project itself (plans)
    Bless,
    /// Check that the C header and the exported symbols are the committed ones
    Abi(abi::Abi),
    /// Test the C ABI from C and C++: misuse, memory, examples; plain, sanitized, under valgrind, installed
    CapiTest,
    /// Build for aarch64 and test under qemu: C ABI, golden outputs, every firmware crate
    CrossTest,
    /// Model-check the life cycle of a slot
    Loom,
    /// Check Cross.toml without a container engine
    CrossCheck,
    /// Print the size of the firmware example by crate, and hold its budget
    Sizes(sizes::Sizes),
    /// Print flash and stack that the telemetry protocol takes without an operating system
    WireSize,
    /// Measure from process start to first output, beside ONNX Runtime's session creation
    Start,
    /// Compile the CUDA kernels to the committed PTX and cubin, or compare them with --check
    Kernels(kernels::Kernels),
    /// Compare every model with ONNX Runtime, element by element
    Exact(exact::Exact),
    /// Measure Pilotlight, ONNX Runtime and tract in one run
    Rivals(rivals::Rivals),
    /// Run the ResNet-50 and MobileNetV2 twins on the virtual Orin: exact, and what they issue
    Twins(twins::Twins),
    /// Run CUTLASS's int8 kernels through the emulator, and check fragments against its tables
    Cutlass,
    /// Print the model of time and energy against published measurements, and what its guesses change
    TimingModel(timing_model::TimingModel),
    /// Plant known faults in kernels and lowering one by one, and show which check catches each
    KernelMutants(mutants::Options),
    /// Weaken every synchronisation of the shipped PTX and plant faults in the host's side, one by one
    SyncMutants(mutants::Options),
    /// Run the device suites on a real CUDA GPU, or say that there is none and count what is skipped
    TestGpu(test_gpu::TestGpu),
    /// Run every fuzz target for a while
    Fuzz(fuzz::Fuzz),
    /// Run the long tests, or only the steps named
    Soak(soak::Soak),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Ci(c) => c.run(),
        Command::Deps => deps::run(),
        Command::Bless => bless::run(),
        Command::Abi(c) => c.run(),
        Command::CapiTest => capi::test(),
        Command::CrossTest => cross::test(),
        Command::Loom => loom::run(),
        Command::CrossCheck => cross::check(),
        Command::Sizes(c) => c.run(),
        Command::WireSize => wire_size::run_all(),
        Command::Start => start::measure(),
        Command::Kernels(c) => c.run(),
        Command::Exact(c) => c.run(),
        Command::Rivals(c) => c.run(),
        Command::Twins(c) => c.run(),
        Command::Cutlass => cutlass::test(),
        Command::TimingModel(c) => c.run(),
        Command::KernelMutants(options) => mutants::kernel_mutants(&options),
        Command::SyncMutants(options) => mutants::sync::run(&options),
        Command::TestGpu(c) => c.run(),
        Command::Fuzz(c) => c.run(),
        Command::Soak(c) => c.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
