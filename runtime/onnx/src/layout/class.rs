//! Which layout each value wants.

use crate::import::views::View;
use crate::quant::qgraph::{Kind, QGraph};
use crate::quant::visit;
use pilotlight_plan::{Binary, Convert, Epilogue, Op, Post, TensorId};

/// A layout; the later one wins among values that share theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Row-major.
    Plain,
    /// Row-major, rows padded.
    Rows,
    /// Channels side by side, pixels padded.
    Pixels,
}

/// The layout of every value: element by element operations, joins and slices share theirs.
pub(crate) fn classes(g: &QGraph) -> Vec<Class> {
    let mut sets = Sets { parent: (0..g.values.len()).collect() };
    let mut wants = vec![Class::Plain; g.values.len()];
    let want = |id: TensorId, class: Class, wants: &mut Vec<Class>| {
        let slot = &mut wants[id.0 as usize];
        *slot = (*slot).max(class);
    };
    let fixed = |id: TensorId| g.inputs.contains(&id) || g.value(id).constant.is_some();
    let mut together: Vec<(TensorId, TensorId)> = vec![];
    for n in &g.nodes {
        let out = n.kind.writes();
        match &n.kind {
            Kind::Op(op) => match op {
                Op::Conv(_) | Op::Pool(_) | Op::Bilinear(_) => {
                    want(op.reads()[0], Class::Pixels, &mut wants);
                    want(out, Class::Pixels, &mut wants);
                }
                Op::Gemm(m) => {
                    want(m.input, Class::Rows, &mut wants);
                    want(out, Class::Rows, &mut wants);
                }
                Op::MatMul(m) => want(m.a, Class::Rows, &mut wants),
                Op::Mean(m) if g.value(m.input).shape.len() == 4 && m.axes == [2, 3] => {
                    want(m.input, Class::Pixels, &mut wants);
                    want(out, Class::Pixels, &mut wants);
                }
                Op::Binary(Binary { a, b, output, .. }) => {
                    for id in [a, b] {
                        if g.value(*id).shape == g.value(*output).shape {
                            together.push((*id, out));
                        }
                    }
                }
                Op::Table(_) | Op::Unary(_) | Op::Cast(_) | Op::Softmax(_) | Op::Remap(_) => {
                    together.push((op.reads()[0], out));
                }
                Op::Quantize(Convert { input, .. }) | Op::Dequantize(Convert { input, .. }) => {
                    together.push((*input, out));
                }
                Op::Mean(_) | Op::ArgMax(_) => {}
            },
            Kind::View { input, view: View::Index(_), .. } => together.push((*input, out)),
            Kind::View { .. } => {}
            Kind::Concat { inputs, .. } => together.extend(inputs.iter().map(|&i| (i, out))),
        }
        if let Kind::Op(op) = &n.kind
            && let Some(Epilogue::Requant(r)) = visit::epilogue(op)
        {
            for post in &r.post {
                if let Post::Binary { other, .. } = post {
                    together.push((*other, out));
                }
            }
        }
    }
    for (a, b) in together {
        if !fixed(a) && !fixed(b) {
            sets.join(a.0 as usize, b.0 as usize);
        }
    }
    let mut best = vec![Class::Plain; wants.len()];
    for (i, &w) in wants.iter().enumerate() {
        let root = sets.root(i);
        best[root] = best[root].max(w);
    }
    (0..wants.len()).map(|i| best[sets.root(i)]).collect()
}

/// Sets of values that share a layout.
struct Sets {
    parent: Vec<usize>,
}

impl Sets {
    fn root(&mut self, mut i: usize) -> usize {
        while self.parent[i] != i {
            self.parent[i] = self.parent[self.parent[i]];
            i = self.parent[i];
        }
        i
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[a.max(b)] = a.min(b);
    }
}
