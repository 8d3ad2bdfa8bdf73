//! What the driver needs to know of each Orin: sizes and limits. Rails and power modes live elsewhere.

use pilotlight_boards::model::{Clocks, Machine};

/// A board as the driver sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Board {
    /// Name in `PILOTLIGHT_VIRTUAL_BOARD` and after `virtual:`.
    pub name: &'static str,
    /// Device name that the driver reports.
    pub device_name: &'static str,
    /// Streaming multiprocessors that the power mode leaves on.
    pub sms: u32,
    /// Highest GPU clock in kHz.
    pub clock_khz: u64,
    /// Highest memory clock in kHz.
    pub emc_khz: u64,
    /// Name of the module's facts in [`pilotlight_boards`].
    pub module: &'static str,
    /// Bytes of memory, shared with the CPU.
    pub memory: u64,
}

const GIB: u64 = 1 << 30;

const fn board(
    name: &'static str,
    module: &'static str,
    sms: u32,
    clock_khz: u64,
    emc_khz: u64,
    gib: u64,
) -> Board {
    Board { name, device_name: "Orin (virtual)", sms, clock_khz, emc_khz, module, memory: gib * GIB }
}

/// Every board. Multiprocessors follow from the power-mode tables' TPC masks, two to a TPC.
///
/// # Source
/// NVIDIA's public nvpmodel tables for p3701 and p3767; clocks are the highest of each module's table.
pub const BOARDS: &[Board] = &[
    board("orin-nano-super", "orin-nano-8gb-super", 8, 1_020_000, 3_199_000, 8),
    board("orin-nano-8gb", "orin-nano-8gb", 8, 624_750, 2_133_000, 8),
    board("orin-nano-4gb", "orin-nano-4gb", 4, 624_750, 2_133_000, 4),
    board("orin-nx-16", "orin-nx-16gb", 8, 918_000, 3_199_000, 16),
    board("orin-nx-8", "orin-nx-8gb", 8, 765_000, 3_199_000, 8),
    board("orin-nx-10w", "orin-nx-16gb", 4, 612_000, 2_133_000, 16),
    board("agx-orin-64", "agx-orin-64gb", 16, 1_300_500, 3_199_000, 64),
    board("agx-orin-32", "agx-orin-32gb", 14, 930_750, 3_199_000, 32),
    board("agx-orin-15w", "agx-orin-64gb", 6, 408_000, 2_133_000, 64),
    // No such module: one multiprocessor keeps the emulator's working set in the host's cache.
    board("one-sm", "orin-nano-8gb-super", 1, 1_020_000, 3_199_000, 8),
];

impl Board {
    /// The board at its highest clocks, for the model of time and energy.
    ///
    /// # Panics
    /// If the module is not among the boards' facts, which a test rules out.
    pub fn machine(&self) -> Machine {
        let facts = pilotlight_boards::named(self.module).expect("a test looks every module up");
        let clocks = Clocks { gpu: self.clock_khz as f64 * 1e3, emc: self.emc_khz as f64 * 1e3 };
        Machine { sms: self.sms, ..Machine::of(&facts, clocks) }
    }
}

/// Limits of compute capability 8.7, the same for all (CUDA C++ programming guide, technical specifications).
pub mod limits {
    /// 32-bit registers of a multiprocessor, and the most that one block may have.
    pub const REGISTERS: u32 = 65_536;
    /// Registers are given out per warp in units of so many.
    pub const REGISTER_UNIT: u32 = 256;
    /// Bytes of shared memory of a multiprocessor.
    pub const SHARED_PER_SM: usize = 164 * 1024;
    /// Most bytes of shared memory of a block, opted in.
    pub const SHARED_PER_BLOCK_OPTIN: usize = 163 * 1024;
    /// Most bytes of shared memory of a block without opting in.
    pub const SHARED_PER_BLOCK: usize = 48 * 1024;
    /// Bytes that the driver takes of each block.
    pub const SHARED_RESERVED: usize = 1024;
    /// Threads of a multiprocessor.
    pub const THREADS_PER_SM: u32 = 1536;
    /// Blocks of a multiprocessor.
    pub const BLOCKS_PER_SM: u32 = 16;
    /// Threads of a block.
    pub const THREADS_PER_BLOCK: u32 = 1024;
    /// Most blocks along x, y, z.
    pub const GRID: [u32; 3] = [0x7FFF_FFFF, 65_535, 65_535];
    /// Most threads along x, y, z.
    pub const BLOCK: [u32; 3] = [1024, 1024, 64];
}

/// The board of a name, or every valid name.
pub fn find(name: &str) -> Result<&'static Board, Vec<&'static str>> {
    BOARDS.iter().find(|b| b.name == name).ok_or_else(|| BOARDS.iter().map(|b| b.name).collect())
}

/// Blocks that fit one multiprocessor at a time. 0 if not even one does.
pub fn blocks_per_sm(threads: u32, registers_per_thread: u32, shared: usize) -> u32 {
    let warps = threads.div_ceil(32).max(1);
    let per_warp = (registers_per_thread.max(1) * 32).div_ceil(limits::REGISTER_UNIT) * limits::REGISTER_UNIT;
    // Registers are handed out to four warp schedulers; a block's warps spread over them.
    let warps_by_registers = limits::REGISTERS / 4 / per_warp * 4;
    let by_registers = warps_by_registers / warps;
    let by_shared = limits::SHARED_PER_SM / (shared + limits::SHARED_RESERVED).max(1);
    let by_threads = limits::THREADS_PER_SM / (warps * 32);
    limits::BLOCKS_PER_SM.min(by_registers).min(by_threads).min(by_shared as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occupancy_follows_the_tightest_limit() {
        // 255 registers, 256 threads: 8 warps of 8192 registers fill the file once.
        assert_eq!(blocks_per_sm(256, 255, 0), 1);
        assert_eq!(blocks_per_sm(256, 128, 0), 2);
        assert_eq!(blocks_per_sm(32, 16, 0), 16);
        assert_eq!(blocks_per_sm(1024, 32, 0), 1);
        assert_eq!(blocks_per_sm(1024, 80, 0), 0);
        assert_eq!(blocks_per_sm(128, 32, 100 * 1024), 1);
        assert_eq!(blocks_per_sm(128, 32, 164 * 1024), 0);
    }

    #[test]
    fn every_board_has_its_module_s_facts() {
        for board in BOARDS {
            let facts = pilotlight_boards::named(board.module).unwrap_or_else(|| panic!("{}", board.module));
            let machine = board.machine();
            assert_eq!(machine.sms, board.sms);
            assert!(board.sms <= facts.gpu.sms || board.name == "one-sm");
            let top = |clocks: &[f64]| clocks.last().map_or(0, |mhz| (mhz * 1e3).round() as u64);
            assert!(board.clock_khz <= top(&facts.gpu.clocks_mhz) + 1000, "{}", board.name);
            assert!(board.emc_khz <= top(&facts.memory.emc_mhz), "{}", board.name);
        }
    }

    #[test]
    fn an_unknown_board_is_answered_with_all_names() {
        assert_eq!(find("orin-nano-super").map(|b| b.sms), Ok(8));
        assert_eq!(find("orin").unwrap_err().len(), BOARDS.len());
    }

    #[test]
    fn the_boards_crate_knows_the_same_names() {
        let mut names: Vec<&str> = pilotlight_boards::virtual_tree::virtual_names().collect();
        let mut own: Vec<&str> = BOARDS.iter().map(|b| b.name).collect();
        names.sort_unstable();
        own.sort_unstable();
        assert_eq!(names, own);
    }
}
