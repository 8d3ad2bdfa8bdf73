//! The boot number: grows with every start and is never used twice.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A boot number that cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootError {
    /// The file cannot be read or written.
    #[error("boot counter {}: {source}; the device needs a folder that it can write", path.display())]
    Io {
        /// The counter's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds no number.
    #[error("boot counter {} holds {found:?}, expected a number below 4294967295; write one above every boot that was used", path.display())]
    Content {
        /// The counter's file.
        path: PathBuf,
        /// Its beginning.
        found: String,
    },
}

/// The number of this boot, durable before it is returned; the first is 1.
///
/// The counter lies in `folder/boot`, replaced atomically, so that a power loss leaves the old number or the new.
///
/// # Errors
/// The folder cannot be written, or the file holds something else. Nothing must be sent then: a number that is
/// used twice makes the collector refuse new messages as old ones.
pub fn next_boot(folder: &Path) -> Result<u32, BootError> {
    let path = folder.join("boot");
    let io_error = |source| BootError::Io { path: path.clone(), source };
    fs::create_dir_all(folder).map_err(io_error)?;
    let last = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse::<u32>().ok().filter(|&boot| boot < u32::MAX).ok_or_else(|| {
            BootError::Content { path: path.clone(), found: text.chars().take(20).collect() }
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(io_error(error)),
    };
    let boot = last + 1;
    replace(&path, format!("{boot}\n").as_bytes()).map_err(io_error)?;
    Ok(boot)
}

/// Replaces a file so that after a power loss it is the old one or the new one.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<File> {
    let new = path.with_extension("new");
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_count_up_and_a_damaged_counter_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!((next_boot(folder.path()).unwrap(), next_boot(folder.path()).unwrap()), (1, 2));
        for damaged in ["", "two", "4294967295", "-1"] {
            fs::write(folder.path().join("boot"), damaged).unwrap();
            assert!(matches!(next_boot(folder.path()), Err(BootError::Content { .. })), "{damaged:?}");
        }
    }
}
