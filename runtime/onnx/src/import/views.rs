//! Operators that only move elements, as sequences of views.

use super::graph::{Constant, Graph, Node, Type};
use super::resize;
use crate::error::{Why, why};

/// The longest index list that one dimension may have.
pub(crate) const MAX_INDEX: usize = 1 << 20;

/// One way of seeing a tensor's elements in other places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// The same elements in row-major order under another shape.
    Reshape(Vec<u32>),
    /// Dimension `i` of the result is dimension `perm[i]` of the source.
    Transpose(Vec<usize>),
    /// `result[i, j, ..] = source[axes[0][i], axes[1][j], ..]`; `None` is the identity, -1 a filled element.
    Index(Vec<Option<Vec<i32>>>),
}

impl View {
    /// The shape of the result; the view must fit `shape`.
    pub(crate) fn shape(&self, shape: &[u32]) -> Vec<u32> {
        match self {
            Self::Reshape(s) => s.clone(),
            Self::Transpose(perm) => perm.iter().map(|&p| shape[p]).collect(),
            Self::Index(axes) => {
                axes.iter().zip(shape).map(|(a, &d)| a.as_ref().map_or(d, |l| l.len() as u32)).collect()
            }
        }
    }

    /// Whether the result differs from a source of this shape.
    pub(crate) fn changes(&self, shape: &[u32]) -> bool {
        match self {
            Self::Reshape(s) => s != shape,
            Self::Transpose(perm) => perm.iter().enumerate().any(|(i, &p)| i != p),
            Self::Index(axes) => axes.iter().any(Option::is_some),
        }
    }
}

/// The views that output `output` of a node is of its input 0; `None` for a node that computes.
pub(crate) fn views(g: &Graph, n: &Node, output: usize) -> Result<Option<Vec<View>>, Why> {
    let moves = [
        "Identity",
        "Dropout",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Slice",
        "Split",
        "Gather",
        "Expand",
        "Tile",
        "Pad",
        "DepthToSpace",
        "SpaceToDepth",
    ];
    let nearest = n.op == "Resize" && n.text("mode", "nearest")? == "nearest";
    if !moves.contains(&n.op.as_str()) && !nearest {
        return Ok(None);
    }
    let shape = g.ty(n, 0)?.shape.clone();
    let rank = shape.len();
    let list = match n.op.as_str() {
        "Identity" => vec![],
        "Dropout" => {
            if n.outputs.iter().skip(1).any(Option::is_some) {
                return why!("the mask output of Dropout is not supported");
            }
            vec![]
        }
        "Reshape" => vec![View::Reshape(reshape(g, n, &shape)?)],
        "Flatten" => {
            // The rank itself is allowed (everything goes into the rows); a negative axis counts from the rank.
            let a = n.int("axis", 1)?;
            let a = axis(a, if a < 0 { rank } else { rank + 1 })?;
            vec![View::Reshape(vec![product(&shape[..a])?, product(&shape[a..])?])]
        }
        "Squeeze" | "Unsqueeze" => vec![View::Reshape(squeeze(g, n, &shape)?)],
        "Transpose" => {
            let perm = match n.ints("perm")? {
                None => (0..rank).rev().collect(),
                Some(p) => p.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?,
            };
            let mut seen = perm.clone();
            seen.sort_unstable();
            if seen != (0..rank).collect::<Vec<_>>() {
                return why!("perm {perm:?} is no permutation of {rank} dimensions");
            }
            vec![View::Transpose(perm)]
        }
        "Slice" => vec![slice(g, n, &shape)?],
        "Split" => vec![split(g, n, &shape, output)?],
        "Gather" => gather(g, n, &shape)?,
        "Expand" => expand(g, n, &shape)?,
        "Tile" => {
            let repeats = g.const_ints(n, 1)?.ok_or("input 1 (repeats) is missing")?;
            if repeats.len() != rank {
                return why!("{} repeats for rank {rank}", repeats.len());
            }
            let lists = repeats.iter().zip(&shape).map(|(&r, &d)| match r {
                1 => Ok(None),
                _ => index(extent(r, d)?, |i| (i % i64::from(d)) as i32).map(Some),
            });
            vec![View::Index(lists.collect::<Result<_, _>>()?)]
        }
        "Pad" => vec![pad(g, n, &shape)?],
        "DepthToSpace" | "SpaceToDepth" => depth(n, &shape)?,
        _ => vec![View::Index(resize::nearest(g, n, &shape)?)],
    };
    let mut at = shape;
    for v in &list {
        let next = v.shape(&at);
        if let View::Reshape(s) = v
            && product64(s) != product64(&at)
        {
            return why!("shape {at:?} cannot become {s:?}: the numbers of elements differ");
        }
        at = next;
    }
    Ok(Some(list))
}

/// A dimension counted from the front.
pub(crate) fn axis(a: i64, rank: usize) -> Result<usize, Why> {
    let at = if a < 0 { a + rank as i64 } else { a };
    match usize::try_from(at) {
        Ok(at) if at < rank => Ok(at),
        _ => why!("axis {a} of a tensor of rank {rank}"),
    }
}

pub(crate) fn product64(shape: &[u32]) -> u64 {
    shape.iter().fold(1, |n, &d| n.saturating_mul(u64::from(d)))
}

fn product(shape: &[u32]) -> Result<u32, Why> {
    u32::try_from(product64(shape)).map_err(|_| format!("{shape:?} has too many elements for one dimension"))
}

fn extent(times: i64, d: u32) -> Result<usize, Why> {
    match times.checked_mul(i64::from(d)).and_then(|n| usize::try_from(n).ok()) {
        Some(n) => Ok(n),
        None => why!("an extent of {d} times {times}"),
    }
}

/// A list of `n` indices.
fn index(n: usize, f: impl Fn(i64) -> i32) -> Result<Vec<i32>, Why> {
    if n > MAX_INDEX {
        return why!("moving elements along a dimension of {n} is not supported, up to {MAX_INDEX} is");
    }
    Ok((0..n as i64).map(f).collect())
}

fn reshape(g: &Graph, n: &Node, shape: &[u32]) -> Result<Vec<u32>, Why> {
    let want = g.const_ints(n, 1)?.ok_or("input 1 (shape) is missing")?;
    let keep_zero = n.int("allowzero", 0)? == 0;
    let mut out = Vec::with_capacity(want.len());
    let mut free = None;
    for (i, &d) in want.iter().enumerate() {
        out.push(match d {
            0 if keep_zero => *shape.get(i).ok_or("a 0 in the shape stands for no dimension")?,
            -1 if free.is_none() => {
                free = Some(i);
                1
            }
            _ => u32::try_from(d).map_err(|_| format!("extent {d} in the shape {want:?}"))?,
        });
    }
    if let Some(i) = free {
        let (all, rest) = (product64(shape), product64(&out));
        if rest == 0 || all % rest != 0 {
            return why!("{shape:?} cannot become {want:?}");
        }
        out[i] = u32::try_from(all / rest).map_err(|_| format!("{shape:?} cannot become {want:?}"))?;
    }
    Ok(out)
}

fn squeeze(g: &Graph, n: &Node, shape: &[u32]) -> Result<Vec<u32>, Why> {
    let axes = match n.ints("axes")? {
        Some(a) => Some(a.to_vec()),
        None => g.const_ints(n, 1)?,
    };
    if n.op == "Squeeze" {
        let Some(axes) = axes else {
            return Ok(shape.iter().copied().filter(|&d| d != 1).collect());
        };
        let drop = axes.iter().map(|&a| axis(a, shape.len())).collect::<Result<Vec<_>, _>>()?;
        if let Some(&a) = drop.iter().find(|&&a| shape[a] != 1) {
            return why!("dimension {a} has extent {}, only 1 can be squeezed", shape[a]);
        }
        return Ok((0..shape.len()).filter(|i| !drop.contains(i)).map(|i| shape[i]).collect());
    }
    let axes = axes.ok_or("axes are missing")?;
    let rank = shape.len() + axes.len();
    let add = axes.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut rest = shape.iter().copied();
    (0..rank)
        .map(|i| if add.contains(&i) { Ok(1) } else { rest.next().ok_or("axes repeat".to_string()) })
        .collect()
}

fn slice(g: &Graph, n: &Node, shape: &[u32]) -> Result<View, Why> {
    let starts = g.const_ints(n, 1)?.ok_or("input 1 (starts) is missing")?;
    let ends = g.const_ints(n, 2)?.ok_or("input 2 (ends) is missing")?;
    let axes = g.const_ints(n, 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = g.const_ints(n, 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return why!("starts, ends, axes and steps have different lengths");
    }
    let mut lists = vec![None; shape.len()];
    for i in 0..starts.len() {
        let a = axis(axes[i], shape.len())?;
        let (d, step) = (i64::from(shape[a]), steps[i]);
        if step == 0 {
            return why!("a step of 0");
        }
        let wrap = |v: i64| if v < 0 { v.saturating_add(d) } else { v };
        let (lo, hi) = if step > 0 { (0, d) } else { (-1, d - 1) };
        let (start, end) = (wrap(starts[i]).clamp(lo.max(0), hi), wrap(ends[i]).clamp(lo, hi));
        let span = if step > 0 { end - start } else { start - end };
        let count = if span <= 0 { 0 } else { (span - 1) / step.saturating_abs() + 1 };
        if count == 0 {
            return why!("dimension {a} of extent {d} is sliced to nothing");
        }
        if (start, step, count) != (0, 1, d) {
            lists[a] = Some(index(count as usize, |k| (start + k * step) as i32)?);
        }
    }
    Ok(View::Index(lists))
}

fn split(g: &Graph, n: &Node, shape: &[u32], output: usize) -> Result<View, Why> {
    let a = axis(n.int("axis", 0)?, shape.len())?;
    let d = i64::from(shape[a]);
    let sizes = match n.ints("split")? {
        Some(s) => s.to_vec(),
        None => match g.const_ints(n, 1)? {
            Some(s) => s,
            None => {
                let parts = n.int("num_outputs", n.outputs.len() as i64)?;
                if parts < 1 || parts > n.outputs.len() as i64 {
                    return why!("num_outputs {parts} for {} outputs", n.outputs.len());
                }
                let each = (d + parts - 1) / parts;
                (0..parts).map(|i| each.min(d - i * each)).collect()
            }
        },
    };
    let total: i64 = sizes.iter().fold(0, |s, &v| s.saturating_add(v));
    if sizes.iter().any(|&s| s < 1) || total != d || output >= sizes.len() {
        return why!("parts of {sizes:?} for an extent of {d} and {} outputs", n.outputs.len());
    }
    let start: i64 = sizes[..output].iter().sum();
    let mut lists = vec![None; shape.len()];
    if sizes.len() > 1 {
        lists[a] = Some(index(sizes[output] as usize, |k| (start + k) as i32)?);
    }
    Ok(View::Index(lists))
}

fn gather(g: &Graph, n: &Node, shape: &[u32]) -> Result<Vec<View>, Why> {
    let a = axis(n.int("axis", 0)?, shape.len())?;
    let indices = g.constant(n, 1)?.ok_or("input 1 (indices) is missing")?;
    let d = i64::from(shape[a]);
    let ints = indices.to_ints()?;
    if let Some(bad) = ints.iter().find(|&&i| i < -d || i >= d) {
        return why!("index {bad} of a dimension of {d}");
    }
    let list = index(ints.len(), |k| {
        let i = ints[k as usize];
        (if i < 0 { i + d } else { i }) as i32
    })?;
    let mut lists = vec![None; shape.len()];
    lists[a] = Some(list);
    let mut out = shape[..a].to_vec();
    out.extend(&indices.ty.shape);
    out.extend(&shape[a + 1..]);
    Ok(vec![View::Index(lists), View::Reshape(out)])
}

fn expand(g: &Graph, n: &Node, shape: &[u32]) -> Result<Vec<View>, Why> {
    let want = g.const_ints(n, 1)?.ok_or("input 1 (shape) is missing")?;
    let rank = want.len().max(shape.len());
    let mut from = vec![1; rank - shape.len()];
    from.extend(shape);
    let mut lists = vec![None; rank];
    for (i, &w) in want.iter().enumerate() {
        let at = i + rank - want.len();
        let w = u32::try_from(w).map_err(|_| format!("extent {w} in the shape"))?;
        if w != from[at] && w != 1 {
            if from[at] != 1 {
                return why!("{shape:?} does not broadcast to {want:?}");
            }
            lists[at] = Some(index(w as usize, |_| 0)?);
        }
    }
    Ok(vec![View::Reshape(from), View::Index(lists)])
}

fn pad(g: &Graph, n: &Node, shape: &[u32]) -> Result<View, Why> {
    let pads = match n.ints("pads")? {
        Some(p) => p.to_vec(),
        None => g.const_ints(n, 1)?.ok_or("input 1 (pads) is missing")?,
    };
    let axes = match g.const_ints(n, 3)? {
        None => (0..shape.len()).collect(),
        Some(list) => list.iter().map(|&a| axis(a, shape.len())).collect::<Result<Vec<_>, _>>()?,
    };
    if pads.len() != 2 * axes.len() {
        return why!("{} pads for {} dimensions", pads.len(), axes.len());
    }
    let mode = n.text("mode", "constant")?;
    let mut lists = vec![None; shape.len()];
    for (k, &a) in axes.iter().enumerate() {
        let (before, after, d) = (pads[k], pads[k + axes.len()], i64::from(shape[a]));
        if (before, after) == (0, 0) {
            continue;
        }
        let Some(total) = before.checked_add(after).and_then(|p| p.checked_add(d)).filter(|&t| t >= 1) else {
            return why!("pads {before} and {after} around an extent of {d}");
        };
        let reflects = mode == "reflect" && (before >= d || after >= d);
        if !["constant", "edge", "reflect"].contains(&mode) || reflects {
            return why!(
                "mode {mode} with pads {before} and {after}; constant, edge and reflect are supported"
            );
        }
        lists[a] = Some(index(total as usize, |k| {
            let i = k - before;
            (match mode {
                "constant" if i < 0 || i >= d => -1,
                "constant" => i,
                "edge" => i.clamp(0, d - 1),
                _ if i < 0 => -i,
                _ if i >= d => 2 * (d - 1) - i,
                _ => i,
            }) as i32
        })?);
    }
    Ok(View::Index(lists))
}

fn depth(n: &Node, shape: &[u32]) -> Result<Vec<View>, Why> {
    let [b, c, h, w] = shape else {
        return why!("rank {}; [N, C, H, W] is needed", shape.len());
    };
    let size = n.int("blocksize", 0)?;
    let Some(s) = u32::try_from(size).ok().filter(|&s| s > 0 && s < 1 << 15) else {
        return why!("a block size of {size}");
    };
    if n.op == "SpaceToDepth" {
        if h % s != 0 || w % s != 0 {
            return why!("{h} x {w} cannot be cut into blocks of {s}");
        }
        return Ok(vec![
            View::Reshape(vec![*b, *c, h / s, s, w / s, s]),
            View::Transpose(vec![0, 3, 5, 1, 2, 4]),
            View::Reshape(vec![*b, c.saturating_mul(s * s), h / s, w / s]),
        ]);
    }
    if c % (s * s) != 0 {
        return why!("{c} channels cannot be cut into blocks of {s} x {s}");
    }
    let rest = c / (s * s);
    let (apart, perm) = match n.text("mode", "DCR")? {
        "DCR" => (vec![*b, s, s, rest, *h, *w], vec![0, 3, 4, 1, 5, 2]),
        "CRD" => (vec![*b, rest, s, s, *h, *w], vec![0, 1, 4, 2, 5, 3]),
        other => return why!("mode {other}; DCR and CRD are supported"),
    };
    Ok(vec![
        View::Reshape(apart),
        View::Transpose(perm),
        View::Reshape(vec![*b, rest, h.saturating_mul(s), w.saturating_mul(s)]),
    ])
}

/// The elements of a constant seen through a view; `fill` is one element's bytes.
///
/// The view must fit the constant's shape.
pub(crate) fn apply(c: &Constant, view: &View, fill: &[u8]) -> Constant {
    let shape = view.shape(&c.ty.shape);
    if matches!(view, View::Reshape(_)) {
        return Constant { ty: Type { dtype: c.ty.dtype, shape }, bytes: c.bytes.clone() };
    }
    let size = c.ty.dtype.bytes();
    let strides = pilotlight_plan::row_major(&c.ty.shape);
    let total = product64(&shape) as usize;
    let mut bytes = Vec::with_capacity(total * size);
    let mut at = vec![0_u32; shape.len()];
    for _ in 0..total {
        let mut offset = Some(0);
        for (d, &i) in at.iter().enumerate() {
            let (source, i) = match view {
                View::Transpose(perm) => (perm[d], i64::from(i)),
                View::Index(axes) => (d, axes[d].as_ref().map_or(i64::from(i), |l| i64::from(l[i as usize]))),
                View::Reshape(_) => (d, i64::from(i)),
            };
            offset = offset.filter(|_| i >= 0).map(|o| o + i as u64 * strides[source]);
        }
        match offset {
            Some(o) => bytes.extend(&c.bytes[o as usize * size..(o as usize + 1) * size]),
            None => bytes.extend(fill),
        }
        for d in (0..at.len()).rev() {
            at[d] += 1;
            if at[d] < shape[d] {
                break;
            }
            at[d] = 0;
        }
    }
    Constant { ty: Type { dtype: c.ty.dtype, shape }, bytes }
}
