//! Meters, and the energy of inferences.

use crate::handle::Table;
use crate::memory::{check, put, put_versioned, versioned};
use crate::session::{SESSIONS, pl_session};
use crate::status::{entry, fault, pl_status, pl_status::*};
use pilotlight::energy::{Basis, Energy, Meter, MeterOptions, Microjoules, NotMeasured};
use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Reads the power of the module, for all sessions of the process. All zero is null: no meter.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct pl_meter {
    /// Not to be looked at.
    pub id: u64,
}

/// Energy: not known; `reason` of `pl_energy` says why.
pub const PL_ENERGY_NOT_MEASURED: u32 = 0;
/// Energy: from one rail that feeds the whole module.
pub const PL_ENERGY_MEASURED: u32 = 1;
/// Energy: from a sum of rails that is not the whole, or a processor's estimate of itself.
pub const PL_ENERGY_ESTIMATED: u32 = 2;
/// Energy: from a tree that is not the machine's own.
pub const PL_ENERGY_MODELLED: u32 = 3;

/// Why not: the session was opened without a meter.
pub const PL_WHY_NO_METER: u32 = 1;
/// Why not: the machine shows no power that could be read; `pl_meter_missing` says what is missing.
pub const PL_WHY_NO_POWER: u32 = 2;
/// Why not: the session runs on a virtual board.
pub const PL_WHY_VIRTUAL_BOARD: u32 = 3;
/// Why not: the meter tells seven sessions apart, and this is a further one.
pub const PL_WHY_CROWDED: u32 = 4;
/// Why not: the window has not closed yet; ask again later.
pub const PL_WHY_OPEN: u32 = 5;
/// Why not: the window closed too long ago; the last 64 are kept.
pub const PL_WHY_FORGOTTEN: u32 = 6;
/// Why not: no inference of this number has ended.
pub const PL_WHY_UNKNOWN: u32 = 7;
/// Why not: the sensor has stopped answering.
pub const PL_WHY_SENSOR_LOST: u32 = 8;
/// Why not: the sensor has not moved for a minute.
pub const PL_WHY_SENSOR_STUCK: u32 = 9;
/// Why not: the meter was closed.
pub const PL_WHY_METER_CLOSED: u32 = 10;

/// A net energy that is not known: its baseline was never measured at these clocks.
pub const PL_NO_BASELINE: u64 = u64::MAX;

/// An inference's part of a window's energy: the session's share by device busy time, over its inferences.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct pl_energy {
    /// Size of this structure: set it to `sizeof(pl_energy)` before the call.
    pub size: usize,
    /// `PL_ENERGY_...`. Where it is not measured the fields below `reason` are 0.
    pub status: u32,
    /// `PL_WHY_...`, where it is not measured; else 0.
    pub reason: u32,
    /// Of all the energy of the rail, microjoules.
    pub gross_uj: u64,
    /// Standard deviation of it; two of them cover at least 95 %.
    pub deviation_uj: u64,
    /// Above a board on which nothing of ours is resident, or `PL_NO_BASELINE`.
    pub net_parked_uj: u64,
    /// Above one whose resident kernel waits for work, or `PL_NO_BASELINE`.
    pub net_lit_uj: u64,
    /// Above one that works back to back at something else, or `PL_NO_BASELINE`.
    pub net_busy_uj: u64,
    /// Inferences of the session in the window.
    pub inferences: u64,
    /// Length of the window, nanoseconds.
    pub length_ns: u64,
    /// Time of it that samples cover.
    pub covered_ns: u64,
    /// How long it had been over when the inference ended, or when it was asked for.
    pub age_ns: u64,
}

const OLDEST_ENERGY: usize = size_of::<pl_energy>();

impl pl_energy {
    const NONE: Self = Self {
        size: 0,
        status: PL_ENERGY_NOT_MEASURED,
        reason: 0,
        gross_uj: 0,
        deviation_uj: 0,
        net_parked_uj: 0,
        net_lit_uj: 0,
        net_busy_uj: 0,
        inferences: 0,
        length_ns: 0,
        covered_ns: 0,
        age_ns: 0,
    };

    pub(crate) fn new(size: usize, energy: Energy) -> Self {
        let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let net = |e: Option<Microjoules>| e.map_or(PL_NO_BASELINE, |e| e.0);
        match energy {
            Energy::Window(w) => Self {
                size,
                status: match w.basis {
                    Basis::Measured => PL_ENERGY_MEASURED,
                    Basis::Estimated => PL_ENERGY_ESTIMATED,
                    Basis::Modelled => PL_ENERGY_MODELLED,
                },
                reason: 0,
                gross_uj: w.gross.0,
                deviation_uj: w.deviation.0,
                net_parked_uj: net(w.net.parked),
                net_lit_uj: net(w.net.lit),
                net_busy_uj: net(w.net.busy),
                inferences: w.inferences.into(),
                length_ns: ns(w.length),
                covered_ns: ns(w.covered),
                age_ns: ns(w.age),
            },
            Energy::NotMeasured(why) => Self { size, reason: reason(why), ..Self::NONE },
            // An energy that this ABI has no name for is not shown.
            _ => Self { size, ..Self::NONE },
        }
    }

    /// # Safety
    /// 1. `to` is NULL or points to a `pl_energy` whose `size` is set.
    pub(crate) unsafe fn tell(to: *mut Self, energy: Energy) -> Result<pl_status, crate::status::Fault> {
        // SAFETY: 1.; all fields are integers, the first is the size.
        let size = unsafe { versioned(to, Self::NONE, OLDEST_ENERGY, "energy") }?.size;
        // SAFETY: 1.
        unsafe { put_versioned(to, Self::new(size, energy), size, OLDEST_ENERGY, "energy") }?;
        Ok(PL_OK)
    }
}

fn reason(why: NotMeasured) -> u32 {
    match why {
        NotMeasured::NoMeter => PL_WHY_NO_METER,
        NotMeasured::NoPower => PL_WHY_NO_POWER,
        NotMeasured::VirtualBoard => PL_WHY_VIRTUAL_BOARD,
        NotMeasured::Crowded => PL_WHY_CROWDED,
        NotMeasured::Open => PL_WHY_OPEN,
        NotMeasured::Forgotten => PL_WHY_FORGOTTEN,
        NotMeasured::Unknown => PL_WHY_UNKNOWN,
        NotMeasured::SensorLost => PL_WHY_SENSOR_LOST,
        NotMeasured::SensorStuck => PL_WHY_SENSOR_STUCK,
        NotMeasured::Closed => PL_WHY_METER_CLOSED,
        _ => 0,
    }
}

pub(crate) static METERS: Table<Meter> = Table::new(b'M', "meter");

/// Opens a meter: give it to `pl_options.meter` of every session. It keeps one thread; on a machine without readable
/// power it keeps none, and sessions get `PL_ENERGY_NOT_MEASURED`. Any thread.
///
/// `root` is the root of the file tree whose sensors are read; NULL is the machine's own, and what another tree shows
/// is `PL_ENERGY_MODELLED`. `rate` is samples a second, 0 or 10 to 1000; `window_ms` the length of a window, 0 or
/// 100 to 60000. Zeros are the defaults: 100, and 1000.
///
/// Fails with `PL_ERR_NULL`, `PL_ERR_OPTION`, `PL_ERR_SYSTEM`, `PL_ERR_LIMIT`.
///
/// # Safety
/// 1. `root` is NULL or a NUL-terminated string.
/// 2. `meter` is NULL or points to a `pl_meter`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_meter_open(
    root: *const c_char,
    rate: u32,
    window_ms: u32,
    meter: *mut pl_meter,
) -> pl_status {
    entry(|| {
        check(meter, "meter")?;
        let mut options = MeterOptions::default();
        if !root.is_null() {
            // SAFETY: 1. not NULL, so NUL-terminated.
            options = options.root(OsStr::from_bytes(unsafe { CStr::from_ptr(root) }.to_bytes()));
        }
        if rate != 0 {
            options = options.rate(rate);
        }
        if window_ms != 0 {
            options = options.window(Duration::from_millis(window_ms.into()));
        }
        let id = METERS.insert(Meter::open(&options)?)?;
        // SAFETY: 2.
        unsafe { put(meter, "meter", pl_meter { id }) }?;
        Ok(PL_OK)
    })
}

/// Why a meter reads nothing, in English: copies up to `size - 1` bytes and a NUL to `buffer`. Empty where it reads
/// something. Any thread.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_NULL`, `PL_ERR_SIZE` (a `size` of 0).
///
/// # Safety
/// 1. `buffer` is NULL or has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_meter_missing(meter: pl_meter, buffer: *mut c_char, size: usize) -> pl_status {
    entry(|| {
        let meter = METERS.get(meter.id)?;
        check(buffer, "buffer")?;
        let last = size.checked_sub(1).ok_or_else(|| fault(PL_ERR_SIZE, "a text needs a byte at least"))?;
        let text = meter.module().err().unwrap_or_default();
        let n = text.len().min(last);
        // SAFETY: 1. there is room for `size` bytes, of which n + 1 are written.
        unsafe {
            buffer.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), n);
            buffer.add(n).write(0);
        }
        Ok(PL_OK)
    })
}

/// Closes a meter and ends its thread. Sessions that were opened with it go on, without energies. Any thread.
///
/// Fails with `PL_ERR_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn pl_meter_close(meter: pl_meter) -> pl_status {
    entry(|| {
        METERS.remove(meter.id)?.close();
        Ok(PL_OK)
    })
}

/// The energy of inference `sequence` (of `pl_report`): its part of the window in which it ended, once that has
/// closed; `PL_WHY_OPEN` until then. Set `energy->size` first. Any thread.
///
/// Fails with `PL_ERR_HANDLE`, `PL_ERR_NULL`, `PL_ERR_SIZE`.
///
/// # Safety
/// 1. `energy` is NULL or points to a `pl_energy` whose `size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pl_session_energy(
    session: pl_session,
    sequence: u64,
    energy: *mut pl_energy,
) -> pl_status {
    entry(|| {
        let open = SESSIONS.get(session.id)?;
        // SAFETY: 1.
        unsafe { pl_energy::tell(energy, open.session.energy(sequence)) }
    })
}
