//! What options ask of the operating system: thread priority, cores, locked memory.

use crate::options::{Priority, Thread};
use crate::{OpenError, Options};
use std::io;

const RIGHTS: &str = "give the process CAP_SYS_NICE (or raise RLIMIT_NICE, RLIMIT_RTPRIO), or leave it out";

/// Applies a thread's settings to the calling thread.
pub(crate) fn settle(thread: &Thread) -> Result<(), OpenError> {
    let (_, priority, cores) = thread.parts();
    if !cores.is_empty() {
        pin(cores).map_err(|source| OpenError::System {
            option: "thread cores",
            source,
            advice: "name cores that are online and allowed (taskset -cp PID)",
        })?;
    }
    match priority {
        Priority::Inherit => Ok(()),
        Priority::Nice(level) => nice(level).map_err(|source| OpenError::System {
            option: "thread nice level",
            source,
            advice: RIGHTS,
        }),
        Priority::Fifo(level) => fifo(level).map_err(|source| OpenError::System {
            option: "thread real-time priority",
            source,
            advice: RIGHTS,
        }),
    }
}

/// Locks what the options ask for.
pub(crate) fn lock_memory(options: &Options) -> Result<(), OpenError> {
    if !options.lock_memory {
        return Ok(());
    }
    lock_all().map_err(|source| OpenError::System {
        option: "lock memory",
        source,
        advice: "raise RLIMIT_MEMLOCK or give the process CAP_IPC_LOCK, or leave it out",
    })
}

#[cfg(target_os = "linux")]
fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    for &core in cores {
        set.set(core);
    }
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

#[cfg(target_os = "linux")]
fn nice(level: i8) -> io::Result<()> {
    // On Linux the nice level belongs to the thread, and its id is accepted where POSIX wants a process's.
    Ok(rustix::process::setpriority_process(Some(rustix::thread::gettid()), level.into())?)
}

#[cfg(target_os = "linux")]
fn fifo(level: u8) -> io::Result<()> {
    use thread_priority::{
        Error, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
        set_thread_priority_and_policy, thread_native_id,
    };
    let level = ThreadPriorityValue::try_from(level)
        .map_err(|message| io::Error::new(io::ErrorKind::InvalidInput, message))?;
    set_thread_priority_and_policy(
        thread_native_id(),
        ThreadPriority::Crossplatform(level),
        ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo),
    )
    .map_err(|error| match error {
        Error::OS(code) => io::Error::from_raw_os_error(code),
        other => io::Error::new(io::ErrorKind::InvalidInput, other),
    })
}

#[cfg(target_os = "linux")]
fn lock_all() -> io::Result<()> {
    Ok(rustix::mm::mlockall(rustix::mm::MlockAllFlags::CURRENT)?)
}

#[cfg(not(target_os = "linux"))]
fn pin(_: &[usize]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn nice(_: i8) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn fifo(_: u8) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn lock_all() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
