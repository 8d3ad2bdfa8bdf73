//! The reference device against results worked out by hand.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use pilotlight_device::{Device, Reference, RunError, Slot};
use pilotlight_plan::{
    Blob, Buffer, BufferId, Conv, Convert, DType, Epilogue, Linear, Op, Plan, Quant, Requant, Space, Step,
    Tensor, TensorId, Weights, Window, arena, row_major, validate,
};

/// f32 `[1, 1, 2, 2]` -> quantise (scale 0.5, zero 10) -> 2x2 convolution padded below and right, one output
/// channel, weights 1 2 3 4, bias 5 -> requantise by 0.25 around 3, clamped from 3 up -> u8 output.
fn plan() -> Plan {
    let mut weights = vec![1, 2, 3, 4];
    weights.resize(64, 0);
    weights.extend(5_i32.to_le_bytes());
    weights.resize(128, 0);
    weights.extend(0.25_f32.to_le_bytes());
    let blob = |offset, bytes| Blob { offset, bytes };
    let tensor = |name: &str, dtype, buffer, strides| Tensor {
        name: name.into(),
        dtype,
        shape: vec![1, 1, 2, 2],
        quant: None,
        buffer: BufferId(buffer),
        offset: 0,
        strides,
    };
    let plain = || row_major(&[1, 1, 2, 2]);
    let mut plan = Plan {
        name: "hand".into(),
        inputs: vec![TensorId(0)],
        outputs: vec![TensorId(2)],
        tensors: vec![
            tensor("x", DType::F32, 0, plain()),
            tensor("xq", DType::U8, 1, vec![16, 1, 8, 4]),
            tensor("y", DType::U8, 2, plain()),
        ],
        buffers: vec![
            Buffer { space: Space::Input(0), offset: 0, bytes: 16 },
            Buffer { space: Space::Arena, offset: 0, bytes: 16 },
            Buffer { space: Space::Output(0), offset: 0, bytes: 4 },
        ],
        steps: vec![
            Step {
                nodes: vec!["q".into()],
                op: Op::Quantize(Convert {
                    input: TensorId(0),
                    output: TensorId(1),
                    axis: 0,
                    quant: vec![Quant { scale: 0.5, zero_point: 10 }],
                }),
            },
            Step {
                nodes: vec!["conv".into()],
                op: Op::Conv(Conv {
                    input: TensorId(1),
                    output: TensorId(2),
                    window: Window { kernel: [2, 2], stride: [1, 1], dilation: [1, 1], pads: [0, 0, 1, 1] },
                    groups: 1,
                    linear: Linear {
                        weights: blob(0, 4),
                        weights_dtype: DType::I8,
                        weights_zero: vec![0],
                        bias: Some(blob(64, 4)),
                        input_zero: 10,
                        group_inputs: 1,
                        outputs: 1,
                        epilogue: Epilogue::Requant(Requant {
                            scale: blob(128, 4),
                            zero: 3,
                            dtype: DType::U8,
                            lo: 3,
                            hi: 255,
                            post: vec![],
                        }),
                    },
                }),
            },
        ],
        arena_bytes: 0,
        arena_lower_bound: 0,
        weights: Weights::from(weights),
    };
    arena::place(&mut plan);
    validate::validate(&plan).unwrap();
    validate::validate_flow(&plan).unwrap();
    plan
}

#[test]
fn a_padded_convolution() {
    let mut program = Reference.load(&plan()).unwrap();
    let mut slot = program.slot().unwrap();
    for (bytes, x) in slot.input_mut(0).chunks_mut(4).zip([1.0_f32, -2.0, 0.25, 0.75]) {
        bytes.copy_from_slice(&x.to_le_bytes());
    }
    program.run(&mut slot).unwrap();
    // In steps of 0.5 from zero: 2 -4 / 0 2 (0.25 and 0.75 are ties: to even).
    // Accumulators: 2-8+0+8+5 = 7, -4+6+5 = 7, 0+4+5 = 9, 2+5 = 7; times 0.25: 1.75 1.75 2.25 1.75; around 3.
    assert_eq!(slot.output(0), [5, 5, 5, 5]);
    let mut nanos = vec![];
    program.run_timed(&mut slot, &mut nanos).unwrap();
    assert_eq!(nanos.len(), 2);
    let mut seen = vec![];
    program.run_observed(&mut slot, &mut |step, bytes| seen.push((step, bytes.to_vec()))).unwrap();
    assert_eq!(seen, [(0, vec![12, 6, 10, 12]), (1, vec![5, 5, 5, 5])]);
}

#[test]
fn a_slot_of_another_plan_is_refused() {
    let mut other = plan();
    other.outputs.clear();
    let mut slot = Slot::new(&other).unwrap();
    let mut program = Reference.load(&plan()).unwrap();
    let error = program.run(&mut slot).unwrap_err();
    assert_eq!(error, RunError::Slot { found: vec![16], needed: vec![16, 4] });
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let mut huge = plan();
    huge.arena_bytes = 1 << 62;
    assert!(Reference.load(&huge).is_err());
}
