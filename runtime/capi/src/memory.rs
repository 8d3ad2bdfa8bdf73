//! Reading and writing through pointers that C passed.

use crate::status::{Fault, fault, pl_status::*};

/// Writes a result.
///
/// # Safety
/// 1. `to` is NULL, or points to room for a `T`.
pub(crate) unsafe fn put<T>(to: *mut T, name: &str, value: T) -> Result<(), Fault> {
    check(to, name)?;
    // SAFETY: 1. not NULL, so there is room. The caller's variable may be unaligned in a packed structure.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

pub(crate) fn check<T>(pointer: *const T, name: &str) -> Result<(), Fault> {
    if pointer.is_null() { Err(fault(PL_ERR_NULL, format!("{name} is NULL"))) } else { Ok(()) }
}

/// Bytes of the caller's.
///
/// # Safety
/// 1. `data` is NULL, or points to `size` initialised bytes that live and do not change for `'a`.
pub(crate) unsafe fn bytes<'a>(data: *const u8, size: usize, name: &str) -> Result<&'a [u8], Fault> {
    check(data, name)?;
    if size > isize::MAX as usize {
        return Err(fault(PL_ERR_SIZE, format!("{name}: {size} bytes are more than there can be")));
    }
    // SAFETY: 1. not NULL, and of a possible size.
    Ok(unsafe { std::slice::from_raw_parts(data, size) })
}

fn check_size<T>(size: usize, oldest: usize, name: &str) -> Result<(), Fault> {
    let newest = size_of::<T>();
    if (oldest..=newest).contains(&size) {
        return Ok(());
    }
    Err(fault(PL_ERR_SIZE, format!("{name}: size is {size}, allowed is {oldest} to {newest}; use sizeof")))
}

/// Reads a structure that begins with its own size, as the caller's header knew it.
///
/// # Safety
/// 1. `from` is NULL, or points to a structure whose first field is a `usize` that holds its size in bytes, or
///    to that field alone with an impossible size.
/// 2. `T` is `repr(C)`, any bytes make a valid one, and its first field is that `usize`.
pub(crate) unsafe fn versioned<T: Copy>(
    from: *const T,
    mut known: T,
    oldest: usize,
    name: &str,
) -> Result<T, Fault> {
    check(from, name)?;
    // SAFETY: 1. and 2.: the first field is there.
    let size = unsafe { from.cast::<usize>().read_unaligned() };
    check_size::<T>(size, oldest, name)?;
    // SAFETY: 1. the structure is `size` bytes long, and `known` at least as long; 2. any bytes are valid.
    unsafe { (&raw mut known).cast::<u8>().copy_from_nonoverlapping(from.cast(), size) };
    Ok(known)
}

/// Writes as much of a structure as the caller's header knew.
///
/// # Safety
/// 1. `to` is NULL, or points to room for `size` bytes.
/// 2. `T` is `repr(C)`.
pub(crate) unsafe fn put_versioned<T>(
    to: *mut T,
    value: T,
    size: usize,
    oldest: usize,
    name: &str,
) -> Result<(), Fault> {
    check(to, name)?;
    check_size::<T>(size, oldest, name)?;
    // SAFETY: 1. there is room for `size` bytes, and `value` has at least as many.
    unsafe { to.cast::<u8>().copy_from_nonoverlapping((&raw const value).cast(), size) };
    Ok(())
}
