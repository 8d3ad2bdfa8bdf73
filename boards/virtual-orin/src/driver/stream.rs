//! Streams and events.

use super::context::current;
use super::{Answer, Code, Event, LEGACY, Queued, State, Stream, Work, entries, put, wait_until, with};
use std::ffi::{c_int, c_uint, c_void};

/// Puts work into a stream, or into its capture. Returns its number (0 if captured).
pub fn enqueue(state: &mut State, id: u64, work: Work) -> Result<u64, Code> {
    state.next += 1;
    let number = state.next;
    // 1 and 2 are the driver's names for the legacy and the per-thread default stream; the latter is not here.
    let stream = state.streams.get_mut(&if id == 1 { LEGACY } else { id }).ok_or(Code::InvalidHandle)?;
    if let Some(capture) = &mut stream.capture {
        capture.push(work);
        return Ok(0);
    }
    stream.queue.push_back(Queued { number, work });
    state.idle = 0;
    Ok(number)
}

/// Whether a stream is past the work of this number.
pub fn finished(state: &State, id: u64, number: u64) -> bool {
    state.streams.get(&id).and_then(Stream::oldest).is_none_or(|oldest| oldest > number)
}

fn create(to: *mut u64, flags: c_uint) -> Answer {
    current()?;
    // 0 blocking, 1 non-blocking.
    if flags > 1 {
        return Err(Code::InvalidValue);
    }
    let handle = with(|s| {
        let handle = s.handle();
        s.streams.insert(handle, Stream { blocking: flags == 0, ..Stream::default() });
        Ok(handle)
    })?;
    // SAFETY: (1) the caller's pointer.
    unsafe { put(to, handle) }
}

entries! {
    /// A stream.
    fn cuStreamCreate(stream: *mut u64, flags: c_uint) { create(stream, flags) }

    /// A stream; there is only one priority.
    fn cuStreamCreateWithPriority(stream: *mut u64, flags: c_uint, _priority: c_int) { create(stream, flags) }

    /// Ends a stream once its work is done.
    fn cuStreamDestroy_v2(stream: u64) {
        current()?;
        if stream == LEGACY {
            return Err(Code::InvalidHandle);
        }
        wait_until(|s| Ok(s.streams.get(&stream).ok_or(Code::InvalidHandle)?.oldest().is_none()))?;
        with(|s| s.streams.remove(&stream).map(|_| ()).ok_or(Code::InvalidHandle))
    }

    /// Waits for a stream.
    fn cuStreamSynchronize(stream: u64) {
        current()?;
        wait_until(|s| {
            let stream = s.streams.get(&stream).ok_or(Code::InvalidHandle)?;
            if stream.capture.is_some() {
                return Err(Code::CaptureUnsupported);
            }
            Ok(stream.oldest().is_none())
        })
    }

    /// Whether a stream is done.
    fn cuStreamQuery(stream: u64) {
        current()?;
        with(|s| match s.streams.get(&stream).ok_or(Code::InvalidHandle)?.oldest() {
            None => Ok(()),
            Some(_) => Err(Code::NotReady),
        })
    }

    /// Makes a stream wait for an event as it is recorded now.
    fn cuStreamWaitEvent(stream: u64, event: u64, _flags: c_uint) {
        current()?;
        with(|s| {
            let generation = s.events.get(&event).ok_or(Code::InvalidHandle)?.recorded;
            enqueue(s, stream, Work::Wait { event, generation }).map(|_| ())
        })
    }

    /// A call on the host, in a stream. It may not call the driver.
    fn cuLaunchHostFunc(stream: u64, function: Option<extern "C" fn(*mut c_void)>, data: *mut c_void) {
        current()?;
        let function = function.ok_or(Code::InvalidValue)? as usize;
        with(|s| enqueue(s, stream, Work::Call { function, data: data as usize })).map(|_| ())
    }

    /// An event.
    fn cuEventCreate(event: *mut u64, _flags: c_uint) {
        current()?;
        let handle = with(|s| {
            let handle = s.handle();
            s.events.insert(handle, Event::default());
            Ok(handle)
        })?;
        // SAFETY: (1) the caller's pointer.
        unsafe { put(event, handle) }
    }

    /// Ends an event.
    fn cuEventDestroy_v2(event: u64) {
        current()?;
        with(|s| s.events.remove(&event).map(|_| ()).ok_or(Code::InvalidHandle))
    }

    /// Records an event behind the work of a stream.
    fn cuEventRecord(event: u64, stream: u64) {
        current()?;
        with(|s| {
            let entry = s.events.get_mut(&event).ok_or(Code::InvalidHandle)?;
            entry.recorded += 1;
            let generation = entry.recorded;
            enqueue(s, stream, Work::Record { event, generation }).map(|_| ())
        })
    }

    /// Whether the last record was reached.
    fn cuEventQuery(event: u64) {
        current()?;
        with(|s| {
            let event = s.events.get(&event).ok_or(Code::InvalidHandle)?;
            if event.done == event.recorded { Ok(()) } else { Err(Code::NotReady) }
        })
    }

    /// Waits for the last record.
    fn cuEventSynchronize(event: u64) {
        current()?;
        wait_until(|s| s.events.get(&event).map(|e| e.done == e.recorded).ok_or(Code::InvalidHandle))
    }

    /// Modelled milliseconds between two records.
    fn cuEventElapsedTime(milliseconds: *mut f32, start: u64, end: u64) {
        current()?;
        let picoseconds = with(|s| {
            let find = |e| s.events.get(&e).filter(|e: &&Event| e.recorded > 0).ok_or(Code::InvalidHandle);
            let (a, b) = (find(start)?, find(end)?);
            if a.done != a.recorded || b.done != b.recorded {
                return Err(Code::NotReady);
            }
            Ok(b.clock as f64 - a.clock as f64)
        })?;
        // SAFETY: (1) the caller's pointer.
        unsafe { put(milliseconds, (picoseconds / 1e9) as f32) }
    }
}
