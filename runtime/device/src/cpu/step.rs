//! What a lowered step is, and what the threads that run it have.

use super::kernels::{BLOCK, Kernels, ROWS, TileState};
use super::place::Bases;
use crate::{LoadError, Memory};
use std::ops::Range;

/// A lowered step.
pub(super) trait Call: Send + Sync {
    /// Does the share of `thread` (below `context.threads`).
    ///
    /// # Safety
    /// 1. The bases are those of the plan that the step was lowered from.
    /// 2. Nothing else touches the step's output, or writes its inputs, but the other threads' shares of the
    ///    same step.
    /// 3. `scratch` is this thread's alone and has the sizes that the step asked for.
    unsafe fn run(&self, context: &Context, thread: usize, scratch: &mut Scratch);

    /// Bytes of [`Scratch::planes`] that it needs.
    fn plane_bytes(&self) -> usize {
        0
    }
}

/// What all threads share during an inference.
pub(super) struct Context {
    pub kernels: Kernels,
    pub bases: Bases,
    pub threads: usize,
}

/// One thread's working memory.
pub(super) struct Scratch {
    /// Copied or interleaved inputs.
    pub planes: Memory,
    /// Two halves of sums.
    pub acc: Memory,
    /// Bytes between requantisation and what follows it.
    pub bytes: Memory,
    /// What the tile unit is configured for.
    pub tiles: TileState,
}

impl Scratch {
    /// Working memory with `planes` bytes of copies.
    pub(super) fn new(planes: usize) -> Result<Self, LoadError> {
        Ok(Self {
            planes: Memory::new("working memory", planes)?,
            acc: Memory::new("accumulators", 2 * ROWS * BLOCK * 4)?,
            bytes: Memory::new("working memory", super::epilogue::SCRATCH_BYTES)?,
            tiles: TileState::default(),
        })
    }
}

/// The share of `thread` of `count` things: nearly equal contiguous ranges.
pub(super) fn share(count: usize, thread: usize, threads: usize) -> Range<usize> {
    count * thread / threads..count * (thread + 1) / threads
}
