//! Inputs and outputs: what they are called, their shape and type, and typed views of their bytes.

use crate::PortError;
use pilotlight_plan::{DType, Plan, Quant, TensorId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

// Slots hold little-endian elements; typed views are plain views of those bytes.
#[cfg(target_endian = "big")]
compile_error!("Pilotlight runs on little-endian machines");

/// In what form the caller gives an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InputKind {
    /// Elements in host memory, row-major, written into the lent slot.
    Host,
}

/// An input or output of a plan.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Port {
    /// The name in the model.
    pub name: String,
    /// Type of the elements.
    pub dtype: DType,
    /// Extent of each dimension, in the model's order; the batch, where there is one, comes first.
    pub shape: Vec<u32>,
    /// How integers stand for reals, where they do.
    pub quant: Option<Quant>,
    /// Size in bytes: elements times the element's size, without gaps.
    pub bytes: usize,
}

impl Port {
    /// In what form an input is given; outputs always lie in host memory.
    pub fn kind(&self) -> InputKind {
        InputKind::Host
    }

    fn new(plan: &Plan, id: TensorId) -> Self {
        let t = plan.tensor(id);
        Self {
            name: t.name.clone(),
            dtype: t.dtype,
            shape: t.shape.clone(),
            quant: t.quant,
            bytes: t.elements() as usize * t.dtype.bytes(),
        }
    }
}

/// All inputs and outputs of a plan.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Ports {
    /// The model's name.
    pub model: String,
    /// The inputs, in the model's order.
    pub inputs: Vec<Port>,
    /// The outputs, in the model's order.
    pub outputs: Vec<Port>,
}

impl Ports {
    pub(crate) fn new(plan: &Plan) -> Self {
        let all = |ids: &[TensorId]| ids.iter().map(|&id| Port::new(plan, id)).collect();
        Self { model: plan.name.clone(), inputs: all(&plan.inputs), outputs: all(&plan.outputs) }
    }
}

/// A type that a slot can be viewed as: `u8`, `i8`, `i32`, `i64` or `f32`.
///
/// Sealed: these are the types that plans have.
pub trait Element: FromBytes + IntoBytes + Immutable + KnownLayout + sealed::Sealed {
    /// The same type, in a plan.
    const DTYPE: DType;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! element {
    ($($t:ty => $d:ident),*) => {
        $(impl sealed::Sealed for $t {}
        impl Element for $t {
            const DTYPE: DType = DType::$d;
        })*
    };
}
element!(u8 => U8, i8 => I8, i32 => I32, i64 => I64, f32 => F32);

pub(crate) const INPUT: &str = "input";
pub(crate) const OUTPUT: &str = "output";

pub(crate) fn index<'a>(what: &'static str, ports: &'a [Port], index: usize) -> Result<&'a Port, PortError> {
    ports.get(index).ok_or(PortError::Index { what, index, count: ports.len() })
}

pub(crate) fn typed<T: Element>(what: &'static str, ports: &[Port], i: usize) -> Result<(), PortError> {
    let found = index(what, ports, i)?.dtype;
    if found == T::DTYPE { Ok(()) } else { Err(PortError::DType { what, index: i, found, asked: T::DTYPE }) }
}

/// The bytes as elements. The caller has checked the type, and slots are aligned to 64 bytes and hold whole
/// elements, so the view always exists.
pub(crate) fn view<T: Element>(bytes: &[u8]) -> &[T] {
    <[T]>::ref_from_bytes(bytes).unwrap_or_default()
}

pub(crate) fn view_mut<T: Element>(bytes: &mut [u8]) -> &mut [T] {
    <[T]>::mut_from_bytes(bytes).unwrap_or_default()
}
