//! What `MODEL` on the command line means: a plan, an ONNX file, or a folder with a card.

use crate::card::Card;
use anyhow::{Context, Result, bail};
use pilotlight_plan::Plan;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A model ready to load on a device.
pub struct Model {
    /// The file that was read.
    pub path: PathBuf,
    /// The compiled network.
    pub plan: Plan,
    /// Whether the file was a plan already.
    pub is_plan: bool,
    /// The card in the same folder, if there is one.
    pub card: Option<Card>,
    /// Class names, empty without a card.
    pub labels: Vec<String>,
}

/// How an ONNX model is compiled.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CompileOptions {
    /// Bind a symbolic dimension of the model, as in N=4; may be repeated
    #[arg(long = "dim", value_name = "NAME=N", value_parser = dim)]
    pub dims: Vec<(String, u32)>,
}

fn dim(text: &str) -> Result<(String, u32), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=N, as in N=4")?;
    match value.parse() {
        Ok(n) if n > 0 => Ok((name.to_owned(), n)),
        _ => Err(format!("{value} is no whole number from 1")),
    }
}

impl Model {
    /// Reads (and where needed compiles) a model.
    ///
    /// # Errors
    /// Anything wrong with the file, named.
    pub fn open(path: &Path, options: &CompileOptions) -> Result<Self> {
        let (file, card) = resolve(path)?;
        let is_plan = is_plan(&file)?;
        let plan = if is_plan { open_plan(&file, options)? } else { import(&file, options)? };
        let labels = card.as_ref().map_or(Ok(Vec::new()), Card::read_labels)?;
        Ok(Self { path: file, plan, is_plan, card, labels })
    }
}

/// The model file and card that a path stands for.
///
/// # Errors
/// A folder without a valid card, or a path that does not exist.
pub fn resolve(path: &Path) -> Result<(PathBuf, Option<Card>)> {
    if path.is_dir() {
        let card = Card::open(path).context("a folder is a model where it holds a card, model.toml")?;
        return Ok((card.model_file(cfg!(feature = "onnx")), Some(card)));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let listed = |card: &Card| card.files.iter().any(|f| path.file_name() == f.path.file_name());
    let card = folder.join("model.toml").exists().then(|| Card::open(folder)).transpose()?.filter(listed);
    Ok((path.to_path_buf(), card))
}

/// The plan in a file.
fn open_plan(file: &Path, options: &CompileOptions) -> Result<Plan> {
    if !options.dims.is_empty() {
        bail!(
            "{}: a plan's dimensions are bound already; give --dim when compiling the ONNX model",
            file.display()
        );
    }
    Plan::open(file).with_context(|| file.display().to_string())
}

/// Whether a file begins as a plan does.
fn is_plan(file: &Path) -> Result<bool> {
    let mut first = [0; 8];
    let read = std::fs::File::open(file).and_then(|mut f| f.read(&mut first));
    let n = read.with_context(|| format!("{}: cannot be read", file.display()))?;
    Ok(first[..n] == *b"PILOTPLN")
}

/// Compiles an ONNX file.
///
/// # Errors
/// What the importer finds wrong.
#[cfg(feature = "onnx")]
pub fn import(file: &Path, options: &CompileOptions) -> Result<Plan> {
    let bytes = std::fs::read(file).with_context(|| format!("{}: cannot be read", file.display()))?;
    let options = pilotlight_onnx::Options { dims: options.dims.clone(), ..Default::default() };
    pilotlight_onnx::import(&bytes, &options).with_context(|| file.display().to_string())
}

/// Says that this build cannot compile ONNX files.
///
/// # Errors
/// Always.
#[cfg(not(feature = "onnx"))]
pub fn import(file: &Path, _options: &CompileOptions) -> Result<Plan> {
    bail!(
        "{}: not a plan, and this build has no ONNX importer; build pilotlight with `--features onnx`",
        file.display()
    );
}

/// The text of a stage of the compiler: `import`, `quant` or `fuse`.
///
/// # Errors
/// What the importer finds wrong.
#[cfg(feature = "onnx")]
pub fn stage(file: &Path, options: &CompileOptions, stage: &str) -> Result<String> {
    let bytes = std::fs::read(file).with_context(|| format!("{}: cannot be read", file.display()))?;
    let options = pilotlight_onnx::Options { dims: options.dims.clone(), ..Default::default() };
    pilotlight_onnx::stage(&bytes, &options, stage).with_context(|| file.display().to_string())
}

/// Says that this build cannot read ONNX files.
///
/// # Errors
/// Always.
#[cfg(not(feature = "onnx"))]
pub fn stage(file: &Path, options: &CompileOptions, _stage: &str) -> Result<String> {
    import(file, options).map(|_| String::new())
}
