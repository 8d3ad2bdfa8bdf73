//! ldmatrix and mma.

use super::matrix_simd::{Signs, mma_k16, mma_k32};
use super::{Cx, Flow, Trap, TrapKind, Warp, aligned};
use crate::code::{Inst, LANES, R32, Space};

/// `.sync.aligned` matrix instructions need all 32 lanes, at this instruction, unguarded.
fn all_lanes(m: u32) -> Result<(), Flow> {
    if m == u32::MAX { Ok(()) } else { Err(Flow::Converge(u32::MAX)) }
}

/// ldmatrix.sync.aligned.m8n8.xN.shared.b16 (9.7.14.5.15): lanes 8q..8q+8 address the rows of matrix q;
/// lane l receives bytes 4(l%4).. of row l/4.
fn rows(cx: &mut Cx<'_>, i: &Inst, m: u32, matrices: usize, transposed: bool) -> Result<Flow, Trap> {
    if let Err(wait) = all_lanes(m) {
        return Ok(wait);
    }
    let addresses = cx.warp.addresses(i, 0);
    let used = if matrices == 4 { u32::MAX } else { (1u32 << (8 * matrices)) - 1 };
    cx.race_access(i, used, &addresses, 16, false)?;
    for q in 0..matrices {
        let mut tile = [[0u8; 16]; 8];
        for (row, bytes) in tile.iter_mut().enumerate() {
            let (space, at) = cx.space_of(i.access.space, addresses[8 * q + row]);
            aligned(at, 16)?;
            if space != Space::Shared {
                return Err(Box::new(TrapKind::Undefined("ldmatrix outside shared memory")));
            }
            bytes.copy_from_slice(cx.shared.get(at, 16)?);
        }
        let value: R32 = if transposed {
            std::array::from_fn(|lane| {
                let (column, row) = (lane / 4, lane % 4 * 2);
                let half =
                    |r: usize| u32::from(u16::from_le_bytes([tile[r][2 * column], tile[r][2 * column + 1]]));
                half(row) | half(row + 1) << 16
            })
        } else {
            bytemuck::cast(tile)
        };
        cx.warp.set_r(i.ops[q], m, &value);
    }
    cx.machine.counters.matrix_rows(i.main_loop, used, &addresses);
    Ok(Flow::Next)
}

/// ldmatrix.x1.
pub fn load1(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    rows(cx, i, m, 1, false)
}

/// ldmatrix.x2.
pub fn load2(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    rows(cx, i, m, 2, false)
}

/// ldmatrix.x4.
pub fn load4(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    rows(cx, i, m, 4, false)
}

/// ldmatrix.x4.trans.
pub fn load4_transposed(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    rows(cx, i, m, 4, true)
}

fn write(w: &mut Warp, i: &Inst, m: u32, d: [R32; 4]) {
    for (n, value) in d.iter().enumerate() {
        w.set_r(i.ops[n], m, value);
    }
}

fn k32(cx: &mut Cx<'_>, i: &Inst, m: u32, signs: Signs) -> Result<Flow, Trap> {
    if let Err(wait) = all_lanes(m) {
        return Ok(wait);
    }
    let w = &mut *cx.warp;
    let o = |n: usize| w.r(i.ops[n]);
    let d = mma_k32([o(4), o(5), o(6), o(7)], [o(8), o(9)], [o(10), o(11), o(12), o(13)], signs);
    write(w, i, m, d);
    cx.machine.counters.mma_macs += 16 * 8 * 32;
    cx.machine.progress += 1;
    Ok(Flow::Next)
}

fn k16(cx: &mut Cx<'_>, i: &Inst, m: u32, signs: Signs) -> Result<Flow, Trap> {
    if let Err(wait) = all_lanes(m) {
        return Ok(wait);
    }
    let w = &mut *cx.warp;
    let o = |n: usize| w.r(i.ops[n]);
    let d = mma_k16([o(4), o(5)], o(6), [o(7), o(8), o(9), o(10)], signs);
    write(w, i, m, d);
    cx.machine.counters.mma_macs += 16 * 8 * 16;
    cx.machine.progress += 1;
    Ok(Flow::Next)
}

/// `.satfinite`: the sum stays within 32 bits. In which order real hardware saturates is not documented, so a
/// sum that leaves the range is refused instead of guessed.
fn saturating(cx: &mut Cx<'_>, i: &Inst, m: u32, signs: Signs) -> Result<Flow, Trap> {
    let flow = k32(cx, i, m, signs)?;
    // A product is at most 2^16, so 32 of them move a sum by at most 2^21.
    let near = |v: &u32| (*v as i32).unsigned_abs() > i32::MAX as u32 - (1 << 21);
    if flow == Flow::Next && (0..4).any(|n| cx.warp.r(i.ops[n]).iter().any(near)) {
        return Err(Box::new(TrapKind::Undefined("a saturating mma within 2^21 of the end of 32 bits")));
    }
    Ok(flow)
}

macro_rules! forms {
    ($($name:ident = $shape:ident($a:expr, $b:expr);)*) => {
        $(#[doc = concat!("mma.sync.aligned, shape ", stringify!($shape), ", A signed ", stringify!($a), ", B signed ", stringify!($b))]
        pub fn $name(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
            $shape(cx, i, m, Signs { a: $a, b: $b })
        })*
    };
}

forms! {
    saturating_ss = saturating(true, true);
    saturating_uu = saturating(false, false);
    mma_k32_ss = k32(true, true);
    mma_k32_su = k32(true, false);
    mma_k32_us = k32(false, true);
    mma_k32_uu = k32(false, false);
    mma_k16_ss = k16(true, true);
    mma_k16_su = k16(true, false);
    mma_k16_us = k16(false, true);
    mma_k16_uu = k16(false, false);
}

const _: () = assert!(LANES == 32, "the fragment layouts are those of 32-lane warps");
