//! Bad input: one clear error, no panic, no allocation that the file cannot justify.

mod support;

use pilotlight_onnx::{ImportError, Options, import};
use support::{Attr, Model};
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};

fn refuse(m: &Model) -> ImportError {
    import(&m.bytes(), &Options::default()).expect_err("a model that cannot be imported")
}

fn small(opset: i64) -> Model {
    let mut m = Model::new(opset);
    m.input("x", &["1", "4"]);
    m.quant("a", 0.1, 3);
    m
}

#[test]
fn every_unsupported_node_is_listed() {
    let mut m = small(17);
    m.node("Erf", &["x"], &["e"], &[]);
    m.node("Einsum", &["e", "x"], &["f"], &[]);
    m.node("Cast", &["x"], &["c"], &[Attr::Int("to", 10)]);
    m.node("Relu", &["f"], &["g"], &[]);
    m.node("MatMul", &["x", "x"], &["h"], &[]);
    m.output("g");
    match refuse(&m) {
        ImportError::Nodes(issues) => {
            let listed: Vec<_> = issues.iter().map(|i| (&*i.node, &*i.op)).collect();
            assert_eq!(listed, [("e", "Erf"), ("f", "Einsum"), ("c", "Cast"), ("h", "MatMul")]);
            assert!(issues[2].why.contains("FLOAT16") && issues[2].why.contains("f32"));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn nodes_that_only_lowering_can_judge_are_listed_with_the_others() {
    let mut m = small(17);
    m.constant("w", DataType::Float, &[4, 4], vec![0; 64]);
    m.node("MatMul", &["x", "w"], &["y"], &[]);
    m.node("Erf", &["x"], &["z"], &[]);
    m.output("y");
    m.output("z");
    let text = refuse(&m).to_string();
    assert!(text.contains("y (MatMul)") && text.contains("not quantised"), "{text}");
    assert!(text.contains("z (Erf)") && text.starts_with("2 of"), "{text}");
}

#[test]
fn dimensions_must_be_bound_and_known() {
    let mut m = Model::new(17);
    m.input("x", &["batch", "4"]);
    m.output("x");
    assert!(refuse(&m).to_string().contains("--dim batch=N"));
    let options = Options { dims: vec![("batch".into(), 2), ("bach".into(), 2)], ..Default::default() };
    let text = import(&m.bytes(), &options).unwrap_err().to_string();
    assert!(text.contains("bach") && text.contains("batch"), "{text}");
}

#[test]
fn files_that_are_no_models_are_refused() {
    let bytes = small(17).bytes();
    assert!(matches!(import(&[], &Options::default()), Err(ImportError::NoGraph { bytes: 0 })));
    assert!(import(b"\x89PNG\r\n\x1a\n and more", &Options::default()).is_err());
    for cut in 0..bytes.len() {
        // Some prefixes are whole messages; none may panic.
        let _ = import(&bytes[..cut], &Options::default());
    }
    assert!(matches!(refuse(&small(9)), ImportError::Opset { found: 9 }));
    assert!(matches!(refuse(&small(23)), ImportError::Opset { found: 23 }));
}

#[test]
fn messages_nested_without_end_are_refused() {
    // An attribute that holds a graph, that holds a node, that holds an attribute, and so on.
    let mut bytes: Vec<u8> = vec![];
    for tag in [0x32, 0x2a, 0x0a].iter().cycle().take(3000) {
        let mut outer = vec![*tag];
        prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
        outer.extend(&bytes);
        bytes = outer;
    }
    let mut file = vec![0x3a];
    prost::encoding::encode_varint(bytes.len() as u64, &mut file);
    file.extend(bytes);
    assert!(matches!(import(&file, &Options::default()), Err(ImportError::Protobuf(_))));
}

#[test]
fn external_data_is_refused_by_name() {
    let mut m = small(17);
    m.constant("w", DataType::Int8, &[4], vec![]);
    m.graph().initializer.last_mut().unwrap().data_location = Some(DataLocation::External as i32);
    m.node("Add", &["x", "w"], &["y"], &[]);
    m.output("y");
    let text = refuse(&m).to_string();
    assert!(text.contains("tensor w lies in an external file"), "{text}");
}

#[test]
fn declared_sizes_allocate_nothing() {
    let huge = i64::from(u32::MAX);
    let mut made = small(17);
    made.ints("s", &[huge, huge]);
    made.node("ConstantOfShape", &["s"], &["c"], &[]);
    made.output("c");
    let mut expanded = small(17);
    expanded.ints("s", &[huge, 4]);
    expanded.node("Expand", &["x", "s"], &["c"], &[]);
    expanded.output("c");
    let mut doubled = small(17);
    doubled.ints("c0", &[1; 8]);
    for i in 0..40 {
        let (a, b) = (format!("c{i}"), format!("c{}", i + 1));
        doubled.node("Concat", &[&a, &a], &[&b], &[Attr::Int("axis", 0)]);
    }
    doubled.output("c40");
    let mut tensor = small(17);
    tensor.constant("w", DataType::Float, &[1 << 20, 1 << 20], vec![0; 8]);
    tensor.node("Add", &["x", "w"], &["y"], &[]);
    tensor.output("y");
    for m in [&made, &expanded, &doubled, &tensor] {
        assert!(matches!(refuse(m), ImportError::Nodes(_)));
    }
    let mut wide = Model::new(17);
    wide.input("x", &["100000", "100000"]);
    wide.node("Relu", &["x"], &["y"], &[]);
    wide.output("y");
    assert!(matches!(refuse(&wide), ImportError::TooLarge { .. }));
}

#[test]
fn wrong_parameters_name_the_node() {
    let mut m = small(17);
    m.constant("bad_s", DataType::Float, &[], (-1.0_f32).to_le_bytes().to_vec());
    m.node("QuantizeLinear", &["x", "bad_s", "a_z"], &["q"], &[]);
    m.constant("i8_z", DataType::Int8, &[], vec![1]);
    m.node("QuantizeLinear", &["x", "a_s", "a_z"], &["r"], &[]);
    m.node("DequantizeLinear", &["r", "a_s", "i8_z"], &["d"], &[]);
    m.output("q");
    m.output("d");
    let text = refuse(&m).to_string();
    assert!(text.contains("q (QuantizeLinear): a scale of -1; a positive number is needed"), "{text}");
    assert!(text.contains("d (DequantizeLinear): a zero point of i8 for values of u8"), "{text}");
}
