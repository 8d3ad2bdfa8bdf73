//! Loops over tensors of one shape: dimensions joined where every operand allows, the innermost left to a kernel.

use super::kernels::Grid;
use super::place::{Place, place, strides};
use super::step::share;
use pilotlight_plan::{Plan, TensorId};

/// The most tensors in a nest: an output and two operands.
const TENSORS: usize = 3;

/// One loop.
#[derive(Clone, Debug)]
struct Level {
    extent: usize,
    /// Bytes between neighbours in each tensor.
    strides: [usize; TENSORS],
    /// Where the index list of a remap leads: bytes in tensor 1, `None` for the fill value.
    list: Option<Vec<Option<usize>>>,
}

/// Nested loops over an output (tensor 0) and its operands.
pub(super) struct Nest {
    /// Where each tensor begins.
    pub places: [Place; TENSORS],
    outer: Vec<Level>,
    /// The loop around the innermost.
    rows: Level,
    /// The innermost loop's extent.
    pub cols: usize,
    /// The innermost loop's strides in bytes.
    pub steps: [usize; TENSORS],
}

/// Bytes that a thread's share of one long row is a multiple of.
const SHARE: usize = 256;

impl Nest {
    /// Loops over the elements of `output`, operands broadcast to it as in numpy.
    pub(super) fn new(plan: &Plan, output: TensorId, operands: &[TensorId]) -> Self {
        let lists = vec![None; plan.tensor(output).shape.len()];
        Self::with_lists(plan, output, operands, &lists, 0)
    }

    /// As [`Nest::new`], with tensor 1 read at the listed indices of each dimension, and the innermost loop where
    /// the strides of tensor `lead` are smallest.
    pub(super) fn with_lists(
        plan: &Plan,
        output: TensorId,
        operands: &[TensorId],
        lists: &[Option<Vec<i32>>],
        lead: usize,
    ) -> Self {
        let y = plan.tensor(output);
        let mut places = [place(plan, y); TENSORS];
        let mut levels: Vec<Level> = y
            .shape
            .iter()
            .zip(strides(y))
            .map(|(&e, s)| Level { extent: e as usize, strides: [s, 0, 0], list: None })
            .collect();
        for (i, &id) in operands.iter().enumerate() {
            let t = plan.tensor(id);
            places[i + 1] = place(plan, t);
            let skip = y.shape.len() - t.shape.len();
            for (d, (&extent, stride)) in t.shape.iter().zip(strides(t)).enumerate() {
                let broadcast = extent == 1 && lists[skip + d].is_none();
                levels[skip + d].strides[i + 1] = if broadcast { 0 } else { stride };
            }
        }
        for (level, list) in levels.iter_mut().zip(lists) {
            let Some(list) = list else { continue };
            let stride = level.strides[1];
            match even_steps(list) {
                Some((first, step)) => {
                    places[1].offset += first * stride;
                    level.strides[1] = step * stride;
                }
                None => {
                    let at = |&i: &i32| usize::try_from(i).ok().map(|i| i * stride);
                    level.list = Some(list.iter().map(at).collect());
                }
            }
        }
        levels.retain(|l| l.extent > 1 || l.list.is_some());
        // Large strides outside: by the leading tensor, then by the others.
        levels.sort_by_key(|l| {
            let mut key = l.strides;
            key.swap(0, lead);
            std::cmp::Reverse(key)
        });
        let mut joined: Vec<Level> = Vec::new();
        for inner in levels {
            let joins = |o: &Level| {
                let follows = o.strides.iter().zip(&inner.strides).all(|(o, i)| *o == i * inner.extent);
                o.list.is_none() && inner.list.is_none() && follows
            };
            match joined.last_mut() {
                Some(o) if joins(o) => {
                    o.extent *= inner.extent;
                    o.strides = inner.strides;
                }
                _ => joined.push(inner),
            }
        }
        let single = || Level { extent: 1, strides: [0; TENSORS], list: None };
        let mut innermost = || joined.pop_if(|l| l.list.is_none()).unwrap_or_else(single);
        let cols = innermost();
        let rows = innermost();
        Self { places, outer: joined, rows, cols: cols.extent, steps: cols.strides }
    }

    /// Calls `f` for each grid of this thread's share: rows and columns, the byte offset of each tensor, and whether
    /// tensor 1 is there or the fill value stands for it.
    pub(super) fn each(
        &self,
        thread: usize,
        threads: usize,
        mut f: impl FnMut(Grid, [usize; TENSORS], bool),
    ) {
        let total = self.rows.extent * self.outer.iter().map(|l| l.extent).product::<usize>();
        if total == 1 {
            let own = share(self.cols.div_ceil(SHARE), thread, threads);
            let (from, to) = (own.start * SHARE, (own.end * SHARE).min(self.cols));
            if from < to {
                f(Grid { rows: 1, cols: to - from }, self.steps.map(|s| s * from), true);
            }
            return;
        }
        let own = share(total, thread, threads);
        let mut row = own.start;
        while row < own.end {
            let (mut number, first) = (row / self.rows.extent, row % self.rows.extent);
            let count = (self.rows.extent - first).min(own.end - row);
            let mut at = self.rows.strides.map(|s| s * first);
            let mut there = true;
            for level in self.outer.iter().rev() {
                let i = number % level.extent;
                number /= level.extent;
                at.iter_mut().zip(&level.strides).for_each(|(a, s)| *a += s * i);
                if let Some(list) = &level.list {
                    // The list replaces tensor 1's stride.
                    at[1] -= level.strides[1] * i;
                    match list[i] {
                        Some(offset) => at[1] += offset,
                        None => there = false,
                    }
                }
            }
            f(Grid { rows: count, cols: self.cols }, at, there);
            row += count;
        }
    }

    /// Bytes between the rows of a grid.
    pub(super) fn row_stride(&self, tensor: usize) -> usize {
        self.rows.strides[tensor]
    }

    /// Whether the innermost elements of all `count` tensors are neighbouring bytes.
    pub(super) fn is_dense(&self, count: usize) -> bool {
        self.cols == 1 || self.steps[..count].iter().all(|&s| s == 1)
    }
}

/// The first index and the step of a list that counts evenly upwards.
fn even_steps(list: &[i32]) -> Option<(usize, usize)> {
    let first = usize::try_from(*list.first()?).ok()?;
    let step = match list.get(1) {
        Some(second) => usize::try_from(second - list[0]).ok()?,
        None => 0,
    };
    let even = list.windows(2).all(|w| i64::from(w[1]) - i64::from(w[0]) == step as i64);
    even.then_some((first, step))
}
