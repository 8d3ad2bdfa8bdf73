//! Small plans for the tests of this crate.

use crate::*;

/// An f32 input, quantised, then a chain of identity tables over `[1, n]` tensors of the given sizes, dequantised.
/// (The sizes differ by slicing: each step copies what fits.)
pub fn chain(sizes: &[u32]) -> Plan {
    let mut plan = Plan {
        name: "chain".into(),
        inputs: vec![TensorId(0)],
        outputs: vec![],
        tensors: vec![],
        buffers: vec![],
        steps: vec![],
        arena_bytes: 0,
        arena_lower_bound: 0,
        weights: Weights::default(),
    };
    let add = |plan: &mut Plan, name: &str, dtype: DType, n: u32, space: Space| {
        let id = TensorId(plan.tensors.len() as u32);
        plan.buffers.push(Buffer { space, offset: 0, bytes: u64::from(n) * dtype.bytes() as u64 });
        plan.tensors.push(Tensor {
            name: name.into(),
            dtype,
            shape: vec![1, n],
            quant: dtype.is_int8().then_some(Quant { scale: 0.5, zero_point: 3 }),
            buffer: BufferId(plan.buffers.len() as u32 - 1),
            offset: 0,
            strides: vec![u64::from(n), 1],
        });
        id
    };
    let quant = vec![Quant { scale: 0.5, zero_point: 3 }];
    let mut last = add(&mut plan, "in", DType::F32, sizes[0], Space::Input(0));
    for (i, &n) in sizes.iter().enumerate() {
        let id = add(&mut plan, &format!("t{i}"), DType::U8, n, Space::Arena);
        let op = if i == 0 {
            Op::Quantize(Convert { input: last, output: id, axis: 0, quant: quant.clone() })
        } else {
            let from = plan.tensor(last).shape[1] as i32;
            let index = (0..n as i32).map(|k| if k < from { k } else { -1 }).collect();
            Op::Remap(Remap { input: last, output: id, axes: vec![None, Some(index)], fill: 3, table: None })
        };
        plan.steps.push(Step { nodes: vec![format!("n{i}")], op });
        last = id;
    }
    let out = add(&mut plan, "out", DType::F32, sizes[sizes.len() - 1], Space::Output(0));
    plan.steps.push(Step {
        nodes: vec!["dq".into()],
        op: Op::Dequantize(Convert { input: last, output: out, axis: 0, quant }),
    });
    plan.outputs = vec![out];
    plan
}
