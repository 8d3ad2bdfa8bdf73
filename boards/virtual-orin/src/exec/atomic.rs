//! atom and red.

use super::{Cx, Flow, Trap, aligned, lanes, space_of};
use crate::code::{Inst, LANES, R32, R64, Space};
use crate::memory::Fault;
use crate::weak::Strength;

/// Applies `f(old, lane)` to the word of every lane, lowest lane first. Real hardware promises no order among
/// the lanes of one instruction, so kernels may not depend on it.
fn update(cx: &mut Cx<'_>, i: &Inst, m: u32, f: impl Fn(u64, usize) -> u64) -> Result<R64, Trap> {
    let size = usize::from(i.access.size);
    let addresses = cx.warp.addresses(i, 0);
    cx.race_access(i, m, &addresses, size, true)?;
    let mut old = [0u64; LANES];
    let mut global = 0;
    let (who, how) = (cx.who(), Strength { order: i.access.order, scope: i.access.scope });
    if let Some(weak) = &mut cx.weak {
        for lane in lanes(m) {
            if space_of(i.access.space, addresses[lane]).0 == Space::Global {
                weak.atomic(&mut cx.machine.memory, who, addresses[lane], size, how)?;
            }
        }
        weak.after(who, m, how);
    }
    for lane in lanes(m) {
        let (space, at) = space_of(i.access.space, addresses[lane]);
        aligned(at, size)?;
        global |= u32::from(space == Space::Global) << lane;
        if space == Space::Global && at >> 48 == 0 {
            let host = cx.machine.memory.host.as_ref();
            let done = host.and_then(|h| h.update(at, size, &mut |v| f(v, lane)));
            old[lane] = done.ok_or(Fault::Unmapped { address: at, len: size })?;
            cx.machine.polled_host = true;
            continue;
        }
        let bytes = match space {
            Space::Shared => cx.shared.get_mut(at, size)?,
            _ => cx.machine.memory.bytes_mut(at, size)?,
        };
        let mut raw = [0u8; 8];
        raw[..size].copy_from_slice(bytes);
        old[lane] = u64::from_le_bytes(raw);
        bytes.copy_from_slice(&f(old[lane], lane).to_le_bytes()[..size]);
    }
    // L2 updates in place: the sector is read, and dirty then.
    cx.machine.count_global(global, &addresses, size, false);
    cx.machine.count_global(global, &addresses, size, true);
    cx.machine.counters.atomics += u64::from(m.count_ones());
    Ok(old)
}

fn finish(cx: &mut Cx<'_>, i: &Inst, m: u32, old: &R64, returns: bool) -> Flow {
    if returns {
        if i.wide & 1 == 1 {
            cx.warp.set_l(i.ops[0], m, old);
        } else {
            let old: R32 = old.map(|v| v as u32);
            cx.warp.set_r(i.ops[0], m, &old);
        }
    }
    Flow::Yield
}

macro_rules! atomics {
    ($($atom:ident, $red:ident = $f:expr;)*) => {
        $(#[doc = concat!("atom, 32 bits: ", stringify!($f))]
        pub fn $atom(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
            let f: fn(u32, u32) -> u32 = $f;
            let b = *cx.warp.r(i.ops[1]);
            let old = update(cx, i, m, |v, lane| u64::from(f(v as u32, b[lane])))?;
            Ok(finish(cx, i, m, &old, true))
        }
        #[doc = concat!("red, 32 bits: ", stringify!($f))]
        pub fn $red(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
            let f: fn(u32, u32) -> u32 = $f;
            let b = *cx.warp.r(i.ops[0]);
            let old = update(cx, i, m, |v, lane| u64::from(f(v as u32, b[lane])))?;
            Ok(finish(cx, i, m, &old, false))
        })*
    };
}

atomics! {
    atom_add, red_add = u32::wrapping_add;
    atom_min_s, red_min_s = |a, b| (a as i32).min(b as i32) as u32;
    atom_max_s, red_max_s = |a, b| (a as i32).max(b as i32) as u32;
    atom_min_u, red_min_u = u32::min;
    atom_max_u, red_max_u = u32::max;
    atom_or, red_or = |a, b| a | b;
    atom_and, red_and = |a, b| a & b;
    atom_exch, red_exch = |_, b| b;
}

/// atom.add.u64.
pub fn atom_add64(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    let b = *cx.warp.l(i.ops[1]);
    let old = update(cx, i, m, |v, lane| v.wrapping_add(b[lane]))?;
    Ok(finish(cx, i, m, &old, true))
}

/// atom.cas.b32.
pub fn atom_cas(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    let (compare, new) = (*cx.warp.r(i.ops[1]), *cx.warp.r(i.ops[2]));
    let old = update(cx, i, m, |v, lane| if v as u32 == compare[lane] { u64::from(new[lane]) } else { v })?;
    Ok(finish(cx, i, m, &old, true))
}
