//! The mailbox under every interleaving that loom finds: the host's code as it ships, against the kernel's part
//! written out in Rust as `kernels/cuda/persistent.cuh` has it, order by order.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p pilotlight-cuda --release --lib mailbox`
//!
//! A lost wake-up shows as a request that nobody serves; a missing order as an input or output that is not there.
//! The model is shown to find them: without the host's fence, or the kernel's, it must fail.

use super::mailbox::{Word, Words};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, fence};
use loom::thread;
use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};

impl Word for AtomicU32 {
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.store(value, order);
    }

    fn fence(order: Ordering) {
        fence(order);
    }
}

/// A word whose fence does nothing.
struct Unfenced(AtomicU32);

impl Word for Unfenced {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.0.store(value, order);
    }

    fn fence(_: Ordering) {}
}

/// Mailbox, a slot's input and output.
struct Memory<W> {
    submitted: W,
    order: W,
    beat: W,
    done: W,
    parked: W,
    reason: W,
    input: W,
    output: W,
    /// Generation of the last launch that has ended: what the driver knows.
    ended: AtomicU32,
}

impl<W: Word> Memory<W> {
    fn new(word: impl Fn(AtomicU32) -> W) -> Arc<Self> {
        let word = || word(AtomicU32::new(0));
        Arc::new(Self {
            submitted: word(),
            order: word(),
            beat: word(),
            done: word(),
            parked: word(),
            reason: word(),
            input: word(),
            output: word(),
            ended: AtomicU32::new(0),
        })
    }

    fn words(&self) -> Words<'_, W> {
        Words {
            submitted: &self.submitted,
            order: &self.order,
            beat: &self.beat,
            done: &self.done,
            parked: &self.parked,
            reason: &self.reason,
        }
    }
}

/// One launch: `listen`, the inference, `park`. It is idle after `patience` looks without a request.
fn kernel<W: Word>(m: &Memory<W>, generation: u32, patience: u32, fenced: bool) {
    let mut served = m.done.load(Relaxed);
    let mut idle = 0;
    loop {
        if m.submitted.load(Relaxed) != served {
            m.submitted.load(Acquire);
            let x = m.input.load(Relaxed);
            served += 1;
            assert_eq!(x, served, "the input is not there");
            m.output.store(x * 10, Relaxed);
            m.done.store(served, Release);
            idle = 0;
            continue;
        }
        idle += 1;
        if idle >= patience {
            m.reason.store(1, Relaxed);
            m.parked.store(generation, Release);
            if fenced {
                fence(SeqCst);
            }
            if m.submitted.load(Relaxed) == served {
                return;
            }
            m.parked.store(generation - 1, Relaxed);
            idle = 0;
        }
        thread::yield_now();
    }
}

/// Launches run one after the other, as in a stream.
fn host<W: Word + Send + Sync + 'static>(
    memory: &Arc<Memory<W>>,
    requests: u32,
    patience: u32,
    fenced: bool,
) {
    let (mut generation, mut launch) = (0, None::<thread::JoinHandle<()>>);
    for number in 1..=requests {
        let words = memory.words();
        memory.input.store(number, Relaxed);
        if words.submit(number, generation) {
            generation += 1;
            let (m, before, generation) = (Arc::clone(memory), launch.take(), generation);
            launch = Some(thread::spawn(move || {
                if let Some(before) = before {
                    before.join().unwrap();
                }
                kernel(&m, generation, patience, fenced);
                m.ended.store(generation, Release);
            }));
        }
        while !words.done(number) {
            let ended = memory.ended.load(Acquire) == generation;
            assert!(!ended || words.done(number), "request {number} is lost");
            thread::yield_now();
        }
        assert_eq!(memory.output.load(Relaxed), number * 10, "the output is not there");
    }
    if let Some(launch) = launch {
        launch.join().unwrap();
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn a_request_that_races_with_a_park_is_served() {
    check(|| host(&Memory::new(|word| word), 2, 1, true));
}

#[test]
fn a_kernel_that_stays_serves_one_request_after_the_other() {
    check(|| host(&Memory::new(|word| word), 2, 2, true));
}

#[test]
#[should_panic(expected = "request 2 is lost")]
fn without_the_hosts_fence_a_request_is_lost() {
    check(|| host(&Memory::new(Unfenced), 2, 1, true));
}

#[test]
#[should_panic(expected = "request 2 is lost")]
fn without_the_kernels_fence_a_request_is_lost() {
    check(|| host(&Memory::new(|word| word), 2, 1, false));
}
