//! Softmax, one line after the other.

use super::plain::{Value, View};
use super::step::{Call, Context, Scratch, share};
use pilotlight_plan::{Plan, Softmax, SoftmaxRule, math};

/// A lowered softmax.
pub(super) struct Lines {
    x: View,
    y: View,
    /// The output with one element for each line.
    lines: View,
    axis: usize,
    rule: Rule,
}

enum Rule {
    Float,
    Integer { table: Vec<f32>, inverse: f32, zero: i32, bottom: i32, top: i32 },
}

/// The softmax of a step.
pub(super) fn softmax(plan: &Plan, s: &Softmax) -> Lines {
    let (x, y, axis) = (View::new(plan, s.input), View::new(plan, s.output), s.axis as usize);
    let mut lines = y;
    lines.shape[axis] = 1;
    let rule = match s.rule {
        SoftmaxRule::Float => Rule::Float,
        SoftmaxRule::QLinear { table, inverse, zero } => {
            let (bottom, top) = plan.tensor(s.input).dtype.int8_range().unwrap_or((0, 255));
            Rule::Integer { table: plan.blob_f32(table), inverse, zero, bottom, top }
        }
    };
    Lines { x, y, lines, axis, rule }
}

impl Call for Lines {
    unsafe fn run(&self, context: &Context, thread: usize, _: &mut Scratch) {
        let (bases, axis, count) = (&context.bases, self.axis, self.x.shape[self.axis]);
        let own = share(self.lines.elements(), thread, context.threads);
        let mut index = self.lines.index(own.start);
        for _ in own {
            let at = |k: usize| {
                let mut at = index;
                at[axis] = k;
                at
            };
            // SAFETY: the indices are inside both tensors, which have one shape, and the line is this thread's alone.
            unsafe {
                match &self.rule {
                    Rule::Float => {
                        let mut max = f32::NEG_INFINITY;
                        for k in 0..count {
                            let v = self.x.float(bases, &at(k));
                            max = if v > max { v } else { max };
                        }
                        let mut sum = 0.0;
                        for k in 0..count {
                            let e = math::exp(self.x.float(bases, &at(k)) - max);
                            self.y.write(bases, &at(k), Value::Float(e));
                            sum += e;
                        }
                        for k in 0..count {
                            let e = self.y.float(bases, &at(k));
                            self.y.write(bases, &at(k), Value::Float(e / sum));
                        }
                    }
                    Rule::Integer { table, inverse, zero, bottom, top } => {
                        let max = (0..count).map(|k| self.x.int(bases, &at(k))).max().unwrap_or(0);
                        let e = |k: usize| table[usize::from((self.x.int(bases, &at(k)) + top - max) as u8)];
                        let sum = (0..count).fold(0.0_f32, |s, k| s + e(k));
                        for k in 0..count {
                            let scaled = if sum == 0.0 { 0.0 } else { (e(k) * inverse) / sum };
                            let value = math::round_to(scaled, *zero, *bottom, *top);
                            self.y.write(bases, &at(k), Value::Int(value));
                        }
                    }
                }
            }
            self.lines.advance(&mut index);
        }
    }
}
