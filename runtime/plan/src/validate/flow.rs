//! Every byte followed through the plan.

use super::{Invalid, invalid, step_name};
use crate::{BufferId, Plan, Space, Tensor};

/// Checks that each step reads only what an input, a constant or an earlier step has written to the same buffer,
/// that no byte of a buffer is written twice, and that every output is written whole.
///
/// Takes time and memory in proportion to the arena and the tensors; [`super::validate`] must have passed.
///
/// # Errors
/// The first step that breaks a rule.
pub fn validate_flow(plan: &Plan) -> Result<(), Invalid> {
    let mut written: Vec<Option<Vec<bool>>> = plan
        .buffers
        .iter()
        .map(|b| match b.space {
            Space::Arena | Space::Output(_) => Some(vec![false; b.bytes as usize]),
            Space::Input(_) | Space::Weights => None,
        })
        .collect();
    for (i, step) in plan.steps.iter().enumerate() {
        for id in step.op.reads() {
            let t = plan.tensor(id);
            if let Some(bytes) = of(&mut written, t.buffer)
                && !all_places(t, |at| bytes[at])
            {
                return invalid(step_name(plan, i), format!("reads {} before all of it is written", t.name));
            }
        }
        let t = plan.tensor(step.op.writes());
        let Some(bytes) = of(&mut written, t.buffer) else {
            return invalid(
                step_name(plan, i),
                format!("writes {}, which is an input or a constant", t.name),
            );
        };
        if !all_places(t, |at| !std::mem::replace(&mut bytes[at], true)) {
            return invalid(step_name(plan, i), format!("writes bytes of {} a second time", t.name));
        }
    }
    for &id in &plan.outputs {
        let t = plan.tensor(id);
        if let Some(bytes) = of(&mut written, t.buffer)
            && !all_places(t, |at| bytes[at])
        {
            return invalid(&t.name, "an output that no step writes whole");
        }
    }
    Ok(())
}

/// Whether an element of one tensor begins at the place of an element of the other.
pub(super) fn share_a_place(a: &Tensor, b: &Tensor) -> bool {
    if a.buffer != b.buffer || a.end() <= b.offset || b.end() <= a.offset {
        return false;
    }
    let mut taken = vec![false; (b.end() - b.offset) as usize];
    all_places(b, |at| {
        taken[at - b.offset as usize] = true;
        true
    });
    !all_places(a, |at| !at.checked_sub(b.offset as usize).and_then(|i| taken.get(i)).is_some_and(|&t| t))
}

fn of(written: &mut [Option<Vec<bool>>], buffer: BufferId) -> Option<&mut Vec<bool>> {
    written[buffer.0 as usize].as_mut()
}

/// Whether `test` holds for the first byte of every element.
fn all_places(t: &Tensor, mut test: impl FnMut(usize) -> bool) -> bool {
    let size = t.dtype.bytes() as u64;
    let mut index = vec![0_u32; t.shape.len()];
    loop {
        let at: u64 = index.iter().zip(&t.strides).map(|(&i, &s)| u64::from(i) * s).sum();
        if !test((t.offset + at * size) as usize) {
            return false;
        }
        let Some(d) = (0..index.len()).rev().find(|&d| index[d] + 1 < t.shape[d]) else {
            return true;
        };
        index[d] += 1;
        index[d + 1..].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arena, test_plan};

    #[test]
    fn order_and_single_writes_are_checked() {
        let mut plan = test_plan::chain(&[16, 32, 8]);
        arena::place(&mut plan);
        let mut early = plan.clone();
        early.steps.swap(0, 1);
        assert!(validate_flow(&early).unwrap_err().problem.contains("before all of it is written"));
        let mut twice = plan.clone();
        twice.steps.insert(1, twice.steps[0].clone());
        assert!(validate_flow(&twice).unwrap_err().problem.contains("a second time"));
        assert!(share_a_place(plan.tensor(plan.inputs[0]), plan.tensor(plan.inputs[0])));
        let (mut left, mut right) = (plan.tensors[1].clone(), plan.tensors[1].clone());
        (left.shape, left.strides) = (vec![2, 8], vec![16, 1]);
        (right.shape, right.strides, right.offset) = (vec![2, 8], vec![16, 1], 8);
        assert!(!share_a_place(&left, &right));
        plan.steps.pop();
        assert_eq!(validate_flow(&plan).unwrap_err().object, "out");
    }
}
