//! The tensors and blobs that an operation names, to be changed.

use super::qgraph::Kind;
use pilotlight_plan::*;

/// Every tensor that a node reads.
pub(crate) fn reads_mut(kind: &mut Kind) -> Vec<&mut TensorId> {
    match kind {
        Kind::View { input, .. } => vec![input],
        Kind::Concat { inputs, .. } => inputs.iter_mut().collect(),
        Kind::Op(op) => op_reads_mut(op),
    }
}

/// Every tensor that an operation reads.
pub(crate) fn op_reads_mut(op: &mut Op) -> Vec<&mut TensorId> {
    fn others(e: &mut Epilogue) -> impl Iterator<Item = &mut TensorId> {
        let post = match e {
            Epilogue::Requant(r) => r.post.as_mut_slice(),
            _ => &mut [],
        };
        post.iter_mut().filter_map(|p| match p {
            Post::Binary { other, .. } => Some(other),
            Post::Table { .. } => None,
        })
    }
    match op {
        Op::Conv(c) => std::iter::once(&mut c.input).chain(others(&mut c.linear.epilogue)).collect(),
        Op::Gemm(g) => std::iter::once(&mut g.input).chain(others(&mut g.linear.epilogue)).collect(),
        Op::MatMul(m) => [&mut m.a, &mut m.b].into_iter().chain(others(&mut m.epilogue)).collect(),
        Op::Binary(b) => vec![&mut b.a, &mut b.b],
        Op::Pool(Pool { input, .. })
        | Op::Mean(Mean { input, .. })
        | Op::Table(Table { input, .. })
        | Op::Unary(Unary { input, .. })
        | Op::Remap(Remap { input, .. })
        | Op::Bilinear(Bilinear { input, .. })
        | Op::Softmax(Softmax { input, .. })
        | Op::ArgMax(ArgMax { input, .. })
        | Op::Quantize(Convert { input, .. })
        | Op::Dequantize(Convert { input, .. })
        | Op::Cast(Cast { input, .. }) => vec![input],
    }
}

/// The tensor that an operation writes.
pub(crate) fn op_write_mut(op: &mut Op) -> &mut TensorId {
    match op {
        Op::Conv(Conv { output, .. })
        | Op::Gemm(Gemm { output, .. })
        | Op::MatMul(MatMul { output, .. })
        | Op::Pool(Pool { output, .. })
        | Op::Mean(Mean { output, .. })
        | Op::Binary(Binary { output, .. })
        | Op::Table(Table { output, .. })
        | Op::Unary(Unary { output, .. })
        | Op::Remap(Remap { output, .. })
        | Op::Bilinear(Bilinear { output, .. })
        | Op::Softmax(Softmax { output, .. })
        | Op::ArgMax(ArgMax { output, .. })
        | Op::Quantize(Convert { output, .. })
        | Op::Dequantize(Convert { output, .. })
        | Op::Cast(Cast { output, .. }) => output,
    }
}

/// The epilogue of an operation that has one, to be changed.
pub(crate) fn epilogue_mut(op: &mut Op) -> Option<&mut Epilogue> {
    match op {
        Op::Conv(c) => Some(&mut c.linear.epilogue),
        Op::Gemm(g) => Some(&mut g.linear.epilogue),
        Op::MatMul(m) => Some(&mut m.epilogue),
        _ => None,
    }
}

/// The epilogue of an operation that has one.
pub(crate) fn epilogue(op: &Op) -> Option<&Epilogue> {
    match op {
        Op::Conv(c) => Some(&c.linear.epilogue),
        Op::Gemm(g) => Some(&g.linear.epilogue),
        Op::MatMul(m) => Some(&m.epilogue),
        _ => None,
    }
}

/// Every blob that an operation names.
pub(crate) fn blobs_mut(op: &mut Op) -> Vec<&mut Blob> {
    fn linear(l: &mut Linear) -> Vec<&mut Blob> {
        let mut all = vec![&mut l.weights];
        all.extend(&mut l.bias);
        all.extend(epilogue(&mut l.epilogue));
        all
    }
    fn epilogue(e: &mut Epilogue) -> Vec<&mut Blob> {
        match e {
            Epilogue::Raw => vec![],
            Epilogue::Float { scale } => vec![scale],
            Epilogue::Requant(r) => {
                let mut all = vec![&mut r.scale];
                all.extend(r.post.iter_mut().filter_map(|p| match p {
                    Post::Table { table, .. } => Some(table),
                    Post::Binary { .. } => None,
                }));
                all
            }
        }
    }
    match op {
        Op::Conv(c) => linear(&mut c.linear),
        Op::Gemm(g) => linear(&mut g.linear),
        Op::MatMul(m) => epilogue(&mut m.epilogue),
        Op::Table(t) => vec![&mut t.table],
        Op::Remap(r) => r.table.iter_mut().collect(),
        Op::Softmax(s) => match &mut s.rule {
            SoftmaxRule::QLinear { table, .. } => vec![table],
            SoftmaxRule::Float => vec![],
        },
        Op::Pool(_)
        | Op::Mean(_)
        | Op::Binary(_)
        | Op::Unary(_)
        | Op::Bilinear(_)
        | Op::ArgMax(_)
        | Op::Quantize(_)
        | Op::Dequantize(_)
        | Op::Cast(_) => vec![],
    }
}
