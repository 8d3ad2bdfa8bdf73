//! Kernel launches.

use super::context::current;
use super::stream::enqueue;
use super::{Answer, Code, Work, entries, lit, with, worker};
use crate::emulator::Config;
use std::ffi::{c_uint, c_void};

struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    cooperative: bool,
}

fn launch(handle: u64, shape: Shape, stream: u64, values: *mut *mut c_void) -> Answer {
    current()?;
    lit::admit_stream("a launch in the legacy stream", stream)?;
    with(|s| {
        let function = s.functions.get(&handle).ok_or(Code::InvalidHandle)?;
        let (kernel, shared_limit) = (function.kernel.clone(), function.shared_limit);
        let program = &kernel.program;
        let mut params = vec![0u8; program.param_bytes];
        for (n, &(offset, size)) in program.params.iter().enumerate() {
            if values.is_null() {
                return Err(Code::InvalidValue);
            }
            // SAFETY: (1) the caller gives one pointer for each parameter of the kernel, (2) each to as many
            // bytes as the parameter has; both are the driver's contract and cannot be checked here either.
            let bytes = unsafe {
                let value = *values.add(n);
                if value.is_null() {
                    return Err(Code::InvalidValue);
                }
                std::slice::from_raw_parts(value.cast::<u8>(), size)
            };
            params[offset..offset + size].copy_from_slice(bytes);
        }
        let Shape { grid, block, shared, cooperative } = shape;
        let config = Config { grid, block, shared: shared as usize, shared_limit, cooperative };
        if let Err(error) = s.emulator.check(&kernel, &config, params.len()) {
            eprintln!("virtual Orin: launch refused: {error}");
            let code = worker::launch_code(&error);
            return Err(s.fail(code, error.to_string()));
        }
        enqueue(s, stream, Work::Kernel { kernel, config, params }).map(|_| ())
    })
}

entries! {
    /// Launches a kernel.
    fn cuLaunchKernel(
        function: u64, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint,
        stream: u64, values: *mut *mut c_void, extra: *mut *mut c_void,
    ) {
        if !extra.is_null() {
            return Err(Code::InvalidValue);
        }
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], shared, cooperative: false };
        launch(function, shape, stream, values)
    }

    /// Launches a kernel whose blocks are all resident.
    fn cuLaunchCooperativeKernel(
        function: u64, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint,
        stream: u64, values: *mut *mut c_void,
    ) {
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], shared, cooperative: true };
        launch(function, shape, stream, values)
    }
}
