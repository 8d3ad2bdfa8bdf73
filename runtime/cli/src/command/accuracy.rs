//! `pilotlight accuracy`: a model on the labelled data that its card names.

use super::{print_json, progress};
use crate::device::DeviceOptions;
use crate::model::{CompileOptions, Model};
use crate::npy::Array;
use crate::picture::normalise;
use anyhow::{Result, bail};
use serde::Serialize;
use std::path::PathBuf;

/// Measure a classifier's accuracy on its card's labelled data, beside that of the float model
#[derive(Debug, clap::Args)]
pub struct Accuracy {
    /// Model folder, or a file in one
    model: PathBuf,
    /// Exit with code 1 where the model is worse than float by more than this
    #[arg(long, value_name = "POINTS")]
    within: Option<f64>,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceOptions,
    #[command(flatten)]
    compile: CompileOptions,
}

/// What `accuracy --json` prints.
#[derive(Serialize)]
struct Report {
    schema: u32,
    model: String,
    device: String,
    pictures: usize,
    percent: f64,
    float_percent: f64,
}

impl Accuracy {
    pub(super) fn run(self) -> Result<bool> {
        let model = Model::open(&self.model, &self.compile)?;
        let Some((card, test)) = model.card.as_ref().and_then(|c| Some((c, c.test.as_ref()?))) else {
            bail!("{}: its card names no labelled data ([test] in model.toml)", self.model.display());
        };
        let open = |file: &PathBuf| Array::open(&card.folder.join(file));
        let (images, labels, float) = (open(&test.images)?, open(&test.labels)?, open(&test.float_logits)?);
        let count = labels.elements();
        if images.shape.first() != Some(&count) || float.shape.first() != Some(&count) || count == 0 {
            bail!(
                "images {:?}, labels {:?}, float logits {:?}: one entry each",
                images.shape,
                labels.shape,
                float.shape
            );
        }
        let device = self.device.open()?;
        let mut program = device.load(&model.plan)?;
        let mut slot = program.slot()?;
        let (mut right, mut float_right) = (0, 0);
        let bar = progress(count, "classifying");
        for i in 0..count {
            let size = images.bytes.len() / count;
            let input = normalise(&images.bytes[i * size..(i + 1) * size], &card.input.mean, &card.input.std);
            if slot.input(0).len() != input.len() {
                bail!("a picture gives {} bytes, the model's input has {}", input.len(), slot.input(0).len());
            }
            slot.input_mut(0).copy_from_slice(&input);
            program.run(&mut slot)?;
            let t = model.plan.tensor(model.plan.outputs[0]);
            let logits = Array { dtype: t.dtype, shape: vec![], bytes: slot.output(0).to_vec() };
            let classes = float.elements() / count;
            right += usize::from(best(&logits, 0, logits.elements()) == labels.value(i) as usize);
            float_right += usize::from(best(&float, i * classes, classes) == labels.value(i) as usize);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let percent = |n: usize| n as f64 * 100.0 / count as f64;
        let report = Report {
            schema: 1,
            model: model.path.display().to_string(),
            device: device.describe(),
            pictures: count,
            percent: percent(right),
            float_percent: percent(float_right),
        };
        if self.json {
            print_json(&report)?;
        } else {
            println!(
                "{} on {}: {:.2} % of {count} pictures; the float model {:.2} %",
                report.model, report.device, report.percent, report.float_percent
            );
        }
        Ok(self.within.is_none_or(|points| report.percent >= report.float_percent - points))
    }
}

/// The index of the largest of `count` values from `from`; the first of equal ones.
fn best(array: &Array, from: usize, count: usize) -> usize {
    (1..count).fold(0, |best, i| if array.value(from + i) > array.value(from + best) { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilotlight_plan::DType;

    #[test]
    fn the_first_of_equal_values_is_best() {
        let array = Array { dtype: DType::I8, shape: vec![4], bytes: vec![0xff, 3, 3, 2] };
        assert_eq!(best(&array, 0, 4), 1);
        assert_eq!(best(&array, 2, 2), 0);
    }
}
