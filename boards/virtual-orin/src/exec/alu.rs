//! Integer arithmetic, logic, shifts, selections, moves of registers.

use super::Warp;
use crate::code::{Inst, LANES, R32, R64};

#[inline(always)]
fn one(w: &mut Warp, i: &Inst, m: u32, f: impl Fn(u32) -> u32) {
    let value = w.r(i.ops[1]).map(f);
    w.set_r(i.ops[0], m, &value);
}

#[inline(always)]
pub(super) fn two(w: &mut Warp, i: &Inst, m: u32, f: impl Fn(u32, u32) -> u32) {
    let (a, b) = (*w.r(i.ops[1]), *w.r(i.ops[2]));
    let mut out: R32 = [0; LANES];
    for n in 0..LANES {
        out[n] = f(a[n], b[n]);
    }
    w.set_r(i.ops[0], m, &out);
}

#[inline(always)]
pub(super) fn three(w: &mut Warp, i: &Inst, m: u32, f: impl Fn(u32, u32, u32) -> u32) {
    let (a, b, c) = (*w.r(i.ops[1]), *w.r(i.ops[2]), *w.r(i.ops[3]));
    let mut out: R32 = [0; LANES];
    for n in 0..LANES {
        out[n] = f(a[n], b[n], c[n]);
    }
    w.set_r(i.ops[0], m, &out);
}

#[inline(always)]
fn two_wide(w: &mut Warp, i: &Inst, m: u32, f: impl Fn(u64, u64) -> u64) {
    let (a, b) = (*w.l(i.ops[1]), *w.l(i.ops[2]));
    let mut out: R64 = [0; LANES];
    for n in 0..LANES {
        out[n] = f(a[n], b[n]);
    }
    w.set_l(i.ops[0], m, &out);
}

#[inline(always)]
fn widening(w: &mut Warp, i: &Inst, m: u32, f: impl Fn(u32, u32) -> u64) {
    let (a, b) = (*w.r(i.ops[1]), *w.r(i.ops[2]));
    let mut out: R64 = [0; LANES];
    for n in 0..LANES {
        out[n] = f(a[n], b[n]);
    }
    w.set_l(i.ops[0], m, &out);
}

/// Names each operation once: `name: two(|a, b| ...)`.
macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $helper:ident($f:expr);)*) => {
        $($(#[$doc])* pub fn $name(w: &mut Warp, i: &Inst, m: u32) { $helper(w, i, m, $f) })*
    };
}

/// The low 16 bits by sign, or by zero: 16-bit registers live in 32-bit slots with unspecified high halves.
#[inline(always)]
fn s16(v: u32) -> i32 {
    i32::from(v as i16)
}
#[inline(always)]
fn u16_(v: u32) -> u32 {
    v & 0xFFFF
}

ops! {
    /// 9.7.1 add, 32 bits.
    add = two(|a, b| a.wrapping_add(b));
    /// sub.
    sub = two(|a, b| a.wrapping_sub(b));
    /// mul.lo.
    mul_lo = two(|a, b| a.wrapping_mul(b));
    /// mul.hi.s32.
    mul_hi_s = two(|a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32);
    /// mul.hi.u32.
    mul_hi_u = two(|a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    /// mad.lo.
    mad_lo = three(|a, b, c| a.wrapping_mul(b).wrapping_add(c));
    /// min.s32.
    min_s = two(|a, b| (a as i32).min(b as i32) as u32);
    /// max.s32.
    max_s = two(|a, b| (a as i32).max(b as i32) as u32);
    /// min.u32.
    min_u = two(|a, b| a.min(b));
    /// max.u32.
    max_u = two(|a, b| a.max(b));
    /// neg.
    neg = one(|a| a.wrapping_neg());
    /// abs.s32.
    abs_s = one(|a| (a as i32).wrapping_abs() as u32);
    /// div.s32; division by zero gives all ones, as the hardware's sequence does.
    div_s = two(|a, b| if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 });
    /// div.u32.
    div_u = two(|a, b| a.checked_div(b).unwrap_or(u32::MAX));
    /// rem.s32.
    rem_s = two(|a, b| if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 });
    /// rem.u32.
    rem_u = two(|a, b| a.checked_rem(b).unwrap_or(a));
    /// and.b32.
    and = two(|a, b| a & b);
    /// or.b32.
    or = two(|a, b| a | b);
    /// xor.b32.
    xor = two(|a, b| a ^ b);
    /// not.b32.
    not = one(|a| !a);
    /// shl.b32: amounts above the width give 0.
    shl = two(|a, b| a.checked_shl(b).unwrap_or(0));
    /// shr.u32.
    shr_u = two(|a, b| a.checked_shr(b).unwrap_or(0));
    /// shr.s32: amounts above the width give the sign.
    shr_s = two(|a, b| ((a as i32) >> b.min(31)) as u32);
    /// prmt.b32, default mode.
    prmt = three(prmt_lane);
    /// shf.l.wrap.b32.
    shf_l_wrap = three(|a, b, c| (((u64::from(b) << 32 | u64::from(a)) << (c & 31)) >> 32) as u32);
    /// shf.r.wrap.b32.
    shf_r_wrap = three(|a, b, c| ((u64::from(b) << 32 | u64::from(a)) >> (c & 31)) as u32);
    /// popc.b32.
    popc = one(|a| a.count_ones());
    /// clz.b32.
    clz = one(|a| a.leading_zeros());
    /// brev.b32.
    brev = one(|a| a.reverse_bits());
    /// mov of 32 or 16 bits.
    mov = one(|a| a);
    /// dp4a.s32.s32.
    dp4a_ss = three(|a, b, c| dot(a, b, c, sign, sign));
    /// dp4a.u32.s32.
    dp4a_us = three(|a, b, c| dot(a, b, c, zero, sign));
    /// dp4a.s32.u32.
    dp4a_su = three(|a, b, c| dot(a, b, c, sign, zero));
    /// dp4a.u32.u32.
    dp4a_uu = three(|a, b, c| dot(a, b, c, zero, zero));

    /// add.s16.
    add16 = two(|a, b| u16_(a.wrapping_add(b)));
    /// sub.s16.
    sub16 = two(|a, b| u16_(a.wrapping_sub(b)));
    /// mul.lo.s16.
    mul16 = two(|a, b| u16_(a.wrapping_mul(b)));
    /// and.b16, or, xor and not work on the whole slot: high halves are unspecified.
    shl16 = two(|a, b| u16_(u16_(a).checked_shl(b).unwrap_or(0)));
    /// shr.u16.
    shr_u16 = two(|a, b| u16_(a).checked_shr(b).unwrap_or(0));
    /// shr.s16.
    shr_s16 = two(|a, b| u16_((s16(a) >> b.min(15)) as u32));
    /// min.s16.
    min_s16 = two(|a, b| u16_(s16(a).min(s16(b)) as u32));
    /// max.s16.
    max_s16 = two(|a, b| u16_(s16(a).max(s16(b)) as u32));
    /// min.u16.
    min_u16 = two(|a, b| u16_(a).min(u16_(b)));
    /// max.u16.
    max_u16 = two(|a, b| u16_(a).max(u16_(b)));
    /// mul.wide.s16.
    mul_wide_s16 = two(|a, b| s16(a).wrapping_mul(s16(b)) as u32);
    /// mul.wide.u16.
    mul_wide_u16 = two(|a, b| u16_(a).wrapping_mul(u16_(b)));

    /// mul.wide.s32.
    mul_wide_s = widening(|a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64);
    /// mul.wide.u32.
    mul_wide_u = widening(|a, b| u64::from(a) * u64::from(b));
    /// add, 64 bits.
    add64 = two_wide(|a, b| a.wrapping_add(b));
    /// sub, 64 bits.
    sub64 = two_wide(|a, b| a.wrapping_sub(b));
    /// mul.lo, 64 bits.
    mul64 = two_wide(|a, b| a.wrapping_mul(b));
    /// and.b64.
    and64 = two_wide(|a, b| a & b);
    /// or.b64.
    or64 = two_wide(|a, b| a | b);
    /// xor.b64.
    xor64 = two_wide(|a, b| a ^ b);
    /// min.s64.
    min_s64 = two_wide(|a, b| (a as i64).min(b as i64) as u64);
    /// max.s64.
    max_s64 = two_wide(|a, b| (a as i64).max(b as i64) as u64);
    /// min.u64.
    min_u64 = two_wide(|a, b| a.min(b));
    /// max.u64.
    max_u64 = two_wide(|a, b| a.max(b));
    /// div.s64.
    div_s64 = two_wide(|a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 });
    /// div.u64.
    div_u64 = two_wide(|a, b| a.checked_div(b).unwrap_or(u64::MAX));
    /// rem.u64.
    rem_u64 = two_wide(|a, b| a.checked_rem(b).unwrap_or(a));
}

#[inline(always)]
fn sign(byte: u8) -> i32 {
    i32::from(byte as i8)
}
#[inline(always)]
fn zero(byte: u8) -> i32 {
    i32::from(byte)
}
#[inline(always)]
fn dot(a: u32, b: u32, c: u32, x: impl Fn(u8) -> i32, y: impl Fn(u8) -> i32) -> u32 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    let sum = (0..4).fold(c as i32, |sum, n| sum.wrapping_add(x(a[n]) * y(b[n])));
    sum as u32
}

fn prmt_lane(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let pick = |n: u32| {
        let s = selector >> (4 * n) & 0xF;
        let byte = bytes[(s & 7) as usize];
        if s & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 }
    };
    u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)])
}

/// 9.7.7 lop3.b32: the literal is the truth table.
pub fn lop3(w: &mut Warp, i: &Inst, m: u32) {
    let table = i.imm;
    three(w, i, m, |a, b, c| {
        let mut out = 0;
        for row in 0..8u32 {
            let pick = |v: u32, bit: u32| if row >> bit & 1 == 1 { v } else { !v };
            let on = (table >> row & 1).wrapping_neg();
            out |= on & pick(a, 2) & pick(b, 1) & pick(c, 0);
        }
        out
    });
}

/// 9.7.1 bfe.u32.
pub fn bfe_u(w: &mut Warp, i: &Inst, m: u32) {
    three(w, i, m, |a, at, len| {
        let (at, len) = (at & 0xFF, len & 0xFF);
        let shifted = a.checked_shr(at).unwrap_or(0);
        if len >= 32 { shifted } else { shifted & ((1 << len) - 1) }
    });
}

/// 9.7.1 bfe.s32: bits past the field, and past bit 31, are its sign.
pub fn bfe_s(w: &mut Warp, i: &Inst, m: u32) {
    three(w, i, m, |a, at, len| {
        let (at, len) = (at & 0xFF, len & 0xFF);
        if len == 0 {
            return 0;
        }
        let sign = ((a as i32) >> (at + len - 1).min(31) & 1).wrapping_neg() as u32;
        let mut out = sign;
        for bit in 0..len.min(32) {
            let value = if at + bit > 31 { sign & 1 } else { a >> (at + bit) & 1 };
            out = (out & !(1 << bit)) | (value << bit);
        }
        out
    });
}

/// 9.7.1 bfi.b32: inserts `a` into `b`.
pub fn bfi(w: &mut Warp, i: &Inst, m: u32) {
    let len = *w.r(i.ops[4]);
    let (a, b, at) = (*w.r(i.ops[1]), *w.r(i.ops[2]), *w.r(i.ops[3]));
    let mut out: R32 = [0; LANES];
    for n in 0..LANES {
        let (at, len) = (at[n] & 0xFF, len[n] & 0xFF);
        let field = if len >= 32 { u32::MAX } else { (1u32 << len) - 1 };
        let mask = field.checked_shl(at).unwrap_or(0);
        out[n] = (b[n] & !mask) | (a[n].checked_shl(at).unwrap_or(0) & mask);
    }
    w.set_r(i.ops[0], m, &out);
}

/// mad.wide.s32.
pub fn mad_wide_s(w: &mut Warp, i: &Inst, m: u32) {
    mad_wide(w, i, m, |a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64);
}

/// mad.wide.u32.
pub fn mad_wide_u(w: &mut Warp, i: &Inst, m: u32) {
    mad_wide(w, i, m, |a, b| u64::from(a) * u64::from(b));
}

#[inline(always)]
fn mad_wide(w: &mut Warp, i: &Inst, m: u32, f: impl Fn(u32, u32) -> u64) {
    let (a, b, c) = (*w.r(i.ops[1]), *w.r(i.ops[2]), *w.l(i.ops[3]));
    let mut out: R64 = [0; LANES];
    for n in 0..LANES {
        out[n] = f(a[n], b[n]).wrapping_add(c[n]);
    }
    w.set_l(i.ops[0], m, &out);
}

/// mad.lo, 64 bits.
pub fn mad64(w: &mut Warp, i: &Inst, m: u32) {
    let (a, b, c) = (*w.l(i.ops[1]), *w.l(i.ops[2]), *w.l(i.ops[3]));
    let mut out: R64 = [0; LANES];
    for n in 0..LANES {
        out[n] = a[n].wrapping_mul(b[n]).wrapping_add(c[n]);
    }
    w.set_l(i.ops[0], m, &out);
}

#[inline(always)]
fn shift_wide(w: &mut Warp, i: &Inst, m: u32, f: impl Fn(u64, u32) -> u64) {
    let (a, b) = (*w.l(i.ops[1]), *w.r(i.ops[2]));
    let mut out: R64 = [0; LANES];
    for n in 0..LANES {
        out[n] = f(a[n], b[n]);
    }
    w.set_l(i.ops[0], m, &out);
}

/// shl.b64.
pub fn shl64(w: &mut Warp, i: &Inst, m: u32) {
    shift_wide(w, i, m, |a, b| a.checked_shl(b).unwrap_or(0));
}

/// shr.u64.
pub fn shr_u64(w: &mut Warp, i: &Inst, m: u32) {
    shift_wide(w, i, m, |a, b| a.checked_shr(b).unwrap_or(0));
}

/// shr.s64.
pub fn shr_s64(w: &mut Warp, i: &Inst, m: u32) {
    shift_wide(w, i, m, |a, b| ((a as i64) >> b.min(63)) as u64);
}

/// mov of 64 bits, and cvta between generic and global: one address space holds both.
pub fn mov64(w: &mut Warp, i: &Inst, m: u32) {
    let value = *w.l(i.ops[1]);
    w.set_l(i.ops[0], m, &value);
}

/// mov.b64 from {low, high}.
pub fn pack64(w: &mut Warp, i: &Inst, m: u32) {
    let (low, high) = (*w.r(i.ops[1]), *w.r(i.ops[2]));
    let mut out: R64 = [0; LANES];
    for n in 0..LANES {
        out[n] = u64::from(low[n]) | u64::from(high[n]) << 32;
    }
    w.set_l(i.ops[0], m, &out);
}

/// mov.b64 to {low, high}.
pub fn unpack64(w: &mut Warp, i: &Inst, m: u32) {
    let value = *w.l(i.ops[2]);
    w.set_r(i.ops[0], m, &value.map(|v| v as u32));
    w.set_r(i.ops[1], m, &value.map(|v| (v >> 32) as u32));
}

/// mov.b32 from {low, high} of 16 bits.
pub fn pack32(w: &mut Warp, i: &Inst, m: u32) {
    two(w, i, m, |low, high| u16_(low) | high << 16);
}

/// mov.b32 to {low, high} of 16 bits.
pub fn unpack32(w: &mut Warp, i: &Inst, m: u32) {
    let value = *w.r(i.ops[2]);
    w.set_r(i.ops[0], m, &value.map(u16_));
    w.set_r(i.ops[1], m, &value.map(|v| v >> 16));
}

/// selp of 32 or 16 bits.
pub fn selp(w: &mut Warp, i: &Inst, m: u32) {
    let (a, b, p) = (*w.r(i.ops[1]), *w.r(i.ops[2]), w.p(i, 3));
    let mut out: R32 = [0; LANES];
    for n in 0..LANES {
        let take = (p >> n & 1).wrapping_neg();
        out[n] = (a[n] & take) | (b[n] & !take);
    }
    w.set_r(i.ops[0], m, &out);
}

/// selp of 64 bits.
pub fn selp64(w: &mut Warp, i: &Inst, m: u32) {
    let (a, b, p) = (*w.l(i.ops[1]), *w.l(i.ops[2]), w.p(i, 3));
    let mut out: R64 = [0; LANES];
    for n in 0..LANES {
        out[n] = if p >> n & 1 == 1 { a[n] } else { b[n] };
    }
    w.set_l(i.ops[0], m, &out);
}
