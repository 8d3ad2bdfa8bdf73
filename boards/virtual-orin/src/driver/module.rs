//! Modules, functions and their attributes.

use super::context::current;
use super::{Answer, Code, Function, State, entries, put, with};
use crate::board::limits;
use crate::emulator::Loaded as Parts;
use crate::ptx::PtxError;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// A loaded module: its parts, and its PTX version as 74 for 7.4.
pub struct Loaded {
    parts: Parts,
    ptx_version: u32,
}

fn load(text: &str, to: *mut u64) -> Answer {
    let handle = with(|s| {
        let parts = s.emulator.load(text).map_err(|error| {
            let code = match error {
                PtxError::Version { .. } => Code::UnsupportedPtxVersion,
                _ => Code::InvalidPtx,
            };
            eprintln!("virtual Orin: PTX refused: {error}");
            s.fail(code, error.to_string())
        })?;
        let version =
            text.split_once(".version").and_then(|(_, t)| t.split_whitespace().next()).unwrap_or("");
        let ptx_version =
            version.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
        let handle = s.handle();
        s.modules.insert(handle, Loaded { parts, ptx_version });
        Ok(handle)
    })?;
    // SAFETY: (1) the caller's pointer.
    unsafe { put(to, handle) }
}

fn text_of<'a>(pointer: *const c_char) -> Result<&'a str, Code> {
    if pointer.is_null() {
        return Err(Code::InvalidValue);
    }
    // SAFETY: (1) the caller gives a terminated string that lives through the call.
    unsafe { CStr::from_ptr(pointer) }.to_str().map_err(|_| Code::InvalidPtx)
}

fn function<T>(handle: u64, f: impl FnOnce(&mut Function, &State) -> Result<T, Code>) -> Result<T, Code> {
    current()?;
    with(|s| {
        let mut function = s.functions.remove(&handle).ok_or(Code::InvalidHandle)?;
        let result = f(&mut function, s);
        s.functions.insert(handle, function);
        result
    })
}

entries! {
    /// Loads PTX. Binaries are answered with "no binary for this GPU": the emulator runs PTX only.
    fn cuModuleLoadData(module: *mut u64, image: *const c_void) {
        current()?;
        if image.is_null() {
            return Err(Code::InvalidValue);
        }
        // SAFETY: (1) an image is at least as long as its first four bytes: an ELF or fat binary header, or text
        // with a terminator. A text shorter than that ends within them.
        let head: Vec<u8> = (0..4).map_while(|n| Some(unsafe { *image.cast::<u8>().add(n) }).filter(|b| *b != 0)).collect();
        if head == *b"\x7fELF" || head == 0xBA55_ED50u32.to_le_bytes() {
            return Err(Code::NoBinary);
        }
        load(text_of(image.cast())?, module)
    }

    /// Loads PTX from a file.
    fn cuModuleLoad(module: *mut u64, path: *const c_char) {
        current()?;
        let bytes = std::fs::read(text_of(path)?).map_err(|_| Code::FileNotFound)?;
        if bytes.starts_with(b"\x7fELF") {
            return Err(Code::NoBinary);
        }
        load(std::str::from_utf8(&bytes).map_err(|_| Code::InvalidPtx)?, module)
    }

    /// Forgets a module and its functions. Memory of its variables is freed.
    fn cuModuleUnload(module: u64) {
        current()?;
        with(|s| {
            let loaded = s.modules.remove(&module).ok_or(Code::InvalidHandle)?;
            s.functions.retain(|_, f| f.module != module);
            for address in loaded.parts.1.values() {
                s.emulator.machine.memory.free(*address);
            }
            Ok(())
        })
    }

    /// A kernel by name.
    fn cuModuleGetFunction(to: *mut u64, module: u64, name: *const c_char) {
        current()?;
        let name = text_of(name)?;
        let handle = with(|s| {
            let loaded = s.modules.get(&module).ok_or(Code::InvalidHandle)?;
            let kernel = loaded.parts.0.get(name).ok_or(Code::NotFound)?.clone();
            let ptx_version = loaded.ptx_version;
            let handle = s.handle();
            let shared_limit = limits::SHARED_PER_BLOCK;
            s.functions.insert(handle, Function { module, kernel, ptx_version, shared_limit });
            Ok(handle)
        })?;
        // SAFETY: (1) the caller's pointer.
        unsafe { put(to, handle) }
    }

    /// Address and size of a variable. The size is not kept, so it is asked of the memory.
    fn cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: u64, name: *const c_char) {
        current()?;
        let name = text_of(name)?;
        let (found, size) = with(|s| {
            let loaded = s.modules.get(&module).ok_or(Code::InvalidHandle)?;
            let found = *loaded.parts.1.get(name).ok_or(Code::NotFound)?;
            Ok((found, s.emulator.machine.memory.around(found).map_or(0, |(_, bytes)| bytes.len())))
        })?;
        // SAFETY: (1) the caller's pointers; each may be null.
        unsafe {
            if !address.is_null() {
                put(address, found)?;
            }
            if !bytes.is_null() {
                put(bytes, size)?;
            }
        }
        Ok(())
    }

    /// A property of a kernel.
    fn cuFuncGetAttribute(value: *mut c_int, number: c_int, handle: u64) {
        let found = function(handle, |f, _| {
            let program = &f.kernel.program;
            Ok(match number {
                0 => program.max_threads.unwrap_or(limits::THREADS_PER_BLOCK) as c_int,
                1 => program.shared_bytes as c_int,
                // Constant memory, local memory: the emulator loads no kernel that uses either.
                2 | 3 => 0,
                4 => f.kernel.registers as c_int,
                5 => f.ptx_version as c_int,
                6 => 87,
                8 => f.shared_limit as c_int,
                _ => return Err(Code::InvalidValue),
            })
        })?;
        // SAFETY: (1) the caller's pointer.
        unsafe { put(value, found) }
    }

    /// Allows a kernel more dynamic shared memory; the carve-out is only a hint.
    fn cuFuncSetAttribute(handle: u64, number: c_int, value: c_int) {
        function(handle, |f, _| match number {
            8 => {
                let value = usize::try_from(value).map_err(|_| Code::InvalidValue)?;
                if value + f.kernel.program.shared_bytes > limits::SHARED_PER_BLOCK_OPTIN {
                    return Err(Code::InvalidValue);
                }
                f.shared_limit = value;
                Ok(())
            }
            9 if (-1..=100).contains(&value) => Ok(()),
            _ => Err(Code::InvalidValue),
        })
    }

    /// Blocks that fit a multiprocessor.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut c_int, handle: u64, threads: c_int, shared: usize) {
        let threads = u32::try_from(threads).map_err(|_| Code::InvalidValue)?;
        let found = function(handle, |f, s| Ok(s.emulator.occupancy(&f.kernel, threads, shared)))?;
        // SAFETY: (1) the caller's pointer.
        unsafe { put(blocks, found as c_int) }
    }

    /// The same; the flags change nothing here.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: *mut c_int, handle: u64, threads: c_int, shared: usize, _flags: c_uint,
    ) {
        let threads = u32::try_from(threads).map_err(|_| Code::InvalidValue)?;
        let found = function(handle, |f, s| Ok(s.emulator.occupancy(&f.kernel, threads, shared)))?;
        // SAFETY: (1) the caller's pointer.
        unsafe { put(blocks, found as c_int) }
    }
}
