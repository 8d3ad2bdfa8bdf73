//! `exp` and `ln` of doubles by IEEE additions and multiplications alone: the same table on every machine.

use std::f64::consts::LN_2;

/// `e^x` within a few units in the last place; 0 far below, infinity far above.
pub(super) fn exp(x: f64) -> f64 {
    let n = (x / LN_2).round_ties_even();
    if !(-1022.0..=1023.0).contains(&n) {
        return if x < 0.0 { 0.0 } else { f64::INFINITY };
    }
    // The first 32 bits of ln 2, so that their product with n is exact, and the rest.
    const HIGH: f64 = 0.693_147_180_369_123_8;
    const LOW: f64 = 1.908_214_929_270_587_7e-10;
    let r = (x - n * HIGH) - n * LOW;
    let e = (1..=17).rev().fold(1.0, |sum, k| 1.0 + sum * r / f64::from(k));
    e * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// The natural logarithm of a positive normal number, within a few units in the last place.
pub(super) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if m > std::f64::consts::SQRT_2 {
        (m, exponent) = (m / 2.0, exponent + 1);
    }
    // 2 artanh(z)
    let z = (m - 1.0) / (m + 1.0);
    let square = z * z;
    let series = (0..=14).rev().fold(0.0, |sum, k| 1.0 / f64::from(2 * k + 1) + sum * square);
    exponent as f64 * LN_2 + 2.0 * z * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_to_the_real_functions() {
        for i in -7000..=7000 {
            let x = f64::from(i) * 0.1;
            assert!((exp(x) / x.exp() - 1.0).abs() < 3e-15, "exp({x})");
            let y = f64::from(i + 7001) * 0.37;
            assert!((ln(y) - y.ln()).abs() < 3e-15 * y.ln().abs().max(1.0), "ln({y})");
        }
        assert_eq!((exp(-1e9), exp(1e9), exp(0.0), ln(1.0)), (0.0, f64::INFINITY, 1.0, 0.0));
        assert!((ln(f64::from(f32::MAX)) - f64::from(f32::MAX).ln()).abs() < 1e-13);
    }
}
