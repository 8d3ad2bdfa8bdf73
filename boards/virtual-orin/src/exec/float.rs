//! Float arithmetic: exactly IEEE 754 binary32, round to nearest even, subnormals kept.
//!
//! Forms that hardware may fuse or approximate (`mul.f32` without `.rn`, `.approx`, `.ftz`) are not in the
//! table: what they compute is not defined by the PTX alone.

use super::Warp;
use super::alu::{three, two};
use crate::code::Inst;

#[inline(always)]
fn f2(w: &mut Warp, i: &Inst, m: u32, f: impl Fn(f32, f32) -> f32) {
    two(w, i, m, |a, b| canonical(f(f32::from_bits(a), f32::from_bits(b))));
}

#[inline(always)]
fn f1(w: &mut Warp, i: &Inst, m: u32, f: impl Fn(f32) -> f32) {
    let value = w.r(i.ops[1]).map(|a| canonical(f(f32::from_bits(a))));
    w.set_r(i.ops[0], m, &value);
}

/// NVIDIA GPUs give one NaN, 0x7fffffff (PTX ISA 9.7.3: add, mul, fma, min, max).
#[inline(always)]
fn canonical(value: f32) -> u32 {
    if value.is_nan() { 0x7FFF_FFFF } else { value.to_bits() }
}

/// add.rn.f32.
pub fn add(w: &mut Warp, i: &Inst, m: u32) {
    f2(w, i, m, |a, b| a + b);
}

/// sub.rn.f32.
pub fn sub(w: &mut Warp, i: &Inst, m: u32) {
    f2(w, i, m, |a, b| a - b);
}

/// mul.rn.f32.
pub fn mul(w: &mut Warp, i: &Inst, m: u32) {
    f2(w, i, m, |a, b| a * b);
}

/// div.rn.f32.
pub fn div(w: &mut Warp, i: &Inst, m: u32) {
    f2(w, i, m, |a, b| a / b);
}

/// fma.rn.f32: one rounding.
pub fn fma(w: &mut Warp, i: &Inst, m: u32) {
    three(w, i, m, |a, b, c| canonical(f32::from_bits(a).mul_add(f32::from_bits(b), f32::from_bits(c))));
}

/// sqrt.rn.f32.
pub fn sqrt(w: &mut Warp, i: &Inst, m: u32) {
    f1(w, i, m, f32::sqrt);
}

/// rcp.rn.f32.
pub fn rcp(w: &mut Warp, i: &Inst, m: u32) {
    f1(w, i, m, |a| 1.0 / a);
}

/// min.f32: the number if one side is NaN; -0 is below +0.
pub fn min(w: &mut Warp, i: &Inst, m: u32) {
    f2(w, i, m, |a, b| if a == b { f32::from_bits(a.to_bits() | b.to_bits()) } else { a.min(b) });
}

/// max.f32: the number if one side is NaN; +0 is above -0.
pub fn max(w: &mut Warp, i: &Inst, m: u32) {
    f2(w, i, m, |a, b| if a == b { f32::from_bits(a.to_bits() & b.to_bits()) } else { a.max(b) });
}

/// neg.f32.
pub fn neg(w: &mut Warp, i: &Inst, m: u32) {
    let value = w.r(i.ops[1]).map(|a| a ^ 0x8000_0000);
    w.set_r(i.ops[0], m, &value);
}

/// abs.f32.
pub fn abs(w: &mut Warp, i: &Inst, m: u32) {
    let value = w.r(i.ops[1]).map(|a| a & 0x7FFF_FFFF);
    w.set_r(i.ops[0], m, &value);
}
