//! ld and st in the global, shared and generic spaces.

use super::sync::sign_extend;
use super::{Cx, Flow, Trap, aligned, lanes};
use crate::code::{Class, Inst, LANES, Order, R64, Space};
use crate::memory::Fault;
use crate::race::{Event, Kind};
use crate::weak::{Agent, Strength};

/// Lanes' bytes: up to 16 for each.
type LaneBytes = [[u8; 16]; LANES];

/// ld.
pub fn load(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    if m == 0 {
        return Ok(Flow::Next);
    }
    let (size, count) = (usize::from(i.access.size), usize::from(i.access.count));
    let addresses = cx.warp.addresses(i, 0);
    let mut bytes: LaneBytes = [[0; 16]; LANES];
    match size * count {
        1 => read::<1>(cx, i, m, &addresses, &mut bytes)?,
        2 => read::<2>(cx, i, m, &addresses, &mut bytes)?,
        4 => read::<4>(cx, i, m, &addresses, &mut bytes)?,
        8 => read::<8>(cx, i, m, &addresses, &mut bytes)?,
        _ => read::<16>(cx, i, m, &addresses, &mut bytes)?,
    }
    for n in 0..count {
        let element = |lane: &[u8; 16]| {
            let mut raw = [0u8; 8];
            raw[..size].copy_from_slice(&lane[n * size..(n + 1) * size]);
            let raw = u64::from_le_bytes(raw);
            if i.access.signed { sign_extend(raw, size) } else { raw }
        };
        if i.wide >> n & 1 == 1 {
            cx.warp.set_l(i.ops[n], m, &bytes.each_ref().map(element));
        } else if size == 4 {
            let at = n * 4;
            let value =
                bytes.each_ref().map(|b| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]));
            cx.warp.set_r(i.ops[n], m, &value);
        } else {
            cx.warp.set_r(i.ops[n], m, &bytes.each_ref().map(|b| element(b) as u32));
        }
    }
    Ok(if i.access.order == Order::Weak { Flow::Next } else { Flow::Yield })
}

fn read<const N: usize>(
    cx: &mut Cx<'_>,
    i: &Inst,
    m: u32,
    addresses: &R64,
    out: &mut LaneBytes,
) -> Result<(), Trap> {
    let first = addresses[m.trailing_zeros() as usize];
    let (who, how) = (cx.who(), Strength { order: i.access.order, scope: i.access.scope });
    if cx.space_of(i.access.space, first).0 == Space::Shared {
        for lane in lanes(m) {
            let (space, at) = cx.space_of(i.access.space, addresses[lane]);
            aligned(at, N)?;
            if space != Space::Shared {
                return Err(Fault::Unmapped { address: at, len: N }.into());
            }
            out[lane][..N].copy_from_slice(cx.shared.get(at, N)?);
        }
        cx.machine.counters.shared(i.main_loop, m, addresses, N);
    } else {
        let (mut base, mut window): (u64, &[u8]) = (0, &[]);
        for lane in lanes(m) {
            let at = addresses[lane];
            aligned(at, N)?;
            if let Some(weak) = &mut cx.weak {
                let size = usize::from(i.access.size);
                let who = Agent { lane, ..who };
                weak.load(&cx.machine.memory, who, at, &mut out[lane][..N], size, how)?;
                cx.machine.polled_host |= at >> 48 == 0 && how.order != Order::Weak;
                continue;
            }
            let offset = at.wrapping_sub(base) as usize;
            if let Some(bytes) = window.get(offset..offset.wrapping_add(N)) {
                out[lane][..N].copy_from_slice(bytes);
                continue;
            }
            match cx.machine.memory.around(at) {
                Some(found) => {
                    (base, window) = found;
                    out[lane][..N].copy_from_slice(cx.machine.memory.bytes(at, N)?);
                }
                None => {
                    let acquire = i.access.order == Order::Acquire;
                    let size = usize::from(i.access.size);
                    let host = cx.machine.memory.host.as_ref();
                    if host.and_then(|h| h.load(at, &mut out[lane][..N], size, acquire)).is_none() {
                        // Names the fault: unmapped or freed.
                        cx.machine.memory.bytes(at, N)?;
                        return Err(Fault::Unmapped { address: at, len: N }.into());
                    }
                    if i.access.order != Order::Weak {
                        cx.machine.polled_host = true;
                    }
                    if let Some(race) = &mut cx.machine.race {
                        race.host_load(cx.agent, at, &out[lane][..N], event(i, N, false))?;
                    }
                }
            }
        }
        if let Some(weak) = &mut cx.weak {
            weak.after(who, m, how);
        }
        cx.machine.count_global(m, addresses, N, false);
    }
    cx.race_access(i, m, addresses, N, false)
}

/// st.
pub fn store(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Result<Flow, Trap> {
    if m == 0 {
        return Ok(Flow::Next);
    }
    let (size, count) = (usize::from(i.access.size), usize::from(i.access.count));
    let addresses = cx.warp.addresses(i, 0);
    let mut bytes: LaneBytes = [[0; 16]; LANES];
    for n in 0..count {
        let to = n * size..(n + 1) * size;
        if i.wide >> n & 1 == 1 || size == 8 {
            let value = cx.warp.l(i.ops[n]);
            for (lane, v) in bytes.iter_mut().zip(value) {
                lane[to.clone()].copy_from_slice(&v.to_le_bytes()[..size]);
            }
        } else {
            let value = cx.warp.r(i.ops[n]);
            for (lane, v) in bytes.iter_mut().zip(value) {
                lane[to.clone()].copy_from_slice(&v.to_le_bytes()[..size]);
            }
        }
    }
    match size * count {
        1 => write::<1>(cx, i, m, &addresses, &bytes)?,
        2 => write::<2>(cx, i, m, &addresses, &bytes)?,
        4 => write::<4>(cx, i, m, &addresses, &bytes)?,
        8 => write::<8>(cx, i, m, &addresses, &bytes)?,
        _ => write::<16>(cx, i, m, &addresses, &bytes)?,
    }
    if i.access.order == Order::Weak {
        cx.machine.progress += 1;
    }
    Ok(Flow::Next)
}

fn write<const N: usize>(
    cx: &mut Cx<'_>,
    i: &Inst,
    m: u32,
    addresses: &R64,
    from: &LaneBytes,
) -> Result<(), Trap> {
    // Before the bytes change, so that a race is reported with nothing overwritten.
    cx.race_access(i, m, addresses, N, true)?;
    let first = addresses[m.trailing_zeros() as usize];
    if cx.space_of(i.access.space, first).0 == Space::Shared {
        for lane in lanes(m) {
            let (space, at) = cx.space_of(i.access.space, addresses[lane]);
            aligned(at, N)?;
            if space != Space::Shared {
                return Err(Fault::Unmapped { address: at, len: N }.into());
            }
            cx.shared.get_mut(at, N)?.copy_from_slice(&from[lane][..N]);
        }
        cx.machine.counters.shared(i.main_loop, m, addresses, N);
        return Ok(());
    }
    let (who, how) = (cx.who(), Strength { order: i.access.order, scope: i.access.scope });
    for lane in lanes(m) {
        let at = addresses[lane];
        aligned(at, N)?;
        if let Some(weak) = &mut cx.weak {
            let (who, size) = (Agent { lane, ..who }, usize::from(i.access.size));
            weak.store(&mut cx.machine.memory, who, at, &from[lane][..N], size, how)?;
        } else if at >> 48 == 0 {
            let release = matches!(i.access.order, Order::Release | Order::AcqRel);
            let host = cx.machine.memory.host.as_ref();
            let stored =
                host.and_then(|h| h.store(at, &from[lane][..N], usize::from(i.access.size), release));
            if stored.is_none() {
                return Err(Fault::Unmapped { address: at, len: N }.into());
            }
            if let Some(race) = &mut cx.machine.race {
                race.host_store(at, &from[lane][..N]);
            }
        } else {
            cx.machine.memory.bytes_mut(at, N)?.copy_from_slice(&from[lane][..N]);
        }
    }
    cx.machine.count_global(m, addresses, N, true);
    Ok(())
}

/// An access as the race detector sees it.
fn event(i: &Inst, len: usize, write: bool) -> Event {
    let (kind, order) = match (i.class, i.access.order) {
        // Atomics without a written order are relaxed (PTX ISA 9.7.13.5).
        (Class::Atomic, Order::Weak) => (Kind::Update, Order::Relaxed),
        (Class::Atomic, order) => (Kind::Update, order),
        (_, order) => (if write { Kind::Write } else { Kind::Read }, order),
    };
    Event { len, kind, order, scope: i.access.scope }
}

impl Cx<'_> {
    /// Tells the race detector, if it is on, of an access by the lanes of `m`.
    #[inline(always)]
    pub fn race_access(&mut self, i: &Inst, m: u32, at: &R64, len: usize, write: bool) -> Result<(), Trap> {
        if self.machine.race.is_none() {
            return Ok(());
        }
        let places = at.map(|a| self.space_of(i.access.space, a));
        let Some(race) = &mut self.machine.race else { return Ok(()) };
        race.access(self.agent, self.resident, m, &places, event(i, len, write))
    }
}
