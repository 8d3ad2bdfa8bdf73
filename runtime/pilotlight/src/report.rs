//! What an inference took.

use std::time::Duration;

/// What one inference took.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// Which inference of the session it was, from 1, in the order in which they began.
    pub sequence: u64,
    /// From submission to begin.
    pub queued: Duration,
    /// From begin to end.
    pub ran: Duration,
    /// How long after its deadline it ended; `None` when it was in time or had no deadline.
    pub late: Option<Duration>,
    /// What it cost.
    pub energy: Energy,
}

/// The energy of one inference.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Energy {
    /// No meter is attached to the session.
    NotMeasured,
}
