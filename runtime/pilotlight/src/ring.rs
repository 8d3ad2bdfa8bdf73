//! The life of a slot: who holds it, and who is waiting.
//!
//! ```text
//!           lend            submit           begin            finish           take
//!   Free ----------> Lent ----------> Submitted ------> Running ------> Done ----------+
//!    ^                |                   |                |              |            |
//!    |   release      |      abandon      |                | (abandoned)  | abandon    v
//!    +----------------+<------------------+<---------------+<-------------+----------- Lent
//! ```
//!
//! The ring holds jobs of any type `T` and moves them: whoever holds a job by value is the only one who can
//! touch it, so no state can let two hands at the same memory. It knows neither devices nor time; deadlines and
//! results are part of the job. One mutex guards all of it. The two counters are there so that a thread can spin
//! without taking the mutex. No operation allocates. In a ring of threads that stay awake none makes a system call,
//! but for the two that sleep by name; in others a thread may sleep for the mutex.
//!
//! A runner calls `begin` and `finish`: the waiting thread itself, the worker thread, or a device that runs by
//! itself and reports completions.

use crate::sync::{AtomicU64, Condvar, Mutex, MutexGuard, lock};
use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::task::Waker;
use std::time::Instant;

enum State<T> {
    Free(T),
    /// With the caller: being filled, or being read.
    Lent,
    Submitted(T),
    Running {
        abandoned: bool,
    },
    Done(T),
}

struct Cell<T> {
    state: State<T>,
    waker: Option<Waker>,
}

struct Board<T> {
    cells: Box<[Cell<T>]>,
    /// Submitted slots, oldest first; room for all of them is reserved.
    queue: VecDeque<usize>,
    running: usize,
    closed: bool,
    sleeping_runners: usize,
    sleeping_waiters: usize,
}

/// Why no slot was lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoSlot {
    AllInUse,
    Closed,
}

/// What became of an abandoned slot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Abandoned<T> {
    /// It had not begun: here is its job, to be released.
    Before(T),
    /// It runs; whoever finishes it gets the job back.
    Running,
    /// It was done: here is its job, to be released.
    After(T),
}

pub(crate) struct Ring<T> {
    board: Mutex<Board<T>>,
    /// Whether threads stay awake while they wait for the mutex.
    awake: bool,
    /// Runners sleep here until there is work.
    work: Condvar,
    /// Waiters sleep here until something finishes.
    done: Condvar,
    /// Grows with every submission and at close. Written under the mutex.
    submissions: AtomicU64,
    /// Grows with every completion. Written under the mutex.
    completions: AtomicU64,
}

impl<T> Ring<T> {
    pub(crate) fn new(jobs: Vec<T>, awake: bool) -> Self {
        let cells: Box<[_]> =
            jobs.into_iter().map(|job| Cell { state: State::Free(job), waker: None }).collect();
        Self {
            board: Mutex::new(Board {
                queue: VecDeque::with_capacity(cells.len()),
                cells,
                running: 0,
                closed: false,
                sleeping_runners: 0,
                sleeping_waiters: 0,
            }),
            awake,
            work: Condvar::new(),
            done: Condvar::new(),
            submissions: AtomicU64::new(0),
            completions: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Board<T>> {
        lock(&self.board, self.awake)
    }

    /// Free -> Lent.
    pub(crate) fn lend(&self) -> Result<(usize, T), NoSlot> {
        let mut board = self.lock();
        if board.closed {
            return Err(NoSlot::Closed);
        }
        for (index, cell) in board.cells.iter_mut().enumerate() {
            match std::mem::replace(&mut cell.state, State::Lent) {
                State::Free(job) => return Ok((index, job)),
                other => cell.state = other,
            }
        }
        Err(NoSlot::AllInUse)
    }

    /// Lent -> Free.
    pub(crate) fn release(&self, index: usize, job: T) {
        let cell = &mut self.lock().cells[index];
        debug_assert!(matches!(cell.state, State::Lent));
        cell.state = State::Free(job);
    }

    /// Lent -> Submitted, at the end of the queue; gives the job back when the ring is closed.
    pub(crate) fn submit(&self, index: usize, job: T) -> Result<(), T> {
        let mut board = self.lock();
        if board.closed {
            return Err(job);
        }
        debug_assert!(matches!(board.cells[index].state, State::Lent));
        board.cells[index] = Cell { state: State::Submitted(job), waker: None };
        board.queue.push_back(index);
        self.submissions.fetch_add(1, Release);
        let wake = board.sleeping_runners > 0;
        drop(board);
        if wake {
            self.work.notify_all();
        }
        Ok(())
    }

    /// Submitted -> Running, the oldest one; `None` when nothing is queued.
    pub(crate) fn begin(&self) -> Option<(usize, T)> {
        let mut board = self.lock();
        let index = board.queue.pop_front()?;
        match std::mem::replace(&mut board.cells[index].state, State::Running { abandoned: false }) {
            State::Submitted(job) => {
                board.running += 1;
                Some((index, job))
            }
            other => {
                debug_assert!(false, "only submitted slots are queued");
                board.cells[index].state = other;
                None
            }
        }
    }

    /// Running -> Done; or -> Lent when it was abandoned, and the job comes back to be released.
    pub(crate) fn finish(&self, index: usize, job: T) -> Option<T> {
        let mut board = self.lock();
        board.running -= 1;
        let cell = &mut board.cells[index];
        let (next, back) = match cell.state {
            State::Running { abandoned: true } => (State::Lent, Some(job)),
            _ => (State::Done(job), None),
        };
        cell.state = next;
        let waker = cell.waker.take();
        self.completions.fetch_add(1, Release);
        let wake = board.sleeping_waiters > 0;
        drop(board);
        if wake {
            self.done.notify_all();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        back
    }

    /// Done -> Lent; `None` when it is not done, and then `waker`, if any, is called once when it is.
    pub(crate) fn take(&self, index: usize, waker: Option<&Waker>) -> Option<T> {
        let cell = &mut self.lock().cells[index];
        match std::mem::replace(&mut cell.state, State::Lent) {
            State::Done(job) => Some(job),
            other => {
                cell.state = other;
                if let Some(waker) = waker
                    && !cell.waker.as_ref().is_some_and(|known| known.will_wake(waker))
                {
                    cell.waker = Some(waker.clone());
                }
                None
            }
        }
    }

    /// Submitted or Done -> Lent; Running -> abandoned. Nobody is waiting for the slot any more.
    pub(crate) fn abandon(&self, index: usize) -> Abandoned<T> {
        let mut board = self.lock();
        board.cells[index].waker = None;
        match std::mem::replace(&mut board.cells[index].state, State::Lent) {
            State::Submitted(job) => {
                board.queue.retain(|&queued| queued != index);
                Abandoned::Before(job)
            }
            State::Done(job) => Abandoned::After(job),
            other => {
                debug_assert!(matches!(other, State::Running { .. }));
                board.cells[index].state = State::Running { abandoned: true };
                Abandoned::Running
            }
        }
    }

    /// Replaces the job of every free slot.
    pub(crate) fn exchange_free(&self, mut exchange: impl FnMut(T) -> T) {
        for cell in &mut self.lock().cells {
            match std::mem::replace(&mut cell.state, State::Lent) {
                State::Free(job) => cell.state = State::Free(exchange(job)),
                other => cell.state = other,
            }
        }
    }

    /// Lends and takes submissions no more; what is submitted stays to be run.
    pub(crate) fn close(&self) {
        let mut board = self.lock();
        board.closed = true;
        self.submissions.fetch_add(1, Release);
        drop(board);
        self.work.notify_all();
    }

    /// Closed, and nothing left to begin.
    pub(crate) fn is_drained(&self) -> bool {
        let board = self.lock();
        board.closed && board.queue.is_empty()
    }

    /// Nothing is queued and nothing runs.
    pub(crate) fn is_idle(&self) -> bool {
        let board = self.lock();
        board.queue.is_empty() && board.running == 0
    }

    /// A figure that changes with every submission and at close: read it, look for work, then wait for a change.
    pub(crate) fn submissions(&self) -> u64 {
        // Pairs with the increments: a changed figure shows what was written before it.
        self.submissions.load(Acquire)
    }

    /// A figure that changes with every completion: read it, look for the result, then wait for a change.
    pub(crate) fn completions(&self) -> u64 {
        // Pairs with the increment in `finish`.
        self.completions.load(Acquire)
    }

    /// Sleeps until `submissions()` is no longer `seen`.
    pub(crate) fn sleep_until_submitted(&self, seen: u64) {
        let mut board = self.lock();
        board.sleeping_runners += 1;
        while self.submissions.load(Acquire) == seen {
            board = self.work.wait(board).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        board.sleeping_runners -= 1;
    }

    /// Sleeps until `completions()` is no longer `seen`, or until `until`.
    pub(crate) fn sleep_until_finished(&self, seen: u64, until: Option<Instant>) {
        let mut board = self.lock();
        board.sleeping_waiters += 1;
        while self.completions.load(Acquire) == seen {
            board = match until.map(|at| at.saturating_duration_since(Instant::now())) {
                None => self.done.wait(board).unwrap_or_else(|poisoned| poisoned.into_inner()),
                Some(left) if left.is_zero() => break,
                Some(left) => {
                    self.done.wait_timeout(board, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0
                }
            };
        }
        board.sleeping_waiters -= 1;
    }
}
