//! ONNX models in memory.
#![allow(dead_code, reason = "each test file uses its part")]

use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto,
};

/// A model under construction; values are known by name.
pub struct Model {
    graph: GraphProto,
    opset: i64,
}

/// An attribute.
pub enum Attr<'a> {
    /// An integer.
    Int(&'a str, i64),
    /// Integers.
    Ints(&'a str, &'a [i64]),
    /// Text.
    Text(&'a str, &'a str),
}

impl Model {
    /// An empty model.
    pub fn new(opset: i64) -> Self {
        Self { graph: GraphProto { name: "test".into(), ..Default::default() }, opset }
    }

    /// A float input; a dimension that is no number is symbolic.
    pub fn input(&mut self, name: &str, shape: &[&str]) {
        let dim = |d: &&str| Dimension {
            denotation: String::new(),
            value: Some(match d.parse() {
                Ok(n) => dimension::Value::DimValue(n),
                Err(_) => dimension::Value::DimParam((*d).into()),
            }),
        };
        let tensor = type_proto::Tensor {
            elem_type: DataType::Float as i32,
            shape: Some(TensorShapeProto { dim: shape.iter().map(dim).collect() }),
        };
        let value = Some(type_proto::Value::TensorType(tensor));
        self.graph.input.push(ValueInfoProto {
            name: name.into(),
            r#type: Some(TypeProto { denotation: String::new(), value }),
            doc_string: String::new(),
        });
    }

    /// Names a value an output.
    pub fn output(&mut self, name: &str) {
        self.graph.output.push(ValueInfoProto { name: name.into(), ..Default::default() });
    }

    /// A constant.
    pub fn constant(&mut self, name: &str, dtype: DataType, dims: &[i64], raw: Vec<u8>) {
        self.graph.initializer.push(TensorProto {
            name: name.into(),
            dims: dims.to_vec(),
            data_type: dtype as i32,
            raw_data: raw,
            ..Default::default()
        });
    }

    /// An integer vector.
    pub fn ints(&mut self, name: &str, values: &[i64]) {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, DataType::Int64, &[values.len() as i64], raw);
    }

    /// A scale and a u8 zero point, named `NAME_s` and `NAME_z`.
    pub fn quant(&mut self, name: &str, scale: f32, zero: u8) {
        self.constant(&format!("{name}_s"), DataType::Float, &[], scale.to_le_bytes().to_vec());
        self.constant(&format!("{name}_z"), DataType::Uint8, &[], vec![zero]);
    }

    /// A node of ONNX's operators, or of `com.microsoft` where the name begins with QLinear and is theirs.
    pub fn node(&mut self, op: &str, inputs: &[&str], outputs: &[&str], attrs: &[Attr]) {
        let attribute = attrs.iter().map(|a| {
            let blank = AttributeProto::default();
            match a {
                Attr::Int(n, i) => {
                    AttributeProto { name: (*n).into(), r#type: AttributeType::Int as i32, i: *i, ..blank }
                }
                Attr::Ints(n, i) => AttributeProto {
                    name: (*n).into(),
                    r#type: AttributeType::Ints as i32,
                    ints: i.to_vec(),
                    ..blank
                },
                Attr::Text(n, t) => AttributeProto {
                    name: (*n).into(),
                    r#type: AttributeType::String as i32,
                    s: t.as_bytes().to_vec(),
                    ..blank
                },
            }
        });
        self.graph.node.push(NodeProto {
            op_type: op.into(),
            name: outputs[0].into(),
            input: inputs.iter().map(|s| (*s).into()).collect(),
            output: outputs.iter().map(|s| (*s).into()).collect(),
            attribute: attribute.collect(),
            ..Default::default()
        });
    }

    /// `NAME_q` and `NAME_dq`: a value quantised and dequantised with the parameters `quant`.
    pub fn qdq(&mut self, name: &str, quant: &str) -> String {
        let (s, z) = (format!("{quant}_s"), format!("{quant}_z"));
        let (q, dq) = (format!("{name}_q"), format!("{name}_dq"));
        self.node("QuantizeLinear", &[name, &s, &z], &[&q], &[]);
        self.node("DequantizeLinear", &[&q, &s, &z], &[&dq], &[]);
        dq
    }

    /// A convolution between dequantised values with i8 weights of ones; `NAME` is its float output.
    pub fn conv(&mut self, name: &str, input: &str, [outputs, inputs, k]: [i64; 3], attrs: &[Attr]) {
        let (w, s, dq) = (format!("{name}_w"), format!("{name}_ws"), format!("{name}_wdq"));
        let count = (outputs * inputs * k * k) as usize;
        self.constant(&w, DataType::Int8, &[outputs, inputs, k, k], vec![1; count]);
        self.constant(&s, DataType::Float, &[], 0.5_f32.to_le_bytes().to_vec());
        self.node("DequantizeLinear", &[&w, &s], &[&dq], &[]);
        self.node("Conv", &[input, &dq], &[name], attrs);
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let opset = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
        let model = ModelProto {
            ir_version: 8,
            opset_import: vec![opset("", self.opset), opset("com.microsoft", 1)],
            graph: Some(self.graph.clone()),
            ..Default::default()
        };
        model.encode_to_vec()
    }

    /// The protobuf graph, to be broken.
    pub fn graph(&mut self) -> &mut GraphProto {
        &mut self.graph
    }
}
