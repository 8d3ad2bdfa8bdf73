//! AArch64 dot product: `sdot` in inline assembly, since the intrinsics are not stable in every compiler that this
//! crate supports. u8 inputs become i8 by flipping the top bit; the lowering shifts their zero point by 128.

use super::{
    BLOCK, Depthwise, DepthwiseKernels, Gemm, Interleave, Kernels, PANEL, Packing, TileState, portable,
};
use std::arch::aarch64::*;
use std::arch::asm;

pub(super) fn kernels() -> Kernels {
    Kernels {
        packing: Packing::Quads,
        unsigned_shift: -128,
        gemm: gemm::<0x80>,
        gemm_signed: gemm::<0>,
        depthwise: Some(DepthwiseKernels {
            interleave,
            convolve,
            channel: |place| place,
            interleaved: false,
            signed: true,
        }),
        ..portable::kernels()
    }
}

/// # Safety
/// As [`Kernels`]: the dot-product extension.
unsafe fn gemm<const FLIP: u8>(g: &Gemm<'_>, _: &mut TileState) {
    for panel in 0..g.panels {
        let mut row = 0;
        while row < g.rows {
            // SAFETY: the caller's promise; rows and panels are inside `g`.
            unsafe {
                match g.rows - row {
                    1 => tile::<1, FLIP>(g, row, panel),
                    2 => tile::<2, FLIP>(g, row, panel),
                    3 => tile::<3, FLIP>(g, row, panel),
                    _ => tile::<4, FLIP>(g, row, panel),
                }
            }
            row += 4;
        }
    }
}

/// # Safety
/// As [`gemm`]; rows `row..row + R` and the panel exist.
#[inline(never)]
#[target_feature(enable = "neon,dotprod")]
unsafe fn tile<const R: usize, const FLIP: u8>(g: &Gemm<'_>, row: usize, panel: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let start = g.start.add(panel * PANEL);
        let mut acc = [[0, 4, 8, 12].map(|i| vld1q_s32(start.add(i))); R];
        let mut weights = g.weights.add(panel * g.panel_bytes).cast::<i8>();
        let flip = vdupq_n_s8(FLIP as i8);
        for run in g.runs {
            let mut input = g.input.add(row * g.input_stride + run.offset as usize);
            for _ in 0..run.units {
                let w = [0, 16, 32, 48].map(|i| vld1q_s8(weights.add(i)));
                for (r, sums) in acc.iter_mut().enumerate() {
                    let four = input.add(r * g.input_stride).cast::<i32>().read_unaligned();
                    let x = veorq_s8(vreinterpretq_s8_s32(vdupq_n_s32(four)), flip);
                    for (sum, &w) in sums.iter_mut().zip(&w) {
                        *sum = dot(*sum, w, x);
                    }
                }
                weights = weights.add(64);
                input = input.add(4);
            }
        }
        for (r, sums) in acc.into_iter().enumerate() {
            for (i, sum) in sums.into_iter().enumerate() {
                vst1q_s32(g.acc.add((row + r) * BLOCK + panel * PANEL + i * 4), sum);
            }
        }
    }
}

/// `sum[i] += a[4i..4i + 4] . b[4i..4i + 4]`
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes the named registers only; the target feature is enabled.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// # Safety
/// As [`portable::interleave_body`].
unsafe fn interleave(i: &Interleave<'_>) {
    // SAFETY: the caller's promise, passed on.
    unsafe { portable::interleave_body(i) }
}

/// # Safety
/// As [`Kernels`]: the dot-product extension; columns and sums as [`Depthwise`] says.
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
#[target_feature(enable = "neon,dotprod")]
unsafe fn outputs<const N: usize>(d: &Depthwise, first: usize) {
    // Four channels at a time.
    for v in 0..BLOCK / 4 {
        // SAFETY: the caller's promise.
        unsafe {
            let mut acc = [vld1q_s32(d.start.add(v * 4)); N];
            for g in 0..d.groups {
                for t in 0..d.taps {
                    let w = vld1q_s8(d.weights.add((g * d.taps + t) * 256 + v * 16).cast());
                    for (i, sum) in acc.iter_mut().enumerate() {
                        let column = (first + i) * d.stride + t * d.dilation;
                        let x = vld1q_s8(d.input.add((column * d.groups + g) * 256 + v * 16).cast());
                        *sum = dot(*sum, w, x);
                    }
                }
            }
            for (i, sum) in acc.into_iter().enumerate() {
                vst1q_s32(d.acc.add((first + i) * BLOCK + v * 4), sum);
            }
        }
    }
}
