//! 8-bit mma on register fragments: portable, and with AVX2 where the host has it.
//!
//! Fragment layouts are PTX ISA 9.7.14.5 (m16n8k16 and m16n8k32, 8-bit): with g = lane / 4 and t = lane % 4,
//! A register q holds row g + 8(q%2), columns 4t + 16(q/2) ..; B register q holds column g, rows 4t + 16q ..;
//! C register q holds row g + 8(q/2), column 2t + q%2. So word `lane` of an A register is the k-quad t of row
//! g, and the four quads of a row are four neighbouring words.
#![allow(unsafe_code, reason = "one call of an AVX2 function after the run-time check for it")]
#![allow(clippy::needless_range_loop, reason = "lanes index several registers and the layout's formulas")]

use crate::code::{LANES, R32};

/// Whether each operand is signed.
#[derive(Debug, Clone, Copy)]
pub struct Signs {
    pub a: bool,
    pub b: bool,
}

/// C + A * B for m16n8k32, modulo 2^32.
pub fn mma_k32(a: [&R32; 4], b: [&R32; 2], c: [&R32; 4], signs: Signs) -> [R32; 4] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: (1) the processor has AVX2, checked in the line above; the function has no other demand.
        return unsafe { avx2::mma(a, b, c, signs) };
    }
    portable([(a[0], a[1], b[0]), (a[2], a[3], b[1])].as_slice(), c, signs)
}

/// C + A * B for m16n8k16, modulo 2^32.
pub fn mma_k16(a: [&R32; 2], b: &R32, c: [&R32; 4], signs: Signs) -> [R32; 4] {
    portable([(a[0], a[1], b)].as_slice(), c, signs)
}

/// Slices of 16 k: A rows 0-7, A rows 8-15, B.
fn portable(slices: &[(&R32, &R32, &R32)], c: [&R32; 4], signs: Signs) -> [R32; 4] {
    let quad = |word: u32, signed: bool| {
        word.to_le_bytes().map(|v| if signed { i32::from(v as i8) } else { i32::from(v) })
    };
    let mut d = c.map(|c| *c);
    for &(top, bottom, b) in slices {
        for (half, rows) in [top, bottom].into_iter().enumerate() {
            for lane in 0..LANES {
                let (g, t) = (lane / 4, lane % 4);
                for j in 0..2 {
                    let mut sum = d[2 * half + j][lane] as i32;
                    for k in 0..4 {
                        let (x, y) = (quad(rows[4 * g + k], signs.a), quad(b[4 * (2 * t + j) + k], signs.b));
                        sum = (0..4).fold(sum, |sum, n| sum.wrapping_add(x[n] * y[n]));
                    }
                    d[2 * half + j][lane] = sum as u32;
                }
            }
        }
    }
    d
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{LANES, R32, Signs};
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_and_si256, _mm256_madd_epi16, _mm256_set1_epi16, _mm256_set1_epi32,
        _mm256_setzero_si256, _mm256_slli_epi16, _mm256_srai_epi16, _mm256_srli_epi16,
    };

    /// Bytes 0 and 2 of every word, then bytes 1 and 3, each widened to 16 bits.
    #[target_feature(enable = "avx2")]
    fn split(words: __m256i, signed: bool) -> (__m256i, __m256i) {
        if signed {
            (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(words)), _mm256_srai_epi16::<8>(words))
        } else {
            (_mm256_and_si256(words, _mm256_set1_epi16(0xFF)), _mm256_srli_epi16::<8>(words))
        }
    }

    /// A row's quads are broadcast against the quads of all 8 columns: no horizontal sums.
    #[target_feature(enable = "avx2")]
    pub fn mma(a: [&R32; 4], b: [&R32; 2], c: [&R32; 4], signs: Signs) -> [R32; 4] {
        let mut even = [_mm256_setzero_si256(); 8];
        let mut odd = even;
        for k in 0..8 {
            let column: [u32; 8] = std::array::from_fn(|n| b[k / 4][4 * n + k % 4]);
            (even[k], odd[k]) = split(bytemuck::cast(column), signs.b);
        }
        // 16 rows of 8 columns, row-major.
        let mut out = [0u32; 128];
        for q in 0..2 {
            let (mut low, mut high) = ([[0u32; LANES]; 2], [[0u32; LANES]; 2]);
            for slice in 0..2 {
                let words: [[u32; 8]; 4] = bytemuck::cast(*a[q + 2 * slice]);
                for (n, part) in words.into_iter().enumerate() {
                    let (x, y) = split(bytemuck::cast(part), signs.a);
                    let (x, y): ([u32; 8], [u32; 8]) = (bytemuck::cast(x), bytemuck::cast(y));
                    low[slice][8 * n..8 * n + 8].copy_from_slice(&x);
                    high[slice][8 * n..8 * n + 8].copy_from_slice(&y);
                }
            }
            for row in 0..8 {
                let mut sum = _mm256_setzero_si256();
                for k in 0..8 {
                    let at = 4 * row + k % 4;
                    let x = _mm256_madd_epi16(_mm256_set1_epi32(low[k / 4][at] as i32), even[k]);
                    let y = _mm256_madd_epi16(_mm256_set1_epi32(high[k / 4][at] as i32), odd[k]);
                    sum = _mm256_add_epi32(sum, _mm256_add_epi32(x, y));
                }
                let sum: [u32; 8] = bytemuck::cast(sum);
                out[8 * (8 * q + row)..8 * (8 * q + row) + 8].copy_from_slice(&sum);
            }
        }
        let mut d = c.map(|c| *c);
        for half in 0..2 {
            for lane in 0..LANES {
                d[2 * half][lane] = d[2 * half][lane].wrapping_add(out[64 * half + 2 * lane]);
                d[2 * half + 1][lane] = d[2 * half + 1][lane].wrapping_add(out[64 * half + 2 * lane + 1]);
            }
        }
        d
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// The fast path and the portable one are written differently; both must agree on every sign and extreme.
    #[test]
    fn fast_and_portable_agree() {
        let mut rng = Rng::new(7);
        for round in 0..200 {
            let mut register = || -> R32 {
                std::array::from_fn(|_| match round {
                    0 => 0x8080_8080,
                    1 => 0xFFFF_FFFF,
                    _ => rng.bits() as u32,
                })
            };
            let (a, b): ([R32; 4], [R32; 2]) =
                (std::array::from_fn(|_| register()), std::array::from_fn(|_| register()));
            let c: [R32; 4] = std::array::from_fn(|_| register());
            for signs in [(true, true), (true, false), (false, true), (false, false)] {
                let signs = Signs { a: signs.0, b: signs.1 };
                let slices = [(&a[0], &a[1], &b[0]), (&a[2], &a[3], &b[1])];
                let slow = portable(&slices, c.each_ref(), signs);
                assert_eq!(mma_k32(a.each_ref(), b.each_ref(), c.each_ref(), signs), slow, "{signs:?}");
            }
        }
    }

    /// Against a plain matrix product with the layout written out from the ISA's formulas.
    #[test]
    fn layout_is_the_isa_s() {
        let mut rng = Rng::new(9);
        let a: [[i8; 32]; 16] = std::array::from_fn(|_| std::array::from_fn(|_| rng.bits() as i8));
        let b: [[i8; 8]; 32] = std::array::from_fn(|_| std::array::from_fn(|_| rng.bits() as i8));
        let (mut ra, mut rb) = ([[0u32; LANES]; 4], [[0u32; LANES]; 2]);
        for lane in 0..LANES {
            let (group, thread) = (lane >> 2, lane % 4);
            for i in 0..16 {
                // row = groupID for a_i with 0 <= i < 4 or 8 <= i < 12, else groupID + 8
                let row = if (0..4).contains(&i) || (8..12).contains(&i) { group } else { group + 8 };
                let col = if i < 8 { thread * 4 + (i & 3) } else { thread * 4 + (i & 3) + 16 };
                ra[i / 4][lane] |= u32::from(a[row][col] as u8) << (8 * (i % 4));
            }
            for i in 0..8 {
                let row = if i < 4 { thread * 4 + (i & 3) } else { thread * 4 + (i & 3) + 16 };
                rb[i / 4][lane] |= u32::from(b[row][group] as u8) << (8 * (i % 4));
            }
        }
        let zero = [[0u32; LANES]; 4];
        let d = mma_k32(ra.each_ref(), rb.each_ref(), zero.each_ref(), Signs { a: true, b: true });
        for lane in 0..LANES {
            for i in 0..4 {
                let row = if i < 2 { lane >> 2 } else { (lane >> 2) + 8 };
                let col = (lane % 4) * 2 + (i & 1);
                let sum: i32 = (0..32).map(|k| i32::from(a[row][k]) * i32::from(b[k][col])).sum();
                assert_eq!(d[i][lane] as i32, sum, "row {row} column {col}");
            }
        }
    }
}
