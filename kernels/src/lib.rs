//! CUDA kernels as committed PTX, and the parameter blocks that Rust and CUDA share.
//!
//! Sources lie in `cuda/`; `generated/` holds what `cargo xtask kernels` makes of them with NVRTC and ptxas 12.6.85.
//! Every kernel takes one parameter block of [`abi`] by value and writes only its output.
//!
//! ```
//! let conv = pilotlight_kernels::figures().find(|f| f.name == "conv_u8_128x128").unwrap();
//! assert!(conv.registers <= 255);
//! assert!(pilotlight_kernels::PTX.contains(".version 7.4"));
//! ```
#![forbid(unsafe_code)]

pub mod abi;
pub mod sass;

/// All kernels as PTX for compute capability 8.7, labelled version 7.4: drivers of CUDA 11.4 and newer take it.
pub const PTX: &str = include_str!("../generated/pilotlight.ptx");

/// The same, assembled for sm_87. Only safe on drivers of CUDA 12.6 and newer.
pub const CUBIN: &[u8] = include_bytes!("../generated/pilotlight.sm_87.cubin");

/// What ptxas says of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Kernel name.
    pub name: &'static str,
    /// Registers per thread.
    pub registers: u32,
    /// Bytes of static shared memory.
    pub shared: u32,
}

/// The figures of all kernels, by name.
pub fn figures() -> impl Iterator<Item = Figures> {
    include_str!("../generated/figures.txt").lines().filter(|l| !l.starts_with('#')).filter_map(|line| {
        let mut words = line.split(' ');
        Some(Figures {
            name: words.next()?,
            registers: words.next()?.parse().ok()?,
            shared: words.next()?.parse().ok()?,
        })
    })
}

/// A tile of the convolution kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Output pixels.
    pub pixels: u32,
    /// Output channels.
    pub channels: u32,
}

impl Tile {
    /// The kernel for signed or unsigned input.
    pub fn kernel(self, signed: bool) -> String {
        format!("conv_{}_{}x{}", if signed { "s8" } else { "u8" }, self.pixels, self.channels)
    }

    /// Bytes of dynamic shared memory: three stages of 64 bytes of k, or the results, whichever is more.
    pub fn shared(self) -> u32 {
        (3 * 64 * (self.pixels + self.channels)).max(4 * self.pixels * (self.channels + 8))
    }
}

/// The tiles there are, largest first.
pub const TILES: [Tile; 4] = [
    Tile { pixels: 128, channels: 128 },
    Tile { pixels: 128, channels: 64 },
    Tile { pixels: 64, channels: 64 },
    Tile { pixels: 128, channels: 32 },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_has_figures_and_every_tile_has_kernels() {
        let kernels = PTX.matches(".visible .entry ").count();
        assert_eq!(figures().count(), kernels);
        for tile in TILES {
            for signed in [true, false] {
                assert!(figures().any(|f| f.name == tile.kernel(signed)), "{}", tile.kernel(signed));
            }
        }
        assert!(CUBIN.starts_with(b"\x7fELF"));
    }
}
