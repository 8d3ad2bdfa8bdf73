//! AVX2 and AVX-VNNI: dot products in 256-bit registers; the rest is the plain code compiled for AVX2.

use super::{
    BLOCK, Combine, Depthwise, DepthwiseKernels, Gemm, Grid, Interleave, Kernels, PANEL, Packing, Quantise,
    Requant, Source, Target, TileState, portable,
};
use std::arch::x86_64::*;

pub(super) fn kernels(vnni: bool) -> Kernels {
    let avx2 = Kernels {
        packing: Packing::Pairs,
        unsigned_only: false,
        unsigned_shift: 0,
        run_units: 1,
        rows: 16,
        flat: false,
        gemm: gemm::<false>,
        gemm_signed: gemm::<true>,
        requant,
        combine,
        table: portable::table,
        max,
        accumulate,
        quantise,
        depthwise: None,
    };
    if vnni {
        let gemm = gemm_vnni;
        let channel = |place| place;
        let depthwise = DepthwiseKernels { interleave, convolve, channel, interleaved: false, signed: false };
        return Kernels {
            packing: Packing::Quads,
            unsigned_only: true,
            gemm,
            gemm_signed: gemm,
            depthwise: Some(depthwise),
            ..avx2
        };
    }
    avx2
}

/// Calls `tile::<rows>` for every panel and every few rows.
macro_rules! over_tiles {
    ($g:ident, $tile:ident $(, $signed:ident)?) => {
        for panel in 0..$g.panels {
            let mut row = 0;
            while row < $g.rows {
                // SAFETY: the caller's promise; rows and panels are inside `g`.
                unsafe {
                    match $g.rows - row {
                        1 => $tile::<1 $(, $signed)?>($g, row, panel),
                        2 => $tile::<2 $(, $signed)?>($g, row, panel),
                        3 => $tile::<3 $(, $signed)?>($g, row, panel),
                        _ => $tile::<4 $(, $signed)?>($g, row, panel),
                    }
                }
                row += 4;
            }
        }
    };
}

/// # Safety
/// As [`Kernels`].
unsafe fn gemm<const SIGNED: bool>(g: &Gemm<'_>, _: &mut TileState) {
    over_tiles!(g, tile, SIGNED);
}

/// # Safety
/// As [`gemm`]; rows `row..row + R` and the panel exist.
// A function of its own, so that the accumulators stay in registers.
#[inline(never)]
#[target_feature(enable = "avx2")]
unsafe fn tile<const R: usize, const SIGNED: bool>(g: &Gemm<'_>, row: usize, panel: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let start = g.start.add(panel * PANEL).cast::<__m256i>();
        let mut acc = [[_mm256_loadu_si256(start), _mm256_loadu_si256(start.add(1))]; R];
        let mut weights = g.weights.add(panel * g.panel_bytes).cast::<__m256i>();
        for run in g.runs {
            let mut input = g.input.add(row * g.input_stride + run.offset as usize);
            for _ in 0..run.units {
                let w = [0, 1, 2, 3].map(|i| _mm256_loadu_si256(weights.add(i)));
                for (r, sums) in acc.iter_mut().enumerate() {
                    let four = _mm_set1_epi32(input.add(r * g.input_stride).cast::<i32>().read_unaligned());
                    // The plain 8-bit multiply-and-add saturates; in 16 bits every sum is exact.
                    let four = if SIGNED { _mm256_cvtepi8_epi16(four) } else { _mm256_cvtepu8_epi16(four) };
                    let (low, high) = (
                        _mm256_shuffle_epi32::<0b0000_0000>(four),
                        _mm256_shuffle_epi32::<0b0101_0101>(four),
                    );
                    for (half, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(low, w[half]));
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(high, w[2 + half]));
                    }
                }
                weights = weights.add(4);
                input = input.add(4);
            }
        }
        store(g, row, panel, &acc);
    }
}

/// # Safety
/// As [`Kernels`]: AVX-VNNI.
unsafe fn gemm_vnni(g: &Gemm<'_>, _: &mut TileState) {
    over_tiles!(g, tile_vnni);
}

/// # Safety
/// As [`gemm_vnni`]; rows `row..row + R` and the panel exist.
#[inline(never)]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn tile_vnni<const R: usize>(g: &Gemm<'_>, row: usize, panel: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let start = g.start.add(panel * PANEL).cast::<__m256i>();
        let mut acc = [[_mm256_loadu_si256(start), _mm256_loadu_si256(start.add(1))]; R];
        let mut weights = g.weights.add(panel * g.panel_bytes).cast::<__m256i>();
        for run in g.runs {
            let mut input = g.input.add(row * g.input_stride + run.offset as usize);
            for _ in 0..run.units {
                let w = [_mm256_loadu_si256(weights), _mm256_loadu_si256(weights.add(1))];
                for (r, sums) in acc.iter_mut().enumerate() {
                    let x = _mm256_set1_epi32(input.add(r * g.input_stride).cast::<i32>().read_unaligned());
                    sums[0] = _mm256_dpbusd_avx_epi32(sums[0], x, w[0]);
                    sums[1] = _mm256_dpbusd_avx_epi32(sums[1], x, w[1]);
                }
                weights = weights.add(2);
                input = input.add(4);
            }
        }
        store(g, row, panel, &acc);
    }
}

/// # Safety
/// As [`tile`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(g: &Gemm<'_>, row: usize, panel: usize, acc: &[[__m256i; 2]]) {
    for (r, sums) in acc.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let out = g.acc.add((row + r) * BLOCK + panel * PANEL).cast::<__m256i>();
            _mm256_storeu_si256(out, sums[0]);
            _mm256_storeu_si256(out.add(1), sums[1]);
        }
    }
}

/// # Safety
/// As [`Kernels`]; `grid.cols` is 1 to 64.
#[target_feature(enable = "avx2")]
unsafe fn requant(acc: *const i32, scale: *const f32, q: &Requant, grid: Grid, to: Target) {
    // SAFETY: the caller's promise, passed on.
    unsafe { portable::requant_body(acc, scale, q, grid, to) }
}

/// # Safety
/// As [`Kernels`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn combine(c: &Combine, grid: Grid, a: Source, b: Source, to: Target) {
    // SAFETY: the caller's promise, passed on.
    unsafe { portable::combine_body(c, grid, a, b, to) }
}

/// # Safety
/// As [`Kernels`].
#[target_feature(enable = "avx2")]
unsafe fn max(flip: u8, grid: Grid, from: Source, to: Target) {
    // SAFETY: the caller's promise, passed on.
    unsafe { portable::max_body(flip, grid, from, to) }
}

/// # Safety
/// As [`Kernels`].
#[target_feature(enable = "avx2")]
pub(super) unsafe fn accumulate(x: *const u8, signed: bool, zero: i32, w: &[i16], acc: &mut [i32; BLOCK]) {
    // SAFETY: the caller's promise, passed on.
    unsafe { portable::accumulate_body(x, signed, zero, w, acc) }
}

/// # Safety
/// As [`Kernels`].
#[target_feature(enable = "avx2")]
pub(super) unsafe fn quantise(q: &Quantise, count: usize, x: *const u8, from: usize, y: *mut u8, to: usize) {
    // SAFETY: the caller's promise, passed on.
    unsafe { portable::quantise_body(q, count, x, from, y, to) }
}

/// # Safety
/// As [`portable::interleave_body`].
#[target_feature(enable = "avx2")]
unsafe fn interleave(i: &Interleave<'_>) {
    // SAFETY: the caller's promise, passed on.
    unsafe { portable::interleave_body(i) }
}

/// # Safety
/// As [`Kernels`]: AVX-VNNI; columns and sums as [`Depthwise`] says.
unsafe fn convolve(d: &Depthwise) {
    let mut first = 0;
    while first < d.count {
        // SAFETY: the caller's promise; the outputs are below `d.count`.
        unsafe {
            if d.count - first >= 4 {
                outputs::<4>(d, first);
                first += 4;
            } else {
                outputs::<1>(d, first);
                first += 1;
            }
        }
    }
}

/// # Safety
/// As [`convolve`]; outputs `first..first + N` exist.
#[inline(never)]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn outputs<const N: usize>(d: &Depthwise, first: usize) {
    // Eight channels at a time.
    for v in 0..BLOCK / 8 {
        // SAFETY: the caller's promise.
        unsafe {
            let mut acc = [_mm256_loadu_si256(d.start.add(v * 8).cast()); N];
            for g in 0..d.groups {
                for t in 0..d.taps {
                    let w = _mm256_loadu_si256(d.weights.add((g * d.taps + t) * 256 + v * 32).cast());
                    for (i, sum) in acc.iter_mut().enumerate() {
                        let column = (first + i) * d.stride + t * d.dilation;
                        let x =
                            _mm256_loadu_si256(d.input.add((column * d.groups + g) * 256 + v * 32).cast());
                        *sum = _mm256_dpbusd_avx_epi32(*sum, x, w);
                    }
                }
            }
            for (i, sum) in acc.into_iter().enumerate() {
                _mm256_storeu_si256(d.acc.add((first + i) * BLOCK + v * 8).cast(), sum);
            }
        }
    }
}
