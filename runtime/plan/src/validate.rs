//! What every plan must satisfy before a device believes it.
//!
//! [`validate`] is quick and runs at every load: shapes, types, ranges, places. [`validate_flow`] follows every
//! byte and runs after each pass of the importer: nothing is read before it is written, nothing is overwritten
//! while it is needed.

use crate::arena::{ALIGN, liveness};
use crate::{Blob, BufferId, DType, Plan, Quant, Space, Tensor, TensorId, row_major};

mod flow;
mod op;

pub use flow::validate_flow;

/// The largest arena, buffer or tensor that a plan may ask for, in bytes.
pub const MAX_BYTES: u64 = 1 << 32;
/// The highest rank of a tensor.
pub const MAX_RANK: usize = 8;

/// The first rule that a plan breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {problem}")]
pub struct Invalid {
    /// The tensor, buffer or step.
    pub object: String,
    /// What was found and what is allowed.
    pub problem: String,
}

pub(crate) fn invalid<T>(object: impl Into<String>, problem: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid { object: object.into(), problem: problem.into() })
}

/// Checks every tensor, buffer and step by itself, and that buffers live together do not overlap.
///
/// # Errors
/// The first rule broken, with the object that breaks it.
pub fn validate(plan: &Plan) -> Result<(), Invalid> {
    for (i, buffer) in plan.buffers.iter().enumerate() {
        let name = format!("buffer {i}");
        let (space, limit) = match buffer.space {
            Space::Arena => ("the arena", plan.arena_bytes),
            Space::Weights => ("the weights", plan.weights.len() as u64),
            Space::Input(_) | Space::Output(_) => ("a slot", MAX_BYTES),
        };
        let end = buffer.offset.checked_add(buffer.bytes);
        if !buffer.offset.is_multiple_of(ALIGN) || end.is_none_or(|e| e > limit) {
            return invalid(
                name,
                format!(
                    "{} bytes at {} lie outside {space} of {limit}, or off a 64-byte boundary",
                    buffer.bytes, buffer.offset
                ),
            );
        }
    }
    if plan.arena_bytes > MAX_BYTES {
        return invalid(
            "arena",
            format!("{} bytes asked for, at most {MAX_BYTES} allowed", plan.arena_bytes),
        );
    }
    for t in &plan.tensors {
        tensor(plan, t)?;
    }
    for (ids, what) in [(&plan.inputs, "input"), (&plan.outputs, "output")] {
        for (i, &id) in ids.iter().enumerate() {
            let t = known(plan, id, what)?;
            let space = if what == "input" { Space::Input(i as u32) } else { Space::Output(i as u32) };
            let bytes = t.elements() * t.dtype.bytes() as u64;
            let buffer = plan.buffers[t.buffer.0 as usize];
            let in_slot =
                buffer.space == space && buffer.offset == 0 && buffer.bytes == bytes && t.offset == 0;
            if !in_slot || t.strides != row_major(&t.shape) {
                return invalid(
                    &t.name,
                    format!("{what} {i} must fill its own slot of {bytes} bytes in row-major order"),
                );
            }
        }
    }
    for (i, step) in plan.steps.iter().enumerate() {
        for id in step.op.reads().into_iter().chain([step.op.writes()]) {
            known(plan, id, &step_name(plan, i))?;
        }
        let written = plan.tensor(step.op.writes());
        match plan.buffers[written.buffer.0 as usize].space {
            Space::Arena => {}
            Space::Output(_) => {}
            Space::Input(_) | Space::Weights => {
                return invalid(
                    step_name(plan, i),
                    format!("writes {}, which is an input or a constant", written.name),
                );
            }
        }
        if !places_differ(written) {
            return invalid(step_name(plan, i), format!("two elements of {} share a place", written.name));
        }
        for id in step.op.reads() {
            if flow::share_a_place(plan.tensor(id), written) {
                return invalid(
                    step_name(plan, i),
                    format!("overwrites {} while it reads it", plan.tensor(id).name),
                );
            }
        }
        op::check(plan, &step.op).or_else(|problem| invalid(step_name(plan, i), problem))?;
    }
    overlaps(plan)
}

/// `step 3 (conv Conv_12)`.
fn step_name(plan: &Plan, i: usize) -> String {
    let step = &plan.steps[i];
    format!("step {i} ({} {})", step.op.name(), step.nodes.join("+"))
}

fn known<'p>(plan: &'p Plan, id: TensorId, who: &str) -> Result<&'p Tensor, Invalid> {
    match plan.tensors.get(id.0 as usize) {
        Some(t) => Ok(t),
        None => invalid(who, format!("tensor {} does not exist; there are {}", id.0, plan.tensors.len())),
    }
}

fn tensor(plan: &Plan, t: &Tensor) -> Result<(), Invalid> {
    let BufferId(b) = t.buffer;
    let Some(buffer) = plan.buffers.get(b as usize) else {
        return invalid(&t.name, format!("buffer {b} does not exist; there are {}", plan.buffers.len()));
    };
    if t.shape.len() > MAX_RANK || t.strides.len() != t.shape.len() || t.shape.contains(&0) {
        return invalid(
            &t.name,
            format!(
                "shape {:?} with strides {:?}: extents from 1, rank up to {MAX_RANK}, one stride each",
                t.shape, t.strides
            ),
        );
    }
    // Wide arithmetic: a hostile file may hold any numbers.
    let size = t.dtype.bytes() as u128;
    let last: u128 = t.shape.iter().zip(&t.strides).map(|(&d, &s)| u128::from(d - 1) * u128::from(s)).sum();
    let elements = t.shape.iter().try_fold(1_u64, |n, &d| n.checked_mul(u64::from(d)));
    if elements.is_none_or(|n| n > MAX_BYTES)
        || u128::from(t.offset) % size != 0
        || u128::from(t.offset) + (last + 1) * size > u128::from(buffer.bytes)
    {
        return invalid(
            &t.name,
            format!(
                "shape {:?} with strides {:?} at {} does not fit its buffer of {} bytes",
                t.shape, t.strides, t.offset, buffer.bytes
            ),
        );
    }
    match t.quant {
        Some(q) => quant(t.dtype, q).or_else(|problem| invalid(&t.name, problem)),
        None => Ok(()),
    }
}

/// Checks a scale and a zero point against an 8-bit (or i32) type.
fn quant(dtype: DType, q: Quant) -> Result<(), String> {
    let (lo, hi) = dtype.int8_range().unwrap_or((0, 0));
    if !matches!(dtype, DType::U8 | DType::I8 | DType::I32) {
        return Err(format!("{dtype} cannot be quantised"));
    }
    let fits = q.scale.is_finite() && q.scale > 0.0 && (lo..=hi).contains(&q.zero_point);
    if !fits {
        return Err(format!(
            "scale {} with zero point {}: a positive number and {lo} to {hi} are allowed",
            q.scale, q.zero_point
        ));
    }
    Ok(())
}

/// Whether no two elements of a tensor share a place: along each dimension, in order of stride, a step is longer
/// than all that lies within.
fn places_differ(t: &Tensor) -> bool {
    let mut dims: Vec<(u64, u64)> =
        t.shape.iter().zip(&t.strides).filter(|&(&d, _)| d > 1).map(|(&d, &s)| (s, u64::from(d))).collect();
    dims.sort_unstable();
    let mut reach = 0;
    for (stride, extent) in dims {
        if stride <= reach {
            return false;
        }
        reach += (extent - 1) * stride;
    }
    true
}

/// Checks a blob's place and length.
fn blob(plan: &Plan, blob: Blob, bytes: u64, what: &str) -> Result<(), String> {
    let end = blob.offset.checked_add(blob.bytes);
    if blob.bytes != bytes
        || !blob.offset.is_multiple_of(ALIGN)
        || end.is_none_or(|e| e > plan.weights.len() as u64)
    {
        return Err(format!(
            "{what}: {} bytes at {} of {} bytes of weights; {bytes} bytes on a 64-byte boundary are needed",
            blob.bytes,
            blob.offset,
            plan.weights.len()
        ));
    }
    Ok(())
}

/// Arena buffers that are live at the same step do not share bytes.
fn overlaps(plan: &Plan) -> Result<(), Invalid> {
    let live = liveness(plan);
    let arena: Vec<_> = (0..plan.buffers.len())
        .filter(|&b| plan.buffers[b].space == Space::Arena)
        .filter_map(|b| live[b].map(|l| (b, l)))
        .collect();
    for (k, &(a, la)) in arena.iter().enumerate() {
        for &(b, lb) in &arena[..k] {
            let (x, y) = (plan.buffers[a], plan.buffers[b]);
            let apart = x.offset + x.bytes <= y.offset || y.offset + y.bytes <= x.offset;
            if !apart && la.from <= lb.to && lb.from <= la.to {
                return invalid(
                    format!("buffer {a}"),
                    format!("shares bytes with buffer {b}, which is live at the same time"),
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Op, arena, test_plan};

    fn sample() -> Plan {
        let mut plan = test_plan::chain(&[16, 32, 8]);
        arena::place(&mut plan);
        plan
    }

    #[test]
    fn a_placed_plan_is_valid() {
        validate(&sample()).unwrap();
        validate_flow(&sample()).unwrap();
    }

    /// Each change breaks one rule; the error names the object.
    #[test]
    fn broken_plans_are_refused() {
        type Break = fn(&mut Plan);
        let breaks: [(&str, &str, Break); 12] = [
            ("offset outside", "buffer 1", |p| p.buffers[1].offset = 1 << 40),
            ("offset near overflow", "buffer 1", |p| p.buffers[1].offset = u64::MAX - 63),
            ("unaligned buffer", "buffer 1", |p| p.buffers[1].offset = 1),
            ("no such buffer", "t0", |p| p.tensors[1].buffer = BufferId(99)),
            ("stride too long", "t0", |p| p.tensors[1].strides = vec![1, u64::MAX]),
            ("zero extent", "t0", |p| p.tensors[1].shape[1] = 0),
            ("zero scale", "t0", |p| p.tensors[1].quant = Some(Quant { scale: 0.0, zero_point: 0 })),
            ("zero point", "t0", |p| p.tensors[1].quant = Some(Quant { scale: 1.0, zero_point: 256 })),
            ("no such tensor", "step 0 (quantize n0)", |p| {
                if let Op::Quantize(c) = &mut p.steps[0].op {
                    c.input = TensorId(99);
                }
            }),
            ("elements share a place", "step 0 (quantize n0)", |p| p.tensors[1].strides = vec![1, 0]),
            ("overlap", "buffer 2", |p| p.buffers[2].offset = p.buffers[1].offset),
            ("huge arena", "arena", |p| p.arena_bytes = MAX_BYTES + 1),
        ];
        for (what, object, apply) in breaks {
            let mut plan = sample();
            apply(&mut plan);
            let error = validate(&plan).expect_err(what);
            assert_eq!(error.object, object, "{what}: {error}");
        }
    }

    #[test]
    fn strided_places() {
        let mut t = sample().tensors[1].clone();
        (t.shape, t.strides) = (vec![2, 3, 4], vec![64, 1, 16]);
        assert!(places_differ(&t));
        t.strides = vec![64, 1, 2];
        assert!(!places_differ(&t));
    }
}
