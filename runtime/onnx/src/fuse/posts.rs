//! Tables and additions go behind the convolution or matrix product that makes their operand.

use super::{as_table, compose, join};
use crate::quant::from_bits;
use crate::quant::qgraph::{Kind, QGraph, QNode};
use crate::quant::visit;
use pilotlight_plan::{Binary, BinaryRule, DType, Epilogue, Post, Requant, TensorId};

pub(super) fn fuse(g: &mut QGraph) {
    // Counts only fall in this pass, so stale ones are safe; makers change with each fusion.
    let uses = g.uses();
    let mut producers = g.producers();
    for i in 0..g.nodes.len() {
        let fused = match &g.nodes[i].kind {
            Kind::Op(pilotlight_plan::Op::Binary(b)) => {
                let b = b.clone();
                binary(g, &uses, &producers, i, &b)
            }
            kind => match as_table(g, kind) {
                Some((input, table)) => {
                    let table = table.to_vec();
                    behind_table(g, &uses, &producers, i, input, &table)
                }
                None => None,
            },
        };
        if let Some(at) = fused {
            producers[g.nodes[at].kind.writes().0 as usize] = Some(at);
        }
    }
}

/// The node whose requantised result is `id`, if nothing else reads it.
fn linear(g: &QGraph, uses: &[u32], producers: &[Option<usize>], id: TensorId) -> Option<usize> {
    let j = producers[id.0 as usize].filter(|_| uses[id.0 as usize] == 1)?;
    let Kind::Op(op) = &g.nodes[j].kind else { return None };
    matches!(visit::epilogue(op), Some(Epilogue::Requant(_))).then_some(j)
}

fn requant(n: &mut QNode) -> Option<&mut Requant> {
    match &mut n.kind {
        Kind::Op(op) => match visit::epilogue_mut(op) {
            Some(Epilogue::Requant(r)) => Some(r),
            _ => None,
        },
        _ => None,
    }
}

/// Puts the table of node `i` behind the operation that makes its input; the index of that operation.
fn behind_table(
    g: &mut QGraph,
    uses: &[u32],
    producers: &[Option<usize>],
    i: usize,
    input: TensorId,
    table: &[u8],
) -> Option<usize> {
    let j = linear(g, uses, producers, input)?;
    let output = g.nodes[i].kind.writes();
    let dtype = g.value(output).dtype;
    let r = requant(&mut g.nodes[j])?;
    if r.post.is_empty()
        && r.dtype == dtype
        && let Some((lo, hi)) = clamp(table, dtype, r.lo, r.hi)
    {
        (r.lo, r.hi) = (lo, hi);
    } else if let Some(Post::Table { table: before, .. }) = r.post.last() {
        let both = compose(g.blobs.get(*before), table);
        let table = g.blobs.add(&both);
        let r = requant(&mut g.nodes[j])?;
        r.post.pop();
        r.post.push(Post::Table { table, dtype });
    } else {
        let table = g.blobs.add(table);
        requant(&mut g.nodes[j])?.post.push(Post::Table { table, dtype });
    }
    absorb(g, j, i, output);
    Some(j)
}

/// Lets node `j` write the result of node `i`, which goes: it writes a value that nothing reads.
fn absorb(g: &mut QGraph, j: usize, i: usize, output: TensorId) {
    g.nodes[j].names = join(&g.nodes[j].names, &g.nodes[i].names);
    let gone = std::mem::replace(&mut g.nodes[i].kind, Kind::Concat { inputs: vec![], output, axis: 0 });
    if let Kind::Op(op) = &mut g.nodes[j].kind {
        let old = std::mem::replace(visit::op_write_mut(op), output);
        g.nodes[i].kind = Kind::Concat { inputs: vec![], output: old, axis: 0 };
    }
    drop(gone);
}

/// Bounds after a table that only clamps what lies in `lo..=hi`.
fn clamp(table: &[u8], dtype: DType, lo: i32, hi: i32) -> Option<(i32, i32)> {
    let at = |v: i32| from_bits(dtype, usize::from(table[usize::from(v as u8)]));
    let (a, b) = (at(lo), at(hi));
    (a <= b && (lo..=hi).all(|v| at(v) == v.clamp(a, b))).then_some((a, b))
}

/// Puts the combination of node `i` behind the operation that makes one of its operands.
fn binary(g: &mut QGraph, uses: &[u32], producers: &[Option<usize>], i: usize, b: &Binary) -> Option<usize> {
    let shape = &g.value(b.output).shape;
    let apart = b.a != b.b && g.value(b.a).shape == *shape && g.value(b.b).shape == *shape;
    let constant = [b.a, b.b].iter().any(|&id| g.value(id).constant.is_some());
    if !apart || constant || matches!(b.rule, BinaryRule::Float(_)) {
        return None;
    }
    // The later of the two, so that the other operand is there already.
    let a = linear(g, uses, producers, b.a);
    let z = linear(g, uses, producers, b.b);
    let (j, value_is_a) = match (a, z) {
        (Some(a), Some(z)) if a > z => (a, true),
        (_, Some(z)) => (z, false),
        (Some(a), None) => (a, true),
        (None, None) => return None,
    };
    let other = if value_is_a { b.b } else { b.a };
    let dtype = g.value(b.output).dtype;
    requant(&mut g.nodes[j])?.post.push(Post::Binary { other, value_is_a, rule: b.rule, dtype });
    absorb(g, j, i, b.output);
    if producers[other.0 as usize].is_some_and(|k| k > j) {
        // The other operand is made later: the fused operation takes the place of the combination.
        g.nodes.swap(i, j);
        return Some(i);
    }
    Some(j)
}
