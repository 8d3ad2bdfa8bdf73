//! Kernels in plain Rust, for any machine: the compiler turns them into whatever vectors the target has.
//!
//! The bodies are generic and inlined, so that other sets can compile them again with their own instructions.

use super::{
    BLOCK, BLOCK_PANELS, Combine, CombineRule, Gemm, Grid, Interleave, Kernels, PANEL, Packing, Quantise,
    Requant, Source, Target, TileState,
};
use pilotlight_plan::BinaryKind;

pub(super) fn kernels() -> Kernels {
    Kernels {
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
        table,
        max,
        accumulate,
        quantise,
        depthwise: None,
    }
}

/// One byte as an integer.
#[inline(always)]
fn value(byte: u8, signed: bool) -> i32 {
    if signed { i32::from(byte as i8) } else { i32::from(byte) }
}

/// # Safety
/// As [`Kernels`].
unsafe fn gemm<const SIGNED: bool>(g: &Gemm<'_>, _: &mut TileState) {
    // SAFETY: the caller's promise, passed on.
    unsafe { gemm_body::<SIGNED>(g) }
}

/// # Safety
/// As [`Kernels`].
#[inline(always)]
pub(super) unsafe fn gemm_body<const SIGNED: bool>(g: &Gemm<'_>) {
    for row in 0..g.rows {
        for panel in 0..g.panels.min(BLOCK_PANELS) {
            // SAFETY: rows, runs, weights, start and acc are valid for what `g` describes.
            unsafe {
                let mut sums = *g.start.add(panel * PANEL).cast::<[i32; PANEL]>();
                let mut weights = g.weights.add(panel * g.panel_bytes).cast::<[[i16; 2]; PANEL]>();
                for run in g.runs {
                    let input = g.input.add(row * g.input_stride + run.offset as usize).cast::<[u8; 2]>();
                    for pair in 0..run.units as usize * 2 {
                        let x = input.add(pair).read().map(|b| value(b, SIGNED));
                        for (sum, w) in sums.iter_mut().zip(&*weights) {
                            // Neither product nor their sum leaves i32.
                            let dot = x[0] * i32::from(w[0]) + x[1] * i32::from(w[1]);
                            *sum = sum.wrapping_add(dot);
                        }
                        weights = weights.add(1);
                    }
                }
                *g.acc.add(row * BLOCK + panel * PANEL).cast::<[i32; PANEL]>() = sums;
            }
        }
    }
}

/// `rint(x)` for `x` in -2^22..2^22, as an integer: half to even without a rounding instruction.
#[inline(always)]
fn rint(x: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: the sum's lowest bit counts ones.
    (x + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32
}

/// `x` clamped to `lo..=hi`, NaN giving `lo`.
#[inline(always)]
fn clamp(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x > lo { x } else { lo };
    if x < hi { x } else { hi }
}

/// # Safety
/// As [`Kernels`]; `grid.cols` is 1 to 64.
unsafe fn requant(acc: *const i32, scale: *const f32, q: &Requant, grid: Grid, to: Target) {
    // SAFETY: the caller's promise, passed on.
    unsafe { requant_body(acc, scale, q, grid, to) }
}

/// # Safety
/// As [`Kernels`]; `grid.cols` is 1 to 64.
#[inline(always)]
pub(super) unsafe fn requant_body(acc: *const i32, scale: *const f32, q: &Requant, grid: Grid, to: Target) {
    let (zero, lo, hi) = (i32::from(q.zero), i32::from(q.lo), i32::from(q.hi));
    let min = (lo - zero) as f32;
    // SAFETY: accumulators and scales hold 64 columns, the target `grid.cols`.
    unsafe {
        let scales = std::slice::from_raw_parts(scale, grid.cols);
        for r in 0..grid.rows {
            let sums = std::slice::from_raw_parts(acc.add(r * BLOCK), grid.cols);
            let out = std::slice::from_raw_parts_mut(to.at.add(r * to.stride), grid.cols);
            for ((y, &sum), &scale) in out.iter_mut().zip(sums).zip(scales) {
                let scaled = clamp(sum as f32 * scale, min, q.max);
                *y = (rint(scaled) + zero).clamp(lo, hi) as u8 ^ q.flip;
            }
        }
    }
}

/// # Safety
/// As [`Kernels`].
unsafe fn combine(c: &Combine, grid: Grid, a: Source, b: Source, to: Target) {
    // SAFETY: the caller's promise, passed on.
    unsafe { combine_body(c, grid, a, b, to) }
}

/// # Safety
/// As [`Kernels`].
#[inline(always)]
pub(super) unsafe fn combine_body(c: &Combine, grid: Grid, a: Source, b: Source, to: Target) {
    let [sa, sb, sy] = c.signed;
    let (lo, hi) = if sy { (-128.0, 127.0) } else { (0.0, 255.0) };
    // SAFETY: the caller's promise. The target may be one of the sources: each byte is read before it is written.
    unsafe {
        for r in 0..grid.rows {
            let (a, b) = (a.at.add(r * a.stride), b.at.add(r * b.stride));
            let y = to.at.add(r * to.stride);
            match c.rule {
                CombineRule::Add { ra, rb, fix } => {
                    for i in 0..grid.cols {
                        let (p, q) = (value(*a.add(i), sa) as f32, value(*b.add(i), sb) as f32);
                        *y.add(i) = rint(clamp(p.mul_add(ra, q.mul_add(rb, fix)), lo, hi)) as u8;
                    }
                }
                CombineRule::Mul { a_zero, b_zero, r, y_zero } => {
                    for i in 0..grid.cols {
                        let product = (value(*a.add(i), sa) - a_zero) * (value(*b.add(i), sb) - b_zero);
                        *y.add(i) = rint(clamp(product as f32 * r + y_zero, lo, hi)) as u8;
                    }
                }
                CombineRule::Real { kind, a: qa, b: qb, output } => {
                    let zero = output.zero_point as f32;
                    for i in 0..grid.cols {
                        let p = (value(*a.add(i), sa) - qa.zero_point) as f32 * qa.scale;
                        let q = (value(*b.add(i), sb) - qb.zero_point) as f32 * qb.scale;
                        let x = match kind {
                            BinaryKind::Add => p + q,
                            BinaryKind::Sub => p - q,
                            BinaryKind::Mul => p * q,
                        };
                        let rounded = rint(clamp(x / output.scale, lo - zero, hi - zero));
                        *y.add(i) = (rounded + output.zero_point) as u8;
                    }
                }
            }
        }
    }
}

/// # Safety
/// As [`Kernels`].
pub(super) unsafe fn table(table: &[u8; 256], grid: Grid, from: Source, to: Target) {
    for r in 0..grid.rows {
        for i in 0..grid.cols {
            // SAFETY: the caller's promise.
            unsafe {
                *to.at.add(r * to.stride + i) = table[usize::from(*from.at.add(r * from.stride + i))];
            }
        }
    }
}

/// # Safety
/// As [`Kernels`].
pub(super) unsafe fn max(flip: u8, grid: Grid, from: Source, to: Target) {
    // SAFETY: the caller's promise, passed on.
    unsafe { max_body(flip, grid, from, to) }
}

/// # Safety
/// As [`Kernels`].
#[inline(always)]
pub(super) unsafe fn max_body(flip: u8, grid: Grid, from: Source, to: Target) {
    for r in 0..grid.rows {
        // SAFETY: the caller's promise; source and target are different rows.
        unsafe {
            let x = std::slice::from_raw_parts(from.at.add(r * from.stride), grid.cols);
            let y = std::slice::from_raw_parts_mut(to.at.add(r * to.stride), grid.cols);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (*y ^ flip).max(x ^ flip) ^ flip;
            }
        }
    }
}

/// # Safety
/// As [`Kernels`]: `w.len()` bytes are readable at `x`.
unsafe fn accumulate(x: *const u8, signed: bool, zero: i32, w: &[i16], acc: &mut [i32; BLOCK]) {
    // SAFETY: the caller's promise, passed on.
    unsafe { accumulate_body(x, signed, zero, w, acc) }
}

/// # Safety
/// As [`accumulate`].
#[inline(always)]
pub(super) unsafe fn accumulate_body(
    x: *const u8,
    signed: bool,
    zero: i32,
    w: &[i16],
    acc: &mut [i32; BLOCK],
) {
    // SAFETY: the caller's promise.
    let x = unsafe { std::slice::from_raw_parts(x, w.len()) };
    let each = acc.iter_mut().zip(x).zip(w);
    if signed {
        each.for_each(|((s, &x), &w)| *s = s.wrapping_add((value(x, true) - zero) * i32::from(w)));
    } else {
        each.for_each(|((s, &x), &w)| *s = s.wrapping_add((value(x, false) - zero) * i32::from(w)));
    }
}

/// # Safety
/// As [`Kernels`].
unsafe fn quantise(q: &Quantise, count: usize, x: *const u8, from: usize, y: *mut u8, to: usize) {
    // SAFETY: the caller's promise, passed on.
    unsafe { quantise_body(q, count, x, from, y, to) }
}

/// # Safety
/// As [`quantise`]: floats and bytes at these places are readable and writable.
#[inline(always)]
pub(super) unsafe fn quantise_body(
    q: &Quantise,
    count: usize,
    x: *const u8,
    from: usize,
    y: *mut u8,
    to: usize,
) {
    let one = |x: f32| (rint(clamp(x / q.scale, q.lo, q.hi)) + q.zero) as u8;
    // SAFETY: the caller's promise.
    unsafe {
        if from == 4 {
            // Whole vectors first, then to their places.
            let mut i = 0;
            while i + 64 <= count {
                let mut bytes = [0; 64];
                for (k, b) in bytes.iter_mut().enumerate() {
                    *b = one(x.add((i + k) * 4).cast::<f32>().read_unaligned());
                }
                for (k, b) in bytes.iter().enumerate() {
                    *y.add((i + k) * to) = *b;
                }
                i += 64;
            }
            for k in i..count {
                *y.add(k * to) = one(x.add(k * 4).cast::<f32>().read_unaligned());
            }
        } else {
            for k in 0..count {
                *y.add(k * to) = one(x.add(k * from).cast::<f32>().read_unaligned());
            }
        }
    }
}

/// Interleaves in the channels' own order.
///
/// # Safety
/// As [`Kernels`]; `i.rows` holds four rows for each group, `i.out` 256 bytes for each group and column.
#[inline(always)]
pub(super) unsafe fn interleave_body(i: &Interleave<'_>) {
    let groups = i.rows.len() / 4;
    for (g, rows) in i.rows.as_chunks::<4>().0.iter().enumerate() {
        for x in 0..i.columns {
            // SAFETY: each row has `columns` columns of `channels` readable bytes; `out` is large enough.
            unsafe {
                let rows = rows.map(|r| std::slice::from_raw_parts(r.add(x * i.stride), i.channels));
                let out = i.out.add((x * groups + g) * 256).cast::<[u8; 4]>();
                let out = std::slice::from_raw_parts_mut(out, i.channels);
                for (c, out) in out.iter_mut().enumerate() {
                    *out = rows.map(|r| r[c] ^ i.flip);
                }
            }
        }
    }
}
