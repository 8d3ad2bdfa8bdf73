//! Stream capture and graphs: a list of work, launched in one call.

use super::context::current;
use super::stream::enqueue;
use super::{Code, LEGACY, entries, put, with};
use std::ffi::{c_int, c_uint, c_ulonglong};

entries! {
    /// Work of the stream is recorded from here on.
    fn cuStreamBeginCapture_v2(stream: u64, _mode: c_uint) {
        current()?;
        if stream == LEGACY {
            return Err(Code::CaptureUnsupported);
        }
        with(|s| {
            let stream = s.streams.get_mut(&stream).ok_or(Code::InvalidHandle)?;
            if stream.capture.is_some() {
                return Err(Code::IllegalState);
            }
            stream.capture = Some(Vec::new());
            Ok(())
        })
    }

    /// Ends the recording; the graph is what was recorded.
    fn cuStreamEndCapture(stream: u64, graph: *mut u64) {
        current()?;
        let handle = with(|s| {
            let work = s.streams.get_mut(&stream).ok_or(Code::InvalidHandle)?.capture.take();
            let work = work.ok_or(Code::IllegalState)?;
            let handle = s.handle();
            s.graphs.insert(handle, work);
            Ok(handle)
        })?;
        // SAFETY: (1) the caller's pointer.
        unsafe { put(graph, handle) }
    }

    /// 1 while recording, else 0.
    fn cuStreamIsCapturing(stream: u64, status: *mut c_int) {
        current()?;
        let capturing = with(|s| Ok(s.streams.get(&stream).ok_or(Code::InvalidHandle)?.capture.is_some()))?;
        // SAFETY: (1) the caller's pointer.
        unsafe { put(status, c_int::from(capturing)) }
    }

    /// A graph ready to launch.
    fn cuGraphInstantiateWithFlags(executable: *mut u64, graph: u64, _flags: c_ulonglong) {
        current()?;
        let handle = with(|s| {
            let work = s.graphs.get(&graph).ok_or(Code::InvalidHandle)?.clone();
            let handle = s.handle();
            s.executables.insert(handle, work);
            Ok(handle)
        })?;
        // SAFETY: (1) the caller's pointer.
        unsafe { put(executable, handle) }
    }

    /// Nothing to upload.
    fn cuGraphUpload(executable: u64, _stream: u64) {
        current()?;
        with(|s| if s.executables.contains_key(&executable) { Ok(()) } else { Err(Code::InvalidHandle) })
    }

    /// Puts all the graph's work into a stream.
    fn cuGraphLaunch(executable: u64, stream: u64) {
        current()?;
        with(|s| {
            let work = s.executables.get(&executable).ok_or(Code::InvalidHandle)?.clone();
            work.into_iter().try_for_each(|work| enqueue(s, stream, work).map(|_| ()))
        })
    }

    /// Ends an executable graph.
    fn cuGraphExecDestroy(executable: u64) {
        current()?;
        with(|s| s.executables.remove(&executable).map(|_| ()).ok_or(Code::InvalidHandle))
    }

    /// Ends a graph.
    fn cuGraphDestroy(graph: u64) {
        current()?;
        with(|s| s.graphs.remove(&graph).map(|_| ()).ok_or(Code::InvalidHandle))
    }
}
