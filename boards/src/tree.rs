//! A file tree with a settable root: everything below reads and writes through it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Longest attribute that is read; sysfs gives a page at most.
const LONGEST: u64 = 64 * 1024;

/// Why an attribute could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SysError {
    /// It is not there.
    #[error("{path}: not there")]
    Missing {
        /// The attribute.
        path: PathBuf,
    },
    /// It may not be read or written.
    #[error("{path}: no right to {what} it; run the helper as root, or go on observing only")]
    Denied {
        /// The attribute.
        path: PathBuf,
        /// `read` or `write`.
        what: &'static str,
    },
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// The attribute.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The value is not what the attribute is to hold.
    #[error("{path}: found '{found}', expected {expected}")]
    Value {
        /// The attribute.
        path: PathBuf,
        /// What stands there.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// A value was written, and another was read back.
    #[error(
        "{path}: wrote {wrote}, read back {read}: the write was clipped, refused or undone by another program"
    )]
    NotHeld {
        /// The attribute.
        path: PathBuf,
        /// What was written.
        wrote: String,
        /// What was read back.
        read: String,
    },
}

impl SysError {
    fn of(path: &Path, what: &'static str, source: std::io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Self::Missing { path },
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::Denied { path, what },
            _ => Self::Io { path, source },
        }
    }
}

/// A root folder: `/` on a board.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree of this machine.
    pub fn system() -> Self {
        Self::at("/")
    }

    /// A tree below a folder.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where an absolute path of the board lies.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Whether a path is there.
    pub fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The text of an attribute, without surrounding white space.
    ///
    /// # Errors
    /// [`SysError`] when it is missing, may not be read, cannot be read, or is larger than an attribute is.
    pub fn read(&self, path: &str) -> Result<String, SysError> {
        let full = self.path(path);
        let data = fs::metadata(&full).map_err(|e| SysError::of(&full, "read", e))?;
        if data.len() > LONGEST || !data.is_file() {
            return Err(SysError::Value {
                path: full,
                found: format!("{} bytes", data.len()),
                expected: "a file of at most 64 KiB",
            });
        }
        let bytes = fs::read(&full).map_err(|e| SysError::of(&full, "read", e))?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
    }

    /// A whole number in an attribute.
    ///
    /// # Errors
    /// [`SysError`] as for [`Tree::read`], and [`SysError::Value`] for anything else than a whole number.
    pub fn number(&self, path: &str) -> Result<i64, SysError> {
        let found = self.read(path)?;
        found.parse().map_err(|_| SysError::Value {
            path: self.path(path),
            found,
            expected: "a whole number",
        })
    }

    /// The whole numbers of an attribute, split at white space.
    ///
    /// # Errors
    /// [`SysError`] as for [`Tree::number`].
    pub fn numbers(&self, path: &str) -> Result<Vec<u64>, SysError> {
        let text = self.read(path)?;
        text.split_whitespace()
            .map(|word| {
                word.parse().map_err(|_| SysError::Value {
                    path: self.path(path),
                    found: word.to_owned(),
                    expected: "whole numbers between spaces",
                })
            })
            .collect()
    }

    /// Writes an attribute.
    ///
    /// # Errors
    /// [`SysError`] when it is missing, may not be written, or the kernel refuses the value.
    pub fn write(&self, path: &str, value: &str) -> Result<(), SysError> {
        let full = self.path(path);
        // Open without creating: an attribute is there or it is not.
        let file = fs::OpenOptions::new().write(true).truncate(true).open(&full);
        let mut file = file.map_err(|e| SysError::of(&full, "write", e))?;
        std::io::Write::write_all(&mut file, value.as_bytes()).map_err(|e| SysError::of(&full, "write", e))
    }

    /// Names in a folder, sorted; empty when it is not there.
    pub fn list(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(path)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}
