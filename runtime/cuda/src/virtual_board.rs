//! A virtual Orin as this process's CUDA driver.

use crate::{Cuda, Mode, OpenError};
use libloading::Library;
use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};

/// A symbol that the virtual Orin's library has and NVIDIA's does not.
pub(crate) const MARK: &[u8] = b"pilotlight_virtual_report\0";

const FILE: &str = "libcuda.so";

/// Why no virtual board can be used.
#[derive(Debug, thiserror::Error)]
pub enum VirtualError {
    /// The library is in none of the places where builds leave it.
    #[error(
        "no libcuda.so of the virtual Orin in {}; build it with `cargo build --release -p pilotlight-virtual-orin`",
        searched.join(", ")
    )]
    Missing {
        /// Where it was looked for.
        searched: Vec<String>,
    },
    /// It cannot be loaded.
    #[error("{path}: {problem}; build it anew, for this machine")]
    Load {
        /// The file.
        path: String,
        /// What the loader said.
        problem: String,
    },
    /// A setting was refused.
    #[error("{0}")]
    Setting(String),
}

/// The virtual Orin's library, loaded before any other CUDA driver.
///
/// A process has one driver: what opens CUDA afterwards gets this board.
pub struct VirtualBoard(Library);

type Text = unsafe extern "C" fn(*mut c_char, usize) -> usize;
type Set = unsafe extern "C" fn(*const c_char, *const c_char, *mut c_char, usize) -> usize;

impl VirtualBoard {
    /// Loads the library that lies beside the running program, or where cargo leaves it, and sets the board up.
    ///
    /// Settings are those of the library's environment variables without their prefix: `BOARD`, `SEED`, `RACE`.
    /// They win over the environment.
    ///
    /// # Errors
    /// [`VirtualError`]: no library, or a setting that it refuses, with all that are allowed.
    pub fn load(settings: &[(&str, &str)]) -> Result<Self, VirtualError> {
        let program = std::env::current_exe().unwrap_or_default();
        let folder = program.parent().unwrap_or(Path::new("."));
        let places: Vec<PathBuf> =
            ["", "deps", "../deps"].iter().map(|place| folder.join(place).join(FILE)).collect();
        let Some(path) = places.iter().find(|path| path.is_file()) else {
            return Err(VirtualError::Missing {
                searched: places.iter().map(|p| p.display().to_string()).collect(),
            });
        };
        let fault = |problem: String| VirtualError::Load { path: path.display().to_string(), problem };
        // Its name inside is libcuda.so, so that cudarc's look-up finds it once it is loaded.
        // SAFETY: (1) the library's initialisers are Rust's, which do nothing.
        let board = Self(unsafe { Library::new(path) }.map_err(|e| fault(e.to_string()))?);
        if !has(&board.0, MARK) {
            return Err(fault("it is not the virtual Orin's library".into()));
        }
        settings.iter().try_for_each(|(name, value)| board.set(name, value))?;
        Ok(board)
    }

    fn set(&self, name: &str, value: &str) -> Result<(), VirtualError> {
        let plain = |text: &str| {
            CString::new(text).map_err(|_| VirtualError::Setting(format!("{text:?} holds a NUL")))
        };
        let (name, value) = (plain(name)?, plain(value)?);
        // SAFETY: (1) the symbol has this type, by the library's documentation.
        let set = unsafe { self.0.get::<Set>(b"pilotlight_virtual_set\0") }
            .map_err(|e| VirtualError::Setting(e.to_string()))?;
        // SAFETY: (1) both texts are terminated; (2) `read` gives room for as many bytes as it says.
        let refusal = read(|to, len| unsafe { set(name.as_ptr(), value.as_ptr(), to, len) });
        if refusal.is_empty() { Ok(()) } else { Err(VirtualError::Setting(refusal)) }
    }

    /// The CUDA device on this board.
    ///
    /// # Errors
    /// [`OpenError`], among them that another driver was loaded before.
    pub fn open(&self, mode: Mode) -> Result<Cuda, OpenError> {
        let cuda = Cuda::open(mode)?;
        if cuda.is_virtual() { Ok(cuda) } else { Err(OpenError::AnotherDriver) }
    }

    /// What was executed since the last call: a line for each finished launch, see the library's `report`.
    pub fn report(&self) -> String {
        self.text(MARK)
    }

    /// Why the last call or kernel failed, in words; empty where none did.
    pub fn last_error(&self) -> String {
        self.text(b"pilotlight_virtual_last_error\0")
    }

    fn text(&self, symbol: &[u8]) -> String {
        // SAFETY: (1) the symbols have this type, by the library's documentation.
        let Ok(function) = (unsafe { self.0.get::<Text>(symbol) }) else { return String::new() };
        // SAFETY: (1) `read` gives room for as many bytes as it says.
        read(|to, len| unsafe { function(to, len) })
    }
}

/// Whether a library has a symbol.
pub(crate) fn has(library: &Library, symbol: &[u8]) -> bool {
    // SAFETY: (1) the symbol is only looked up, not used.
    unsafe { library.get::<unsafe extern "C" fn()>(symbol) }.is_ok()
}

/// Calls a function that writes a terminated text and returns the bytes that the whole needs, until all fits.
fn read(mut call: impl FnMut(*mut c_char, usize) -> usize) -> String {
    let mut bytes = vec![0u8; 4096];
    loop {
        let needs = call(bytes.as_mut_ptr().cast(), bytes.len());
        if needs <= bytes.len() {
            bytes.truncate(needs.saturating_sub(1));
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        bytes.resize(needs, 0);
    }
}
