//! The constants of a plan: bytes owned by the plan, or linked into the program.

use std::ops::Deref;
use std::sync::Arc;

/// The weights section: a shared, read-only range of bytes.
#[derive(Clone)]
pub struct Weights {
    source: Source,
    start: usize,
}

#[derive(Clone)]
enum Source {
    Owned(Arc<Vec<u8>>),
    Static(&'static [u8]),
}

impl Weights {
    /// Weights that begin at `start` of an owned buffer (a whole plan file).
    ///
    /// # Panics
    /// When `start` lies behind the end.
    pub fn owned(bytes: Vec<u8>, start: usize) -> Self {
        assert!(start <= bytes.len());
        Self { source: Source::Owned(Arc::new(bytes)), start }
    }

    /// Weights in bytes that live as long as the program (`include_bytes!`); nothing is copied.
    ///
    /// # Panics
    /// When `start` lies behind the end.
    pub fn linked(bytes: &'static [u8], start: usize) -> Self {
        assert!(start <= bytes.len());
        Self { source: Source::Static(bytes), start }
    }
}

impl Default for Weights {
    fn default() -> Self {
        Self::linked(&[], 0)
    }
}

impl From<Vec<u8>> for Weights {
    fn from(bytes: Vec<u8>) -> Self {
        Self::owned(bytes, 0)
    }
}

impl Deref for Weights {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.source {
            Source::Owned(bytes) => &bytes[self.start..],
            Source::Static(bytes) => &bytes[self.start..],
        }
    }
}

impl PartialEq for Weights {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weights({} bytes)", self.len())
    }
}
