//! cp.async and its groups.
//!
//! The data of a copy may arrive at any time between its issue and the wait that covers it. A seeded choice
//! per instruction makes it arrive at once or at the last moment, so that a kernel which waits for too few
//! groups reads poison, and one which reuses a buffer too soon sees it overwritten.

use super::{Cx, Flow, PendingCopy, Trap, TrapKind, aligned, lanes};
use crate::code::{Inst, LANES};
use crate::memory::Fault;
use crate::weak::{Agent, Strength};

/// `cp.async.{ca,cg}.shared.global [dst], [src], size{, src-size}`.
pub fn copy(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    if m == 0 {
        return Ok(Flow::Next);
    }
    // `imm` is overwritten by the optional operand, so the size is an operand too.
    let size = cx.warp.r(i.ops[0])[0] as usize;
    if !matches!(size, 4 | 8 | 16) {
        return Err(Box::new(TrapKind::Undefined("cp.async of other than 4, 8 or 16 bytes")));
    }
    let take = if i.imm == 1 { *cx.warp.r(i.ops[1]) } else { [size as u32; LANES] };
    let dst = cx.warp.addresses(i, 0);
    let src = cx.warp.addresses(i, 1);
    for lane in lanes(m) {
        aligned(dst[lane], size)?;
        aligned(src[lane], size)?;
        if take[lane] as usize > size {
            return Err(Box::new(TrapKind::Undefined("cp.async src-size above cp-size")));
        }
    }
    let pending = PendingCopy { mask: m, dst: dst.map(|a| a as u32), src, take, size };
    if let Some(race) = &mut cx.machine.race {
        race.copy_issued(cx.agent, cx.resident, &pending)?;
    }
    cx.machine.counters.async_bytes += lanes(m).map(|l| u64::from(take[l])).sum::<u64>();
    let mut reads = m;
    for lane in lanes(m) {
        if take[lane] == 0 {
            reads &= !(1 << lane);
        }
    }
    cx.machine.count_global(reads, &src, size, false);
    cx.machine.counters.shared(i.main_loop, m, &dst, size);
    if cx.machine.rng.below(2) == 0 {
        perform(cx, &pending)?;
    } else {
        cx.warp.open_copies.push(pending);
    }
    cx.machine.progress += 1;
    Ok(Flow::Next)
}

fn perform(cx: &mut Cx<'_>, copy: &PendingCopy) -> Result<(), Trap> {
    for lane in lanes(copy.mask) {
        let (take, at) = (copy.take[lane] as usize, copy.src[lane]);
        let mut data = [0u8; 16];
        if take > 0 {
            let who = Agent { lane, ..cx.who() };
            if let Some(weak) = &mut cx.weak {
                weak.load(&cx.machine.memory, who, at, &mut data[..take], 1, Strength::WEAK)?;
            } else if at >> 48 == 0 {
                let host = cx.machine.memory.host.as_ref();
                host.and_then(|h| h.load(at, &mut data[..take], 1, false))
                    .ok_or(Fault::Unmapped { address: at, len: take })?;
            } else {
                data[..take].copy_from_slice(cx.machine.memory.bytes(at, take)?);
            }
        }
        cx.shared.get_mut(u64::from(copy.dst[lane]), copy.size)?.copy_from_slice(&data[..copy.size]);
    }
    Ok(())
}

/// Groups belong to threads; this emulator keeps them per warp, so the warp's lanes gather here first.
fn gathered(cx: &Cx<'_>, m: u32) -> Result<(), Flow> {
    if m == cx.warp.alive { Ok(()) } else { Err(Flow::Converge(cx.warp.alive)) }
}

/// cp.async.commit_group.
pub fn commit(cx: &mut Cx<'_>, _: &Inst, m: u32) -> Result<Flow, Trap> {
    if m == 0 {
        return Ok(Flow::Next);
    }
    if let Err(wait) = gathered(cx, m) {
        return Ok(wait);
    }
    let group = std::mem::take(&mut cx.warp.open_copies);
    cx.warp.groups.push_back(group);
    if let Some(race) = &mut cx.machine.race {
        race.copy_commit(cx.agent);
    }
    Ok(Flow::Next)
}

/// cp.async.wait_group n: at most the n newest groups stay under way.
pub fn wait_group(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    if m == 0 {
        return Ok(Flow::Next);
    }
    if let Err(wait) = gathered(cx, m) {
        return Ok(wait);
    }
    while cx.warp.groups.len() > i.imm as usize {
        for copy in cx.warp.groups.pop_front().unwrap_or_default() {
            perform(cx, &copy)?;
        }
        if let Some(race) = &mut cx.machine.race {
            race.copy_landed(cx.agent);
        }
    }
    Ok(Flow::Next)
}

/// cp.async.wait_all: commits and waits for everything.
pub fn wait_all(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    let flow = commit(cx, i, m)?;
    if flow != Flow::Next {
        return Ok(flow);
    }
    wait_group(cx, &Inst { imm: 0, ..i.clone() }, m)
}
