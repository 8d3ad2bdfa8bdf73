//! Where a resized pixel comes from, as ONNX Runtime computes it in f32.

use super::graph::{Graph, Node};
use super::views::{MAX_INDEX, axis};
use crate::error::{Why, why};

/// Extents and scales of a resize, one for each dimension.
struct Target {
    shape: Vec<u32>,
    scales: Vec<f32>,
}

/// The output shape of a Resize.
pub(crate) fn shape(g: &Graph, n: &Node, shape: &[u32]) -> Result<Vec<u32>, Why> {
    Ok(target(g, n, shape)?.shape)
}

fn target(g: &Graph, n: &Node, shape: &[u32]) -> Result<Target, Why> {
    for (attr, allowed) in [("antialias", 0), ("exclude_outside", 0)] {
        if n.int(attr, 0)? != allowed {
            return why!("attribute {attr} is not supported");
        }
    }
    let policy = n.text("keep_aspect_ratio_policy", "stretch")?;
    if policy != "stretch" {
        return why!("keep_aspect_ratio_policy {policy} is not supported, stretch is");
    }
    let first = if g.opset < 11 { 1 } else { 2 };
    let given = match g.constant(n, first)? {
        Some(c) if !c.is_empty() => Some(c.to_floats()?),
        _ => None,
    };
    let sizes = if g.opset < 11 { None } else { g.const_ints(n, 3)?.filter(|s| !s.is_empty()) };
    let axes = match n.ints("axes")? {
        None => (0..shape.len()).collect(),
        Some(list) => list.iter().map(|&a| axis(a, shape.len())).collect::<Result<Vec<_>, _>>()?,
    };
    let mut t = Target { shape: shape.to_vec(), scales: vec![1.0; shape.len()] };
    let count = given.as_ref().map(Vec::len).or(sizes.as_ref().map(Vec::len));
    if count != Some(axes.len()) {
        return why!("{count:?} scales or sizes for {} dimensions", axes.len());
    }
    for (k, &a) in axes.iter().enumerate() {
        match (&given, &sizes) {
            (Some(scales), None) => {
                let s = scales[k];
                let extent = (f64::from(s) * f64::from(shape[a])).floor();
                if !(s > 0.0 && extent >= 1.0 && extent <= f64::from(u32::MAX)) {
                    return why!("scale {s} of a dimension of {}", shape[a]);
                }
                t.scales[a] = s;
                // ONNX Runtime multiplies in f32 and truncates.
                t.shape[a] = (s * shape[a] as f32) as u32;
            }
            (None, Some(sizes)) => {
                t.shape[a] = u32::try_from(sizes[k]).map_err(|_| format!("size {}", sizes[k]))?;
                t.scales[a] = t.shape[a] as f32 / shape[a] as f32;
            }
            _ => return why!("either scales or sizes must be given"),
        }
        if t.shape[a] == 0 || (t.shape[a] != shape[a] && t.shape[a] as usize > MAX_INDEX) {
            return why!("a resized extent of {}; 1 to {MAX_INDEX} are supported", t.shape[a]);
        }
    }
    Ok(t)
}

/// The place in the input of output index `x`.
fn original(mode: &str, x: u32, scale: f32, from: u32, to: u32) -> Result<f32, Why> {
    let x = x as f32;
    Ok(match mode {
        "asymmetric" => x / scale,
        "half_pixel" => (x + 0.5) / scale - 0.5,
        "pytorch_half_pixel" => {
            if to > 1 {
                (x + 0.5) / scale - 0.5
            } else {
                0.0
            }
        }
        "tf_half_pixel_for_nn" => (x + 0.5) / scale,
        "align_corners" => {
            if to == 1 {
                0.0
            } else {
                x * (from - 1) as f32 / (to - 1) as f32
            }
        }
        other => return why!("coordinate_transformation_mode {other} is not supported"),
    })
}

fn transform<'a>(g: &Graph, n: &'a Node) -> Result<&'a str, Why> {
    n.text("coordinate_transformation_mode", if g.opset < 11 { "asymmetric" } else { "half_pixel" })
}

/// Index lists of a nearest Resize.
pub(crate) fn nearest(g: &Graph, n: &Node, shape: &[u32]) -> Result<Vec<Option<Vec<i32>>>, Why> {
    let t = target(g, n, shape)?;
    let mode = transform(g, n)?;
    if t.shape == shape {
        return Ok(vec![None; shape.len()]);
    }
    let rounding = if g.opset < 11 { "old" } else { n.text("nearest_mode", "round_prefer_floor")? };
    let mut lists = Vec::with_capacity(shape.len());
    for (d, &extent) in shape.iter().enumerate() {
        if t.scales[d] == 1.0 {
            lists.push(None);
            continue;
        }
        let mut list = Vec::with_capacity(t.shape[d] as usize);
        for x in 0..t.shape[d] {
            let p = original(mode, x, t.scales[d], extent, t.shape[d])?;
            let i = match rounding {
                "round_prefer_floor" if p == p.trunc() + 0.5 => p.floor(),
                "round_prefer_floor" | "round_prefer_ceil" => p.round(),
                "old" if t.scales[d] < 1.0 => p.ceil(),
                "floor" | "old" => p.floor(),
                "ceil" => p.ceil(),
                other => return why!("nearest_mode {other} is not supported"),
            };
            list.push((i as i64).clamp(0, i64::from(extent) - 1) as i32);
        }
        lists.push(Some(list));
    }
    Ok(lists)
}

/// First index, second index and weight of the second, for each output index of the last two dimensions.
pub(crate) type Taps = Vec<(u32, u32, f32)>;

/// Rows and columns of a linear Resize.
pub(crate) fn linear(g: &Graph, n: &Node, shape: &[u32]) -> Result<[Taps; 2], Why> {
    let t = target(g, n, shape)?;
    let mode = transform(g, n)?;
    let rank = shape.len();
    if rank != 4 || t.scales[..2] != [1.0, 1.0] {
        return why!(
            "linear resize of rank {rank} by {:?}; height and width of [N, C, H, W] are supported",
            t.scales
        );
    }
    let taps = |d: usize| -> Result<Taps, Why> {
        let last = shape[d] - 1;
        (0..t.shape[d])
            .map(|x| {
                let p = if t.scales[d] == 1.0 {
                    x as f32
                } else {
                    original(mode, x, t.scales[d], shape[d], t.shape[d])?
                };
                let p = p.min(last as f32).max(0.0);
                let a = (p as u32).min(last);
                let b = (a + 1).min(last);
                Ok((a, b, if a == b { 0.5 } else { (p - a as f32).abs() }))
            })
            .collect()
    };
    Ok([taps(2)?, taps(3)?])
}
