//! The virtual Orin as the process's CUDA driver.

use pilotlight_cuda::{Cuda, Mode};
use std::sync::OnceLock;

/// Opens the CUDA device on the virtual Orin.
///
/// The library is loaded by its path first; it is named libcuda.so inside, so cudarc's look-up finds it.
pub fn open(mode: Mode) -> Cuda {
    static LOADED: OnceLock<libloading::Library> = OnceLock::new();
    LOADED.get_or_init(|| {
        let mut path = std::env::current_exe().expect("this test has a path");
        path.set_file_name("libcuda.so");
        // SAFETY: (1) the library's initialisers are Rust's, which do nothing.
        unsafe { libloading::Library::new(path) }.expect("libcuda.so beside the test")
    });
    // Kernels to test instead of those that ship: `cargo xtask kernel-mutants` plants faults in them.
    let cuda = match std::env::var_os("PILOTLIGHT_TEST_PTX") {
        Some(path) => {
            let ptx = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            Cuda::open_with(mode, &ptx)
        }
        None => Cuda::open(mode),
    };
    let cuda = cuda.unwrap_or_else(|e| panic!("{e}"));
    assert!(pilotlight_device::Device::describe(&cuda).contains("virtual"), "another driver was found");
    cuda
}
