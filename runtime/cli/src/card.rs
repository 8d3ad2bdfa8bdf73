//! Model cards (`model.toml`): licence, origin, files, and the way from a photo to the input tensor.
//!
//! The format is described in `models/README.md`.

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Why a card could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// A file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The card is not valid TOML, or has unknown, missing or mistyped keys.
    #[error("{path}: {source}")]
    Parse {
        /// The path.
        path: String,
        /// What and where.
        source: Box<toml::de::Error>,
    },
    /// A value is out of range.
    #[error("{path}: {problem}")]
    Value {
        /// The path.
        path: String,
        /// What was found and what is allowed.
        problem: String,
    },
}

/// A model's card.
#[derive(Clone, Debug, Deserialize)]
pub struct Card {
    /// Version of the card's format: 1.
    pub schema: u32,
    /// Short name.
    pub name: String,
    /// SPDX expression.
    pub licence: String,
    /// What the model is for.
    pub task: Task,
    /// File of class names, one a line.
    pub labels: Option<PathBuf>,
    /// The model's files.
    pub files: Vec<File>,
    /// The input, and how a picture becomes it.
    pub input: Input,
    /// The output, and how it becomes scores.
    pub output: Output,
    /// Labelled data to measure accuracy on.
    pub test: Option<Test>,
    /// The folder that holds the card.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// One class for a picture.
    Classify,
    /// Boxes in a picture.
    Detect,
    /// Something else.
    None,
}

/// One file of a model.
#[derive(Clone, Debug, Deserialize)]
pub struct File {
    /// Relative to the card's folder.
    pub path: PathBuf,
    /// `qdq`, `qoperator`, `float` or `plan`.
    pub form: String,
    /// Whether the folder's name alone means this file.
    pub default: bool,
}

/// The input of a model.
#[derive(Clone, Debug, Deserialize)]
pub struct Input {
    /// Its name in the model.
    pub name: String,
    /// Shape in the model's order.
    pub shape: Vec<u32>,
    /// `rgb` or `grey`, where pictures are meant.
    pub channels: Option<Channels>,
    /// Side of the centred square that is cut out, as a share of the shorter side.
    pub crop: Option<f64>,
    /// Mean of each channel, in pixel units.
    #[serde(default)]
    pub mean: Vec<f32>,
    /// Divisor of each channel, in pixel units.
    #[serde(default)]
    pub std: Vec<f32>,
}

/// Colour channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// One channel of brightness.
    Grey,
}

/// The output of a model.
#[derive(Clone, Debug, Deserialize)]
pub struct Output {
    /// `softmax` or `none`.
    pub score: Score,
}

/// How an output becomes scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Score {
    /// Softmax of the output.
    Softmax,
    /// The output itself.
    None,
}

/// Labelled data.
#[derive(Clone, Debug, Deserialize)]
pub struct Test {
    /// u8 array `[count, height, width]`.
    pub images: PathBuf,
    /// u8 array `[count]`.
    pub labels: PathBuf,
    /// Outputs of the float model, f32 `[count, classes]`.
    pub float_logits: PathBuf,
}

impl Card {
    /// The card of a model's folder.
    ///
    /// # Errors
    /// [`CardError`].
    pub fn open(folder: &Path) -> Result<Self, CardError> {
        let path = folder.join("model.toml");
        let name = || path.display().to_string();
        let text = std::fs::read_to_string(&path).map_err(|source| CardError::Io { path: name(), source })?;
        let mut card: Self = toml::from_str(&text)
            .map_err(|source| CardError::Parse { path: name(), source: Box::new(source) })?;
        card.folder = folder.to_path_buf();
        card.check().map_err(|problem| CardError::Value { path: name(), problem })?;
        Ok(card)
    }

    fn check(&self) -> Result<(), String> {
        if self.schema != 1 {
            return Err(format!("schema {}; this build reads schema 1", self.schema));
        }
        if self.files.iter().filter(|f| f.default).count() != 1 {
            return Err("exactly one of [[files]] must be the default".into());
        }
        let Some(channels) = self.input.channels else { return Ok(()) };
        let count = if channels == Channels::Rgb { 3 } else { 1 };
        let input = &self.input;
        if !matches!(input.shape[..], [1, c, h, w] if c == count && h > 0 && w > 0 && h <= 4096 && w <= 4096)
        {
            return Err(format!(
                "input shape {:?}; a picture needs [1, {count}, height, width] up to 4096",
                input.shape
            ));
        }
        let divisors = input.std.iter().all(|s| s.is_finite() && *s != 0.0);
        if input.mean.len() != count as usize || input.std.len() != count as usize || !divisors {
            return Err(format!(
                "mean {:?}, std {:?}; {count} numbers each, std not 0",
                input.mean, input.std
            ));
        }
        match input.crop {
            Some(c) if !(c > 0.0 && c <= 1.0) => Err(format!("crop {c}; above 0 and up to 1 is allowed")),
            _ => Ok(()),
        }
    }

    /// The file that stands for the model: the default, or the plan where ONNX cannot be imported.
    pub fn model_file(&self, can_import: bool) -> PathBuf {
        let plan = self.files.iter().find(|f| f.form == "plan").filter(|_| !can_import);
        let file = plan.or_else(|| self.files.iter().find(|f| f.default));
        self.folder.join(file.map_or(Path::new(""), |f| &f.path))
    }

    /// The class names, or none where the card names no file.
    ///
    /// # Errors
    /// [`CardError::Io`].
    pub fn read_labels(&self) -> Result<Vec<String>, CardError> {
        let Some(file) = &self.labels else { return Ok(Vec::new()) };
        let path = self.folder.join(file);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| CardError::Io { path: path.display().to_string(), source })?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}
