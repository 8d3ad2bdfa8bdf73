//! A dense row-major array of any element type.

use pilotlight_plan::DType;

/// Elements by kind: the three integer types below 64 bits are held as i32.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Values {
    Int(Vec<i32>),
    Long(Vec<i64>),
    Float(Vec<f32>),
}

impl Values {
    pub(super) fn empty(dtype: DType) -> Self {
        match dtype {
            DType::U8 | DType::I8 | DType::I32 => Self::Int(Vec::new()),
            DType::I64 => Self::Long(Vec::new()),
            DType::F32 => Self::Float(Vec::new()),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Int(v) => v.len(),
            Self::Long(v) => v.len(),
            Self::Float(v) => v.len(),
        }
    }

    /// Appends the element at the start of `bytes`.
    pub(super) fn push(&mut self, dtype: DType, bytes: &[u8]) {
        match (self, dtype) {
            (Self::Int(v), DType::U8) => v.push(i32::from(bytes[0])),
            (Self::Int(v), DType::I8) => v.push(i32::from(bytes[0] as i8)),
            (Self::Int(v), _) => v.push(i32::from_le_bytes(take(bytes))),
            (Self::Long(v), _) => v.push(i64::from_le_bytes(take(bytes))),
            (Self::Float(v), _) => v.push(f32::from_le_bytes(take(bytes))),
        }
    }

    /// Writes element `i` to the start of `bytes`.
    pub(super) fn write(&self, i: usize, dtype: DType, bytes: &mut [u8]) {
        match self {
            Self::Int(v) if dtype.is_int8() => bytes[0] = v[i] as u8,
            Self::Int(v) => bytes[..4].copy_from_slice(&v[i].to_le_bytes()),
            Self::Long(v) => bytes[..8].copy_from_slice(&v[i].to_le_bytes()),
            Self::Float(v) => bytes[..4].copy_from_slice(&v[i].to_le_bytes()),
        }
    }

    /// The integers.
    pub(super) fn ints(&self) -> &[i32] {
        match self {
            Self::Int(v) => v,
            _ => unreachable!("a validated plan has integers here"),
        }
    }

    /// The floats.
    pub(super) fn floats(&self) -> &[f32] {
        match self {
            Self::Float(v) => v,
            _ => unreachable!("a validated plan has floats here"),
        }
    }

    /// The elements at `index`, in that order; `None` gives `fill`, the bits of an element of `dtype`.
    pub(super) fn gather(&self, index: &[Option<usize>], dtype: DType, fill: u64) -> Self {
        let bytes = fill.to_le_bytes();
        let mut blank = Self::empty(dtype);
        blank.push(dtype, &bytes);
        match (self, &blank) {
            (Self::Int(v), Self::Int(f)) => {
                Self::Int(index.iter().map(|i| i.map_or(f[0], |i| v[i])).collect())
            }
            (Self::Long(v), Self::Long(f)) => {
                Self::Long(index.iter().map(|i| i.map_or(f[0], |i| v[i])).collect())
            }
            (Self::Float(v), Self::Float(f)) => {
                Self::Float(index.iter().map(|i| i.map_or(f[0], |i| v[i])).collect())
            }
            _ => unreachable!("a validated plan keeps the kind of an element"),
        }
    }
}

fn take<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}
