//! Float functions defined to the last bit: IEEE operations in a fixed order, fused only where `mul_add` says so.
//!
//! No libm: the same polynomial runs on every host and on the GPU, so tables and float operations agree bit for
//! bit.

use crate::Function;

/// `e^x`.
///
/// Range: below -103 the result is 0, above 88.72 infinity; NaN stays NaN.
///
/// # Source
/// Cody-Waite reduction by ln 2 in two parts, then a degree-6 polynomial (Cephes `expf`).
#[allow(clippy::excessive_precision, reason = "the constants are written as published")]
pub fn exp(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    if x > 88.722_84 {
        return f32::INFINITY;
    }
    if x < -103.972_08 {
        return 0.0;
    }
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = x - n * 0.693_359_375;
    let r = r - n * -2.121_944_4e-4;
    let mut p = 1.987_569_15e-4_f32;
    p = p * r + 1.398_199_95e-3;
    p = p * r + 8.333_451_91e-3;
    p = p * r + 4.166_579_59e-2;
    p = p * r + 1.666_666_55e-1;
    p = p * r + 5.000_000_12e-1;
    let e = (p * (r * r) + r) + 1.0;
    // Two steps, so that neither factor leaves the range of f32 where the result is subnormal or near infinity.
    let n = n as i32;
    let half = n / 2;
    e * pow2(half) * pow2(n - half)
}

/// `2^n` for `n` in -126..=127.
fn pow2(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

/// `1 / (1 + e^-x)`, within 2e-7; 0 and 1 beyond 18.
///
/// # Source
/// The rational function of Eigen, in the operations of ONNX Runtime's x86-64 kernel (fused multiply-adds), so
/// that quantised sigmoids agree bit for bit.
#[allow(clippy::excessive_precision, reason = "the constants are written as published")]
pub fn sigmoid(x: f32) -> f32 {
    const ALPHA: [f32; 5] = [
        4.370_310_125_798_01e-11,
        1.156_273_244_599_42e-7,
        6.085_748_646_001_43e-5,
        8.513_771_333_047_01e-3,
        2.482_879_470_615_29e-1,
    ];
    const BETA: [f32; 6] = [
        6.102_473_897_556_81e-13,
        5.761_021_369_934_27e-9,
        6.291_067_850_170_40e-6,
        1.701_988_173_740_94e-3,
        1.168_176_569_044_53e-1,
        9.931_519_210_231_80e-1,
    ];
    let x = clamp(x, -18.0, 18.0);
    let square = x * x;
    let y = x * polynomial(&ALPHA, square) / polynomial(&BETA, square) + 0.5;
    if y < 0.0 { 0.0 } else { y }
}

/// Hyperbolic tangent, within 3e-7; 1 beyond 9.
///
/// # Source
/// As [`sigmoid`].
#[allow(clippy::excessive_precision, reason = "the constants are written as published")]
pub fn tanh(x: f32) -> f32 {
    const ALPHA: [f32; 7] = [
        -2.760_768_477_423_55e-16,
        2.000_187_904_824_77e-13,
        -8.604_671_522_137_35e-11,
        5.122_297_090_371_14e-8,
        1.485_722_357_179_79e-5,
        6.372_619_288_754_36e-4,
        4.893_524_558_917_86e-3,
    ];
    const BETA: [f32; 4] =
        [1.198_258_394_667_02e-6, 1.185_347_056_866_54e-4, 2.268_434_632_439_00e-3, 4.893_525_185_543_85e-3];
    let x = clamp(x, -9.0, 9.0);
    let square = x * x;
    x * polynomial(&ALPHA, square) / polynomial(&BETA, square)
}

/// A polynomial by Horner's rule, highest power first, each step one fused multiply-add.
fn polynomial(coefficients: &[f32], x: f32) -> f32 {
    coefficients[1..].iter().fold(coefficients[0], |p, &c| p.mul_add(x, c))
}

/// `x` within `lo..=hi`; NaN stays NaN.
fn clamp(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x < lo { lo } else { x };
    if x > hi { hi } else { x }
}

/// The value of `function` at `x`.
pub fn apply(function: Function, x: f32) -> f32 {
    match function {
        // Comparisons, not `max`: NaN passes through, as ONNX has it.
        Function::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Function::Clip { lo, hi } => clamp(x, lo, hi),
        Function::Sigmoid => sigmoid(x),
        Function::HardSigmoid { alpha, beta } => clamp(alpha * x + beta, 0.0, 1.0),
        Function::HardSwish => x * clamp(x * (1.0 / 6.0) + 0.5, 0.0, 1.0),
        Function::LeakyRelu { alpha } => {
            if x >= 0.0 {
                x
            } else {
                alpha * x
            }
        }
        Function::Tanh => tanh(x),
    }
}

/// `sat(rint(x / scale) + zero)` for an 8-bit range: ONNX `QuantizeLinear`. NaN gives `lo`.
pub fn quantize(x: f32, scale: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    round_to(x / scale, zero, lo, hi)
}

/// `rint(x) + zero` clamped to `lo..=hi`, the clamp in float so that no conversion overflows. NaN gives `lo`.
pub fn round_to(x: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    let (min, max) = ((lo - zero) as f32, (hi - zero) as f32);
    let x = if x > min { x } else { min };
    let x = if x < max { x } else { max };
    x.round_ties_even() as i32 + zero
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance in units in the last place of the float result.
    fn ulp(got: f32, want: f64) -> f64 {
        let w = want as f32;
        let step = (f64::from(f32::from_bits(w.to_bits() + 1)) - f64::from(w)).abs();
        (f64::from(got) - want).abs() / step
    }

    #[test]
    fn functions_are_as_exact_as_they_say() {
        for i in -80_000..=80_000 {
            let x = i as f32 * 0.001;
            let w = f64::from(x);
            assert!(ulp(exp(x), w.exp()) < 2.0, "exp({x})");
            assert!((f64::from(sigmoid(x)) - 1.0 / (1.0 + (-w).exp())).abs() < 2e-7, "sigmoid({x})");
            assert!((f64::from(tanh(x)) - w.tanh()).abs() < 3e-7, "tanh({x})");
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(88.7) < f32::INFINITY);
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan());
        assert_eq!((tanh(0.0), sigmoid(0.0), sigmoid(-200.0), sigmoid(200.0)), (0.0, 0.5, 0.0, 1.0));
        assert_eq!((tanh(-30.0), tanh(f32::INFINITY)), (tanh(-9.0), tanh(9.0)));
    }

    #[test]
    fn quantize_divides_rounds_half_to_even_and_saturates() {
        assert_eq!(quantize(0.25, 0.5, 10, 0, 255), 10);
        assert_eq!(quantize(0.75, 0.5, 10, 0, 255), 12);
        assert_eq!(quantize(f32::INFINITY, 0.5, 10, 0, 255), 255);
        assert_eq!(quantize(-1e30, 0.5, 10, -128, 127), -128);
        assert_eq!(quantize(f32::NAN, 0.5, 10, 0, 255), 0);
    }
}
