//! AVX-512: requantisation and operations on rows of bytes.

use super::{BLOCK, Combine, CombineRule, Grid, PANEL, Quantise, Requant, Source, Target};
use std::arch::x86_64::*;

/// The lowest `n` bits set, `n` at most 64.
fn mask(n: usize) -> u64 {
    if n >= 64 { !0 } else { (1 << n) - 1 }
}

/// The mask of a step of several narrow rows `pitch` bytes apart, `cols` bytes of each.
fn rows_mask(cols: usize, pitch: usize, rows: usize) -> u64 {
    (0..rows.min(64 / pitch)).fold(0, |m, r| m | mask(cols) << (r * pitch))
}

/// # Safety
/// As [`super::Kernels`]; `grid.cols` is 1 to 64; accumulators exist for the rows rounded up to a multiple of 4.
pub(super) unsafe fn requant(acc: *const i32, scale: *const f32, q: &Requant, grid: Grid, to: Target) {
    macro_rules! call {
        ($panels:literal, $rows:literal, $interleaved:literal) => {
            // SAFETY: the caller's promise, passed on.
            unsafe {
                match (q.full, q.flip) {
                    (true, 0) => rows::<$panels, $rows, $interleaved, FULL_U8>(acc, scale, q, grid, to),
                    (true, _) => rows::<$panels, $rows, $interleaved, FULL_I8>(acc, scale, q, grid, to),
                    _ => rows::<$panels, $rows, $interleaved, CLAMPED>(acc, scale, q, grid, to),
                }
            }
        };
    }
    match (grid.cols.div_ceil(PANEL), to.stride, q.interleaved) {
        (_, _, true) => call!(4, 1, true),
        (1, 16, _) => call!(1, 4, false),
        (1, ..) => call!(1, 1, false),
        (2, 32, _) => call!(2, 2, false),
        (2, ..) => call!(2, 1, false),
        (3, ..) => call!(3, 1, false),
        _ => call!(4, 1, false),
    }
}

/// Results may be anything between two bounds.
const CLAMPED: u8 = 0;
/// The bounds are u8's, and saturation keeps them.
const FULL_U8: u8 = 1;
/// The bounds are i8's, and saturation keeps them.
const FULL_I8: u8 = 2;

/// `P` panels of `R` rows at a time, 64 bytes or fewer.
///
/// # Safety
/// As [`requant`]; the target's rows are `P` panels apart where `R` is more than 1.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn rows<const P: usize, const R: usize, const INTERLEAVED: bool, const MODE: u8>(
    acc: *const i32,
    scale: *const f32,
    q: &Requant,
    grid: Grid,
    to: Target,
) {
    let max = _mm512_set1_ps(q.max);
    let zero = _mm512_set1_epi16(if MODE == FULL_I8 { q.zero - 128 } else { q.zero });
    let (lo, hi) = (_mm512_set1_epi8(q.lo as i8), _mm512_set1_epi8(q.hi as i8));
    let flip = _mm512_set1_epi8(q.flip as i8);
    let order = restore_order();
    let mut scales = [_mm512_setzero_ps(); P];
    for (p, s) in scales.iter_mut().enumerate() {
        // SAFETY: scales are padded to whole panels.
        *s = unsafe { _mm512_loadu_ps(scale.add(p * PANEL)) };
    }
    let whole = if R == 1 { mask(grid.cols) } else { rows_mask(grid.cols, P * PANEL, R) };
    let mut r = 0;
    while r < grid.rows {
        let mut v = [_mm512_setzero_si512(); 4];
        for (i, v) in v.iter_mut().enumerate().take(P * R) {
            let (row, p) = (r + i / P, i % P);
            // SAFETY: accumulators hold `P` panels in each row, and rows up to a multiple of 4.
            let sum = unsafe { _mm512_loadu_si512(acc.add(row * BLOCK + p * PANEL).cast()) };
            let mut scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scales[p]);
            if MODE == CLAMPED {
                // The operands' order gives NaN for NaN, which converts to the lowest integer. No maximum is needed:
                // what is too small converts to the lowest integer as well, and saturates below.
                scaled = _mm512_min_ps(max, scaled);
            }
            *v = _mm512_cvtps_epi32(scaled);
        }
        let pack = |a, b| _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero);
        let (low, high) = (pack(v[0], v[1]), pack(v[2], v[3]));
        let mut bytes =
            if MODE == FULL_I8 { _mm512_packs_epi16(low, high) } else { _mm512_packus_epi16(low, high) };
        if !INTERLEAVED {
            bytes = _mm512_permutexvar_epi32(order, bytes);
        }
        if MODE == CLAMPED {
            bytes = _mm512_xor_si512(_mm512_min_epu8(_mm512_max_epu8(bytes, lo), hi), flip);
        }
        let mask =
            if R == 1 || r + R <= grid.rows { whole } else { rows_mask(grid.cols, P * PANEL, grid.rows - r) };
        // SAFETY: the target has `grid.cols` bytes in each row.
        unsafe { _mm512_mask_storeu_epi8(to.at.add(r * to.stride).cast(), mask, bytes) };
        r += R;
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
                    let y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(y), rb, fix);
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(x), ra, y)
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

/// Narrow rows that follow each other in every operand as one long row: its length, and the bytes of every 64 that
/// belong to it.
fn joined(grid: Grid, strides: &[usize]) -> (Grid, u64) {
    let pitch = strides[0];
    if matches!(pitch, 16 | 32) && grid.cols <= pitch && strides.iter().all(|&s| s == pitch) {
        let cols = (grid.rows - 1) * pitch + grid.cols;
        return (Grid { rows: 1, cols }, rows_mask(grid.cols, pitch, 4));
    }
    (grid, !0)
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
    let (grid, pattern) = joined(grid, &[a.stride, b.stride, to.stride]);
    for r in 0..grid.rows {
        let (x, y) = (a.at.wrapping_add(r * a.stride), b.at.wrapping_add(r * b.stride));
        let out = to.at.wrapping_add(r * to.stride);
        let mut col = 0;
        while col < grid.cols {
            let mask = mask(grid.cols - col) & pattern;
            let at = (x.wrapping_add(col), y.wrapping_add(col), out.wrapping_add(col));
            // SAFETY: bytes under the mask are inside the rows.
            unsafe {
                match (grid.cols - col).div_ceil(PANEL) {
                    1 => step::<SIGNED, 1>(at, mask, &f),
                    2 => step::<SIGNED, 2>(at, mask, &f),
                    3 => step::<SIGNED, 3>(at, mask, &f),
                    _ => step::<SIGNED, 4>(at, mask, &f),
                }
            }
            col += 64;
        }
    }
}

/// Up to 64 bytes of [`each`], of which the first `P` times 16 matter.
///
/// # Safety
/// Bytes under the mask are inside the operands.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn step<const SIGNED: bool, const P: usize>(
    (x, y, out): (*const u8, *const u8, *mut u8),
    mask: u64,
    f: &impl Fn(__m512i, __m512i) -> __m512,
) {
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
    // SAFETY: the caller's promise.
    unsafe {
        let (x, y) = (_mm512_maskz_loadu_epi8(mask, x.cast()), _mm512_maskz_loadu_epi8(mask, y.cast()));
        let mut v = [_mm512_setzero_si512(); 4];
        for (p, v) in v.iter_mut().enumerate().take(P) {
            *v = _mm512_cvtps_epi32(_mm512_min_ps(max, f(widen(x, p), widen(y, p))));
        }
        let (low, high) = (_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
        let bytes = if SIGNED { _mm512_packs_epi16(low, high) } else { _mm512_packus_epi16(low, high) };
        _mm512_mask_storeu_epi8(out.cast(), mask, _mm512_permutexvar_epi32(restore_order(), bytes));
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
        let (grid, pattern) = joined(grid, &[from.stride, to.stride]);
        for r in 0..grid.rows {
            let mut col = 0;
            while col < grid.cols {
                let mask = mask(grid.cols - col) & pattern;
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
    let (grid, pattern) = joined(grid, &[from.stride, to.stride]);
    for r in 0..grid.rows {
        let mut col = 0;
        while col < grid.cols {
            let mask = mask(grid.cols - col) & pattern;
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

/// # Safety
/// As [`super::Kernels`].
pub(super) unsafe fn quantise(q: &Quantise, count: usize, x: *const u8, from: usize, y: *mut u8, to: usize) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match (from, to) {
            (4, 1) => quantise_floats::<1>(q, count, x, y),
            (4, 4) => quantise_floats::<4>(q, count, x, y),
            _ => super::avx2::quantise(q, count, x, from, y, to),
        }
    }
}

/// Neighbouring floats to bytes `TO` (1 or 4) apart.
///
/// # Safety
/// As [`quantise`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn quantise_floats<const TO: usize>(q: &Quantise, count: usize, x: *const u8, y: *mut u8) {
    let (lo, hi) = (_mm512_set1_ps(q.lo), _mm512_set1_ps(q.hi));
    let (scale, inverse) = (_mm512_set1_ps(q.scale), _mm512_set1_ps(1.0 / q.scale));
    let zero = _mm512_set1_epi32(q.zero);
    let (half, near) = (_mm512_set1_ps(0.5), _mm512_set1_ps(1.0 / 4096.0));
    // A product with the inverse instead of the quotient: below 512 it is off by less than 2^-13, which matters only
    // close to a tie. There, and where the inverse is no normal number, divide.
    let normal = (1.0 / q.scale).is_normal();
    let mut i = 0;
    while i < count {
        let left = (count - i).min(16);
        let lanes = ((1_u32 << left) - 1) as u16;
        // SAFETY: lanes under the mask are inside.
        let v = unsafe { _mm512_maskz_loadu_ps(lanes, x.add(i * 4).cast()) };
        // Bounds second: NaN becomes the lower one.
        let clamp = |t| _mm512_min_ps(_mm512_max_ps(t, lo), hi);
        let mut t = clamp(_mm512_mul_ps(v, inverse));
        let rounded = _mm512_roundscale_ps::<0>(t);
        let distance = _mm512_abs_ps(_mm512_sub_ps(_mm512_abs_ps(_mm512_sub_ps(t, rounded)), half));
        if !normal || _mm512_cmp_ps_mask::<_CMP_LT_OQ>(distance, near) & lanes != 0 {
            t = clamp(_mm512_div_ps(v, scale));
        }
        let bytes = _mm512_add_epi32(_mm512_cvtps_epi32(t), zero);
        // SAFETY: as above.
        unsafe {
            if TO == 1 {
                _mm_mask_storeu_epi8(y.add(i).cast(), lanes, _mm512_cvtepi32_epi8(bytes));
            } else {
                _mm512_mask_storeu_epi8(y.add(i * 4).cast(), 0x1111_1111_1111_1111 & mask(left * 4), bytes);
            }
        }
        i += 16;
    }
}
