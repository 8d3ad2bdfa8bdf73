//! What the collector counts about itself.

use std::sync::atomic::{AtomicU64, Ordering};

use pilotlight_wire::{FrameError, SerialError};

/// Why bytes or frames were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not a frame: garbage, cut off, or of another version.
    Malformed,
    /// The tag does not match.
    Forged,
    /// No key of that id.
    UnknownKey,
    /// The key or the device is revoked.
    Revoked,
    /// Noise on a serial line.
    Noise,
}

impl Refusal {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 5] = [Self::Malformed, Self::Forged, Self::UnknownKey, Self::Revoked, Self::Noise];

    /// The name in metrics and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Forged => "forged",
            Self::UnknownKey => "unknown_key",
            Self::Revoked => "revoked",
            Self::Noise => "noise",
        }
    }
}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Tag { .. } => Self::Forged,
            _ => Self::Malformed,
        }
    }
}

impl From<SerialError> for Refusal {
    fn from(_: SerialError) -> Self {
        Self::Noise
    }
}

/// Counts since the collector started. All are plain sums: reading them disturbs nothing.
#[derive(Debug, Default)]
pub struct Counters {
    refused: [AtomicU64; 5],
    /// Datagrams and serial frames that came.
    pub received: AtomicU64,
    /// Frames whose tag matched.
    pub verified: AtomicU64,
    /// Frames stored.
    pub stored: AtomicU64,
    /// Verified frames that had been stored before.
    pub duplicates: AtomicU64,
    /// Verified frames that came after they had been given up.
    pub late: AtomicU64,
    /// Stored frames whose body does not read as its kind.
    pub unreadable: AtomicU64,
    /// Acknowledgements sent.
    pub acknowledgements: AtomicU64,
    /// Acknowledgements that the system would not send.
    pub unsent: AtomicU64,
    /// Commits.
    pub commits: AtomicU64,
    /// Commits that failed; what they held was not acknowledged.
    pub failed_commits: AtomicU64,
    /// Verified frames that failed commits held.
    pub unstored: AtomicU64,
    /// Microseconds spent in storing and committing.
    pub commit_micros: AtomicU64,
    /// Datagrams that the kernel dropped because the collector was slow.
    pub kernel_drops: AtomicU64,
    /// Times that the wall clock was stepped.
    pub clock_steps: AtomicU64,
    /// Times that a serial port went.
    pub unplugged: AtomicU64,
}

impl Counters {
    /// Counts one refusal.
    pub fn refuse(&self, why: Refusal) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Refusals of one kind.
    pub fn refused(&self, why: Refusal) -> u64 {
        self.refused[why as usize].load(Ordering::Relaxed)
    }

    /// Names and values of the other counts, as metrics and the web page show them.
    pub fn values(&self) -> [(&'static str, &'static str, u64); 15] {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("received", "Datagrams and serial frames that came", value(&self.received)),
            ("verified", "Frames whose tag matched", value(&self.verified)),
            ("stored", "Frames stored", value(&self.stored)),
            ("duplicates", "Frames that had been stored before", value(&self.duplicates)),
            ("late", "Frames that came after they had been given up", value(&self.late)),
            ("unreadable", "Stored frames whose body does not read as its kind", value(&self.unreadable)),
            ("acknowledgements", "Acknowledgements sent", value(&self.acknowledgements)),
            ("unsent", "Acknowledgements that the system would not send", value(&self.unsent)),
            ("commits", "Commits", value(&self.commits)),
            ("failed_commits", "Commits that failed", value(&self.failed_commits)),
            ("unstored", "Frames that failed commits held", value(&self.unstored)),
            ("commit_micros", "Microseconds spent storing", value(&self.commit_micros)),
            ("kernel_drops", "Datagrams that the kernel dropped", value(&self.kernel_drops)),
            ("clock_steps", "Steps of the wall clock", value(&self.clock_steps)),
            ("unplugged", "Times that a serial port went", value(&self.unplugged)),
        ]
    }
}

pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
