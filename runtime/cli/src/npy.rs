//! NumPy `.npy` arrays: little-endian, row-major, of the types that networks take.
//!
//! Source: NumPy Enhancement Proposal 1, format versions 1.0 to 3.0.

use pilotlight_plan::DType;
use std::path::Path;

/// An array of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Element type.
    pub dtype: DType,
    /// Extents, slowest first.
    pub shape: Vec<usize>,
    /// Elements, row-major, little-endian.
    pub bytes: Vec<u8>,
}

/// Why a `.npy` file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The path as given.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The first bytes are not those of a `.npy` file.
    #[error("not a .npy file; write one with numpy.save")]
    Magic,
    /// The header is cut short, or not the dictionary that NumPy writes.
    #[error(".npy header {0}; save the array again with numpy.save")]
    Header(String),
    /// A type or order that is not supported.
    #[error(".npy array is {found}; {allowed}")]
    Unsupported {
        /// What the header says.
        found: String,
        /// What is supported, and how to get there.
        allowed: &'static str,
    },
    /// The data's length does not fit the shape.
    #[error(
        ".npy array of shape {shape:?} needs {needed} bytes of data, the file has {found}; copy it again"
    )]
    Length {
        /// The shape in the header.
        shape: Vec<usize>,
        /// Bytes that it needs.
        needed: String,
        /// Bytes present.
        found: usize,
    },
}

const TYPES: [(DType, &str); 5] =
    [(DType::U8, "|u1"), (DType::I8, "|i1"), (DType::I32, "<i4"), (DType::I64, "<i8"), (DType::F32, "<f4")];

impl Array {
    /// Reads a file.
    ///
    /// # Errors
    /// [`NpyError`].
    pub fn open(path: &Path) -> Result<Self, NpyError> {
        let bytes = std::fs::read(path)
            .map_err(|source| NpyError::Io { path: path.display().to_string(), source })?;
        Self::parse(&bytes)
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// [`NpyError`].
    pub fn parse(file: &[u8]) -> Result<Self, NpyError> {
        let rest = file.strip_prefix(b"\x93NUMPY").ok_or(NpyError::Magic)?;
        let short = || NpyError::Header("is cut short".into());
        let (&[major, _minor], rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        let (length, rest) = match major {
            1 => rest.split_first_chunk::<2>().map(|(n, r)| (usize::from(u16::from_le_bytes(*n)), r)),
            2 | 3 => rest.split_first_chunk::<4>().map(|(n, r)| (u32::from_le_bytes(*n) as usize, r)),
            _ => {
                let found = format!("of format version {major}");
                return Err(NpyError::Unsupported { found, allowed: "versions 1 to 3 are read" });
            }
        }
        .ok_or_else(short)?;
        let (header, data) = rest.split_at_checked(length).ok_or_else(short)?;
        let header = std::str::from_utf8(header).map_err(|_| NpyError::Header("is not text".into()))?;
        let (dtype, shape) = parse_header(header)?;
        let needed = shape.iter().try_fold(dtype.bytes(), |n, &d| n.checked_mul(d));
        if needed != Some(data.len()) {
            let needed = needed.map_or("more than any file's".into(), |n| n.to_string());
            return Err(NpyError::Length { shape, needed, found: data.len() });
        }
        Ok(Self { dtype, shape, bytes: data.to_vec() })
    }

    /// The array as a `.npy` file of version 1.0.
    pub fn to_npy(&self) -> Vec<u8> {
        let descr = TYPES.iter().find(|(d, _)| *d == self.dtype).map_or("", |(_, s)| s);
        let extents: String = self.shape.iter().map(|d| format!("{d}, ")).collect();
        let mut header =
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", extents.trim_end());
        // The data begins at a multiple of 64 bytes; the header ends in a newline.
        let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
        header.push_str(&" ".repeat(padded - header.len() - 1));
        header.push('\n');
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.extend(&self.bytes);
        file
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.bytes.len() / self.dtype.bytes()
    }

    /// Element `i` as a float, for people to look at.
    ///
    /// # Panics
    /// When there is no such element.
    pub fn value(&self, i: usize) -> f64 {
        let b = &self.bytes[i * self.dtype.bytes()..(i + 1) * self.dtype.bytes()];
        match (self.dtype, b) {
            (DType::U8, &[x]) => f64::from(x),
            (DType::I8, &[x]) => f64::from(x as i8),
            (DType::I32, &[a, b, c, d]) => f64::from(i32::from_le_bytes([a, b, c, d])),
            (DType::F32, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
            _ => b.iter().rev().fold(0_i64, |v, &x| v << 8 | i64::from(x)) as f64,
        }
    }
}

/// The type and shape of a header such as `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse_header(header: &str) -> Result<(DType, Vec<usize>), NpyError> {
    let field = |key: &str| {
        let at = header.find(&format!("'{key}'"))?;
        header[at + key.len() + 2..].trim_start().strip_prefix(':').map(str::trim_start)
    };
    let missing = |key: &str| NpyError::Header(format!("has no '{key}'"));
    let descr = field("descr")
        .and_then(|v| v.strip_prefix('\'')?.split_once('\''))
        .ok_or_else(|| missing("descr"))?
        .0;
    // One-byte types have no byte order; some writers give one.
    let plain = descr.trim_start_matches(['<', '|', '=']);
    let known = TYPES.iter().find(|(_, s)| s[1..] == *plain).filter(|_| !descr.starts_with('>'));
    let Some(&(dtype, _)) = known else {
        return Err(NpyError::Unsupported {
            found: format!("of type {descr}"),
            allowed: "u1, i1, i4, i8 and f4 (little-endian) are read: convert with numpy's astype",
        });
    };
    if !field("fortran_order").is_some_and(|v| v.starts_with("False")) {
        return Err(NpyError::Unsupported {
            found: "in column-major order".into(),
            allowed: "row-major is read: use numpy.ascontiguousarray",
        });
    }
    let shape =
        field("shape").and_then(|v| v.strip_prefix('(')?.split_once(')')).ok_or_else(|| missing("shape"))?.0;
    let extents = shape.split(',').map(str::trim).filter(|s| !s.is_empty());
    let shape = extents.map(str::parse).collect::<Result<Vec<usize>, _>>();
    match shape {
        Ok(shape) if shape.len() <= 32 => Ok((dtype, shape)),
        _ => Err(NpyError::Header("has a shape that is no list of up to 32 numbers".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (shape, dtype, n) in
            [(vec![], DType::F32, 4), (vec![3], DType::I8, 3), (vec![2, 3], DType::I64, 48)]
        {
            let array = Array { dtype, shape, bytes: (0..n).collect() };
            let file = array.to_npy();
            assert_eq!(Array::parse(&file).unwrap(), array);
            assert_eq!((file.len() - n as usize) % 64, 0);
        }
        let one = Array { dtype: DType::I64, shape: vec![], bytes: (-2_i64).to_le_bytes().to_vec() };
        assert_eq!(one.value(0), -2.0);
    }

    #[test]
    fn hostile_headers_are_errors() {
        let with = |header: &str, data: &[u8]| {
            let mut file = b"\x93NUMPY\x01\x00".to_vec();
            file.extend((header.len() as u16).to_le_bytes());
            file.extend(header.as_bytes());
            file.extend(data);
            Array::parse(&file)
        };
        let ok = "{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }";
        assert_eq!(with(ok, &[1, 2]).unwrap().shape, [2]);
        assert!(matches!(with(ok, &[1]), Err(NpyError::Length { found: 1, .. })));
        let huge = "{'descr': '|u1', 'fortran_order': False, 'shape': (4294967296, 4294967296, 9), }";
        assert!(matches!(with(huge, &[]), Err(NpyError::Length { .. })));
        assert!(matches!(with(&ok.replace("False", "True"), &[1, 2]), Err(NpyError::Unsupported { .. })));
        assert!(matches!(with(&ok.replace("|u1", ">f4"), &[1, 2]), Err(NpyError::Unsupported { .. })));
        assert!(matches!(with(&ok.replace("(2,)", "(-2,)"), &[1, 2]), Err(NpyError::Header(_))));
        assert!(matches!(with("", &[]), Err(NpyError::Header(_))));
        assert!(matches!(Array::parse(b"\x93NUMPY\x01"), Err(NpyError::Header(_))));
        assert!(matches!(Array::parse(b"PK\x03\x04"), Err(NpyError::Magic)));
    }
}
