//! The device thread: takes work from the streams and runs grids slice by slice.

use super::{CALLERS, CHANGED, Code, LEGACY, Running, STATE, State, Work, host};
use crate::code::CLASS_NAMES;
use crate::counters::Counters;
use crate::emulator::LaunchError;
use crate::exec::{TrapKind, TrapReport};
use crate::grid::Status;
use crate::memory::Fault;
use pilotlight_boards::model::{self, Modelled};
use serde_json::json;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Warp instructions between two moments at which callers may take the lock: about a millisecond.
const SLICE: u64 = 30_000;
/// Launches kept for a report that nobody fetches.
const MOST_LAUNCHES: usize = 100_000;
/// Thousandths of the device.
const WHOLE: u64 = 1000;

/// A finished launch, for the report.
pub struct Launch {
    name: String,
    work: model::Work,
    counters: Counters,
    modelled: Modelled,
    start: u64,
    end: u64,
    /// Bytes read from DRAM by allocation: first address, bytes.
    reads: Vec<(u64, u64)>,
}

/// Starts the device thread once.
pub fn start(state: &mut State) {
    if !std::mem::replace(&mut state.worker, true) {
        // Detached: it ends with the process.
        std::thread::spawn(run);
    }
}

fn run() {
    loop {
        let mut guard = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = guard.as_mut() else { return };
        // A panic is a fault of the emulator; the program must still get an answer instead of a hang.
        let step = catch_unwind(AssertUnwindSafe(|| step(state)));
        let sleep = step.unwrap_or_else(|_| {
            fail(state, Code::Unknown, "the emulator failed; see the panic above".to_owned());
            None
        });
        CHANGED.notify_all();
        match sleep {
            Some(time) => {
                let since = Instant::now();
                let (mut guard, _) =
                    CHANGED.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner);
                // Resident kernels wait for the host: their time passes as the host's does.
                if let Some(state) = guard.as_mut().filter(|s| !s.running.is_empty()) {
                    state.emulator.machine.clock += since.elapsed().as_nanos() as u64 * 1000;
                }
                drop(guard);
            }
            None => {
                drop(guard);
                while CALLERS.load(Ordering::SeqCst) > 0 {
                    std::thread::yield_now();
                }
            }
        }
    }
}

/// One round; says how long to sleep if there is nothing to do.
fn step(state: &mut State) -> Option<Duration> {
    if state.sticky.is_some() {
        return Some(Duration::from_secs(1));
    }
    let mut busy = false;
    let mut streams: Vec<u64> = state.streams.keys().copied().collect();
    streams.sort_unstable();
    for stream in streams {
        while state.sticky.is_none() && ready(state, stream) && start_work(state, stream) {
            busy = true;
        }
    }
    for n in (0..state.running.len()).rev() {
        busy |= slice(state, n);
        if state.sticky.is_some() {
            return None;
        }
    }
    if busy {
        state.idle = 0;
        return None;
    }
    if state.running.is_empty() {
        return Some(Duration::from_millis(100));
    }
    // Resident kernels poll host memory. Backs off to a millisecond so that waiting costs no core.
    state.idle = (state.idle + 1).min(1000);
    Some(Duration::from_micros(u64::from(state.idle)))
}

/// Whether the stream's next work may start.
fn ready(state: &State, id: u64) -> bool {
    let Some(stream) = state.streams.get(&id) else { return false };
    let Some(head) = stream.queue.front() else { return false };
    if stream.running.is_some() {
        return false;
    }
    // The legacy stream and blocking streams wait for each other's older work.
    let held = |other: &super::Stream| other.oldest().is_some_and(|n| n < head.number);
    if id == LEGACY {
        !state.streams.iter().any(|(n, s)| *n != LEGACY && s.blocking && held(s))
    } else {
        !stream.blocking || !state.streams.get(&LEGACY).is_some_and(held)
    }
}

/// Starts the next work of a stream; false if it must wait.
fn start_work(state: &mut State, id: u64) -> bool {
    let Some(stream) = state.streams.get_mut(&id) else { return false };
    let Some(head) = stream.queue.front() else { return false };
    let number = head.number;
    match head.work.clone() {
        Work::Kernel { kernel, config, params } => {
            let blocks: u64 = config.grid.iter().map(|&n| u64::from(n)).product();
            let threads: u32 = config.block.iter().product();
            let per_sm = state.emulator.occupancy(&kernel, threads, config.shared);
            let capacity = u64::from(per_sm) * u64::from(state.emulator.options.board.sms);
            let share = (blocks * WHOLE).div_ceil(capacity.max(1)).min(WHOLE);
            let taken: u64 = state.running.iter().map(|r| r.share).sum();
            // The race detector follows one launch at a time.
            if taken + share > WHOLE || (state.emulator.options.race && taken > 0) {
                return false;
            }
            pop(state, id);
            let cooperative = config.cooperative;
            match state.emulator.launch(&kernel, config, params) {
                Ok(grid) => {
                    let (name, start) = (kernel.program.name.clone(), state.emulator.machine.clock);
                    state.running.push(Running {
                        stream: id,
                        grid,
                        counters: Counters::default(),
                        name,
                        start,
                        warps_per_block: u64::from(threads.div_ceil(32)),
                        blocks_per_sm: u64::from(per_sm),
                        share,
                        cooperative,
                        lit: false,
                    });
                    if let Some(stream) = state.streams.get_mut(&id) {
                        stream.running = Some(number);
                    }
                }
                // Checked when it was queued; a graph may still hold what no longer fits.
                Err(error) => fail(state, launch_code(&error), error.to_string()),
            }
            return true;
        }
        Work::Wait { event, generation } => {
            if state.events.get(&event).is_some_and(|e| e.done < generation) {
                return false;
            }
        }
        Work::Record { event, generation } => {
            let clock = state.emulator.machine.clock;
            if let Some(event) = state.events.get_mut(&event) {
                (event.done, event.clock) = (generation, clock);
            }
        }
        Work::Call { function, data } => {
            // SAFETY: (1) the program gave this pointer to cuLaunchHostFunc as a function of this type, with
            // the data that goes with it, and keeps both valid until it has run.
            unsafe {
                let function: extern "C" fn(*mut std::ffi::c_void) = std::mem::transmute(function);
                function(data as *mut std::ffi::c_void);
            }
        }
        work => {
            if let Err(fault) = copy(state, &work) {
                fail(state, Code::IllegalAddress, format!("a copy or fill: {fault}"));
            }
            state.emulator.machine.progress += 1;
        }
    }
    pop(state, id);
    true
}

fn pop(state: &mut State, id: u64) {
    if let Some(stream) = state.streams.get_mut(&id) {
        stream.queue.pop_front();
    }
}

fn copy(state: &mut State, work: &Work) -> Result<(), Fault> {
    let memory = &mut state.emulator.machine.memory;
    match *work {
        Work::Upload { to, ref bytes } => memory.bytes_mut(to, bytes.len())?.copy_from_slice(bytes),
        Work::UploadMapped { to, from, len } => {
            let bytes = host::read(from, len).ok_or(Fault::Unmapped { address: from, len })?;
            memory.bytes_mut(to, len)?.copy_from_slice(&bytes);
        }
        Work::Download { from, to, len } => {
            let bytes = memory.bytes(from, len)?;
            // SAFETY: (1) the program keeps `len` bytes at `to` valid until the copy is done: either it waits
            // in the call, or it gave pinned memory, which the API says must stay until the stream has passed.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, len) };
        }
        Work::Copy { from, to, len } => {
            let bytes = memory.bytes(from, len)?.to_vec();
            memory.bytes_mut(to, len)?.copy_from_slice(&bytes);
        }
        Work::Fill { to, value, len } => memory.bytes_mut(to, len)?.fill(value),
        _ => {}
    }
    Ok(())
}

/// Runs a slice of a grid; true if it did work.
fn slice(state: &mut State, n: usize) -> bool {
    let machine = &mut state.emulator.machine;
    let running = &mut state.running[n];
    std::mem::swap(&mut machine.counters, &mut running.counters);
    let result = running.grid.run(machine, SLICE);
    std::mem::swap(&mut machine.counters, &mut running.counters);
    running.lit |= running.cooperative && (machine.polled_host || result == Ok(Status::WaitsForHost));
    match result {
        Ok(Status::Running) => true,
        Ok(Status::WaitsForHost) => false,
        Ok(Status::Done) => {
            let done = state.running.swap_remove(n);
            if let Some(stream) = state.streams.get_mut(&done.stream) {
                stream.running = None;
            }
            let machine = &mut state.emulator.machine;
            let counters = done.counters;
            let work = counters.work(done.grid.blocks(), done.warps_per_block, done.blocks_per_sm);
            let modelled = machine.model.kernel(&work);
            // A kernel that slept or waited for the host took longer than its work.
            machine.clock = machine.clock.max(done.start + (modelled.ns * 1000.0) as u64);
            let reads = counters.dram_read_by.iter().enumerate().filter(|(_, bytes)| **bytes > 0);
            let reads = reads.filter_map(|(n, bytes)| Some((machine.memory.base(n)?, *bytes))).collect();
            let (name, start, end) = (done.name, done.start, machine.clock);
            // Nobody may ever ask; the newest are worth most.
            if state.launches.len() == MOST_LAUNCHES {
                state.launches.pop_front();
            }
            state.launches.push_back(Launch { name, work, counters, modelled, start, end, reads });
            true
        }
        Err(report) => {
            fail(state, trap_code(&report), report.to_string());
            true
        }
    }
}

fn fail(state: &mut State, code: Code, text: String) {
    eprintln!("virtual Orin: {text}");
    state.last_error = text;
    state.sticky = Some(code);
}

fn trap_code(report: &TrapReport) -> Code {
    match &report.kind {
        TrapKind::Memory(Fault::Misaligned { .. }) => Code::MisalignedAddress,
        TrapKind::Memory(_) => Code::IllegalAddress,
        TrapKind::Hang { .. } => Code::Timeout,
        TrapKind::Undefined(_) => Code::IllegalInstruction,
        TrapKind::Divergent { .. } | TrapKind::Barrier { .. } | TrapKind::Trap | TrapKind::Race(_) => {
            Code::LaunchFailed
        }
    }
}

/// The driver's code for a refused launch.
pub fn launch_code(error: &LaunchError) -> Code {
    match error {
        LaunchError::Dimensions { .. } | LaunchError::Parameters { .. } => Code::InvalidValue,
        LaunchError::Resources { .. } => Code::OutOfResources,
        LaunchError::CooperativeTooLarge { .. } => Code::CooperativeTooLarge,
    }
}

/// Finished launches since the last report, a JSON object a line, oldest first:
///
/// - `kernel`, `start_ns`, `end_ns`: name, and modelled times on the clock of `globaltimer` and events;
/// - `modelled`: `ns`, `joules`, `bound` (what limits it), `parts` (ns by resource), and `validated`: while it
///   is false, modelled figures may be compared with each other only;
/// - `work`: what the model was given; `issued`: warp instructions by class; `counters`: all other counts;
/// - `dram_read_by`: pairs of an allocation's first address and the bytes of it that L2 read from DRAM.
pub fn report() -> String {
    let mut guard = super::lock();
    let Some(state) = guard.as_mut() else { return String::new() };
    let mut text = String::new();
    for launch in state.launches.drain(..) {
        text.push_str(&launch.json().to_string());
        text.push('\n');
    }
    text
}

impl Launch {
    fn json(&self) -> serde_json::Value {
        let Launch { counters: c, modelled: m, work: w, .. } = self;
        let issued: serde_json::Map<String, serde_json::Value> =
            CLASS_NAMES.iter().zip(c.issued).map(|(class, n)| ((*class).to_owned(), json!(n))).collect();
        json!({
            "kernel": self.name,
            "start_ns": self.start / 1000,
            "end_ns": self.end / 1000,
            "modelled": {
                "ns": m.ns, "joules": m.joules, "bound": m.bound.name(), "validated": model::VALIDATED,
                "parts": {
                    "tensor": m.parts.tensor, "issue": m.parts.issue, "shared": m.parts.shared,
                    "l2": m.parts.l2, "dram": m.parts.dram, "chain": m.parts.chain, "fill": m.parts.fill,
                    "launch": m.parts.launch,
                },
            },
            "work": {
                "mma_macs": w.mma_macs, "instructions": w.instructions, "int": w.int, "convert": w.convert,
                "shared_passes": w.shared_passes, "l2_bytes": w.l2_bytes, "dram_read": w.dram_read,
                "dram_written": w.dram_written, "blocks": w.blocks, "warps_per_block": w.warps_per_block,
                "blocks_per_sm": w.blocks_per_sm,
            },
            "issued": issued,
            "counters": {
                "load_bytes": c.load_bytes, "store_bytes": c.store_bytes, "async_bytes": c.async_bytes,
                "shared_bytes": c.shared_bytes, "atomics": c.atomics, "requests": c.global_requests,
                "sectors": c.sectors, "shared_requests": c.shared_requests,
                "shared_passes": c.shared_passes, "shared_least": c.shared_least,
                "loop_passes": c.loop_passes, "loop_least": c.loop_least,
                "worst_conflict": c.worst_conflict,
            },
            "dram_read_by": self.reads,
        })
    }
}
