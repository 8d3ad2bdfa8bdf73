//! The virtual Orin as the process's CUDA driver; or a real GPU, where `cargo xtask test-gpu` asks for it.

use pilotlight_cuda::{Cuda, Mode, VirtualBoard};
use std::sync::OnceLock;

/// The board of this process; the environment may name another and a seed.
pub fn board() -> &'static VirtualBoard {
    static BOARD: OnceLock<VirtualBoard> = OnceLock::new();
    BOARD.get_or_init(|| VirtualBoard::load(&[]).unwrap_or_else(|e| panic!("{e}")))
}

/// Whether this process is to use the machine's own GPU.
pub fn real() -> bool {
    std::env::var_os("PILOTLIGHT_TEST_GPU").is_some()
}

/// Kernels to test instead of those that ship: `cargo xtask kernel-mutants` and `sync-mutants` plant faults in them.
pub fn ptx() -> Option<String> {
    let path = std::env::var_os("PILOTLIGHT_TEST_PTX")?;
    Some(std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// Opens the CUDA device.
pub fn open(mode: Mode) -> Cuda {
    open_with(mode, ptx().as_deref().unwrap_or(pilotlight_kernels::PTX))
}

/// Opens it with these kernels.
pub fn open_with(mode: Mode, ptx: &str) -> Cuda {
    if !real() {
        board();
    }
    let cuda = Cuda::open_with(mode, ptx).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(cuda.is_virtual(), !real(), "another driver was found");
    cuda
}
