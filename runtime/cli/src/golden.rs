//! Golden files: inputs by recipe and the outputs that ONNX Runtime gave for them.
//!
//! The format is described in `models/README.md`.

use crate::npy::{Array, NpyError};
use crate::picture::normalise;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Why a golden folder could not be used.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// A file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// `golden.toml` is not valid.
    #[error("{path}: {source}")]
    Parse {
        /// The path.
        path: String,
        /// What and where.
        source: Box<toml::de::Error>,
    },
    /// An array could not be read.
    #[error("{path}: {source}")]
    Array {
        /// The path.
        path: String,
        /// What is wrong with it.
        source: NpyError,
    },
    /// A picture could not be read.
    #[error("{path}: {source}")]
    Picture {
        /// The path.
        path: String,
        /// What is wrong with it.
        source: image::ImageError,
    },
    /// A value does not fit the others.
    #[error("{path}: {problem}")]
    Value {
        /// The path.
        path: String,
        /// What was found and what is allowed.
        problem: String,
    },
}

/// A set of inputs and expected outputs.
#[derive(Clone, Debug, Deserialize)]
pub struct Golden {
    schema: u32,
    /// Where the outputs come from.
    pub provenance: Provenance,
    input: GoldenInput,
    outputs: Vec<GoldenOutput>,
    cases: Vec<Case>,
    #[serde(skip)]
    folder: PathBuf,
}

/// Where golden outputs come from.
#[derive(Clone, Debug, Deserialize)]
pub struct Provenance {
    /// The runtime and its version.
    pub runtime: String,
    /// CPU features that decided which of its kernels ran.
    pub cpu: String,
    /// Session options.
    pub options: String,
}

#[derive(Clone, Debug, Deserialize)]
struct GoldenInput {
    shape: Vec<usize>,
    #[serde(default)]
    mean: Vec<f32>,
    #[serde(default)]
    std: Vec<f32>,
}

#[derive(Clone, Debug, Deserialize)]
struct GoldenOutput {
    name: String,
    path: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "source", rename_all = "lowercase")]
enum Case {
    Image { path: PathBuf },
    Random { seed: u64, low: f32, span: f32 },
    Npy { path: PathBuf, index: usize },
}

impl Golden {
    /// The golden set of a folder.
    ///
    /// # Errors
    /// [`GoldenError`].
    pub fn open(folder: &Path) -> Result<Self, GoldenError> {
        let path = folder.join("golden.toml");
        let name = || path.display().to_string();
        let text =
            std::fs::read_to_string(&path).map_err(|source| GoldenError::Io { path: name(), source })?;
        let mut golden: Self = toml::from_str(&text)
            .map_err(|source| GoldenError::Parse { path: name(), source: Box::new(source) })?;
        golden.folder = folder.to_path_buf();
        if golden.schema != 1 || golden.cases.is_empty() {
            let problem = format!(
                "schema {} with {} cases; schema 1 and at least one case",
                golden.schema,
                golden.cases.len()
            );
            return Err(GoldenError::Value { path: name(), problem });
        }
        Ok(golden)
    }

    /// The number of cases.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Never: a golden set has at least one case.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// The input tensor of case `i`: f32, row-major, little-endian.
    ///
    /// # Errors
    /// [`GoldenError`].
    ///
    /// # Panics
    /// When there is no such case.
    pub fn input(&self, i: usize) -> Result<Vec<u8>, GoldenError> {
        let elements = self.input.shape.iter().product::<usize>();
        let bytes = match &self.cases[i] {
            Case::Random { seed, low, span } => random(*seed, *low, *span, elements),
            Case::Image { path } => {
                let path = self.folder.join(path);
                let picture = image::open(&path)
                    .map_err(|source| GoldenError::Picture { path: path.display().to_string(), source })?;
                let pixels = if self.input.mean.len() == 1 {
                    picture.into_luma8().into_raw()
                } else {
                    picture.into_rgb8().into_raw()
                };
                normalise(&pixels, &self.input.mean, &self.input.std)
            }
            Case::Npy { path, index } => entry(&self.array(path)?, *index),
        };
        if bytes.len() != elements * 4 {
            let problem = format!(
                "case {i} has {} bytes, f32 {:?} needs {}",
                bytes.len(),
                self.input.shape,
                elements * 4
            );
            return Err(GoldenError::Value { path: self.folder.display().to_string(), problem });
        }
        Ok(bytes)
    }

    /// The expected outputs by name: arrays `[cases, shape...]`.
    ///
    /// # Errors
    /// [`GoldenError`].
    pub fn outputs(&self) -> Result<Vec<(String, Array)>, GoldenError> {
        let mut all = Vec::new();
        for output in &self.outputs {
            let array = self.array(&output.path)?;
            if array.shape.first() != Some(&self.cases.len()) {
                let problem =
                    format!("{} of shape {:?} for {} cases", output.name, array.shape, self.cases.len());
                return Err(GoldenError::Value { path: output.path.display().to_string(), problem });
            }
            all.push((output.name.clone(), array));
        }
        Ok(all)
    }

    fn array(&self, path: &Path) -> Result<Array, GoldenError> {
        let path = self.folder.join(path);
        Array::open(&path).map_err(|source| GoldenError::Array { path: path.display().to_string(), source })
    }
}

/// The bytes of entry `index` along the first axis of an array; empty where there is none.
pub fn entry(array: &Array, index: usize) -> Vec<u8> {
    let size = array.bytes.len() / array.shape.first().copied().unwrap_or(1).max(1);
    array.bytes.get(index * size..(index + 1) * size).unwrap_or_default().to_vec()
}

/// `elements` pseudo-random f32 in `low..low + span` (splitmix64), little-endian.
pub fn random(seed: u64, low: f32, span: f32, elements: usize) -> Vec<u8> {
    let mut state = seed;
    let mut out = Vec::with_capacity(elements * 4);
    for _ in 0..elements {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        out.extend((low + span * ((z >> 40) as f32 * (1.0 / 16_777_216.0))).to_le_bytes());
    }
    out
}
