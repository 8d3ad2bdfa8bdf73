//! Slots: lend, fill, submit, wait, read, release.

use crate::energy::pl_energy;
use crate::memory::{bytes, check, put, put_versioned, versioned};
use crate::session::{Open, SESSIONS, pl_session, try_lock};
use crate::status::{Fault, entry, fault, pl_status, pl_status::*};
use pilotlight::{Failure, Lent, Output, Pending, Report};
use std::ffi::c_void;
use std::mem::offset_of;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A lent slot, a request in flight, or an output: the handle stays the same on the way. All zero is null.
///
/// Every lent slot is given back by exactly one `pl_release` or `pl_cancel`; then the handle is stale.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct pl_slot {
    /// Not to be looked at.
    pub session: u64,
    /// Not to be looked at.
    pub id: u64,
}

/// What an inference took.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct pl_report {
    /// Size of this structure: set it to `sizeof(pl_report)` before the call.
    pub size: usize,
    /// Which inference of the session it was, from 1, in the order in which they began.
    pub sequence: u64,
    /// Nanoseconds from submission to begin.
    pub queued_ns: u64,
    /// Nanoseconds from begin to end.
    pub ran_ns: u64,
    /// Nanoseconds after its deadline that it ended; 0 when it was in time or had none.
    pub late_ns: u64,
    /// `PL_ENERGY_...`: whether and how the energy is known.
    pub energy_status: u32,
    /// 0.
    pub reserved: u32,
    /// Gross energy of an inference in the session's last window that closed, microjoules, where `energy_status`
    /// says that it is known; else 0. `pl_slot_energy` tells the rest.
    pub energy_uj: u64,
    /// Nanoseconds that this window had been over when the inference ended, where the energy is known; else 0.
    pub energy_age_ns: u64,
}

const OLDEST_REPORT: usize = offset_of!(pl_report, energy_age_ns);

const INDEX_BITS: u32 = 8;

pub(crate) enum State {
    Free,
    Lent(Lent),
    Pending(Pending),
    Done(Output),
    /// Waited for in vain; only to be released.
    Failed(Failure),
}

pub(crate) struct Entry {
    generation: u64,
    pub(crate) state: State,
}

impl Entry {
    pub(crate) fn new() -> Self {
        Self { generation: 1, state: State::Free }
    }

    /// Makes the handle stale and gives back what it held.
    pub(crate) fn free(&mut self) -> State {
        self.generation += 1;
        std::mem::replace(&mut self.state, State::Free)
    }

    fn wrong(&self, needed: &str) -> Fault {
        let found = match &self.state {
            State::Free => "free",
            State::Lent(_) => "lent: fill and submit it, or release it",
            State::Pending(_) => "in flight: wait for it or cancel it",
            State::Done(_) => "done: read its outputs, then release it",
            State::Failed(failure) => {
                return fault(PL_ERR_STATE, format!("the inference failed ({failure}): release it"));
            }
        };
        fault(PL_ERR_STATE, format!("this needs a slot that is {needed}; the slot is {found}"))
    }
}

/// Runs a body on the entry of a slot's handle.
fn with_slot(slot: pl_slot, body: impl FnOnce(&mut Entry) -> Result<pl_status, Fault>) -> pl_status {
    entry(|| {
        if slot.session == 0 && slot.id == 0 {
            return Err(fault(PL_ERR_HANDLE, "the slot handle is null; lend one"));
        }
        let open: Arc<Open> = SESSIONS.get(slot.session)?;
        let mut entry = open.entry((slot.id & ((1 << INDEX_BITS) - 1)) as usize)?;
        if entry.generation != slot.id >> INDEX_BITS || matches!(entry.state, State::Free) {
            return Err(fault(PL_ERR_HANDLE, "the slot was released or cancelled; lend another"));
        }
        body(&mut entry)
    })
}

/// Lends a free slot. Any thread.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_NO_SLOT`.
///
/// # Safety
/// 1. `slot` is NULL or points to a `pl_slot`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_lend(session: pl_session, slot: *mut pl_slot) -> pl_status {
    entry(|| {
        check(slot, "slot")?;
        let open = SESSIONS.get(session.id)?;
        let lent = open.session.lend()?;
        for (index, entry) in open.entries.iter().enumerate() {
            // An entry that another call has is not free.
            let Ok(mut entry) = try_lock(entry) else { continue };
            if matches!(entry.state, State::Free) {
                entry.state = State::Lent(lent);
                let id = entry.generation << INDEX_BITS | index as u64;
                // SAFETY: 1.
                unsafe { put(slot, "slot", pl_slot { session: session.id, id }) }?;
                return Ok(PL_OK);
            }
        }
        Err(fault(PL_ERR_NO_SLOT, "all slots are in use; release those whose inference failed"))
    })
}

/// The memory of input `index` of a lent slot, to be filled in place: little-endian elements, row-major.
///
/// The pointer is good until the slot is submitted or released; writing through it later is undefined.
/// One thread at a time for each slot.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`, `PL_ERR_INDEX`, `PL_ERR_NULL`.
///
/// # Safety
/// 1. `data` is NULL or points to a pointer.
/// 2. `size` is NULL or points to a `size_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_slot_input(
    slot: pl_slot,
    index: usize,
    data: *mut *mut c_void,
    size: *mut usize,
) -> pl_status {
    with_slot(slot, |entry| {
        let State::Lent(lent) = &mut entry.state else { return Err(entry.wrong("lent")) };
        let input = lent.input_bytes_mut(index)?;
        // SAFETY: 1.
        unsafe { put(data, "data", input.as_mut_ptr().cast()) }?;
        if !size.is_null() {
            // SAFETY: 2.
            unsafe { put(size, "size", input.len()) }?;
        }
        Ok(PL_OK)
    })
}

/// Copies a whole input into a lent slot; `size` must be the input's. One thread at a time for each slot.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`, `PL_ERR_INDEX`, `PL_ERR_NULL`, `PL_ERR_SIZE`.
///
/// # Safety
/// 1. `data` is NULL or points to `size` bytes outside the slot.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_slot_write(
    slot: pl_slot,
    index: usize,
    data: *const c_void,
    size: usize,
) -> pl_status {
    with_slot(slot, |entry| {
        let State::Lent(lent) = &mut entry.state else { return Err(entry.wrong("lent")) };
        let input = lent.input_bytes_mut(index)?;
        if size != input.len() {
            let text = format!("input {index} has {} bytes, {size} were given", input.len());
            return Err(fault(PL_ERR_SIZE, text));
        }
        // SAFETY: 1.
        input.copy_from_slice(unsafe { bytes(data.cast(), size, "data") }?);
        Ok(PL_OK)
    })
}

/// Submits a lent slot, behind those that were submitted before. Its memory must not be touched from now on.
/// Any thread; one at a time for each slot.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`.
#[unsafe(no_mangle)]
pub extern "C" fn pl_submit(slot: pl_slot) -> pl_status {
    with_slot(slot, |entry| submit(entry, None))
}

/// As `pl_submit`; when `deadline_ns` nanoseconds have passed before the inference can begin it is not run, and
/// waiting for it gives `PL_ERR_DEADLINE`. One that began in time and ended late has an output and a `late_ns`.
#[unsafe(no_mangle)]
pub extern "C" fn pl_submit_within(slot: pl_slot, deadline_ns: u64) -> pl_status {
    // A deadline that the clock cannot express never comes.
    let deadline = Instant::now().checked_add(Duration::from_nanos(deadline_ns));
    with_slot(slot, |entry| submit(entry, deadline))
}

fn submit(entry: &mut Entry, deadline: Option<Instant>) -> Result<pl_status, Fault> {
    match std::mem::replace(&mut entry.state, State::Free) {
        State::Lent(lent) => {
            let sent = match deadline {
                Some(at) => lent.submit_by(at),
                None => lent.submit(),
            };
            match sent {
                Ok(pending) => entry.state = State::Pending(pending),
                Err(error) => {
                    entry.free();
                    return Err(error.into());
                }
            }
            Ok(PL_OK)
        }
        other => {
            entry.state = other;
            Err(entry.wrong("lent"))
        }
    }
}

/// Waits for a submitted slot, by the session's wait policy; inline, the work is done here.
///
/// After a failure of the inference (the last three) the slot is still to be released. Not on the session's
/// worker thread. One thread at a time for each slot: to cancel from another, wait with a timeout.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`, `PL_ERR_THREAD`, `PL_ERR_DEADLINE`,
/// `PL_ERR_DEVICE`, `PL_ERR_INTERNAL`.
#[unsafe(no_mangle)]
pub extern "C" fn pl_wait(slot: pl_slot) -> pl_status {
    with_slot(slot, |entry| wait(entry, |pending| pending.wait_timeout(Duration::MAX)))
}

/// As `pl_wait`, but no longer than `timeout_ns` nanoseconds: then `PL_PENDING`, and the request goes on. Inline,
/// the time is looked at between inferences only.
#[unsafe(no_mangle)]
pub extern "C" fn pl_wait_timeout(slot: pl_slot, timeout_ns: u64) -> pl_status {
    with_slot(slot, |entry| wait(entry, |pending| pending.wait_timeout(Duration::from_nanos(timeout_ns))))
}

/// As `pl_wait`, but does not wait: `PL_PENDING` when there is no output yet. Inline, the work is done here.
#[unsafe(no_mangle)]
pub extern "C" fn pl_poll(slot: pl_slot) -> pl_status {
    with_slot(slot, |entry| wait(entry, Pending::try_wait))
}

fn wait(
    entry: &mut Entry,
    wait: impl FnOnce(&mut Pending) -> Option<Result<Output, Failure>>,
) -> Result<pl_status, Fault> {
    let State::Pending(pending) = &mut entry.state else { return Err(entry.wrong("in flight")) };
    match wait(pending) {
        None => Ok(PL_PENDING),
        Some(Ok(output)) => {
            entry.state = State::Done(output);
            Ok(PL_OK)
        }
        // Nothing was waited for: the request goes on.
        Some(Err(failure @ Failure::WrongThread)) => Err(failure.into()),
        Some(Err(failure)) => {
            entry.state = State::Failed(failure.clone());
            Err(failure.into())
        }
    }
}

/// The memory of output `index` of a slot that is done: little-endian elements, row-major.
///
/// The pointer is good until the slot is released. One thread at a time for each slot.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`, `PL_ERR_INDEX`, `PL_ERR_NULL`.
///
/// # Safety
/// 1. `data` is NULL or points to a pointer.
/// 2. `size` is NULL or points to a `size_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_slot_output(
    slot: pl_slot,
    index: usize,
    data: *mut *const c_void,
    size: *mut usize,
) -> pl_status {
    with_slot(slot, |entry| {
        let State::Done(output) = &entry.state else { return Err(entry.wrong("done")) };
        let output = output.output_bytes(index)?;
        // SAFETY: 1.
        unsafe { put(data, "data", output.as_ptr().cast()) }?;
        if !size.is_null() {
            // SAFETY: 2.
            unsafe { put(size, "size", output.len()) }?;
        }
        Ok(PL_OK)
    })
}

/// Copies a whole output of a slot that is done; `size` must be the output's. One thread at a time for each slot.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`, `PL_ERR_INDEX`, `PL_ERR_NULL`, `PL_ERR_SIZE`.
///
/// # Safety
/// 1. `data` is NULL or points to room for `size` bytes outside the slot.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_slot_read(
    slot: pl_slot,
    index: usize,
    data: *mut c_void,
    size: usize,
) -> pl_status {
    with_slot(slot, |entry| {
        let State::Done(output) = &entry.state else { return Err(entry.wrong("done")) };
        let output = output.output_bytes(index)?;
        if size != output.len() {
            let text = format!("output {index} has {} bytes, there is room for {size}", output.len());
            return Err(fault(PL_ERR_SIZE, text));
        }
        check(data, "data")?;
        // SAFETY: 1. there is room for `size` bytes, and the output has as many.
        unsafe { data.cast::<u8>().copy_from_nonoverlapping(output.as_ptr(), size) };
        Ok(PL_OK)
    })
}

/// What the inference of a slot that is done took. Set `report->size` first. One thread at a time for each slot.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`, `PL_ERR_NULL`, `PL_ERR_SIZE`.
///
/// # Safety
/// 1. `report` is NULL or points to a `pl_report` whose `size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_slot_report(slot: pl_slot, report: *mut pl_report) -> pl_status {
    with_slot(slot, |entry| {
        let State::Done(output) = &entry.state else { return Err(entry.wrong("done")) };
        // SAFETY: 1.; all fields are integers, the first is the size.
        let size = unsafe { versioned(report, pl_report::NONE, OLDEST_REPORT, "report") }?.size;
        let value = pl_report::new(size, output.report());
        // SAFETY: 1.
        unsafe { put_versioned(report, value, size, OLDEST_REPORT, "report") }?;
        Ok(PL_OK)
    })
}

impl pl_report {
    const NONE: Self = Self {
        size: 0,
        sequence: 0,
        queued_ns: 0,
        ran_ns: 0,
        late_ns: 0,
        energy_status: 0,
        reserved: 0,
        energy_uj: 0,
        energy_age_ns: 0,
    };

    fn new(size: usize, report: Report) -> Self {
        let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let energy = pl_energy::new(0, report.energy);
        Self {
            size,
            sequence: report.sequence,
            queued_ns: ns(report.queued),
            ran_ns: ns(report.ran),
            late_ns: report.late.map_or(0, ns),
            energy_status: energy.status,
            energy_uj: energy.gross_uj,
            energy_age_ns: energy.age_ns,
            ..Self::NONE
        }
    }
}

/// The energy that the report of a slot that is done carries: an inference's part of the session's last window that
/// had closed. Set `energy->size` first. One thread at a time for each slot.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`, `PL_ERR_NULL`, `PL_ERR_SIZE`.
///
/// # Safety
/// 1. `energy` is NULL or points to a `pl_energy` whose `size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_slot_energy(slot: pl_slot, energy: *mut pl_energy) -> pl_status {
    with_slot(slot, |entry| {
        let State::Done(output) = &entry.state else { return Err(entry.wrong("done")) };
        // SAFETY: 1.
        unsafe { pl_energy::tell(energy, output.report().energy) }
    })
}

/// Turns a slot that is done into a lent one, with its inputs as they are. One thread at a time for each slot.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`.
#[unsafe(no_mangle)]
pub extern "C" fn pl_again(slot: pl_slot) -> pl_status {
    with_slot(slot, |entry| match std::mem::replace(&mut entry.state, State::Free) {
        State::Done(output) => {
            entry.state = State::Lent(output.again());
            Ok(PL_OK)
        }
        other => {
            entry.state = other;
            Err(entry.wrong("done"))
        }
    })
}

/// Gives back a slot that is lent or done, or whose inference failed; the handle is stale then. Any thread; one at
/// a time for each slot.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE` (in flight: cancel it), `PL_ERR_BUSY`.
#[unsafe(no_mangle)]
pub extern "C" fn pl_release(slot: pl_slot) -> pl_status {
    with_slot(slot, |entry| {
        if matches!(entry.state, State::Pending(_)) {
            return Err(entry.wrong("lent or done"));
        }
        entry.free();
        Ok(PL_OK)
    })
}

/// Gives up a submitted slot: what has not begun is not run, what runs is run to its end and forgotten. The handle
/// is stale then. `not_run`, which may be NULL, gets 1 where it had not begun, else 0. Any thread; one at a time
/// for each slot.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`.
///
/// # Safety
/// 1. `not_run` is NULL or points to a `uint32_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_cancel(slot: pl_slot, not_run: *mut u32) -> pl_status {
    with_slot(slot, |entry| {
        if !matches!(entry.state, State::Pending(_)) {
            return Err(entry.wrong("in flight"));
        }
        let State::Pending(pending) = entry.free() else { return Ok(PL_OK) };
        let before = pending.cancel();
        if !not_run.is_null() {
            // SAFETY: 1.
            unsafe { put(not_run, "not_run", before.into()) }?;
        }
        Ok(PL_OK)
    })
}
