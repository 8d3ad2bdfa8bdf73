//! AVX-512 VNNI: depthwise convolution of 64 channels. Four input rows are interleaved byte by byte, so that one
//! dot-product instruction sums four kernel rows of 16 channels; one interleaving serves several output rows.

use super::{BLOCK, DEPTHWISE_STEP, Depthwise, Interleave};
use std::arch::x86_64::*;

/// What two rounds of byte and word unpacking make of the order of channels; packing undoes it.
pub(super) fn channel(place: usize) -> usize {
    let (vector, lane) = (place / 16, place % 16);
    16 * (lane / 4) + 4 * vector + lane % 4
}

/// # Safety
/// As [`super::Kernels`]; `i.rows` holds four rows for each group, `i.out` 256 bytes for each group and column.
pub(super) unsafe fn interleave(i: &Interleave<'_>) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match (i.channels >= 64, i.flip) {
            (true, 0) => columns::<true, false>(i),
            (false, 0) => columns::<false, false>(i),
            _ => columns::<false, true>(i),
        }
    }
}

/// # Safety
/// As [`interleave`]; 64 channels where `ALL`, a flip of 0 unless `FLIP`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn columns<const ALL: bool, const FLIP: bool>(i: &Interleave<'_>) {
    let groups = i.rows.len() / 4;
    let mask = if i.channels >= 64 { !0 } else { (1_u64 << i.channels) - 1 };
    let flip = _mm512_set1_epi8(i.flip as i8);
    for (g, rows) in i.rows.chunks_exact(4).enumerate() {
        for x in 0..i.columns {
            // SAFETY: each row has `columns` columns of `channels` readable bytes; `out` is large enough.
            unsafe {
                let load = |r: usize| {
                    let at = rows[r].add(x * i.stride);
                    let v = if ALL {
                        _mm512_loadu_si512(at.cast())
                    } else {
                        _mm512_maskz_loadu_epi8(mask, at.cast())
                    };
                    if FLIP { _mm512_xor_si512(v, flip) } else { v }
                };
                let (a, b, c, d) = (load(0), load(1), load(2), load(3));
                let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
                let (ab_high, cd_high) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
                let out = i.out.add((x * groups + g) * 256).cast::<__m512i>();
                _mm512_storeu_si512(out, _mm512_unpacklo_epi16(ab, cd));
                _mm512_storeu_si512(out.add(1), _mm512_unpackhi_epi16(ab, cd));
                _mm512_storeu_si512(out.add(2), _mm512_unpacklo_epi16(ab_high, cd_high));
                _mm512_storeu_si512(out.add(3), _mm512_unpackhi_epi16(ab_high, cd_high));
            }
        }
    }
}

/// # Safety
/// As [`super::Kernels`]; input columns and accumulators exist for `d.count` outputs rounded up to a multiple of
/// [`DEPTHWISE_STEP`].
pub(super) unsafe fn convolve(d: &Depthwise) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match (d.taps, d.stride, d.dilation) {
            (3, 1, 1) => tiles::<3, 1>(d),
            (3, 2, 1) => tiles::<3, 2>(d),
            (5, 1, 1) => tiles::<5, 1>(d),
            (5, 2, 1) => tiles::<5, 2>(d),
            _ => any(d),
        }
    }
}

/// # Safety
/// As [`convolve`], with `T` taps, stride `S` and dilation 1.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn tiles<const T: usize, const S: usize>(d: &Depthwise) {
    let mut first = 0;
    while first < d.count {
        for v in 0..4 {
            // SAFETY: the caller's promise covers columns `first * S` up to the last tap of the last output.
            unsafe {
                let mut acc = [_mm512_loadu_si512(d.start.add(v * 16).cast()); DEPTHWISE_STEP];
                for g in 0..d.groups {
                    let input = d.input.add((first * S * d.groups + g) * 256 + v * 64);
                    let weights = d.weights.add(g * T * 256 + v * 64);
                    for t in 0..T {
                        let w = _mm512_loadu_si512(weights.add(t * 256).cast());
                        for (i, sum) in acc.iter_mut().enumerate() {
                            let x = _mm512_loadu_si512(input.add((i * S + t) * d.groups * 256).cast());
                            *sum = _mm512_dpbusd_epi32(*sum, x, w);
                        }
                    }
                }
                for (i, sum) in acc.into_iter().enumerate() {
                    _mm512_storeu_si512(d.acc.add((first + i) * BLOCK + v * 16).cast(), sum);
                }
            }
        }
        first += DEPTHWISE_STEP;
    }
}

/// # Safety
/// As [`convolve`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn any(d: &Depthwise) {
    for i in 0..d.count {
        for v in 0..4 {
            // SAFETY: the caller's promise.
            unsafe {
                let mut sum = _mm512_loadu_si512(d.start.add(v * 16).cast());
                for g in 0..d.groups {
                    for t in 0..d.taps {
                        let column = i * d.stride + t * d.dilation;
                        let x =
                            _mm512_loadu_si512(d.input.add((column * d.groups + g) * 256 + v * 64).cast());
                        let w = _mm512_loadu_si512(d.weights.add((g * d.taps + t) * 256 + v * 64).cast());
                        sum = _mm512_dpbusd_epi32(sum, x, w);
                    }
                }
                _mm512_storeu_si512(d.acc.add(i * BLOCK + v * 16).cast(), sum);
            }
        }
    }
}
