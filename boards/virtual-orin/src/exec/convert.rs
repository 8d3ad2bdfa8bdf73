//! cvt: integers between widths and to and from f32.

use super::Warp;
use crate::code::{Inst, LANES, R32, R64};

/// A narrowing or 16/32-bit conversion: reads the source slot, writes the destination slot.
#[inline(always)]
fn r_r(w: &mut Warp, i: &Inst, m: u32, f: impl Fn(u32) -> u32) {
    let value = w.r(i.ops[1]).map(f);
    w.set_r(i.ops[0], m, &value);
}

/// The source as 64 bits, whichever register it is in; a narrower one is taken as is.
fn source(w: &Warp, i: &Inst) -> R64 {
    if i.wide & 2 != 0 { *w.l(i.ops[1]) } else { w.r(i.ops[1]).map(u64::from) }
}

/// Writes to whichever register the destination is.
fn write(w: &mut Warp, i: &Inst, m: u32, value: &R64) {
    if i.wide & 1 != 0 {
        w.set_l(i.ops[0], m, value);
    } else {
        w.set_r(i.ops[0], m, &value.map(|v| v as u32));
    }
}

macro_rules! integer {
    ($($name:ident: $ty:ty;)*) => {
        $(#[doc = concat!("cvt with a source of type ", stringify!($ty), ": cut to it, then extended.")]
        pub fn $name(w: &mut Warp, i: &Inst, m: u32) {
            let value = source(w, i).map(|v| (v as $ty) as i64 as u64);
            write(w, i, m, &value);
        })*
    };
}

integer! { from_u8: u8; from_s8: i8; from_u16: u16; from_s16: i16; from_u32: u32; from_s32: i32; }

/// cvt to an 8-bit type from any integer: 9.7.9 says the result is extended to the register by its sign or
/// by zeros.
pub fn to_s8(w: &mut Warp, i: &Inst, m: u32) {
    let value = source(w, i).map(|v| v as i8 as i64 as u64);
    write(w, i, m, &value);
}

/// cvt.u8.*.
pub fn to_u8(w: &mut Warp, i: &Inst, m: u32) {
    let value = source(w, i).map(|v| u64::from(v as u8));
    write(w, i, m, &value);
}

/// cvt.u32.u64 and its like: the low half.
pub fn low(w: &mut Warp, i: &Inst, m: u32) {
    let value: R32 = w.l(i.ops[1]).map(|v| v as u32);
    w.set_r(i.ops[0], m, &value);
}

/// cvt.sat.s8.s32, kept as a sign-extended register.
pub fn sat_s8_s32(w: &mut Warp, i: &Inst, m: u32) {
    r_r(w, i, m, |v| (v as i32).clamp(-128, 127) as u32);
}

/// cvt.sat.u8.s32.
pub fn sat_u8_s32(w: &mut Warp, i: &Inst, m: u32) {
    r_r(w, i, m, |v| (v as i32).clamp(0, 255) as u32);
}

/// cvt.rn.f32.s32.
pub fn f32_s32(w: &mut Warp, i: &Inst, m: u32) {
    r_r(w, i, m, |v| (v as i32 as f32).to_bits());
}

/// cvt.rn.f32.u32.
pub fn f32_u32(w: &mut Warp, i: &Inst, m: u32) {
    r_r(w, i, m, |v| (v as f32).to_bits());
}

/// cvt.rn.f32.s16.
pub fn f32_s16(w: &mut Warp, i: &Inst, m: u32) {
    r_r(w, i, m, |v| f32::from(v as i16).to_bits());
}

/// cvt.rn.f32.u16.
pub fn f32_u16(w: &mut Warp, i: &Inst, m: u32) {
    r_r(w, i, m, |v| f32::from(v as u16).to_bits());
}

/// cvt.rn.f32.s8.
pub fn f32_s8(w: &mut Warp, i: &Inst, m: u32) {
    r_r(w, i, m, |v| f32::from(v as i8).to_bits());
}

/// cvt.rn.f32.u8.
pub fn f32_u8(w: &mut Warp, i: &Inst, m: u32) {
    r_r(w, i, m, |v| f32::from(v as u8).to_bits());
}

/// cvt.rni.s32.f32: half to even, saturating, NaN gives 0 (PTX ISA 9.7.9: out-of-range values are clamped).
pub fn s32_f32_rni(w: &mut Warp, i: &Inst, m: u32) {
    r_r(w, i, m, |v| f32::from_bits(v).round_ties_even() as i32 as u32);
}

/// cvt.rni.u32.f32.
pub fn u32_f32_rni(w: &mut Warp, i: &Inst, m: u32) {
    r_r(w, i, m, |v| f32::from_bits(v).round_ties_even() as u32);
}

/// cvt.rzi.s32.f32.
pub fn s32_f32_rzi(w: &mut Warp, i: &Inst, m: u32) {
    r_r(w, i, m, |v| f32::from_bits(v) as i32 as u32);
}

/// cvt.rzi.u32.f32.
pub fn u32_f32_rzi(w: &mut Warp, i: &Inst, m: u32) {
    r_r(w, i, m, |v| f32::from_bits(v) as u32);
}

/// cvt.rmi.s32.f32.
pub fn s32_f32_rmi(w: &mut Warp, i: &Inst, m: u32) {
    r_r(w, i, m, |v| f32::from_bits(v).floor() as i32 as u32);
}

/// cvt.rni.f32.f32.
pub fn f32_rni(w: &mut Warp, i: &Inst, m: u32) {
    r_r(w, i, m, |v| f32::from_bits(v).round_ties_even().to_bits());
}

/// cvt.rzi.s64.f32: saturating; NaN gives the lowest value, as 64-bit conversions do on this hardware.
pub fn s64_f32_rzi(w: &mut Warp, i: &Inst, m: u32) {
    let value: R64 = w.r(i.ops[1]).map(|v| {
        let x = f32::from_bits(v);
        if x.is_nan() { i64::MIN as u64 } else { x as i64 as u64 }
    });
    w.set_l(i.ops[0], m, &value);
}

/// cvt.rn.f32.s64.
pub fn f32_s64(w: &mut Warp, i: &Inst, m: u32) {
    let value: R32 = w.l(i.ops[1]).map(|v| (v as i64 as f32).to_bits());
    w.set_r(i.ops[0], m, &value);
}

/// cvt.rzi.f32.f32.
pub fn f32_rzi(w: &mut Warp, i: &Inst, m: u32) {
    r_r(w, i, m, |v| f32::from_bits(v).trunc().to_bits());
}

/// cvta.shared.u64: shared offset to generic address.
pub fn shared_to_generic(w: &mut Warp, i: &Inst, m: u32) {
    let from = *w.l(i.ops[1]);
    let mut out: R64 = [0; LANES];
    for n in 0..LANES {
        out[n] = (from[n] & 0xFFFF_FFFF) | crate::memory::SHARED_WINDOW;
    }
    w.set_l(i.ops[0], m, &out);
}

/// cvta.to.shared.u64: the offset of a generic address that lies in the shared window.
pub fn generic_to_shared(w: &mut Warp, i: &Inst, m: u32) {
    let value = w.l(i.ops[1]).map(|v| v & 0xFFFF_FFFF);
    w.set_l(i.ops[0], m, &value);
}
