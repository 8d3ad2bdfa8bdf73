//! Stage "fuse": what can be one step becomes one.
//!
//! Every rewrite keeps every bit of the outputs; the steps' names say which nodes went into them.

mod pads;
mod posts;
mod tables;

use crate::quant::qgraph::{Kind, QGraph};
use crate::quant::visit;
use pilotlight_plan::{Op, TensorId};

/// Fuses until nothing changes.
pub(crate) fn fuse(mut g: QGraph) -> QGraph {
    sweep(&mut g);
    // Each round removes nodes, so there are no more rounds than nodes.
    loop {
        let before = g.nodes.len();
        tables::fuse(&mut g);
        sweep(&mut g);
        posts::fuse(&mut g);
        pads::fuse(&mut g);
        sweep(&mut g);
        if g.nodes.len() == before {
            return g;
        }
    }
}

/// Removes the nodes whose results nothing reads.
fn sweep(g: &mut QGraph) {
    let mut needed = vec![false; g.values.len()];
    for (_, id) in &g.outputs {
        needed[id.0 as usize] = true;
    }
    let mut keep = vec![false; g.nodes.len()];
    for (i, n) in g.nodes.iter().enumerate().rev() {
        if needed[n.kind.writes().0 as usize] {
            keep[i] = true;
            for id in n.kind.reads() {
                needed[id.0 as usize] = true;
            }
        }
    }
    let mut keep = keep.into_iter();
    g.nodes.retain(|_| keep.next().unwrap_or(false));
}

/// Lets the readers of each first value read the second; pairs are in the order of the nodes.
fn redirect(g: &mut QGraph, pairs: &[(TensorId, TensorId)]) {
    if pairs.is_empty() {
        return;
    }
    let mut to: Vec<TensorId> = (0..g.values.len() as u32).map(TensorId).collect();
    for &(old, new) in pairs {
        to[old.0 as usize] = to[new.0 as usize];
    }
    for n in &mut g.nodes {
        for id in visit::reads_mut(&mut n.kind) {
            *id = to[id.0 as usize];
        }
    }
    for (_, id) in &mut g.outputs {
        *id = to[id.0 as usize];
    }
}

/// The 256 bytes of a node that is an 8-bit table, and what it reads.
fn as_table<'g>(g: &'g QGraph, kind: &Kind) -> Option<(TensorId, &'g [u8])> {
    match kind {
        Kind::Op(Op::Table(t)) if g.value(t.output).dtype.is_int8() => Some((t.input, g.blobs.get(t.table))),
        _ => None,
    }
}

/// `second` of `first`.
fn compose(first: &[u8], second: &[u8]) -> Vec<u8> {
    first.iter().map(|&v| second[usize::from(v)]).collect()
}

/// Names of two nodes that became one.
fn join(first: &[String], second: &[String]) -> Vec<String> {
    let mut all = first.to_vec();
    all.extend(second.iter().filter(|n| !first.contains(n)).cloned());
    all
}
