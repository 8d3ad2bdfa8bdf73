//! How the persistent kernel is run.

use pilotlight_device::LoadError;
use std::time::Duration;

/// The least time without work after which a kernel may leave: a change of the GPU's clock takes 5 to 8 ms, and
/// a kernel that leaves sooner would be relaunched into it.
pub const LEAST_IDLE: Duration = Duration::from_millis(8);

/// How a thread waits for an inference of the persistent kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wait {
    /// Looks without pause: no system call, one busy core.
    Spin,
    /// Sleeps once, until shortly before the inference should be done, then looks without pause.
    #[default]
    Predictive,
    /// Sleeps between looks.
    Block,
}

/// How the persistent kernel is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Multiprocessors that are left to other work. The persistent kernel occupies the others; in the other modes
    /// kernels are cut for so many fewer, and the GPU puts them where there is room.
    pub free_multiprocessors: u32,
    /// How inferences are waited for.
    pub wait: Wait,
    /// Time without work after which the kernel leaves, at least [`LEAST_IDLE`]; the next inference launches it
    /// again. `None`: it stays as long as the host lives, which a thread tells it.
    pub idle: Option<Duration>,
    /// Most time that an inference may take on the GPU.
    pub deadline: Duration,
    /// Without a sign of the host for so long a kernel that is never idle enough to leave does leave.
    pub heartbeat: Duration,
    /// Time without an answer after which a waiting thread asks the driver whether the kernel still runs.
    pub look: Duration,
    /// Time without an answer after which the kernel is told to abort, and after as much again given up.
    pub patience: Duration,
    /// Where numbers of requests and epochs begin. They may wrap around; tests begin near that.
    pub first: u32,
}

impl Settings {
    /// How many of a GPU's multiprocessors are used.
    ///
    /// # Errors
    /// [`LoadError::Setting`]: none would be.
    pub(crate) fn multiprocessors_of(&self, all: u32) -> Result<u32, LoadError> {
        all.checked_sub(self.free_multiprocessors).filter(|&used| used > 0).ok_or_else(|| {
            LoadError::Setting {
                setting: "free multiprocessors",
                found: self.free_multiprocessors.to_string(),
                allowed: format!("0 to {}: the GPU has {all}", all.saturating_sub(1)),
            }
        })
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            free_multiprocessors: 0,
            wait: Wait::default(),
            // The break-even of waiting and relaunching, by the model of every known board, lies below the least that
            // makes sense (`pilotlight bench --rate` prints it; the command sets what it finds for its board).
            idle: Some(LEAST_IDLE),
            deadline: Duration::from_secs(2),
            heartbeat: Duration::from_secs(2),
            look: Duration::from_millis(500),
            patience: Duration::from_secs(30),
            first: 0,
        }
    }
}
