//! Barriers, fences, sleep, and the registers that change by themselves.

use super::{Cx, Flow, Trap};
use crate::code::{Inst, LANES, R32, Scope};
use crate::memory::Fault;
use crate::weak::Strength;

/// bar.sync a{, b}: every lane of the warp, every warp of the block (or as many threads as `b` says).
pub fn barrier(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    if m == 0 {
        return Ok(Flow::Next);
    }
    let lane = m.trailing_zeros() as usize;
    let id = cx.warp.r(i.ops[0])[lane];
    let threads = if i.imm == 1 { cx.warp.r(i.ops[1])[lane] } else { 0 };
    if id > 15 {
        return Err(Box::new(super::TrapKind::Undefined("barrier number above 15")));
    }
    Ok(Flow::Barrier(id, threads))
}

/// bar.warp.sync: the lanes of the member mask, together.
pub fn warp_barrier(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    if m == 0 {
        return Ok(Flow::Next);
    }
    let members = cx.warp.r(i.ops[0])[m.trailing_zeros() as usize] & cx.warp.alive;
    if members & !m != 0 {
        return Ok(Flow::Converge(members));
    }
    let who = cx.who();
    if let Some(weak) = &mut cx.weak {
        weak.warp_barrier(who, members);
    }
    if let Some(race) = &mut cx.machine.race {
        race.warp_barrier(cx.agent);
    }
    Ok(Flow::Next)
}

/// fence and membar. Outside weak mode the emulator's memory is sequentially consistent, so only the race
/// detector listens.
pub fn fence(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    if m != 0 {
        let scope = i.access.scope;
        if let Some(race) = &mut cx.machine.race {
            race.fence(cx.agent, scope);
        }
        let who = cx.who();
        if let Some(weak) = &mut cx.weak {
            weak.fence(&mut cx.machine.memory, who, m, Strength { order: i.access.order, scope })?;
        }
        if scope == Scope::Sys {
            // Partners of a system fence run on the host's own memory model.
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        }
    }
    Ok(Flow::Next)
}

/// prefetch: no effect that a program can see, but the address must be one it may read.
pub fn prefetch(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    let addresses = cx.warp.addresses(i, 0);
    for lane in super::lanes(m) {
        if addresses[lane] >> 48 != 0 {
            cx.machine.memory.bytes(addresses[lane], 1)?;
        }
    }
    Ok(Flow::Next)
}

/// nanosleep.
pub fn nanosleep(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    if m == 0 {
        return Ok(Flow::Next);
    }
    // PTX ISA 9.7.13: at most one millisecond.
    Ok(Flow::Sleep(cx.warp.r(i.ops[0])[m.trailing_zeros() as usize].min(1_000_000)))
}

fn set_all(cx: &mut Cx<'_>, i: &Inst, m: u32, value: u32) -> Result<Flow, Trap> {
    cx.warp.set_r(i.ops[0], m, &[value; LANES]);
    Ok(Flow::Next)
}

macro_rules! special {
    ($($name:ident = $f:expr;)*) => {
        $(#[doc = concat!("Reads the special register ", stringify!($name), ".")]
        pub fn $name(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
            let f: fn(&Cx<'_>) -> u32 = $f;
            let value = f(cx);
            set_all(cx, i, m, value)
        })*
    };
}

special! {
    ntid_x = |cx| cx.shape.block[0];
    ntid_y = |cx| cx.shape.block[1];
    ntid_z = |cx| cx.shape.block[2];
    ctaid_x = |cx| cx.block[0];
    ctaid_y = |cx| cx.block[1];
    ctaid_z = |cx| cx.block[2];
    nctaid_x = |cx| cx.shape.grid[0];
    nctaid_y = |cx| cx.shape.grid[1];
    nctaid_z = |cx| cx.shape.grid[2];
    smid = |cx| cx.sm.0;
    nsmid = |cx| cx.sm.1;
}

fn tid(cx: &mut Cx<'_>, i: &Inst, m: u32, axis: usize) -> Result<Flow, Trap> {
    let value = cx.warp.tid[axis];
    cx.warp.set_r(i.ops[0], m, &value);
    Ok(Flow::Next)
}

/// %tid.x.
pub fn tid_x(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    tid(cx, i, m, 0)
}

/// %tid.y.
pub fn tid_y(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    tid(cx, i, m, 1)
}

/// %tid.z.
pub fn tid_z(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    tid(cx, i, m, 2)
}

/// %laneid.
pub fn laneid(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    let value: R32 = std::array::from_fn(|lane| lane as u32);
    cx.warp.set_r(i.ops[0], m, &value);
    Ok(Flow::Next)
}

/// %globaltimer: modelled nanoseconds.
pub fn globaltimer(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    let value = cx.machine.clock / 1000;
    cx.warp.set_l(i.ops[0], m, &[value; LANES]);
    Ok(Flow::Yield)
}

/// %clock64: modelled cycles.
pub fn clock64(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    let cycles = cx.machine.clock as f64 * cx.machine.model.clocks.gpu / 1e12;
    cx.warp.set_l(i.ops[0], m, &[cycles as u64; LANES]);
    Ok(Flow::Next)
}

/// ld.param. From a symbol, which lowering has checked, it is the same value in every lane; an address in a
/// register is checked here.
pub fn load_param(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    let size = usize::from(i.access.size);
    let addresses = cx.warp.addresses(i, 0);
    for n in 0..usize::from(i.access.count) {
        let value = |address: u64| {
            let at = usize::try_from(address).ok()?.checked_add(n * size)?;
            let mut bytes = [0u8; 8];
            bytes[..size].copy_from_slice(cx.shape.params.get(at..at.checked_add(size)?)?);
            let raw = u64::from_le_bytes(bytes);
            Some(if i.access.signed { sign_extend(raw, size) } else { raw })
        };
        let mut out = [0u64; LANES];
        for lane in super::lanes(m) {
            out[lane] = match value(addresses[lane]) {
                Some(value) => value,
                None => return Err(Fault::Unmapped { address: addresses[lane], len: size }.into()),
            };
        }
        if i.wide >> n & 1 == 1 {
            cx.warp.set_l(i.ops[n], m, &out);
        } else {
            cx.warp.set_r(i.ops[n], m, &out.map(|v| v as u32));
        }
    }
    Ok(Flow::Next)
}

/// The low `size` bytes as a signed number.
pub fn sign_extend(raw: u64, size: usize) -> u64 {
    let shift = 64 - 8 * size as u32;
    (((raw << shift) as i64) >> shift) as u64
}
