//! Float functions defined to the last bit: IEEE additions, multiplications and divisions in a fixed order.
//!
//! No libm: the same polynomial runs on every host and on the GPU, so tables and float operations agree bit for
//! bit. Errors are below 2 units in the last place against the real functions.

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

/// `1 / (1 + e^-x)`.
pub fn sigmoid(x: f32) -> f32 {
    if x >= 0.0 {
        1.0 / (1.0 + exp(-x))
    } else {
        let e = exp(x);
        e / (1.0 + e)
    }
}

/// Hyperbolic tangent.
///
/// # Source
/// Odd polynomial below 0.625 (Cephes `tanhf`), `1 - 2 / (e^2x + 1)` above.
#[allow(clippy::excessive_precision, reason = "the constants are written as published")]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    if a < 0.625 {
        let z = x * x;
        let mut p = -5.704_988_73e-3_f32;
        p = p * z + 2.063_908_88e-2;
        p = p * z + -5.373_971_55e-2;
        p = p * z + 1.333_144_19e-1;
        p = p * z + -3.333_328_19e-1;
        p * z * x + x
    } else {
        let t = if a > 9.02 { 1.0 } else { 1.0 - 2.0 / (exp(a + a) + 1.0) };
        if x.is_nan() { x } else { t.copysign(x) }
    }
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
        Function::Clip { lo, hi } => {
            let x = if x < lo { lo } else { x };
            if x > hi { hi } else { x }
        }
        Function::Sigmoid => sigmoid(x),
        Function::HardSigmoid { alpha, beta } => hard(alpha * x + beta),
        Function::HardSwish => x * hard(x * (1.0 / 6.0) + 0.5),
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

fn hard(x: f32) -> f32 {
    apply(Function::Clip { lo: 0.0, hi: 1.0 }, x)
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
    fn functions_are_within_two_units_in_the_last_place() {
        for i in -80_000..=80_000 {
            let x = i as f32 * 0.001;
            let w = f64::from(x);
            assert!(ulp(exp(x), w.exp()) < 2.0, "exp({x})");
            assert!(ulp(sigmoid(x), 1.0 / (1.0 + (-w).exp())) < 3.0, "sigmoid({x})");
            if i != 0 {
                assert!(ulp(tanh(x).abs(), w.tanh().abs()) < 3.0, "tanh({x})");
            }
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(88.7) < f32::INFINITY);
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan());
        assert_eq!((tanh(-30.0), tanh(0.0), sigmoid(-200.0), sigmoid(200.0)), (-1.0, 0.0, 0.0, 1.0));
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
