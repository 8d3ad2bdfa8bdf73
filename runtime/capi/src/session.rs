//! Sessions.

use crate::handle::Table;
use crate::memory::{check, put, put_versioned, versioned};
use crate::options::pl_options;
use crate::plan::{PLANS, pl_plan};
use crate::slot::{Entry, State};
use crate::status::{Fault, entry, fault, pl_status, pl_status::*};
use pilotlight::{DType, Port, Session};
use std::ffi::c_char;
use std::sync::{Mutex, MutexGuard, TryLockError};

/// A plan open on a device. All zero is null.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct pl_session {
    /// Not to be looked at.
    pub id: u64,
}

/// Element type: unsigned 8-bit.
pub const PL_U8: u32 = 1;
/// Element type: signed 8-bit.
pub const PL_I8: u32 = 2;
/// Element type: signed 32-bit.
pub const PL_I32: u32 = 3;
/// Element type: signed 64-bit.
pub const PL_I64: u32 = 4;
/// Element type: IEEE 754 binary32.
pub const PL_F32: u32 = 5;

/// Kind of input: elements in host memory, row-major, written into the lent slot.
pub const PL_KIND_HOST: u32 = 0;

/// The most dimensions that `pl_port` can show.
pub const PL_MAX_RANK: usize = 8;

/// An input or output of a plan.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct pl_port {
    /// Size of this structure: set it to `sizeof(pl_port)` before the call.
    pub size: usize,
    /// Size in bytes: elements times the element's size, without gaps.
    pub bytes: usize,
    /// `PL_U8`, `PL_I8`, `PL_I32`, `PL_I64` or `PL_F32`.
    pub dtype: u32,
    /// `PL_KIND_...`.
    pub kind: u32,
    /// Number of dimensions.
    pub rank: u32,
    /// Extent of each dimension, in the model's order; the batch, where there is one, comes first.
    pub shape: [u32; PL_MAX_RANK],
    /// Not 0 when integers stand for reals: `real = scale * (q - zero_point)`.
    pub quantised: u32,
    /// Scale, where quantised.
    pub scale: f32,
    /// Zero point, where quantised.
    pub zero_point: i32,
    /// The name in the model, NUL-terminated; longer names are cut.
    pub name: [c_char; 64],
}

const OLDEST_PORT: usize = size_of::<pl_port>();

impl pl_port {
    fn new(size: usize, port: &Port) -> Result<Self, Fault> {
        let mut shape = [0; PL_MAX_RANK];
        let rank = port.shape.len();
        shape
            .get_mut(..rank)
            .ok_or_else(|| {
                fault(PL_ERR_LIMIT, format!("{} has {rank} dimensions, shown are at most 8", port.name))
            })?
            .copy_from_slice(&port.shape);
        let mut name = [0; 64];
        // The last byte stays NUL.
        for (to, from) in name[..63].iter_mut().zip(port.name.bytes()) {
            *to = from as c_char;
        }
        Ok(Self {
            size,
            bytes: port.bytes,
            dtype: match port.dtype {
                DType::U8 => PL_U8,
                DType::I8 => PL_I8,
                DType::I32 => PL_I32,
                DType::I64 => PL_I64,
                DType::F32 => PL_F32,
            },
            kind: PL_KIND_HOST,
            rank: rank as u32,
            shape,
            quantised: port.quant.is_some().into(),
            scale: port.quant.map_or(0.0, |q| q.scale),
            zero_point: port.quant.map_or(0, |q| q.zero_point),
            name,
        })
    }

    const NONE: Self = Self {
        size: 0,
        bytes: 0,
        dtype: 0,
        kind: 0,
        rank: 0,
        shape: [0; PL_MAX_RANK],
        quantised: 0,
        scale: 0.0,
        zero_point: 0,
        name: [0; 64],
    };
}

/// A session and what C holds of it.
pub(crate) struct Open {
    pub(crate) session: Session,
    pub(crate) entries: Box<[Mutex<Entry>]>,
}

impl Open {
    /// An entry, unless another call has it.
    pub(crate) fn entry(&self, index: usize) -> Result<MutexGuard<'_, Entry>, Fault> {
        let entry =
            self.entries.get(index).ok_or_else(|| fault(PL_ERR_HANDLE, "the session has no such slot"))?;
        try_lock(entry)
    }
}

pub(crate) fn try_lock(entry: &Mutex<Entry>) -> Result<MutexGuard<'_, Entry>, Fault> {
    match entry.try_lock() {
        Ok(entry) => Ok(entry),
        Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => Err(fault(
            PL_ERR_BUSY,
            "another call with this slot is under way; a slot is for one thread at a time",
        )),
    }
}

pub(crate) static SESSIONS: Table<Open> = Table::new(b'S', "session");

/// Opens a session. `options` may be NULL for the defaults. Any thread.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_OPTION`, `PL_ERR_SIZE`, `PL_ERR_MEMORY`, `PL_ERR_SYSTEM`, `PL_ERR_LIMIT`.
///
/// # Safety
/// 1. `options` is NULL or points to a `pl_options` that `pl_options_init` filled in.
/// 2. `session` is NULL or points to a `pl_session`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_session_open(
    plan: pl_plan,
    options: *const pl_options,
    session: *mut pl_session,
) -> pl_status {
    entry(|| {
        check(session, "session")?;
        let plan = PLANS.get(plan.id)?;
        // SAFETY: 1.
        let options = unsafe { pl_options::read(options) }?;
        let open = Session::open(&plan, &options)?;
        let entries = (0..open.slots()).map(|_| Mutex::new(Entry::new())).collect();
        let id = SESSIONS.insert(Open { session: open, entries })?;
        // SAFETY: 2.
        unsafe { put(session, "session", pl_session { id }) }?;
        Ok(PL_OK)
    })
}

/// Makes another plan the one that new requests run. Slots that are lent or in flight keep theirs; no request is
/// lost; when it fails nothing changes. Any thread.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_MEMORY`, `PL_ERR_OPTION`.
#[unsafe(no_mangle)]
pub extern "C" fn pl_session_swap(session: pl_session, plan: pl_plan) -> pl_status {
    entry(|| {
        SESSIONS.get(session.id)?.session.swap(&*PLANS.get(plan.id)?)?;
        Ok(PL_OK)
    })
}

/// Closes a session: what was submitted is run to its end, then the handle and all its slots' handles are stale.
///
/// Slots that are lent or hold an output must be released first, since their memory goes: else nothing changes
/// and `PL_ERR_IN_USE` is returned. Not on the session's own worker thread (in a log callback).
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_IN_USE`, `PL_ERR_BUSY`, `PL_ERR_THREAD`.
#[unsafe(no_mangle)]
pub extern "C" fn pl_session_close(session: pl_session) -> pl_status {
    entry(|| {
        let open = SESSIONS.get(session.id)?;
        // Held to the end, so that no other thread begins anything with a slot.
        let mut entries = open.entries.iter().map(try_lock).collect::<Result<Vec<_>, _>>()?;
        let used = entries.iter().filter(|e| matches!(e.state, State::Lent(_) | State::Done(_))).count();
        if used > 0 {
            let text = format!("{used} slots are lent or hold an output; release them, then close");
            return Err(fault(PL_ERR_IN_USE, text));
        }
        open.session.close()?;
        SESSIONS.remove(session.id)?;
        for entry in &mut entries {
            entry.free();
        }
        Ok(PL_OK)
    })
}

/// How many inputs and outputs the plan has that new requests run. Either pointer may be NULL. Any thread.
///
/// Fails with `PL_ERR_HANDLE`.
///
/// # Safety
/// 1. `inputs` and `outputs` are NULL or point to a `size_t` each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_session_ports(
    session: pl_session,
    inputs: *mut usize,
    outputs: *mut usize,
) -> pl_status {
    entry(|| {
        let ports = SESSIONS.get(session.id)?.session.ports();
        for (to, count) in [(inputs, ports.inputs.len()), (outputs, ports.outputs.len())] {
            if !to.is_null() {
                // SAFETY: 1.
                unsafe { put(to, "count", count) }?;
            }
        }
        Ok(PL_OK)
    })
}

/// Describes input `index` of the plan that new requests run. Set `port->size` first. Any thread.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_NULL`, `PL_ERR_SIZE`, `PL_ERR_INDEX`, `PL_ERR_LIMIT`.
///
/// # Safety
/// 1. `port` is NULL or points to a `pl_port` whose `size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_session_input(
    session: pl_session,
    index: usize,
    port: *mut pl_port,
) -> pl_status {
    entry(|| {
        let ports = SESSIONS.get(session.id)?.session.ports();
        // SAFETY: 1.
        unsafe { describe("input", &ports.inputs, index, port) }
    })
}

/// Describes output `index` of the plan that new requests run. Set `port->size` first. Any thread.
///
/// Fails as `pl_session_input` does.
///
/// # Safety
/// 1. `port` is NULL or points to a `pl_port` whose `size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_session_output(
    session: pl_session,
    index: usize,
    port: *mut pl_port,
) -> pl_status {
    entry(|| {
        let ports = SESSIONS.get(session.id)?.session.ports();
        // SAFETY: 1.
        unsafe { describe("output", &ports.outputs, index, port) }
    })
}

/// # Safety
/// 1. `to` is NULL or points to a `pl_port` whose `size` is set.
unsafe fn describe(what: &str, ports: &[Port], index: usize, to: *mut pl_port) -> Result<pl_status, Fault> {
    // SAFETY: 1.; all fields are numbers, the first is the size.
    let size = unsafe { versioned(to, pl_port::NONE, OLDEST_PORT, "port") }?.size;
    let port = ports
        .get(index)
        .ok_or_else(|| fault(PL_ERR_INDEX, format!("no {what} {index}: the plan has {}", ports.len())))?;
    // SAFETY: 1.
    unsafe { put_versioned(to, pl_port::new(size, port)?, size, OLDEST_PORT, "port") }?;
    Ok(PL_OK)
}
