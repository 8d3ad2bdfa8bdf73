//! Plans.

use crate::handle::Table;
use crate::memory::{bytes, check, put};
use crate::status::{entry, fault, pl_status, pl_status::*};
use pilotlight::Plan;
use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;

/// A compiled model, read and validated. All zero is null.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct pl_plan {
    /// Not to be looked at.
    pub id: u64,
}

pub(crate) static PLANS: Table<Plan> = Table::new(b'P', "plan");

/// Reads a plan from a file. The file is read whole: what becomes of it afterwards does not matter. Any thread.
///
/// Fails with `PL_ERR_PLAN_FILE`, `PL_ERR_PLAN_FORMAT`, `PL_ERR_PLAN_DAMAGED`, `PL_ERR_MEMORY`, `PL_ERR_LIMIT`.
///
/// # Safety
/// 1. `path` is NULL or a NUL-terminated string.
/// 2. `plan` is NULL or points to a `pl_plan`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_plan_open(path: *const c_char, plan: *mut pl_plan) -> pl_status {
    entry(|| {
        check(path, "path")?;
        check(plan, "plan")?;
        // SAFETY: 1. not NULL, so NUL-terminated.
        let path = OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes());
        let id = PLANS.insert(Plan::open(path)?)?;
        // SAFETY: 2.
        unsafe { put(plan, "plan", pl_plan { id }) }?;
        Ok(PL_OK)
    })
}

/// Reads a plan from memory, which is copied. Any thread.
///
/// Fails as `pl_plan_open` does.
///
/// # Safety
/// 1. `data` is NULL or points to `size` bytes that do not change during the call.
/// 2. `plan` is NULL or points to a `pl_plan`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_plan_from_bytes(
    data: *const c_void,
    size: usize,
    plan: *mut pl_plan,
) -> pl_status {
    entry(|| {
        check(plan, "plan")?;
        // SAFETY: 1.
        let bytes = unsafe { bytes(data.cast(), size, "data") }?;
        let mut copy = Vec::new();
        copy.try_reserve_exact(size)
            .map_err(|_| fault(PL_ERR_MEMORY, format!("no {size} bytes for a copy of the plan")))?;
        copy.extend_from_slice(bytes);
        let id = PLANS.insert(Plan::from_bytes(copy)?)?;
        // SAFETY: 2.
        unsafe { put(plan, "plan", pl_plan { id }) }?;
        Ok(PL_OK)
    })
}

/// Reads a plan that is linked into the program (or otherwise lives as long as it): its weights are used where
/// they lie. Any thread.
///
/// Fails as `pl_plan_open` does.
///
/// # Safety
/// 1. `data` is NULL or points to `size` bytes that live and do not change until the process ends.
/// 2. `plan` is NULL or points to a `pl_plan`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_plan_from_static(
    data: *const c_void,
    size: usize,
    plan: *mut pl_plan,
) -> pl_status {
    entry(|| {
        check(plan, "plan")?;
        // SAFETY: 1.
        let bytes: &'static [u8] = unsafe { bytes(data.cast(), size, "data") }?;
        let id = PLANS.insert(Plan::from_static(bytes)?)?;
        // SAFETY: 2.
        unsafe { put(plan, "plan", pl_plan { id }) }?;
        Ok(PL_OK)
    })
}

/// Closes a plan. Sessions that were opened with it go on. Any thread.
///
/// Fails with `PL_ERR_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn pl_plan_close(plan: pl_plan) -> pl_status {
    entry(|| {
        PLANS.remove(plan.id)?;
        Ok(PL_OK)
    })
}
