//! Inner loops: one table of functions for each instruction set.
//!
//! A kernel works on raw pointers whose bounds the lowering has proven; it knows nothing of plans. All of them
//! give the same bits: integer sums are exact modulo 2^32, float operations happen one by one in the rule's order.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_depthwise;
#[cfg(target_arch = "x86_64")]
mod avx512_rows;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(super) use amx::permitted as amx_permitted;

use super::isa::Isa;
use pilotlight_plan::{BinaryKind, Quant};

/// Output channels of one panel of packed weights.
pub(super) const PANEL: usize = 16;
/// Panels of one block: the most that a kernel call computes.
pub(super) const BLOCK_PANELS: usize = 4;
/// Output channels of one block, and the distance between rows of accumulators.
pub(super) const BLOCK: usize = PANEL * BLOCK_PANELS;
/// Rows of accumulators that one call may ask for.
pub(super) const ROWS: usize = 64;

/// A stretch of the sum that lies contiguously behind each row's base.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Bytes from the row's base to the first byte.
    pub offset: u32,
    /// Its length in units of four bytes; a multiple of [`Kernels::run_units`].
    pub units: u32,
}

/// A block of dot products: `acc[i][c] = start[c] + sum over runs of x[i][k] * w[c][k]`, modulo 2^32.
pub(super) struct Gemm<'a> {
    /// First input byte of row 0.
    pub input: *const u8,
    /// Bytes between the rows' bases.
    pub input_stride: usize,
    /// Rows, 1 to [`ROWS`].
    pub rows: usize,
    /// The stretches of the sum, the same for each row.
    pub runs: &'a [Run],
    /// Packed weights of the first panel (see [`Packing`]), at a 64-byte boundary.
    pub weights: *const u8,
    /// Bytes between panels.
    pub panel_bytes: usize,
    /// Panels, 1 to [`BLOCK_PANELS`].
    pub panels: usize,
    /// Where each channel's sum starts, [`PANEL`] for each panel, at a 64-byte boundary.
    pub start: *const i32,
    /// Results at a 64-byte boundary, row after row [`BLOCK`] apart.
    pub acc: *mut i32,
}

/// How weights lie in a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// i8 `[k / 4][16 channels][4]`.
    Quads,
    /// i16 `[k / 2][16 channels][2]`.
    Pairs,
}

impl Packing {
    /// Bytes of one panel for four values of k.
    pub(super) const fn unit_bytes(self) -> usize {
        match self {
            Self::Quads => 64,
            Self::Pairs => 128,
        }
    }
}

/// From accumulators to 8 bits: `sat(rint(f32(acc) * scale[c]) + zero)` clamped to `lo..=hi`.
pub(super) struct Requant {
    /// `hi - zero`, in float.
    pub max: f32,
    /// Zero point, plus 128 for i8.
    pub zero: i16,
    /// Smallest and largest result, plus 128 for i8.
    pub lo: u8,
    /// See `lo`.
    pub hi: u8,
    /// What the result is XORed with at the end: 0 for u8, 0x80 for i8.
    pub flip: u8,
    /// Whether the bounds are the type's own, and no scaled sum can leave i32: saturation does the rest.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only AVX-512 makes use of it"))]
    pub full: bool,
    /// Whether accumulators lie in the order of AVX-512's depthwise kernel instead of the channels'; other sets have
    /// no such order.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only AVX-512 makes use of it"))]
    pub interleaved: bool,
}

/// A grid of bytes: `rows` rows of `cols` contiguous bytes.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    /// Number of rows.
    pub rows: usize,
    /// Bytes of a row.
    pub cols: usize,
}

/// One operand of a grid: its first byte and the bytes between rows.
#[derive(Clone, Copy)]
pub(super) struct Source {
    /// First byte.
    pub at: *const u8,
    /// Bytes between rows.
    pub stride: usize,
}

/// The result of a grid: its first byte and the bytes between rows.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// First byte.
    pub at: *mut u8,
    /// Bytes between rows.
    pub stride: usize,
}

/// How two bytes combine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Combine {
    /// Whether `a`, `b` and the result are i8.
    pub signed: [bool; 3],
    /// The arithmetic.
    pub rule: CombineRule,
}

/// The arithmetic of [`Combine`]; figures as in `pilotlight_plan::BinaryRule`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum CombineRule {
    /// `sat(rint(fma(f32(a), ra, fma(f32(b), rb, fix))))`
    Add { ra: f32, rb: f32, fix: f32 },
    /// `sat(rint(f32((a - a_zero) * (b - b_zero)) * r + y_zero))`
    Mul { a_zero: i32, b_zero: i32, r: f32, y_zero: f32 },
    /// Dequantise both, combine in float, quantise by division.
    Real { kind: BinaryKind, a: Quant, b: Quant, output: Quant },
}

/// `sat(rint(x / scale) + zero)`
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quantise {
    /// What is divided by.
    pub scale: f32,
    /// Zero point.
    pub zero: i32,
    /// The type's smallest value less the zero point.
    pub lo: f32,
    /// The type's largest value less the zero point.
    pub hi: f32,
}

/// A depthwise convolution of 64 channels over part of an output row.
///
/// The input has been interleaved: for each column, for each group of four input rows, 256 bytes: at `4 * place` the
/// four rows' bytes of channel [`DepthwiseKernels::channel`] of that place. Accumulators, weights, starts and scales
/// lie in the same order.
pub(super) struct Depthwise {
    /// The interleaved column of the first output's first tap.
    pub input: *const u8,
    /// Groups of four rows.
    pub groups: usize,
    /// Kernel columns.
    pub taps: usize,
    /// Columns between taps.
    pub dilation: usize,
    /// Columns between outputs.
    pub stride: usize,
    /// Outputs, at most [`ROWS`]; kernels may compute and store up to [`DEPTHWISE_STEP`] - 1 more.
    pub count: usize,
    /// i8 `[groups][taps][64 places][4 rows]`.
    pub weights: *const u8,
    /// 64 starts.
    pub start: *const i32,
    /// Results, [`BLOCK`] apart.
    pub acc: *mut i32,
}

/// Outputs that the depthwise kernel computes at once.
pub(super) const DEPTHWISE_STEP: usize = 7;

/// Source rows, columns and target of the depthwise kernel's interleaving.
pub(super) struct Interleave<'a> {
    /// First byte of each input row: four for each group.
    pub rows: &'a [*const u8],
    /// Bytes between columns.
    pub stride: usize,
    /// Columns.
    pub columns: usize,
    /// Bytes that may be read of each column, 1 to 64.
    pub channels: usize,
    /// What each byte is XORed with: 0, or 0x80 where the kernel takes the other 8-bit type.
    pub flip: u8,
    /// Interleaved columns.
    pub out: *mut u8,
}

/// The kernels of one instruction set.
///
/// # Safety
/// Every function is called only on a machine that has the set, with pointers valid for what its arguments
/// describe (reads may go up to 63 bytes past the end of a row; those bytes are inside the same allocation).
pub(super) struct Kernels {
    /// How [`Kernels::gemm`] wants its weights.
    pub packing: Packing,
    /// Whether [`Kernels::gemm`] takes u8 only: i8 inputs are then copied with the sign bit flipped.
    pub unsigned_only: bool,
    /// What [`Kernels::gemm`] adds to each u8 input before it multiplies: the starts take it back.
    pub unsigned_shift: i32,
    /// Granularity of a run's length in units of four bytes.
    pub run_units: usize,
    /// Rows that one call computes best.
    pub rows: usize,
    /// Whether rows may follow each other through the gaps between image rows: cheaper where tiles are tall.
    pub flat: bool,
    /// [`Gemm`] of u8 inputs.
    pub gemm: unsafe fn(&Gemm<'_>, &mut TileState),
    /// [`Gemm`] of i8 inputs; never called where `unsigned_only`.
    pub gemm_signed: unsafe fn(&Gemm<'_>, &mut TileState),
    /// Accumulators ([`BLOCK`] apart, readable for rows up to a multiple of 4), scales, rule, columns and rows (at most
    /// 64 columns), target.
    pub requant: unsafe fn(*const i32, *const f32, &Requant, Grid, Target),
    /// Two operands combined; `Grid::cols` has no limit.
    pub combine: unsafe fn(&Combine, Grid, Source, Source, Target),
    /// A 256-byte table applied to each byte.
    pub table: unsafe fn(&[u8; 256], Grid, Source, Target),
    /// The larger of target and source, of u8 bytes after XOR with the flip.
    pub max: unsafe fn(u8, Grid, Source, Target),
    /// This many floats the first distance in bytes apart, to bytes the second distance apart.
    pub quantise: unsafe fn(&Quantise, usize, *const u8, usize, *mut u8, usize),
    /// One tap of a depthwise convolution: `acc[c] += (x[c] - zero) * w[c]`; `x` is i8 where the flag says so.
    pub accumulate: unsafe fn(*const u8, bool, i32, &[i16], &mut [i32; BLOCK]),
    /// Depthwise kernels; `None` where a plain loop serves as well.
    pub depthwise: Option<DepthwiseKernels>,
}

/// Kernels that only some sets have.
#[derive(Clone, Copy)]
pub(super) struct DepthwiseKernels {
    /// See [`Interleave`].
    pub interleave: unsafe fn(&Interleave<'_>),
    /// See [`Depthwise`].
    pub convolve: unsafe fn(&Depthwise),
    /// The channel, below [`BLOCK`], of a place in the order that both work in.
    pub channel: fn(usize) -> usize,
    /// Whether that order is the one that [`Requant::interleaved`] stands for; if not, it is the channels' own.
    pub interleaved: bool,
    /// Whether inputs are taken as i8 after the flip, else as u8.
    pub signed: bool,
}

/// How many rows a thread's tile unit is configured for; 0 when it is released.
#[derive(Default)]
pub(super) struct TileState {
    #[cfg(target_arch = "x86_64")]
    rows: u8,
}

impl TileState {
    /// Gives the tile unit back, so that the system need not save it.
    pub(super) fn release(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.rows != 0 {
            self.rows = 0;
            // SAFETY: the rows are set only by the AMX kernel, so the machine has the tile unit.
            unsafe { amx::release() };
        }
    }
}

/// The kernels of a set that this machine has.
pub(super) fn kernels(isa: Isa) -> Kernels {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::kernels(false),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => avx2::kernels(true),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => avx512::kernels(),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => amx::kernels(),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => neon::kernels(),
        _ => portable::kernels(),
    }
}
