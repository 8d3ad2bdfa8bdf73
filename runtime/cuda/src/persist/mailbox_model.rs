//! The mailbox under every interleaving that loom finds: the host's code as it ships, against the kernel's part
//! written out in Rust as `kernels/cuda/persistent.cuh` has it, order by order.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p pilotlight-cuda --release --lib mailbox`
//!
//! A lost wake-up shows as a request that nobody serves; a missing order as an input or output that is not there.

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

/// Mailbox, a slot's input and output.
struct Memory {
    submitted: AtomicU32,
    order: AtomicU32,
    beat: AtomicU32,
    done: AtomicU32,
    parked: AtomicU32,
    reason: AtomicU32,
    input: AtomicU32,
    output: AtomicU32,
}

impl Memory {
    fn new() -> Arc<Self> {
        let word = || AtomicU32::new(0);
        Arc::new(Self {
            submitted: word(),
            order: word(),
            beat: word(),
            done: word(),
            parked: word(),
            reason: word(),
            input: word(),
            output: word(),
        })
    }

    fn words(&self) -> Words<'_, AtomicU32> {
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
fn kernel(m: &Memory, generation: u32, patience: u32) {
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
            fence(SeqCst);
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
fn host(memory: &Arc<Memory>, requests: u32, patience: u32) {
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
                kernel(&m, generation, patience);
            }));
        }
        while !words.done(number) {
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
    check(|| host(&Memory::new(), 2, 1));
}

#[test]
fn a_kernel_that_stays_serves_one_request_after_the_other() {
    check(|| host(&Memory::new(), 2, 2));
}
