//! What an inference took.

use crate::Energy;
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
    /// What inferences of this session cost in the last energy window that closed.
    pub energy: Energy,
}
