//! The words that host and kernel talk through: the host's part of the protocol, and nothing else.
//!
//! Each word has one writer and a line of its own. Nothing here reads, changes and writes back. The words are of
//! any type with loads, stores and fences, so that loom explores the very code that runs.

use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};

/// A 32-bit word shared with the kernel.
pub(crate) trait Word {
    fn load(&self, order: Ordering) -> u32;
    fn store(&self, value: u32, order: Ordering);
    fn fence(order: Ordering);
}

impl Word for std::sync::atomic::AtomicU32 {
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.store(value, order);
    }

    fn fence(order: Ordering) {
        std::sync::atomic::fence(order);
    }
}

/// The single words of the mailbox; `MAIL_` constants of the kernels say where each lies.
pub(crate) struct Words<'a, W> {
    pub(crate) submitted: &'a W,
    pub(crate) order: &'a W,
    pub(crate) beat: &'a W,
    pub(crate) done: &'a W,
    pub(crate) parked: &'a W,
    pub(crate) reason: &'a W,
}

impl<W: Word> Words<'_, W> {
    /// Tells the kernel of request `number`, which must lie in the mailbox already, with its inputs in the slot.
    ///
    /// True if the launch of this generation has left, or is about to: then another launch must follow it.
    pub(crate) fn submit(&self, number: u32, generation: u32) -> bool {
        // Partner: `listen` acquires it, and with it the request and the slot's inputs.
        self.submitted.store(number, Release);
        // Partner: `fence.sc.sys` in `park`. One of the two fences is first: either the kernel sees the request
        // before it leaves, or this sees that it leaves.
        W::fence(SeqCst);
        self.parked.load(Relaxed) == generation
    }

    /// Whether request `number` is done. If so, the outputs are there to be read.
    pub(crate) fn done(&self, number: u32) -> bool {
        // Partner: the kernel's release of DONE at the end of an inference. Numbers wrap around.
        self.done.load(Acquire).wrapping_sub(number) as i32 >= 0
    }

    /// Why the launch of this generation left, if it did. It may still come back when a request came first.
    pub(crate) fn left(&self, generation: u32) -> Option<u32> {
        // Partner: the kernel's release of PARKED: the reason and the progress lines are there.
        (self.parked.load(Acquire) == generation).then(|| self.reason.load(Relaxed))
    }

    /// Gives the kernel an order, to be taken back once it has left.
    pub(crate) fn order(&self, order: u32) {
        self.order.store(order, Relaxed);
    }

    /// Tells the kernel that the host lives. One thread may call it.
    pub(crate) fn beat(&self) {
        self.beat.store(self.beat.load(Relaxed).wrapping_add(1), Relaxed);
    }
}
