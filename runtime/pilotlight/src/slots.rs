//! What the caller holds: a slot to fill, a request in flight, an output to read.
//!
//! Each is a value that the next step consumes, and its bytes are borrowed from it. So the right order compiles:
//!
//! ```
//! # use pilotlight::{Failure, Lent};
//! # fn order(mut slot: Lent) -> Result<(), Box<dyn std::error::Error>> {
//! let input = slot.input_mut::<f32>(0)?;
//! input.fill(0.0);
//! let pending = slot.submit()?;
//! let output = pending.wait()?;
//! let y = output.output::<f32>(0)?;
//! println!("{y:?}");
//! drop(output);
//! # Ok(())
//! # }
//! ```
//!
//! Each of these differs from it in one line, and does not. A slot in flight cannot be written:
//!
//! ```compile_fail,E0499
//! # use pilotlight::{Failure, Lent};
//! # fn order(mut slot: Lent) -> Result<(), Box<dyn std::error::Error>> {
//! let input = slot.input_mut::<f32>(0)?;
//! let pending = slot.submit()?;
//! input.fill(0.0);
//! let output = pending.wait()?;
//! let y = output.output::<f32>(0)?;
//! println!("{y:?}");
//! drop(output);
//! # Ok(())
//! # }
//! ```
//!
//! nor submitted again:
//!
//! ```compile_fail,E0382
//! # use pilotlight::{Failure, Lent};
//! # fn order(mut slot: Lent) -> Result<(), Box<dyn std::error::Error>> {
//! let input = slot.input_mut::<f32>(0)?;
//! input.fill(0.0);
//! let pending = slot.submit()?;
//! let second = slot.submit()?;
//! let output = pending.wait()?;
//! let y = output.output::<f32>(0)?;
//! println!("{y:?}");
//! drop(output);
//! # Ok(())
//! # }
//! ```
//!
//! A request is waited for once:
//!
//! ```compile_fail,E0382
//! # use pilotlight::{Failure, Lent};
//! # fn order(mut slot: Lent) -> Result<(), Box<dyn std::error::Error>> {
//! let input = slot.input_mut::<f32>(0)?;
//! input.fill(0.0);
//! let pending = slot.submit()?;
//! let output = pending.wait()?;
//! let second = pending.wait()?;
//! let y = output.output::<f32>(0)?;
//! println!("{y:?}");
//! drop(output);
//! # Ok(())
//! # }
//! ```
//!
//! There is no output before the wait:
//!
//! ```compile_fail,E0599
//! # use pilotlight::{Failure, Lent};
//! # fn order(mut slot: Lent) -> Result<(), Box<dyn std::error::Error>> {
//! let input = slot.input_mut::<f32>(0)?;
//! input.fill(0.0);
//! let output = slot.submit()?;
//! let y = output.output::<f32>(0)?;
//! println!("{y:?}");
//! drop(output);
//! # Ok(())
//! # }
//! ```
//!
//! and none after the slot has gone back:
//!
//! ```compile_fail,E0505
//! # use pilotlight::{Failure, Lent};
//! # fn order(mut slot: Lent) -> Result<(), Box<dyn std::error::Error>> {
//! let input = slot.input_mut::<f32>(0)?;
//! input.fill(0.0);
//! let pending = slot.submit()?;
//! let output = pending.wait()?;
//! let y = output.output::<f32>(0)?;
//! drop(output);
//! println!("{y:?}");
//! # Ok(())
//! # }
//! ```

use crate::job::Job;
use crate::port::{INPUT, OUTPUT, index, typed, view, view_mut};
use crate::session::Shared;
use crate::{Element, Failure, Port, PortError, Report, SubmitError};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A job that the caller holds; it goes back when this is dropped.
struct Held {
    shared: Arc<Shared>,
    index: usize,
    /// `None` only while it is being submitted.
    job: Option<Job>,
}

const HELD: &str = "the job is held until it is submitted or dropped";

impl Held {
    fn job(&self) -> &Job {
        self.job.as_ref().expect(HELD)
    }

    fn job_mut(&mut self) -> &mut Job {
        self.job.as_mut().expect(HELD)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            self.shared.release(self.index, job);
        }
    }
}

/// A slot lent to the caller: fill its inputs, then submit it. Dropping it gives it back unused.
#[must_use = "a lent slot does nothing until it is submitted"]
pub struct Lent(Held);

impl Lent {
    pub(crate) fn new(shared: Arc<Shared>, index: usize, job: Job) -> Self {
        Self(Held { shared, index, job: Some(job) })
    }

    /// The inputs of the plan that this slot runs.
    pub fn inputs(&self) -> &[Port] {
        &self.0.job().loaded.ports.inputs
    }

    /// The outputs of the plan that this slot runs.
    pub fn outputs(&self) -> &[Port] {
        &self.0.job().loaded.ports.outputs
    }

    /// The elements of input `i`, row-major in the model's order of dimensions, to be written.
    ///
    /// # Errors
    /// [`PortError`] when there is no such input or it has another type.
    pub fn input_mut<T: Element>(&mut self, i: usize) -> Result<&mut [T], PortError> {
        typed::<T>(INPUT, self.inputs(), i)?;
        Ok(view_mut(self.0.job_mut().slot.input_mut(i)))
    }

    /// The bytes of input `i`, little-endian.
    ///
    /// # Errors
    /// [`PortError::Index`] when there is no such input.
    pub fn input_bytes_mut(&mut self, i: usize) -> Result<&mut [u8], PortError> {
        index(INPUT, self.inputs(), i)?;
        Ok(self.0.job_mut().slot.input_mut(i))
    }

    /// Submits the inference, behind those that were submitted before.
    ///
    /// # Errors
    /// [`SubmitError::Closed`] when the session was closed meanwhile.
    pub fn submit(self) -> Result<Pending, SubmitError> {
        self.send(None)
    }

    /// As [`Lent::submit`]; when `deadline` has passed before the inference can begin it is not run
    /// ([`Failure::Deadline`]). One that began in time and ended late has an output, and
    /// [`Report::late`] says by how much.
    ///
    /// # Errors
    /// [`SubmitError::Closed`] when the session was closed meanwhile.
    pub fn submit_by(self, deadline: Instant) -> Result<Pending, SubmitError> {
        self.send(Some(deadline))
    }

    fn send(mut self, deadline: Option<Instant>) -> Result<Pending, SubmitError> {
        let Held { shared, index, job } = &mut self.0;
        let mut job = job.take().expect(HELD);
        job.submitted = Instant::now();
        job.deadline = deadline;
        job.outcome = Err(Failure::Taken);
        let expected = shared.expected(job.submitted, job.loaded.latency());
        match shared.ring.submit(*index, job) {
            Ok(()) => Ok(Pending { shared: Arc::clone(shared), index: *index, expected, live: true }),
            Err(job) => {
                self.0.job = Some(job);
                Err(SubmitError::Closed)
            }
        }
    }
}

/// A submitted inference. It is also a [`Future`].
///
/// Dropping it cancels it: what has not begun is not run, what runs is run to its end and forgotten.
#[must_use = "dropping a request cancels it"]
pub struct Pending {
    shared: Arc<Shared>,
    index: usize,
    expected: Instant,
    /// Whether the slot is still this request's.
    live: bool,
}

impl Pending {
    /// Waits for the output, by the session's wait policy; inline, the work is done here.
    ///
    /// # Errors
    /// [`Failure`] when there is no output.
    pub fn wait(mut self) -> Result<Output, Failure> {
        // Without an end the wait is over only when the job is done.
        self.wait_until(None).unwrap_or(Err(Failure::Taken))
    }

    /// As [`Pending::wait`], but no longer than `timeout`: then `None`, and the request goes on.
    ///
    /// Inline, the time is looked at between inferences only.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<Output, Failure>> {
        // A time that the clock cannot express never comes.
        self.wait_until(Instant::now().checked_add(timeout))
    }

    /// The output if there is one by now; inline, the work is done here.
    pub fn try_wait(&mut self) -> Option<Result<Output, Failure>> {
        if !self.live {
            return Some(Err(Failure::Taken));
        }
        let job = self.shared.poll(self.index, None)?;
        Some(self.output(job))
    }

    /// Cancels the request; whether it had not begun.
    pub fn cancel(mut self) -> bool {
        self.abandon()
    }

    fn wait_until(&mut self, until: Option<Instant>) -> Option<Result<Output, Failure>> {
        if !self.live {
            return Some(Err(Failure::Taken));
        }
        if self.shared.is_worker() {
            return Some(Err(Failure::WrongThread));
        }
        let job = self.shared.wait(self.index, self.expected, until)?;
        Some(self.output(job))
    }

    fn output(&mut self, mut job: Job) -> Result<Output, Failure> {
        self.live = false;
        let outcome = std::mem::replace(&mut job.outcome, Err(Failure::Taken));
        let held = Held { shared: Arc::clone(&self.shared), index: self.index, job: Some(job) };
        outcome.map(|report| Output { held, report })
    }

    fn abandon(&mut self) -> bool {
        std::mem::replace(&mut self.live, false) && self.shared.abandon(self.index)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl Future for Pending {
    type Output = Result<Output, Failure>;

    /// Inline, the work is done in this call: give it a thread that may block.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.live {
            return Poll::Ready(Err(Failure::Taken));
        }
        match self.shared.poll(self.index, Some(context.waker())) {
            Some(job) => Poll::Ready(self.output(job)),
            None => Poll::Pending,
        }
    }
}

/// The outputs of an inference, lent to be read; dropping them frees the slot.
pub struct Output {
    held: Held,
    report: Report,
}

impl Output {
    /// The outputs of the plan that ran.
    pub fn outputs(&self) -> &[Port] {
        &self.held.job().loaded.ports.outputs
    }

    /// The elements of output `i`, row-major in the model's order of dimensions.
    ///
    /// # Errors
    /// [`PortError`] when there is no such output or it has another type.
    pub fn output<T: Element>(&self, i: usize) -> Result<&[T], PortError> {
        typed::<T>(OUTPUT, self.outputs(), i)?;
        Ok(view(self.held.job().slot.output(i)))
    }

    /// The bytes of output `i`, little-endian.
    ///
    /// # Errors
    /// [`PortError::Index`] when there is no such output.
    pub fn output_bytes(&self, i: usize) -> Result<&[u8], PortError> {
        index(OUTPUT, self.outputs(), i)?;
        Ok(self.held.job().slot.output(i))
    }

    /// What the inference took.
    pub fn report(&self) -> Report {
        self.report
    }

    /// Keeps the slot, with its inputs as they are, for another inference on the same plan.
    pub fn again(self) -> Lent {
        Lent(self.held)
    }
}
