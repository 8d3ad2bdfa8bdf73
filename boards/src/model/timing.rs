//! Time: what each resource needs on the busiest SM, how they overlap, and what a wave of blocks waits for.

use super::{Machine, Work};

/// What limits a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The tensor cores.
    Tensor,
    /// Instruction issue, arithmetic or conversion units.
    Issue,
    /// Shared memory's banks.
    Shared,
    /// Bytes between SMs and L2.
    L2,
    /// Bytes between L2 and DRAM.
    Dram,
    /// One warp's chain of instructions, or the waits at the start and end of blocks.
    Latency,
    /// The gap between kernels.
    Launch,
}

impl Bound {
    /// Lower-case name for tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Tensor => "tensor",
            Bound::Issue => "issue",
            Bound::Shared => "shared",
            Bound::L2 => "l2",
            Bound::Dram => "dram",
            Bound::Latency => "latency",
            Bound::Launch => "launch",
        }
    }
}

/// Modelled nanoseconds that each resource alone would need.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parts {
    /// Tensor cores of the busiest SM.
    pub tensor: f64,
    /// Issue slots, integer or conversion units of the busiest SM, whichever is longest.
    pub issue: f64,
    /// Shared memory of the busiest SM.
    pub shared: f64,
    /// L2.
    pub l2: f64,
    /// DRAM.
    pub dram: f64,
    /// One warp's instructions, wave after wave.
    pub chain: f64,
    /// Start and end of the waves of blocks; comes on top.
    pub fill: f64,
    /// Gap before the kernel; comes on top.
    pub launch: f64,
}

/// What the model says of a piece of work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Modelled {
    /// Modelled nanoseconds.
    pub ns: f64,
    /// Modelled joules of the module in that time, its idle power included.
    pub joules: f64,
    /// What limits it.
    pub bound: Bound,
    /// Time by resource.
    pub parts: Parts,
}

impl Machine {
    /// Bytes per second that streaming moves between DRAM and the GPU.
    pub fn dram_bytes_per_second(&self) -> f64 {
        let memory = self.streaming_share * self.dram_bytes_per_emc * self.clocks.emc;
        memory.min(self.dram_bytes_per_gpu_clock * self.clocks.gpu)
    }

    /// A kernel that starts when the one before it has ended.
    pub fn kernel(&self, work: &Work) -> Modelled {
        let blocks = work.blocks.max(1);
        let sms = u64::from(self.sms.max(1));
        // Blocks are taken as equal: the busiest SM gets the most of them.
        let share = blocks.div_ceil(sms) as f64 / blocks as f64;
        let waves = blocks.div_ceil(sms * work.blocks_per_sm.max(1));
        let mut parts = self.parts(work, share, waves as f64, 1.0);
        parts.launch = self.constants.kernel_ns;
        // Only where several blocks share an SM does one fill while another works.
        let bare = if work.blocks_per_sm > 1 { 1 } else { waves };
        parts.fill = bare as f64 * self.fill_ns();
        self.modelled(work, parts)
    }

    /// Blocks that one SM does one after the other inside a resident kernel: no launch, and its fair share of L2's
    /// and DRAM's bandwidth. Waits for other blocks are the caller's to add.
    ///
    /// The first block fills its pipeline and the last one's results go out; those between only fill, an L2 round
    /// trip each. First data come from DRAM as often as the block's bytes do.
    pub fn block(&self, work: &Work) -> Modelled {
        let blocks = work.blocks.max(1) as f64;
        let parts = self.parts(work, 1.0, blocks, 1.0 / f64::from(self.sms.max(1)));
        let from_dram = work.dram_read as f64 / work.l2_bytes.max(work.dram_read).max(1) as f64;
        let fill = blocks * from_dram * self.constants.block_ns
            + (blocks + 1.0) / 2.0 * self.constants.block_clocks * 1e9 / self.clocks.gpu;
        self.modelled(work, Parts { fill, ..parts })
    }

    fn fill_ns(&self) -> f64 {
        self.constants.block_ns + self.constants.block_clocks * 1e9 / self.clocks.gpu
    }

    /// `share` of the work is on the busiest SM; `reach` of the device's bandwidth is there for it.
    fn parts(&self, work: &Work, share: f64, waves: f64, reach: f64) -> Parts {
        let c = &self.constants;
        let clock_ns = 1e9 / self.clocks.gpu;
        let on_sm = |count: u64, rate: f64| count as f64 * share / rate * clock_ns;
        let warps = (work.blocks.max(1) * work.warps_per_block.max(1)) as f64;
        let l2_rate = c.l2_bytes * f64::from(self.sms.max(1)) * reach;
        let dram_rate = self.dram_bytes_per_second() * reach;
        Parts {
            tensor: on_sm(work.mma_macs, c.tensor_macs),
            issue: on_sm(work.instructions, c.issue)
                .max(on_sm(work.int, c.int_issue))
                .max(on_sm(work.convert, c.convert_issue)),
            shared: on_sm(work.shared_passes, c.shared_passes),
            l2: (work.l2_bytes as f64 / l2_rate * clock_ns).max(on_sm(work.l2_bytes, c.l2_bytes)),
            dram: (work.dram_read + work.dram_written) as f64 / dram_rate * 1e9,
            chain: work.instructions as f64 / warps * waves * c.warp_clocks * clock_ns,
            fill: 0.0,
            launch: 0.0,
        }
    }

    fn modelled(&self, work: &Work, parts: Parts) -> Modelled {
        let resources = [
            (parts.tensor, Bound::Tensor),
            (parts.issue, Bound::Issue),
            (parts.shared, Bound::Shared),
            (parts.l2, Bound::L2),
            (parts.dram, Bound::Dram),
            (parts.chain, Bound::Latency),
        ];
        let most = |a: (f64, Bound), b: (f64, Bound)| if b.0 > a.0 { b } else { a };
        let longest = resources.into_iter().fold((0.0, Bound::Latency), most);
        // Relative to the longest, so that no power overflows.
        let p = self.constants.overlap;
        let sum: f64 = resources.iter().map(|(ns, _)| (ns / longest.0.max(1e-9)).powf(p)).sum();
        let ns = longest.0 * sum.powf(1.0 / p) + parts.fill + parts.launch;
        let bound =
            [(parts.fill, Bound::Latency), (parts.launch, Bound::Launch)].into_iter().fold(longest, most);
        Modelled { ns, joules: self.joules(work, ns), bound: bound.1, parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Clocks;

    fn machine() -> Machine {
        let board = crate::named("orin-nano-8gb-super").unwrap();
        Machine::of(&board, Clocks::highest(&board))
    }

    #[test]
    fn the_longest_resource_bounds_and_the_tail_counts() {
        let work = Work {
            mma_macs: 8 * 2048 * 100_000,
            blocks: 8,
            blocks_per_sm: 1,
            warps_per_block: 8,
            ..Work::default()
        };
        let full = machine().kernel(&work);
        assert_eq!(full.bound, Bound::Tensor);
        // 100,000 clocks of 1,020 MHz.
        assert!((full.parts.tensor - 98_039.0).abs() < 1.0, "{:?}", full.parts);
        // Nine equal blocks leave seven SMs idle in the second wave.
        let tail = machine().kernel(&Work { blocks: 9, ..work });
        assert!((tail.parts.tensor / full.parts.tensor - 16.0 / 9.0).abs() < 1e-9);
        let nothing = machine().kernel(&Work::default());
        assert_eq!(nothing.bound, Bound::Launch);
        assert!(nothing.ns > machine().constants.kernel_ns);
    }

    #[test]
    fn a_slower_memory_clock_matters_only_above_the_gpu_s_own_limit() {
        let at = |gpu, emc| machine().at(Clocks::mhz(gpu, emc)).dram_bytes_per_second() / 1e9;
        assert_eq!(at(306.0, 3199.0), at(306.0, 2133.0));
        assert!(at(1020.0, 3199.0) > 1.4 * at(1020.0, 2133.0));
    }

    #[test]
    fn one_block_has_an_sm_and_its_share_of_the_memory() {
        let work = Work { dram_read: 1 << 20, mma_macs: 2048 * 1000, blocks: 1, ..Work::default() };
        let (block, kernel) = (machine().block(&work), machine().kernel(&work));
        assert!((block.parts.dram / kernel.parts.dram - 8.0).abs() < 1e-9);
        assert_eq!(block.parts.tensor, kernel.parts.tensor);
        assert_eq!(block.parts.launch, 0.0);
    }
}
