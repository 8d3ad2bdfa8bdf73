//! Every constant of the model, once, with its source. They were fixed before any kernel was tuned on them.

/// How a constant is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Measured on an Orin by the source named.
    Measured,
    /// Published by the maker for this architecture.
    Published,
    /// Fitted on the data named, which are then no evidence for the model.
    Fitted,
    /// Nobody has published it for Orin: a reasoned guess. Tables print their results at half and twice it.
    Assumed,
}

impl Known {
    /// One word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Known::Measured => "measured",
            Known::Published => "published",
            Known::Fitted => "fitted",
            Known::Assumed => "assumed",
        }
    }
}

/// A row of [`CONSTANTS`].
pub struct Constant {
    /// Name, as in [`Constants`].
    pub name: &'static str,
    /// Unit.
    pub unit: &'static str,
    /// How it is known.
    pub known: Known,
    /// Source, or the reason for the guess.
    pub source: &'static str,
    /// Its place in [`Constants`], to change it for a sensitivity table.
    pub of: fn(&mut Constants) -> &mut f64,
}

macro_rules! constants {
    ($($name:ident = $value:expr, $unit:literal, $known:ident, $source:literal;)*) => {
        /// The constants of the model. [`Constants::default`] is the model; others serve sensitivity tables.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct Constants {
            $(#[doc = concat!($unit, "; ", stringify!($known), ". ", $source)] pub $name: f64,)*
        }

        impl Default for Constants {
            fn default() -> Self {
                Constants { $($name: $value,)* }
            }
        }

        /// All constants with their sources.
        pub const CONSTANTS: &[Constant] = &[
            $(Constant {
                name: stringify!($name),
                unit: $unit,
                known: Known::$known,
                source: $source,
                of: |c| &mut c.$name,
            },)*
        ];
    };
}

constants! {
    // Time.
    tensor_macs = 2048.0, "int8 MAC per clock and SM", Published,
        "4096 dense operations: reproduces NVIDIA's dense TOPS of every Orin module";
    issue = 4.0, "warp instructions per clock and SM", Published,
        "four schedulers of one instruction each (CUDA programming guide, compute capability 8.x)";
    int_issue = 2.0, "warp instructions per clock and SM", Published,
        "64 lanes of 32-bit integer arithmetic (throughput table, compute capability 8.6)";
    convert_issue = 0.5, "warp instructions per clock and SM", Published,
        "16 lanes of conversion between float and integer (throughput table, compute capability 8.6)";
    shared_passes = 1.0, "passes of 128 bytes per clock and SM", Published,
        "32 banks of 4 bytes (CUDA programming guide)";
    overlap = 2.6, "exponent p: resources busy for a, b, ... ns take (a^p + b^p + ...)^(1/p) together", Fitted,
        "TensorRT's ResNet-18 at batch 8, one launch a layer; 1 would be no overlap, infinity a perfect one";
    l2_bytes = 47.0, "bytes per clock and SM", Assumed,
        "A100: 5,120 bytes per clock over 108 SMs (its white paper); nothing published for Orin";
    warp_clocks = 2.0, "clocks per instruction of a lone warp", Assumed,
        "arithmetic latency of 4 clocks (published micro-benchmarks of Ampere), two independent instructions";
    block_ns = 400.0, "ns per wave of blocks", Assumed,
        "one LPDDR5 round trip before a block's first data; A100's HBM takes about 300";
    block_clocks = 600.0, "clocks per wave of blocks", Assumed,
        "two L2 round trips of about 250 clocks and a barrier: filling the pipeline, draining the results";
    kernel_ns = 2500.0, "ns from the end of a kernel to the start of the next, queued or in a graph", Assumed,
        "H100: 0.5 to 1.3 us a graph node; the upper value at half its clock";
    wait_clocks = 700.0, "clocks from the end of a resident kernel's piece to what waits for it on another SM", Assumed,
        "the flag's store to L2, half a poll and its way back, an acquire behind it: under three L2 round trips of about 250";
    mailbox_ns = 3000.0, "ns of a resident kernel's inference outside its pieces: the mailbox, there and back", Assumed,
        "five trips of about 500 over memory that the GPU does not cache, and half a sleep of 512 between polls on each side";
    host_launch_ns = 4800.0, "ns of CPU time a launch into a stream", Assumed,
        "H100 with an x86 host: 1.6 us; three times that on a Cortex-A78AE at 1.7 GHz";
    call_ns = 13000.0, "ns of launch and synchronisation a call from the host", Measured,
        "onnxsim, scripts/nvidia, Orin Nano: 0.049 ms on the GPU, 0.062 ms on the wall";
    // Power: the module's input (VDD_IN) on an Orin Nano Super.
    idle_watts = 4.17, "W, idle at EMC 2133 and a GPU clock towards 0", Fitted,
        "idle traces 15W (611 MHz) and MAXN (1017 MHz)";
    idle_watts_per_ghz = 1.35, "W per GHz of GPU clock, idle and not gated", Fitted,
        "idle traces 15W (611 MHz) and MAXN (1017 MHz)";
    emc_low_watts = -0.35, "W at EMC 665 and below, against 2133", Fitted,
        "VDD_IN without the CPU+GPU rail, proxy at 5 Hz, EMC 204, 665 and 2133";
    emc_high_watts = 0.91, "W at EMC 3199, against 2133", Fitted,
        "idle at EMC 3199 and 914 MHz (6.31 W, without its bursts), the clock's share taken off";
    active_watts = 0.60, "W while a kernel is on the GPU at 1,020 MHz, its operations apart; a waiting host included", Fitted,
        "CPU+GPU rail of proxy at 5 Hz over the busy share, EMC 204, 665 and 2133";
    voltage_floor = 0.58, "share of an operation's energy that is left at a clock towards 0", Fitted,
        "CPU+GPU rail of the language model's decode at 611 and 1,007 MHz, EMC 2133";
    dram_pj_per_byte = 94.0, "pJ per byte of DRAM traffic, memory controller included", Fitted,
        "the rest of VDD_IN of proxy at 5 and 25 Hz, EMC 2133";
    mac_pj = 0.15, "pJ per int8 MAC of mma at 1,020 MHz", Assumed,
        "8-bit multiply and 32-bit add at 45 nm 0.33 pJ (Horowitz, ISSCC 2014), scaled to 8 nm, operands as much again";
    lane_pj = 1.5, "pJ per lane of a warp instruction at 1,020 MHz", Assumed,
        "register file and decoding outweigh the arithmetic; the order of published GPU energy models";
    shared_pj_per_byte = 0.5, "pJ per byte of shared memory at 1,020 MHz", Assumed,
        "a 128 KiB SRAM, the order of Horowitz' table scaled to 8 nm";
    l2_pj_per_byte = 49.0, "pJ per byte between SM and L2 at 1,020 MHz, the instructions of a plain stream included", Fitted,
        "CPU+GPU rail of proxy at 5 Hz less active_watts, EMC 204, 665 and 2133";
    cpu_core_watts = 0.9, "W of a CPU core at work", Assumed,
        "the order of what the traces with a stressed CPU add, whose number of cores is not said";
    sleep_share = 0.5, "share of active_watts that remains while every warp sleeps between polls", Assumed,
        "clocks of an occupied SM run on; issue and register file rest";
    poll_clocks = 300.0, "clocks between the polls of a block that spins", Assumed,
        "an L2 round trip and the loop around it";
    poll_instructions = 6.0, "warp instructions a poll", Assumed,
        "load, compare, branch, look at the clock and at the abort word";
    gate_exit_ns = 100000.0, "ns from idle to the first kernel's start", Assumed,
        "no wake-up latency of Orin's GPU is published";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_constant_can_be_changed_and_says_where_it_comes_from() {
        for constant in CONSTANTS {
            let mut changed = Constants::default();
            *(constant.of)(&mut changed) *= 2.0;
            assert_ne!(changed, Constants::default(), "{}", constant.name);
            assert!(constant.source.len() > 20, "{}", constant.name);
        }
    }
}
