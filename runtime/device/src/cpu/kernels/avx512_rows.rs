//! AVX-512: requantisation and operations on rows of bytes.

use super::{BLOCK, Combine, CombineRule, Grid, PANEL, Requant, Source, Target};
use std::arch::x86_64::*;

/// The lowest `n` bits set, `n` at most 64.
fn mask(n: usize) -> u64 {
    if n >= 64 { !0 } else { (1 << n) - 1 }
}

/// # Safety
/// As [`super::Kernels`]; `grid.cols` is 1 to 64.
pub(super) unsafe fn requant(acc: *const i32, scale: *const f32, q: &Requant, grid: Grid, to: Target) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match (grid.cols.div_ceil(PANEL), q.interleaved) {
            (_, true) => requant_panels::<4, true>(acc, scale, q, grid, to),
            (1, _) => requant_panels::<1, false>(acc, scale, q, grid, to),
            (2, _) => requant_panels::<2, false>(acc, scale, q, grid, to),
            (3, _) => requant_panels::<3, false>(acc, scale, q, grid, to),
            _ => requant_panels::<4, false>(acc, scale, q, grid, to),
        }
    }
}

/// # Safety
/// As [`requant`], with `P` panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn requant_panels<const P: usize, const INTERLEAVED: bool>(
    acc: *const i32,
    scale: *const f32,
    q: &Requant,
    grid: Grid,
    to: Target,
) {
    let mask = mask(grid.cols);
    let max = _mm512_set1_ps(q.max);
    let zero = _mm512_set1_epi16(q.zero);
    let (lo, hi) = (_mm512_set1_epi8(q.lo as i8), _mm512_set1_epi8(q.hi as i8));
    let flip = _mm512_set1_epi8(q.flip as i8);
    let order = restore_order();
    let mut scales = [_mm512_setzero_ps(); P];
    for (p, s) in scales.iter_mut().enumerate() {
        // SAFETY: scales are padded to whole panels.
        *s = unsafe { _mm512_loadu_ps(scale.add(p * PANEL)) };
    }
    for r in 0..grid.rows {
        let mut v = [_mm512_setzero_si512(); 4];
        for p in 0..P {
            // SAFETY: accumulators hold `P` panels in each of `grid.rows` rows.
            let sum = unsafe { _mm512_loadu_si512(acc.add(r * BLOCK + p * PANEL).cast()) };
            // The minimum's operand order gives NaN for NaN, which converts to the lowest integer. No maximum is
            // needed: what is too small converts to the lowest integer as well, and saturates below.
            let scaled = _mm512_min_ps(max, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scales[p]));
            v[p] = _mm512_cvtps_epi32(scaled);
        }
        let pack = |a, b| _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero);
        let mut bytes = _mm512_packus_epi16(pack(v[0], v[1]), pack(v[2], v[3]));
        if !INTERLEAVED {
            bytes = _mm512_permutexvar_epi32(order, bytes);
        }
        let bytes = _mm512_xor_si512(_mm512_min_epu8(_mm512_max_epu8(bytes, lo), hi), flip);
        // SAFETY: the target has `grid.cols` bytes in each row.
        unsafe { _mm512_mask_storeu_epi8(to.at.add(r * to.stride).cast(), mask, bytes) };
    }
}

/// The order of 32-bit lanes that undoes two rounds of packing.
#[target_feature(enable = "avx512f")]
fn restore_order() -> __m512i {
    _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
}

/// # Safety
/// As [`super::Kernels`].
pub(super) unsafe fn combine(c: &Combine, grid: Grid, a: Source, b: Source, to: Target) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match c.signed {
            _ if matches!(c.rule, CombineRule::Real { .. }) => super::avx2::combine(c, grid, a, b, to),
            [false, false, false] => combine_typed::<false>(c, grid, a, b, to),
            [true, true, true] => combine_typed::<true>(c, grid, a, b, to),
            _ => super::avx2::combine(c, grid, a, b, to),
        }
    }
}

/// # Safety
/// As [`combine`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn combine_typed<const SIGNED: bool>(c: &Combine, grid: Grid, a: Source, b: Source, to: Target) {
    // SAFETY: rows of all three operands have `grid.cols` bytes; masked lanes are neither read nor written.
    unsafe {
        match c.rule {
            CombineRule::Add { ra, rb, fix } => {
                let (ra, rb, fix) = (_mm512_set1_ps(ra), _mm512_set1_ps(rb), _mm512_set1_ps(fix));
                let add = |x: __m512i, y: __m512i| {
                    let x = _mm512_mul_ps(_mm512_cvtepi32_ps(x), ra);
                    _mm512_add_ps(_mm512_add_ps(fix, x), _mm512_mul_ps(_mm512_cvtepi32_ps(y), rb))
                };
                each::<SIGNED>(grid, a, b, to, add);
            }
            CombineRule::Mul { a_zero, b_zero, r, y_zero } => {
                let (za, zb) = (_mm512_set1_epi32(a_zero), _mm512_set1_epi32(b_zero));
                let (r, zero) = (_mm512_set1_ps(r), _mm512_set1_ps(y_zero));
                let mul = |x: __m512i, y: __m512i| {
                    // Both differences fit 9 bits, so the 16-bit product-and-add is their product.
                    let product =
                        _mm512_madd_epi16(_mm512_sub_epi32(x, za), low_half(_mm512_sub_epi32(y, zb)));
                    _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(product), r), zero)
                };
                each::<SIGNED>(grid, a, b, to, mul);
            }
            CombineRule::Real { .. } => super::avx2::combine(c, grid, a, b, to),
        }
    }
}

/// The upper half of each 32-bit lane cleared.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn low_half(x: __m512i) -> __m512i {
    _mm512_maskz_mov_epi16(0x5555_5555, x)
}

/// Applies `f` to 16 integers of each operand at a time and stores its results, rounded and saturated.
///
/// # Safety
/// As [`combine`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn each<const SIGNED: bool>(
    grid: Grid,
    a: Source,
    b: Source,
    to: Target,
    f: impl Fn(__m512i, __m512i) -> __m512,
) {
    let order = restore_order();
    let max = _mm512_set1_ps(32767.0);
    let widen = |x: __m512i, p: usize| {
        let part = match p {
            0 => _mm512_castsi512_si128(x),
            1 => _mm512_extracti32x4_epi32::<1>(x),
            2 => _mm512_extracti32x4_epi32::<2>(x),
            _ => _mm512_extracti32x4_epi32::<3>(x),
        };
        if SIGNED { _mm512_cvtepi8_epi32(part) } else { _mm512_cvtepu8_epi32(part) }
    };
    for r in 0..grid.rows {
        let mut col = 0;
        while col < grid.cols {
            let mask = mask(grid.cols - col);
            // SAFETY: bytes under the mask are inside the row.
            let (x, y) = unsafe {
                (
                    _mm512_maskz_loadu_epi8(mask, a.at.add(r * a.stride + col).cast()),
                    _mm512_maskz_loadu_epi8(mask, b.at.add(r * b.stride + col).cast()),
                )
            };
            let mut v = [_mm512_setzero_si512(); 4];
            for (p, v) in v.iter_mut().enumerate() {
                *v = _mm512_cvtps_epi32(_mm512_min_ps(max, f(widen(x, p), widen(y, p))));
            }
            let (low, high) = (_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
            let bytes = if SIGNED { _mm512_packs_epi16(low, high) } else { _mm512_packus_epi16(low, high) };
            let bytes = _mm512_permutexvar_epi32(order, bytes);
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_epi8(to.at.add(r * to.stride + col).cast(), mask, bytes) };
            col += 64;
        }
    }
}

/// # Safety
/// As [`super::Kernels`], and AVX-512 VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub(super) unsafe fn table(table: &[u8; 256], grid: Grid, from: Source, to: Target) {
    // SAFETY: the table has four times 64 bytes; bytes under the masks are inside the rows.
    unsafe {
        let part = |i: usize| _mm512_loadu_si512(table.as_ptr().add(i * 64).cast());
        let (t0, t1, t2, t3) = (part(0), part(1), part(2), part(3));
        for r in 0..grid.rows {
            let mut col = 0;
            while col < grid.cols {
                let mask = mask(grid.cols - col);
                let x = _mm512_maskz_loadu_epi8(mask, from.at.add(r * from.stride + col).cast());
                let low = _mm512_permutex2var_epi8(t0, x, t1);
                let high = _mm512_permutex2var_epi8(t2, x, t3);
                let y = _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high);
                _mm512_mask_storeu_epi8(to.at.add(r * to.stride + col).cast(), mask, y);
                col += 64;
            }
        }
    }
}

/// # Safety
/// As [`super::Kernels`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn max(flip: u8, grid: Grid, from: Source, to: Target) {
    let flip = _mm512_set1_epi8(flip as i8);
    for r in 0..grid.rows {
        let mut col = 0;
        while col < grid.cols {
            let mask = mask(grid.cols - col);
            // SAFETY: bytes under the mask are inside the rows.
            unsafe {
                let out = to.at.add(r * to.stride + col).cast::<i8>();
                let x = _mm512_maskz_loadu_epi8(mask, from.at.add(r * from.stride + col).cast());
                let y = _mm512_maskz_loadu_epi8(mask, out);
                let m = _mm512_max_epu8(_mm512_xor_si512(x, flip), _mm512_xor_si512(y, flip));
                _mm512_mask_storeu_epi8(out, mask, _mm512_xor_si512(m, flip));
            }
            col += 64;
        }
    }
}
