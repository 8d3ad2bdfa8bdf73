//! The slot ring under every interleaving that loom finds within its bound on preemptions.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p pilotlight --release --lib`
//!
//! A lost wake-up shows as a deadlock, a lost or doubled slot as a failed assertion. A job is its slot's number
//! and how often it was run.

use crate::ring::{Abandoned, NoSlot, Ring};
use loom::sync::Arc;
use loom::thread;
use std::pin::Pin;
use std::task::{Context, Poll};

type Job = (usize, u32);

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn ring(slots: usize) -> Arc<Ring<Job>> {
    Arc::new(Ring::new((0..slots).map(|i| (i, 0)).collect(), false))
}

fn run_next(ring: &Ring<Job>) -> bool {
    let Some((index, mut job)) = ring.begin() else { return false };
    assert_eq!(job.0, index);
    job.1 += 1;
    if let Some(job) = ring.finish(index, job) {
        ring.release(index, job);
    }
    true
}

fn worker(ring: &Arc<Ring<Job>>, spin: bool) -> thread::JoinHandle<()> {
    let ring = Arc::clone(ring);
    thread::spawn(move || {
        loop {
            let seen = ring.submissions();
            if run_next(&ring) {
                continue;
            }
            if ring.is_drained() {
                return;
            }
            if spin {
                while ring.submissions() == seen {
                    thread::yield_now();
                }
            } else {
                ring.sleep_until_submitted(seen);
            }
        }
    })
}

fn wait(ring: &Ring<Job>, index: usize, inline: bool, spin: bool) -> Job {
    loop {
        let seen = ring.completions();
        if let Some(job) = ring.take(index, None) {
            return job;
        }
        if inline && run_next(ring) {
            continue;
        }
        if spin {
            while ring.completions() == seen {
                thread::yield_now();
            }
        } else {
            ring.sleep_until_finished(seen, None);
        }
    }
}

/// Lend, submit, wait, release: the job was run once more.
fn once(ring: &Ring<Job>, inline: bool, spin: bool) {
    let (index, job) = ring.lend().expect("a free slot");
    ring.submit(index, job).expect("an open ring");
    let done = wait(ring, index, inline, spin);
    assert_eq!(done, (index, job.1 + 1));
    ring.release(index, done);
}

/// Every slot is free, none is there twice.
fn all_free(ring: &Ring<Job>, slots: usize) {
    for i in 0..slots {
        assert_eq!(ring.lend().expect("a free slot").0, i);
    }
    assert_eq!(ring.lend(), Err(NoSlot::AllInUse));
}

#[test]
fn a_sleeping_waiter_and_a_sleeping_worker_find_each_other() {
    check(|| {
        let ring = ring(1);
        let worker = worker(&ring, false);
        once(&ring, false, false);
        ring.close();
        worker.join().unwrap();
    });
}

#[test]
fn a_spinning_waiter_and_a_spinning_worker_find_each_other() {
    check(|| {
        let ring = ring(1);
        let worker = worker(&ring, true);
        once(&ring, false, true);
        ring.close();
        worker.join().unwrap();
    });
}

#[test]
fn two_threads_submit_to_one_worker() {
    check(|| {
        let ring = ring(2);
        let worker = worker(&ring, false);
        let other = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || once(&ring, false, false))
        };
        once(&ring, false, false);
        other.join().unwrap();
        all_free(&ring, 2);
        ring.close();
        worker.join().unwrap();
    });
}

#[test]
fn two_inline_waiters_may_run_each_others_work() {
    for spin in [false, true] {
        check(move || {
            let ring = ring(2);
            let other = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || once(&ring, true, spin))
            };
            once(&ring, true, spin);
            other.join().unwrap();
            all_free(&ring, 2);
        });
    }
}

#[test]
fn a_cancelled_slot_comes_back_exactly_once() {
    check(|| {
        let ring = ring(1);
        let worker = worker(&ring, false);
        let (index, job) = ring.lend().expect("a free slot");
        ring.submit(index, job).expect("an open ring");
        match ring.abandon(index) {
            Abandoned::Before(job) => {
                assert_eq!(job.1, 0, "cancelled in time means not run");
                ring.release(index, job);
            }
            Abandoned::After(job) => {
                assert_eq!(job.1, 1);
                ring.release(index, job);
            }
            Abandoned::Running => {}
        }
        ring.close();
        worker.join().unwrap();
        assert!(ring.is_idle());
        ring.exchange_free(|job| (job.0 + 10, job.1));
        let mut seen = 0;
        ring.exchange_free(|job| {
            assert_eq!(job.0, 10);
            seen += 1;
            job
        });
        assert_eq!(seen, 1);
    });
}

#[test]
fn a_submission_that_meets_a_close_is_run_or_refused() {
    check(|| {
        let ring = ring(1);
        let worker = worker(&ring, false);
        let (index, job) = ring.lend().expect("a free slot");
        let closer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.close())
        };
        let taken = ring.submit(index, job).is_ok();
        closer.join().unwrap();
        worker.join().unwrap();
        assert_eq!(ring.take(index, None).is_some(), taken);
        assert!(ring.is_idle() && ring.is_drained());
    });
}

#[test]
fn a_future_is_woken() {
    struct Take<'a>(&'a Ring<Job>, usize);
    impl Future for Take<'_> {
        type Output = Job;
        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Job> {
            self.0.take(self.1, Some(context.waker())).map_or(Poll::Pending, Poll::Ready)
        }
    }
    check(|| {
        let ring = ring(1);
        let worker = worker(&ring, false);
        let (index, job) = ring.lend().expect("a free slot");
        ring.submit(index, job).expect("an open ring");
        assert_eq!(loom::future::block_on(Take(&ring, index)), (0, 1));
        ring.close();
        worker.join().unwrap();
    });
}
