//! setp and the logic of predicates.

use super::Warp;
use crate::code::{Inst, LANES};
use std::cmp::Ordering::{self, Equal, Greater, Less};

#[inline(always)]
fn bits32(w: &Warp, i: &Inst, f: impl Fn(u32, u32) -> bool) -> u32 {
    let (a, b) = (w.r(i.ops[2]), w.r(i.ops[3]));
    let mut out = 0;
    for n in 0..LANES {
        out |= u32::from(f(a[n], b[n])) << n;
    }
    out
}

#[inline(always)]
fn bits64(w: &Warp, i: &Inst, f: impl Fn(u64, u64) -> bool) -> u32 {
    let (a, b) = (w.l(i.ops[2]), w.l(i.ops[3]));
    let mut out = 0;
    for n in 0..LANES {
        out |= u32::from(f(a[n], b[n])) << n;
    }
    out
}

/// Writes `p` and, for `p|q`, its complement.
#[inline(always)]
fn plain(w: &mut Warp, i: &Inst, m: u32, value: u32) {
    w.set_p(i.ops[0], m, value);
    w.set_p(i.ops[1], m, !value);
}

macro_rules! compare {
    ($($name:ident: $bits:ident, $ty:ty, $op:tt;)*) => {
        $(#[doc = concat!("setp on ", stringify!($ty), ": ", stringify!($op))]
        pub fn $name(w: &mut Warp, i: &Inst, m: u32) {
            let value = $bits(w, i, |a, b| (a as $ty) $op (b as $ty));
            plain(w, i, m, value);
        })*
    };
}

compare! {
    eq_32: bits32, u32, ==; ne_32: bits32, u32, !=;
    lt_s32: bits32, i32, <; le_s32: bits32, i32, <=; gt_s32: bits32, i32, >; ge_s32: bits32, i32, >=;
    lt_u32: bits32, u32, <; le_u32: bits32, u32, <=; gt_u32: bits32, u32, >; ge_u32: bits32, u32, >=;
    eq_16: bits32, u16, ==; ne_16: bits32, u16, !=;
    lt_s16: bits32, i16, <; le_s16: bits32, i16, <=; gt_s16: bits32, i16, >; ge_s16: bits32, i16, >=;
    lt_u16: bits32, u16, <; le_u16: bits32, u16, <=; gt_u16: bits32, u16, >; ge_u16: bits32, u16, >=;
    eq_64: bits64, u64, ==; ne_64: bits64, u64, !=;
    lt_s64: bits64, i64, <; le_s64: bits64, i64, <=; gt_s64: bits64, i64, >; ge_s64: bits64, i64, >=;
    lt_u64: bits64, u64, <; le_u64: bits64, u64, <=; gt_u64: bits64, u64, >; ge_u64: bits64, u64, >=;
}

macro_rules! compare_float {
    ($($name:ident: $f:expr;)*) => {
        $(#[doc = concat!("setp on f32: ", stringify!($name))]
        pub fn $name(w: &mut Warp, i: &Inst, m: u32) {
            let f: fn(Option<Ordering>) -> bool = $f;
            let value = bits32(w, i, |a, b| f(f32::from_bits(a).partial_cmp(&f32::from_bits(b))));
            plain(w, i, m, value);
        })*
    };
}

compare_float! {
    eq_f32: |o| o == Some(Equal);
    // Ordered: a NaN on either side gives false.
    ne_f32: |o| matches!(o, Some(Less | Greater));
    lt_f32: |o| o == Some(Less);
    le_f32: |o| matches!(o, Some(Less | Equal));
    gt_f32: |o| o == Some(Greater);
    ge_f32: |o| matches!(o, Some(Greater | Equal));
    // Unordered: a NaN on either side gives true.
    equ_f32: |o| matches!(o, None | Some(Equal));
    neu_f32: |o| o != Some(Equal);
    ltu_f32: |o| matches!(o, None | Some(Less));
    leu_f32: |o| o != Some(Greater);
    gtu_f32: |o| matches!(o, None | Some(Greater));
    geu_f32: |o| o != Some(Less);
    nan_f32: |o| o.is_none();
    num_f32: |o| o.is_some();
}

/// and.pred.
pub fn and(w: &mut Warp, i: &Inst, m: u32) {
    let value = w.p(i, 1) & w.p(i, 2);
    w.set_p(i.ops[0], m, value);
}

/// or.pred.
pub fn or(w: &mut Warp, i: &Inst, m: u32) {
    let value = w.p(i, 1) | w.p(i, 2);
    w.set_p(i.ops[0], m, value);
}

/// xor.pred.
pub fn xor(w: &mut Warp, i: &Inst, m: u32) {
    let value = w.p(i, 1) ^ w.p(i, 2);
    w.set_p(i.ops[0], m, value);
}

/// not.pred.
pub fn not(w: &mut Warp, i: &Inst, m: u32) {
    let value = !w.p(i, 1);
    w.set_p(i.ops[0], m, value);
}

/// mov.pred.
pub fn mov(w: &mut Warp, i: &Inst, m: u32) {
    let value = w.p(i, 1);
    w.set_p(i.ops[0], m, value);
}
