//! From protobuf structures to ours.

use super::graph::{Attr, Constant, Type};
use crate::error::Why;
use pilotlight_plan::DType;
use std::sync::Arc;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::{AttributeProto, TensorProto};

/// The element type of an ONNX type code.
pub(super) fn dtype(code: i32) -> Result<DType, Why> {
    match DataType::try_from(code) {
        Ok(DataType::Float) => Ok(DType::F32),
        Ok(DataType::Uint8) => Ok(DType::U8),
        Ok(DataType::Int8) => Ok(DType::I8),
        Ok(DataType::Int32) => Ok(DType::I32),
        Ok(DataType::Int64) => Ok(DType::I64),
        Ok(other) => {
            Err(format!("element type {}; u8, i8, i32, i64 and f32 are supported", other.as_str_name()))
        }
        Err(_) => Err(format!("unknown element type {code}")),
    }
}

/// A tensor with its contents.
pub(super) fn tensor(t: &TensorProto) -> Result<Constant, Why> {
    if t.data_location == Some(DataLocation::External as i32) || !t.external_data.is_empty() {
        return Err(format!(
            "tensor {} lies in an external file; save the model as one file (onnx.save without external data)",
            t.name
        ));
    }
    if t.segment.is_some() {
        return Err(format!("tensor {} is stored in segments, which is not supported", t.name));
    }
    let dtype = dtype(t.data_type)?;
    let mut shape = Vec::with_capacity(t.dims.len());
    let mut count = 1_u64;
    for &d in &t.dims {
        let d = u32::try_from(d).map_err(|_| format!("tensor {} has an extent of {d}", t.name))?;
        count = count.saturating_mul(u64::from(d));
        shape.push(d);
    }
    let ints = |size: usize| -> Vec<u8> {
        t.int32_data.iter().flat_map(|v| v.to_le_bytes()[..size].to_vec()).collect()
    };
    let bytes = if !t.raw_data.is_empty() {
        t.raw_data.clone()
    } else {
        match dtype {
            DType::F32 => t.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::I64 => t.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::I32 => ints(4),
            DType::U8 | DType::I8 => ints(1),
        }
    };
    let want = count.saturating_mul(dtype.bytes() as u64);
    if bytes.len() as u64 != want {
        return Err(format!(
            "tensor {} of shape {:?} holds {} bytes, its shape needs {want}",
            t.name,
            t.dims,
            bytes.len()
        ));
    }
    Ok(Constant { ty: Type { dtype, shape }, bytes })
}

/// An attribute's value.
pub(super) fn attribute(a: &AttributeProto) -> Attr {
    match AttributeType::try_from(a.r#type) {
        Ok(AttributeType::Int) => Attr::Int(a.i),
        Ok(AttributeType::Float) => Attr::Float(a.f),
        Ok(AttributeType::String) => Attr::Text(String::from_utf8_lossy(&a.s).into_owned()),
        Ok(AttributeType::Ints) => Attr::Ints(a.ints.clone()),
        Ok(AttributeType::Floats) => Attr::Floats(a.floats.clone()),
        Ok(AttributeType::Tensor) => Attr::Tensor(match &a.t {
            Some(t) => tensor(t).map(Arc::new),
            None => Err(format!("attribute {} holds no tensor", a.name)),
        }),
        _ => Attr::Other,
    }
}
