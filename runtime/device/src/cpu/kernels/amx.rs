//! AMX: dot products of 16 x 64 tiles. Written in assembly, since the intrinsics are not stable.
//!
//! Up to 32 rows by 32 channels at a time: four tiles of sums, two of inputs, two of weights.

use super::{BLOCK, Gemm, Kernels, PANEL, Packing, Run, TileState, avx512};
use std::arch::asm;
use std::sync::OnceLock;

pub(super) fn kernels() -> Kernels {
    Kernels {
        packing: Packing::Quads,
        unsigned_only: false,
        run_units: 16,
        rows: 64,
        flat: true,
        gemm: gemm::<false>,
        gemm_signed: gemm::<true>,
        ..avx512::kernels()
    }
}

/// Whether the machine has AMX-INT8 and the system lets this process use the tile registers (asked for once).
pub(in crate::cpu) fn permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| {
        let (max, xsave) = (std::arch::x86_64::__cpuid(0).eax, std::arch::x86_64::__cpuid(1).ecx);
        if max < 0x1e || xsave & (1 << 27) == 0 {
            return false;
        }
        // CPUID 7.0 EDX: bit 24 AMX-TILE, bit 25 AMX-INT8.
        let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
        if features & (0b11 << 24) != 0b11 << 24 {
            return false;
        }
        ask_system()
    })
}

/// Linux: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`, valid for all threads of the process.
#[cfg(target_os = "linux")]
fn ask_system() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: the call takes two integers and touches no memory; `syscall` clobbers rcx and r11 only.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn ask_system() -> bool {
    false
}

/// `ldtilecfg`'s operand: palette 1, rows and bytes per row of each tile.
#[repr(C, align(64))]
struct Config([u8; 64]);

/// Tiles 0 to 3 hold sums, 4 and 5 inputs, all of `rows` rows; 6 and 7 hold weights.
fn config(rows: u8) -> Config {
    let mut c = Config([0; 64]);
    c.0[0] = 1;
    for (tile, rows) in [rows, rows, rows, rows, rows, rows, 16, 16].into_iter().enumerate() {
        c.0[16 + 2 * tile] = 64;
        c.0[48 + tile] = rows;
    }
    c
}

/// # Safety
/// The machine has AMX.
pub(super) unsafe fn release() {
    // SAFETY: the caller's promise; no tile is in use between calls.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// # Safety
/// As [`Kernels`]: AMX-TILE and AMX-INT8, permitted; runs are multiples of 64 bytes.
unsafe fn gemm<const SIGNED: bool>(g: &Gemm<'_>, state: &mut TileState) {
    // Tiles of one height, since each change costs as much as ten products: where the rows do not divide evenly,
    // neighbouring tiles overlap and compute some sums twice.
    let tiles = g.rows.div_ceil(16);
    let height = g.rows.div_ceil(tiles);
    let first_row = |tile: usize| if tiles == 1 { 0 } else { tile * (g.rows - height) / (tiles - 1) };
    if state.rows != height as u8 {
        state.rows = height as u8;
        // SAFETY: a valid configuration of palette 1: 1 to 16 rows.
        unsafe { asm!("ldtilecfg [{c}]", c = in(reg) &config(height as u8), options(nostack, readonly)) };
    }
    for tile in (0..tiles).step_by(2) {
        let rows = [first_row(tile), first_row((tile + 1).min(tiles - 1))];
        for panel in (0..g.panels).step_by(2) {
            // SAFETY: the caller's promise; rows and panels are inside `g`.
            unsafe {
                match (tile + 1 < tiles, panel + 1 < g.panels) {
                    (true, true) => two_by_two::<SIGNED>(g, rows, panel),
                    (true, false) => two_by_one::<SIGNED>(g, rows, panel),
                    (false, true) => one_by_two::<SIGNED>(g, rows, panel),
                    (false, false) => one_by_one::<SIGNED>(g, rows, panel),
                }
            }
        }
    }
}

/// What the assembly reads from memory, for want of registers.
#[repr(C)]
struct Ends {
    /// Behind the last run.
    runs: *const Run,
    /// The sums of the first and of the second tile of rows.
    acc: [*mut i32; 2],
}

/// The kernel of one tile shape: loads of starts, the loop over runs and steps of 64 bytes, stores of sums.
///
/// In the templates `{x}` and `{x2}` are inputs of the first and second tile of rows, at the end their sums; `{s}` is the
/// inputs' stride, `{w}` and
/// `{w2}` weights of the first and second panel; `{line}` is 64, and at the end the stride of accumulators.
macro_rules! tile_kernel {
    ($name:ident: [$($start:literal),*] [$($load:literal),*] [$($mul:literal),*] [$($store:literal),*]) => {
        /// # Safety
        /// As [`gemm`], with tiles configured for its rows.
        unsafe fn $name<const SIGNED: bool>(g: &Gemm<'_>, rows: [usize; 2], panel: usize) {
            let ends = Ends {
                runs: g.runs.as_ptr_range().end,
                acc: rows.map(|r| g.acc.wrapping_add(r * BLOCK + panel * PANEL)),
            };
            macro_rules! body {
                ($dot:literal) => {
                    asm!(
                        // A stride of 0 gives every row the same starts.
                        "xor {x:e}, {x:e}",
                        $($start,)*
                        "2:",
                        "mov {x:e}, dword ptr [{runs}]",
                        "mov {n:e}, dword ptr [{runs} + 4]",
                        "add {x}, {base}",
                        "lea {x2}, [{x} + {second}]",
                        "shr {n:e}, 4",
                        "3:",
                        $($load,)*
                        $(concat!($dot, " ", $mul),)*
                        "add {x}, 64",
                        "add {x2}, 64",
                        "add {w}, 1024",
                        "add {w2}, 1024",
                        "dec {n:e}",
                        "jnz 3b",
                        "add {runs}, 8",
                        "cmp {runs}, [{ends}]",
                        "jne 2b",
                        "mov {line:e}, 256",
                        "mov {x}, [{ends} + 8]",
                        "mov {x2}, [{ends} + 16]",
                        $($store,)*
                        x = out(reg) _,
                        x2 = out(reg) _,
                        n = inout(reg) g.start.add(panel * PANEL) => _,
                        runs = inout(reg) g.runs.as_ptr() => _,
                        ends = in(reg) &ends,
                        base = in(reg) g.input.add(rows[0] * g.input_stride),
                        second = in(reg) (rows[1] - rows[0]) * g.input_stride,
                        w = inout(reg) g.weights.add(panel * g.panel_bytes) => _,
                        w2 = inout(reg) g.weights.wrapping_add((panel + 1) * g.panel_bytes) => _,
                        s = in(reg) g.input_stride,
                        line = inout(reg) 64_usize => _,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    )
                };
            }
            // SAFETY: runs are never empty and each is a whole number of 64-byte steps; inputs, weights, starts and
            // accumulators are valid for the rows and panels of this shape; the caller promises all of it.
            unsafe {
                if SIGNED { body!("tdpbssd") } else { body!("tdpbusd") }
            }
        }
    };
}

tile_kernel!(two_by_two:
    ["tileloadd tmm0, [{n} + {x} * 1]", "tileloadd tmm1, [{n} + {x} * 1 + 64]",
     "tileloadd tmm2, [{n} + {x} * 1]", "tileloadd tmm3, [{n} + {x} * 1 + 64]"]
    ["tileloadd tmm4, [{x} + {s} * 1]", "tileloadd tmm6, [{w} + {line} * 1]",
     "tileloadd tmm7, [{w2} + {line} * 1]", "tileloadd tmm5, [{x2} + {s} * 1]"]
    ["tmm0, tmm4, tmm6", "tmm1, tmm4, tmm7", "tmm2, tmm5, tmm6", "tmm3, tmm5, tmm7"]
    ["tilestored [{x} + {line} * 1], tmm0", "tilestored [{x} + {line} * 1 + 64], tmm1",
     "tilestored [{x2} + {line} * 1], tmm2", "tilestored [{x2} + {line} * 1 + 64], tmm3"]);

tile_kernel!(two_by_one:
    ["tileloadd tmm0, [{n} + {x} * 1]", "tileloadd tmm2, [{n} + {x} * 1]"]
    ["tileloadd tmm4, [{x} + {s} * 1]", "tileloadd tmm6, [{w} + {line} * 1]",
     "tileloadd tmm5, [{x2} + {s} * 1]"]
    ["tmm0, tmm4, tmm6", "tmm2, tmm5, tmm6"]
    ["tilestored [{x} + {line} * 1], tmm0", "tilestored [{x2} + {line} * 1], tmm2"]);

tile_kernel!(one_by_two:
    ["tileloadd tmm0, [{n} + {x} * 1]", "tileloadd tmm1, [{n} + {x} * 1 + 64]"]
    ["tileloadd tmm4, [{x} + {s} * 1]", "tileloadd tmm6, [{w} + {line} * 1]",
     "tileloadd tmm7, [{w2} + {line} * 1]"]
    ["tmm0, tmm4, tmm6", "tmm1, tmm4, tmm7"]
    ["tilestored [{x} + {line} * 1], tmm0", "tilestored [{x} + {line} * 1 + 64], tmm1"]);

tile_kernel!(one_by_one:
    ["tileloadd tmm0, [{n} + {x} * 1]"]
    ["tileloadd tmm4, [{x} + {s} * 1]", "tileloadd tmm6, [{w} + {line} * 1]"]
    ["tmm0, tmm4, tmm6"]
    ["tilestored [{x} + {line} * 1], tmm0"]);
