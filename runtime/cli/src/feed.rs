//! Inputs for a plan from the command line: arrays, a picture, or pseudo-random numbers.

use crate::golden;
use crate::model::Model;
use crate::npy::Array;
use crate::picture;
use anyhow::{Result, bail};
use pilotlight_device::Slot;
use pilotlight_plan::{DType, Plan, Tensor};
use std::path::{Path, PathBuf};

/// `NAME=FILE.npy` of `--input`.
pub fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.rsplit_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok((name.into(), file.into())),
        _ => Err("expected NAME=FILE.npy, as in input=x.npy".into()),
    }
}

/// Fills a slot's inputs from a picture.
///
/// # Errors
/// No card, another input than the card names, or a picture that cannot be read.
pub fn from_picture(model: &Model, file: &Path, slot: &mut Slot) -> Result<()> {
    let Some(card) = &model.card else {
        bail!(
            "--image needs a model card (model.toml beside {}), which says how a picture becomes the input; \
               give arrays with --input instead",
            model.path.display()
        );
    };
    let wanted = input(&model.plan, &card.input.name)?;
    let bytes = picture::open(file, &card.input)?;
    let (t, into) = (model.plan.tensor(model.plan.inputs[wanted]), slot.input_mut(wanted));
    // A plan for a batch takes the same picture in every place.
    if t.dtype != DType::F32 || !into.len().is_multiple_of(bytes.len()) {
        bail!(
            "input {} is {} {:?}; the card describes a picture as f32 {:?}",
            t.name,
            t.dtype,
            t.shape,
            card.input.shape
        );
    }
    into.chunks_mut(bytes.len()).for_each(|part| part.copy_from_slice(&bytes));
    Ok(())
}

/// Fills a slot's inputs from arrays; every input must be given once.
///
/// # Errors
/// An unknown, missing or repeated name, or an array of another type or shape.
pub fn from_arrays(plan: &Plan, files: &[(String, PathBuf)], slot: &mut Slot) -> Result<()> {
    let mut given = vec![false; plan.inputs.len()];
    for (name, file) in files {
        let i = input(plan, name)?;
        if std::mem::replace(&mut given[i], true) {
            bail!("input {name} is given twice");
        }
        let t = plan.tensor(plan.inputs[i]);
        let array = Array::open(file)?;
        if array.dtype != t.dtype || !array.shape.iter().eq(shape(t).iter()) {
            bail!(
                "{}: {} {:?}; input {name} needs {} {:?}",
                file.display(),
                array.dtype,
                array.shape,
                t.dtype,
                t.shape
            );
        }
        slot.input_mut(i).copy_from_slice(&array.bytes);
    }
    match given.iter().position(|g| !g) {
        Some(i) => {
            let t = plan.tensor(plan.inputs[i]);
            bail!(
                "input {} ({} {:?}) is missing; give --input {}=FILE.npy, or --image FILE",
                t.name,
                t.dtype,
                t.shape,
                t.name
            )
        }
        None => Ok(()),
    }
}

/// Fills a slot's inputs with pseudo-random values: f32 in -2..2, integers over their whole range.
pub fn random(plan: &Plan, seed: u64, slot: &mut Slot) {
    for (i, &id) in plan.inputs.iter().enumerate() {
        let t = plan.tensor(id);
        let seed = seed.wrapping_add(i as u64);
        let into = slot.input_mut(i);
        if t.dtype == DType::F32 {
            into.copy_from_slice(&golden::random(seed, -2.0, 4.0, t.elements() as usize));
        } else {
            let bytes = golden::random(seed, 0.0, 256.0, into.len());
            let values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b) as u8);
            into.iter_mut().zip(values).for_each(|(to, v)| *to = v);
        }
    }
}

/// The output of a slot as an array.
pub fn output(plan: &Plan, slot: &Slot, i: usize) -> Array {
    let t = plan.tensor(plan.outputs[i]);
    Array { dtype: t.dtype, shape: shape(t), bytes: slot.output(i).to_vec() }
}

fn shape(t: &Tensor) -> Vec<usize> {
    t.shape.iter().map(|&d| d as usize).collect()
}

fn input(plan: &Plan, name: &str) -> Result<usize> {
    let names: Vec<&str> = plan.inputs.iter().map(|&id| plan.tensor(id).name.as_str()).collect();
    match names.iter().position(|n| *n == name) {
        Some(i) => Ok(i),
        None => bail!("no input {name}; the model has: {}", names.join(", ")),
    }
}
