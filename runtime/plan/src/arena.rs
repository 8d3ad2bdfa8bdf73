//! Places for the arena's buffers: those that are live at the same time do not overlap.

use crate::{Plan, Space};

/// Alignment of every buffer and blob in bytes: a cache line, and what a vector load likes best.
pub const ALIGN: u64 = 64;

/// `bytes` rounded up to a multiple of [`ALIGN`].
pub const fn align(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGN)
}

/// The steps at which a buffer holds something that is still needed: first write to last use, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// First step that touches the buffer.
    pub from: usize,
    /// Last step that touches it.
    pub to: usize,
}

impl Live {
    fn overlaps(self, other: Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

/// When each buffer is live; `None` for one that no step touches.
pub fn liveness(plan: &Plan) -> Vec<Option<Live>> {
    let mut live: Vec<Option<Live>> = vec![None; plan.buffers.len()];
    for (i, step) in plan.steps.iter().enumerate() {
        for t in step.op.reads().into_iter().chain([step.op.writes()]) {
            let slot = &mut live[plan.tensor(t).buffer.0 as usize];
            *slot = Some(Live { from: slot.map_or(i, |l| l.from), to: i });
        }
    }
    live
}

/// Gives every arena buffer its offset and sets the arena's size and lower bound.
///
/// Each buffer, in the order of a few simple heuristics (largest first, longest-lived first, in order of first
/// use), goes to the smallest gap that fits between the buffers already placed that are live with it; the order
/// with the smallest arena wins. Deterministic.
///
/// # Panics
/// When a step names a tensor, or a tensor a buffer, that is not in the plan.
///
/// # Source
/// Greedy by size with best fit: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference"
/// (2020).
pub fn place(plan: &mut Plan) {
    let live = liveness(plan);
    let arena: Vec<(usize, Live)> = (0..plan.buffers.len())
        .filter(|&b| plan.buffers[b].space == Space::Arena)
        .filter_map(|b| live[b].map(|l| (b, l)))
        .collect();
    let size = |b: usize| align(plan.buffers[b].bytes);

    plan.arena_lower_bound = (0..plan.steps.len())
        .map(|s| arena.iter().filter(|(_, l)| l.from <= s && s <= l.to).map(|&(b, _)| size(b)).sum())
        .max()
        .unwrap_or(0);

    let mut best: Option<(u64, Vec<(usize, u64)>)> = None;
    for order in 0..3 {
        let mut queue = arena.clone();
        match order {
            0 => queue.sort_by_key(|&(b, l)| (std::cmp::Reverse(size(b)), l.from, b)),
            1 => {
                queue.sort_by_key(|&(b, l)| (std::cmp::Reverse(l.to - l.from), std::cmp::Reverse(size(b)), b))
            }
            _ => queue.sort_by_key(|&(b, l)| (l.from, std::cmp::Reverse(size(b)), b)),
        }
        let placed = best_fit(&queue, size);
        let peak = placed.iter().map(|&(b, offset)| offset + size(b)).max().unwrap_or(0);
        if best.as_ref().is_none_or(|(p, _)| peak < *p) {
            best = Some((peak, placed));
        }
    }
    let (peak, placed) = best.unwrap_or_default();
    for buffer in plan.buffers.iter_mut().filter(|b| b.space == Space::Arena) {
        buffer.offset = 0;
    }
    for (b, offset) in placed {
        plan.buffers[b].offset = offset;
    }
    plan.arena_bytes = peak;
}

/// Offsets in the order of `queue`: each buffer into the smallest sufficient gap among its live neighbours.
fn best_fit(queue: &[(usize, Live)], size: impl Fn(usize) -> u64) -> Vec<(usize, u64)> {
    let mut placed: Vec<(usize, u64)> = Vec::with_capacity(queue.len());
    let mut lives: Vec<Live> = Vec::with_capacity(queue.len());
    for &(b, l) in queue {
        let mut taken: Vec<(u64, u64)> = placed
            .iter()
            .zip(&lives)
            .filter(|(_, other)| other.overlaps(l))
            .map(|(&(o, offset), _)| (offset, offset + size(o)))
            .collect();
        taken.sort_unstable();
        let need = size(b);
        let mut end = 0;
        let mut choice: Option<(u64, u64)> = None;
        for (from, to) in taken {
            if from >= end + need && choice.is_none_or(|(gap, _)| from - end < gap) {
                choice = Some((from - end, end));
            }
            end = end.max(to);
        }
        placed.push((b, choice.map_or(end, |(_, offset)| offset)));
        lives.push(l);
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_plan;

    #[test]
    fn a_chain_needs_two_neighbours_at_a_time() {
        // in -> 100 -> 300 -> 200 -> out
        let mut plan = test_plan::chain(&[100, 300, 200]);
        place(&mut plan);
        assert_eq!(plan.arena_lower_bound, align(300) + align(200));
        assert_eq!(plan.arena_bytes, plan.arena_lower_bound);
    }

    #[test]
    fn buffers_live_together_never_overlap() {
        let mut state = 7_u64;
        for _ in 0..50 {
            let sizes: Vec<u32> = (0..30)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    1 + (state >> 52) as u32
                })
                .collect();
            let mut plan = test_plan::chain(&sizes);
            place(&mut plan);
            let live = liveness(&plan);
            for a in 0..plan.buffers.len() {
                for b in 0..a {
                    let (x, y) = (plan.buffers[a], plan.buffers[b]);
                    if x.space != Space::Arena || y.space != Space::Arena {
                        continue;
                    }
                    if live[a].unwrap().overlaps(live[b].unwrap()) {
                        assert!(x.offset + x.bytes <= y.offset || y.offset + y.bytes <= x.offset);
                    }
                }
            }
            assert!(plan.arena_bytes >= plan.arena_lower_bound);
        }
    }
}
