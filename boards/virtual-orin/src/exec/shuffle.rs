//! shfl.sync and vote.sync.

use super::{Cx, Flow, Trap};
use crate::code::{Inst, LANES, R32};

/// The member mask, if all members that live are here; otherwise what to wait for.
fn members(cx: &Cx<'_>, slot: u16, m: u32) -> Result<u32, Flow> {
    let wanted = cx.warp.r(slot)[m.trailing_zeros() as usize & 31] & cx.warp.alive;
    if wanted & !m == 0 { Ok(wanted) } else { Err(Flow::Converge(wanted)) }
}

/// shfl.sync.MODE.b32 d|p, a, b, c, membermask: PTX ISA 9.7.9 gives the source lane.
fn shuffle(
    cx: &mut Cx<'_>,
    i: &Inst,
    m: u32,
    source: impl Fn(i32, i32, i32) -> (i32, bool),
    indexed: bool,
) -> Result<Flow, Trap> {
    if m == 0 {
        return Ok(Flow::Next);
    }
    let members = match members(cx, i.ops[5], m) {
        Ok(members) => members,
        Err(wait) => return Ok(wait),
    };
    let (a, b, c) = (*cx.warp.r(i.ops[2]), *cx.warp.r(i.ops[3]), *cx.warp.r(i.ops[4]));
    let (mut out, mut valid): (R32, u32) = ([0; LANES], 0);
    for lane in 0..LANES {
        let segment = (c[lane] >> 8 & 31) as i32;
        let clamp = (c[lane] & 31) as i32;
        let (at, low, b) = (lane as i32, lane as i32 & segment, (b[lane] & 31) as i32);
        // maxLane in the ISA's text.
        let high = low | (clamp & !segment);
        let (mut from, inside) = if indexed {
            (low | (b & !segment), (low | (b & !segment)) <= high)
        } else {
            source(at, b, high)
        };
        if !inside {
            from = at;
        }
        valid |= u32::from(inside) << lane;
        // Reading a lane outside the member mask is undefined: it yields poison.
        out[lane] = if members >> from & 1 == 1 { a[from as usize] } else { 0xA5A5_A5A5 };
    }
    cx.warp.set_r(i.ops[0], m, &out);
    cx.warp.set_p(i.ops[1], m, valid);
    Ok(Flow::Next)
}

/// shfl.sync.up.
pub fn up(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    // For .up the clamp field is the lowest lane, so the bound is `maxLane` taken as a minimum.
    shuffle(cx, i, m, |at, b, high| (at - b, at - b >= high), false)
}

/// shfl.sync.down.
pub fn down(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    shuffle(cx, i, m, |at, b, high| (at + b, at + b <= high), false)
}

/// shfl.sync.bfly.
pub fn bfly(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    shuffle(cx, i, m, |at, b, high| (at ^ b, at ^ b <= high), false)
}

/// shfl.sync.idx.
pub fn idx(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    shuffle(cx, i, m, |at, _, _| (at, false), true)
}

fn vote(cx: &mut Cx<'_>, i: &Inst, m: u32, result: impl Fn(u32, u32) -> bool) -> Result<Flow, Trap> {
    if m == 0 {
        return Ok(Flow::Next);
    }
    let members = match members(cx, i.ops[2], m) {
        Ok(members) => members,
        Err(wait) => return Ok(wait),
    };
    let value = if result(cx.warp.p(i, 1), members) { u32::MAX } else { 0 };
    cx.warp.set_p(i.ops[0], m, value);
    Ok(Flow::Next)
}

/// vote.sync.any.pred.
pub fn any(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    vote(cx, i, m, |p, members| p & members != 0)
}

/// vote.sync.all.pred.
pub fn all(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    vote(cx, i, m, |p, members| p & members == members)
}

/// vote.sync.ballot.b32.
pub fn ballot(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    if m == 0 {
        return Ok(Flow::Next);
    }
    let members = match members(cx, i.ops[2], m) {
        Ok(members) => members,
        Err(wait) => return Ok(wait),
    };
    let value = cx.warp.p(i, 1) & members;
    cx.warp.set_r(i.ops[0], m, &[value; LANES]);
    Ok(Flow::Next)
}
