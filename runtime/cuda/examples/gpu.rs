//! Says which CUDA GPU this machine has; exit code 1 where it has none that the kernels run on.

use pilotlight_cuda::{Cuda, Mode};
use pilotlight_device::Device;
use std::process::ExitCode;

fn main() -> ExitCode {
    match Cuda::open(Mode::Graph) {
        Ok(cuda) if cuda.is_virtual() => println!("no GPU: the driver that was found is a virtual Orin's"),
        Ok(cuda) => {
            println!("{}", cuda.describe());
            return ExitCode::SUCCESS;
        }
        Err(error) => println!("no GPU: {error}"),
    }
    ExitCode::FAILURE
}
