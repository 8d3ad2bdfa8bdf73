//! From a plan's steps to calls.

use super::conv::Lowering;
use super::kernels::Kernels;
use super::plain::Plain;
use super::step::Call;
use super::{depthwise, pointwise, pool};
use crate::LoadError;
use pilotlight_plan::{Op, Plan};

/// The steps of a plan, lowered.
pub(super) struct Lowered {
    pub steps: Vec<Box<dyn Call>>,
    /// Bytes of copied inputs that a thread needs at most.
    pub plane_bytes: usize,
}

/// Lowers every step of a validated plan.
///
/// # Errors
/// [`LoadError::Memory`] when packed weights find no room.
pub(super) fn lower(plan: &Plan, kernels: &Kernels, threads: usize) -> Result<Lowered, LoadError> {
    let mut lowered = Lowered { steps: Vec::with_capacity(plan.steps.len()), plane_bytes: 0 };
    for step in &plan.steps {
        let call = lower_step(plan, &step.op, kernels, threads)?;
        let call = call.unwrap_or_else(|| Plain::lower(plan, &step.op));
        lowered.plane_bytes = lowered.plane_bytes.max(call.plane_bytes());
        lowered.steps.push(call);
    }
    Ok(lowered)
}

/// The step by its kernel; `None` where there is none for its types or layout.
fn lower_step(
    plan: &Plan,
    op: &Op,
    kernels: &Kernels,
    threads: usize,
) -> Result<Option<Box<dyn Call>>, LoadError> {
    Ok(match op {
        Op::Conv(c) if c.linear.group_inputs == 1 && c.linear.outputs == c.groups && c.groups > 1 => {
            boxed(depthwise::depthwise(plan, c, kernels)?)
        }
        Op::Conv(c) => boxed(Lowering { plan, kernels, threads }.conv(c)?),
        Op::Gemm(g) => boxed(Lowering { plan, kernels, threads }.gemm(g)?),
        Op::Pool(p) => boxed(pool::max_pool(plan, p)),
        Op::Mean(m) => boxed(pool::image_mean(plan, m)),
        Op::Table(t) => boxed(pointwise::table(plan, t)),
        Op::Binary(b) => boxed(pointwise::binary(plan, b)),
        Op::Quantize(c) => boxed(pointwise::quantise(plan, c)),
        Op::Dequantize(c) => boxed(pointwise::dequantise(plan, c)),
        Op::Remap(r) => boxed(pointwise::remap(plan, r)),
        _ => None,
    })
}

fn boxed(call: Option<impl Call + 'static>) -> Option<Box<dyn Call>> {
    call.map(|c| Box::new(c) as Box<dyn Call>)
}
