//! CUDA kernels as committed PTX, and the parameter blocks that Rust and CUDA share.
//!
//! Sources lie in `cuda/`; `generated/` holds what `cargo xtask kernels` makes of them with NVRTC and ptxas 12.6.85.
//! Every kernel takes one parameter block of [`abi`] by value and writes only its output.
//!
//! ```
//! let conv = pilotlight_kernels::figures().find(|f| f.name == "conv_u8_128x256").unwrap();
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

/// A convolution kernel: the largest tile that it computes, and how its warps share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// What the kernel's name ends in.
    pub name: &'static str,
    /// Output channels, at most.
    pub channels: u32,
    /// Output pixels, at most.
    pub pixels: u32,
    /// Warps over channels, pixels and k: eight in all.
    pub warps: [u32; 3],
}

impl Tile {
    /// The kernel for signed or unsigned input.
    pub fn kernel(self, signed: bool) -> String {
        format!("conv_{}_{}", if signed { "s8" } else { "u8" }, self.name)
    }

    /// Pieces of 16 bytes of k that a step takes.
    pub fn pieces(self) -> u32 {
        if self.warps[2] == 4 { 8 } else { 4 }
    }

    /// Channels and pixels of one warp's share.
    pub fn warp_tile(self) -> [u32; 2] {
        [self.channels / self.warps[0], self.pixels / self.warps[1]]
    }

    /// Bytes of dynamic shared memory: three stages, or the results (of 128 pixels at a time), whichever is more.
    pub fn shared(self) -> u32 {
        let stages = 3 * 16 * self.pieces() * (self.pixels + self.channels);
        stages.max(4 * self.warps[2] * self.pixels.min(128) * (self.channels + 4))
    }
}

/// The tiles for input of 16 channels and more.
pub const TILES: [Tile; 2] = [
    Tile { name: "128x256", channels: 128, pixels: 256, warps: [2, 4, 1] },
    Tile { name: "64x64", channels: 64, pixels: 64, warps: [1, 2, 4] },
];

/// The tile for input of up to four channels.
pub const GATHER: Tile = Tile { name: "gather", channels: 64, pixels: 128, warps: [1, 4, 2] };

/// All of them.
pub fn tiles() -> impl Iterator<Item = Tile> {
    TILES.into_iter().chain([GATHER])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_has_figures_and_every_tile_has_kernels() {
        let kernels = PTX.matches(".visible .entry ").count();
        assert_eq!(figures().count(), kernels);
        for tile in tiles() {
            for signed in [true, false] {
                assert!(figures().any(|f| f.name == tile.kernel(signed)), "{}", tile.kernel(signed));
            }
        }
        assert!(CUBIN.starts_with(b"\x7fELF"));
    }
}
