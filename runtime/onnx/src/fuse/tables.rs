//! Functions of one 8-bit tensor become one table.

use super::{as_table, compose, join, redirect};
use crate::View;
use crate::quant::from_bits;
use crate::quant::qgraph::{Kind, QGraph};
use pilotlight_plan::{BinaryKind, BinaryRule, DType, Op, Remap, Table, TensorId, math};

/// Composes chains of tables, drops those that change nothing, and makes a table of every combination of two
/// functions of one tensor (x * sigmoid(x), or x and a constant).
pub(super) fn fuse(g: &mut QGraph) {
    let uses = g.uses();
    let producers = g.producers();
    let mut same = vec![];
    for i in 0..g.nodes.len() {
        if let Some((input, table)) = as_table(g, &g.nodes[i].kind) {
            let output = g.nodes[i].kind.writes();
            let (x, y) = (g.value(input), g.value(output));
            if x.dtype == y.dtype && table.iter().enumerate().all(|(k, &t)| k == usize::from(t)) {
                same.push((output, input));
                continue;
            }
            let before = producers[input.0 as usize].filter(|_| uses[input.0 as usize] == 1);
            if let Some(j) = before
                && let Some(remap) = moved(g, &g.nodes[j].kind, output, table)
            {
                let (mut remap, bytes) = remap;
                remap.table = Some(g.blobs.add(&bytes));
                g.nodes[i].names = join(&g.nodes[j].names, &g.nodes[i].names);
                g.nodes[i].kind = Kind::Op(Op::Remap(remap));
            } else if let Some(j) = before
                && let Some((source, first)) = as_table(g, &g.nodes[j].kind)
            {
                let both = compose(first, table);
                let names = join(&g.nodes[j].names, &g.nodes[i].names);
                replace(g, i, source, output, &both, names);
            }
            continue;
        }
        if let Kind::Op(Op::Binary(b)) = &g.nodes[i].kind
            && let Some((root, table, names)) = unary(g, &producers, b.a, b.b, b.output, &b.rule)
        {
            let output = b.output;
            let names = join(&names, &g.nodes[i].names);
            replace(g, i, root, output, &table, names);
        }
    }
    redirect(g, &same);
}

/// A move that must copy and the table behind it, as one operation that still lacks its table.
fn moved(g: &QGraph, kind: &Kind, output: TensorId, table: &[u8]) -> Option<(Remap, Vec<u8>)> {
    let Kind::View { input, view: View::Index(axes), fill, .. } = kind else { return None };
    // A rising progression needs no copy: the table reads the strides.
    let strided = |l: &Vec<i32>| l[0] >= 0 && l.windows(2).all(|w| w[1] > w[0] && w[1] - w[0] == l[1] - l[0]);
    if !g.value(*input).dtype.is_int8() || axes.iter().flatten().all(strided) {
        return None;
    }
    let fill = u64::from(table[(*fill & 0xff) as usize]);
    Some((Remap { input: *input, output, axes: axes.clone(), fill, table: None }, table.to_vec()))
}

fn replace(g: &mut QGraph, i: usize, input: TensorId, output: TensorId, table: &[u8], names: Vec<String>) {
    let table = g.blobs.add(table);
    g.nodes[i].kind = Kind::Op(Op::Table(Table { input, output, table }));
    g.nodes[i].names = names;
}

/// A value and the tensors that it is a function of, nearest first: each with the table that leads here.
struct Line {
    steps: Vec<(TensorId, Vec<u8>)>,
    names: Vec<Vec<String>>,
}

fn line(g: &QGraph, producers: &[Option<usize>], id: TensorId) -> Line {
    let mut l = Line { steps: vec![(id, (0..=255).collect())], names: vec![vec![]] };
    let (mut at, mut table): (TensorId, Vec<u8>) = (id, (0..=255).collect());
    let mut names = vec![];
    while let Some(j) = producers[at.0 as usize]
        && let Some((source, first)) = as_table(g, &g.nodes[j].kind)
    {
        table = compose(first, &table);
        at = source;
        names = join(&g.nodes[j].names, &names);
        l.steps.push((at, table.clone()));
        l.names.push(names.clone());
    }
    l
}

/// The one tensor that both operands are functions of, and the table of the result.
fn unary(
    g: &QGraph,
    producers: &[Option<usize>],
    a: TensorId,
    b: TensorId,
    output: TensorId,
    rule: &BinaryRule,
) -> Option<(TensorId, Vec<u8>, Vec<String>)> {
    let (va, vb, y) = (g.value(a), g.value(b), g.value(output));
    let (da, db) = (va.dtype, vb.dtype);
    let scalar = |id: TensorId| {
        let v = g.value(id);
        let blob = v.constant.filter(|b| b.bytes == 1 && v.dtype.is_int8())?;
        Some(usize::from(g.blobs.get(blob)[0]))
    };
    let int = |dtype, bits: usize| from_bits(dtype, bits);
    match (scalar(a), scalar(b)) {
        (None, Some(c)) if va.shape == y.shape => {
            let t = table(|i| combine(rule, int(da, i), int(db, c), y.dtype))?;
            Some((a, t, vec![]))
        }
        (Some(c), None) if vb.shape == y.shape => {
            let t = table(|i| combine(rule, int(da, c), int(db, i), y.dtype))?;
            Some((b, t, vec![]))
        }
        _ if va.shape == y.shape && vb.shape == y.shape => {
            let (la, lb) = (line(g, producers, a), line(g, producers, b));
            let (i, j) = la
                .steps
                .iter()
                .enumerate()
                .find_map(|(i, s)| lb.steps.iter().position(|t| t.0 == s.0).map(|j| (i, j)))?;
            let ((root, ta), (_, tb)) = (&la.steps[i], &lb.steps[j]);
            let t =
                table(|k| combine(rule, int(da, usize::from(ta[k])), int(db, usize::from(tb[k])), y.dtype))?;
            Some((*root, t, join(&la.names[i], &lb.names[j])))
        }
        _ => None,
    }
}

fn table(f: impl Fn(usize) -> Option<i32>) -> Option<Vec<u8>> {
    (0..256).map(|i| f(i).map(|v| v as u8)).collect()
}

/// An integer rule applied to two values; `None` for a float rule.
fn combine(rule: &BinaryRule, a: i32, b: i32, dtype: DType) -> Option<i32> {
    let (lo, hi) = dtype.int8_range()?;
    Some(match *rule {
        BinaryRule::QLinearAdd { ra, rb, fix } => {
            math::round_to((a as f32).mul_add(ra, (b as f32).mul_add(rb, fix)), 0, lo, hi)
        }
        BinaryRule::QLinearMul { a_zero, b_zero, r, y_zero } => {
            math::round_to(((a - a_zero) * (b - b_zero)) as f32 * r + y_zero as f32, 0, lo, hi)
        }
        BinaryRule::Dequantised { kind, a: qa, b: qb, output } => {
            let (x, y) = ((a - qa.zero_point) as f32 * qa.scale, (b - qb.zero_point) as f32 * qb.scale);
            let z = match kind {
                BinaryKind::Add => x + y,
                BinaryKind::Sub => x - y,
                BinaryKind::Mul => x * y,
            };
            math::quantize(z, output.scale, output.zero_point, lo, hi)
        }
        BinaryRule::Float(_) => return None,
    })
}
