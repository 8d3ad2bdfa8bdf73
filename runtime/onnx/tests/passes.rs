//! What the passes make of small graphs.

mod support;

use pilotlight_onnx::{Options, import, stage, stages};
use pilotlight_plan::{Op, Plan, Post, Space, validate};
use support::{Attr, Model};

fn plan(m: &Model) -> Plan {
    let import = || import(&m.bytes(), &Options::default()).expect("a model that can be imported");
    let plan = import();
    assert_eq!(validate::validate_flow(&plan), Ok(()));
    assert_eq!(import().to_bytes(), plan.to_bytes());
    plan
}

fn names(plan: &Plan) -> Vec<&'static str> {
    plan.steps.iter().map(|s| s.op.name()).collect()
}

/// An input of 16 channels, quantised; the result's name.
fn start(m: &mut Model) -> String {
    m.input("x", &["1", "16", "8", "8"]);
    m.quant("a", 0.1, 100);
    m.quant("b", 0.2, 0);
    m.quant("c", 0.3, 20);
    m.qdq("x", "a")
}

fn requant(plan: &Plan, step: usize) -> &pilotlight_plan::Requant {
    match &plan.steps[step].op {
        Op::Conv(c) => match &c.linear.epilogue {
            pilotlight_plan::Epilogue::Requant(r) => r,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn relu_before_quantisation_is_a_clamp() {
    let mut m = Model::new(17);
    let x = start(&mut m);
    m.conv("y", &x, [8, 16, 1], &[]);
    m.node("Relu", &["y"], &["r"], &[]);
    let out = m.qdq("r", "c");
    m.output(&out);
    let plan = plan(&m);
    assert_eq!(names(&plan), ["quantize", "conv", "dequantize"]);
    let r = requant(&plan, 1);
    assert_eq!((r.lo, r.hi, r.zero, r.post.len()), (20, 255, 20, 0));
}

#[test]
fn silu_behind_a_convolution_is_one_table() {
    let mut m = Model::new(17);
    let x = start(&mut m);
    m.conv("y", &x, [8, 16, 3], &[Attr::Ints("pads", &[1, 1, 1, 1])]);
    let y = m.qdq("y", "a");
    m.node("Sigmoid", &[&y], &["s"], &[]);
    let s = m.qdq("s", "b");
    m.node("Mul", &[&y, &s], &["z"], &[]);
    let out = m.qdq("z", "c");
    m.output(&out);
    let plan = plan(&m);
    assert_eq!(names(&plan), ["quantize", "conv", "dequantize"]);
    assert!(matches!(requant(&plan, 1).post[..], [Post::Table { .. }]));
}

#[test]
fn a_residual_addition_goes_behind_the_later_convolution() {
    let mut m = Model::new(17);
    let x = start(&mut m);
    m.conv("y", &x, [16, 16, 1], &[]);
    let y = m.qdq("y", "b");
    m.node("Add", &[&x, &y], &["z"], &[]);
    let out = m.qdq("z", "c");
    m.output(&out);
    let plan = plan(&m);
    assert_eq!(names(&plan), ["quantize", "conv", "dequantize"]);
    assert!(matches!(requant(&plan, 1).post[..], [Post::Binary { value_is_a: false, .. }]));
}

#[test]
fn a_pad_with_the_zero_point_becomes_the_convolution_s() {
    let mut m = Model::new(17);
    let x = start(&mut m);
    m.ints("pads", &[0, 0, 1, 2, 0, 0, 3, 4]);
    m.node("Pad", &[&x, "pads"], &["p"], &[]);
    let p = m.qdq("p", "a");
    m.conv("y", &p, [8, 16, 3], &[]);
    let out = m.qdq("y", "b");
    m.output(&out);
    let plan = plan(&m);
    assert_eq!(names(&plan), ["quantize", "conv", "dequantize"]);
    match &plan.steps[1].op {
        Op::Conv(c) => assert_eq!(c.window.pads, [1, 2, 3, 4]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn parts_of_a_join_are_written_in_place() {
    let mut m = Model::new(17);
    let x = start(&mut m);
    m.conv("y", &x, [24, 16, 1], &[]);
    let y = m.qdq("y", "b");
    m.conv("z", &x, [8, 16, 1], &[]);
    let z = m.qdq("z", "b");
    m.node("Concat", &[&y, &z], &["j"], &[Attr::Int("axis", 1)]);
    let j = m.qdq("j", "b");
    m.conv("w", &j, [4, 32, 1], &[]);
    let out = m.qdq("w", "c");
    m.output(&out);
    let plan = plan(&m);
    assert_eq!(names(&plan), ["quantize", "conv", "conv", "conv", "dequantize"]);
    let (a, b) = (plan.tensor(plan.steps[1].op.writes()), plan.tensor(plan.steps[2].op.writes()));
    assert_eq!((a.buffer, a.offset, b.offset), (b.buffer, 0, 24));
    assert_eq!((&a.strides, &b.strides), (&vec![2048, 1, 256, 32], &vec![2048, 1, 256, 32]));
}

#[test]
fn slices_and_flattened_pools_are_views() {
    let mut m = Model::new(17);
    let x = start(&mut m);
    m.conv("y", &x, [32, 16, 1], &[]);
    let y = m.qdq("y", "b");
    m.node("Split", &[&y], &["l", "r"], &[Attr::Int("axis", 1)]);
    for side in ["l", "r"] {
        let part = m.qdq(side, "b");
        m.node("GlobalAveragePool", &[&part], &[&format!("{side}g")], &[]);
        let pooled = m.qdq(&format!("{side}g"), "c");
        m.node("Flatten", &[&pooled], &[&format!("{side}f")], &[]);
        m.output(&format!("{side}f"));
    }
    let plan = plan(&m);
    assert_eq!(names(&plan), ["quantize", "conv", "mean", "mean", "dequantize", "dequantize"]);
    let outputs: Vec<_> = plan.outputs.iter().map(|&o| plan.tensor(o)).collect();
    assert_eq!(outputs.iter().map(|t| &*t.name).collect::<Vec<_>>(), ["lf", "rf"]);
    assert!(outputs.iter().all(|t| t.shape == [1, 16]));
}

#[test]
fn a_quantisation_behind_a_reshape_is_done_before_it() {
    let mut m = Model::new(17);
    let x = start(&mut m);
    m.conv("y", &x, [16, 16, 1], &[]);
    m.ints("shape", &[1, 16, -1]);
    m.node("Reshape", &["y", "shape"], &["v"], &[]);
    m.node("QuantizeLinear", &["v", "b_s", "b_z"], &["q"], &[]);
    m.output("q");
    let plan = plan(&m);
    assert_eq!(names(&plan), ["quantize", "conv", "remap"]);
    assert_eq!(requant(&plan, 1).zero, 0);
}

#[test]
fn inputs_and_outputs_are_dense_in_onnx_order() {
    let mut m = Model::new(17);
    let x = start(&mut m);
    m.conv("y", &x, [3, 16, 1], &[]);
    m.node("QuantizeLinear", &["y", "b_s", "b_z"], &["q"], &[]);
    m.output("q");
    m.output("x_q");
    let plan = plan(&m);
    for (i, &id) in plan.outputs.iter().enumerate() {
        let t = plan.tensor(id);
        assert_eq!(t.strides, pilotlight_plan::row_major(&t.shape));
        assert_eq!(plan.buffers[t.buffer.0 as usize].space, Space::Output(i as u32));
    }
}

#[test]
fn symbolic_dimensions_are_bound() {
    let mut m = Model::new(17);
    m.input("x", &["N", "4"]);
    m.quant("a", 0.1, 3);
    let out = m.qdq("x", "a");
    m.output(&out);
    for n in 1..=8 {
        let options = Options { dims: vec![("N".into(), n)], ..Default::default() };
        let plan = import(&m.bytes(), &options).unwrap();
        assert_eq!(plan.tensor(plan.outputs[0]).shape, [n, 4]);
    }
}

#[test]
fn every_stage_has_a_text() {
    let mut m = Model::new(17);
    let x = start(&mut m);
    m.conv("y", &x, [8, 16, 1], &[]);
    let out = m.qdq("y", "b");
    m.output(&out);
    let text = |s| stage(&m.bytes(), &Options::default(), s).unwrap();
    assert!(text("import").contains("Conv y: x_dq f32[1,16,8,8], y_wdq f32[8,16,1,1] -> y f32[1,8,8,8]"));
    assert!(text("quant").contains("conv y+y_q: x_q u8[1,16,8,8] *0.1 +100 -> y_q u8[1,8,8,8] *0.2 +0"));
    assert_eq!(text("fuse").lines().count(), 4);
    assert!(stage(&m.bytes(), &Options::default(), "soup").unwrap_err().to_string().contains("soup"));
}

/// Both forms of a committed model become the same operations.
#[test]
fn qdq_and_qoperator_files_become_the_same_steps() {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");
    for (model, steps) in [("digits", 9), ("efficientnet-lite0", 53)] {
        let read = |file: &str| {
            let bytes = std::fs::read(format!("{models}/{model}/{file}")).unwrap();
            stages(&bytes, &Options::default()).unwrap().plan
        };
        let (qdq, qop) = (read("model.onnx"), read("model.qop.onnx"));
        assert_eq!(names(&qdq), names(&qop));
        assert_eq!((qdq.steps.len(), &qdq.weights), (steps, &qop.weights), "{model}");
        assert_eq!(qdq.arena_bytes, qdq.arena_lower_bound, "{model}");
        assert!(!names(&qdq).contains(&"remap"), "{model}: a copy");
    }
}
