//! A QuantizeLinear behind a move goes in front of it, so that what computes the value can give integers.

use crate::import::graph::{Graph, Type, Value, ValueId};

/// Moves each per-tensor QuantizeLinear in front of the moves (and maximum pools) that it alone reads.
///
/// Exact: rounding is monotone and works element by element.
///
/// Source: ONNX Runtime `qdq_propagation.cc`.
pub(super) fn quantise_earlier(g: &mut Graph) {
    const MOVES: [&str; 6] = ["MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice"];
    let mut readers = vec![0_u32; g.values.len()];
    let mut maker: Vec<Option<usize>> = vec![None; g.values.len()];
    for (i, n) in g.nodes.iter().enumerate() {
        for v in n.inputs.iter().flatten() {
            readers[v.0 as usize] += 1;
        }
        for v in n.outputs.iter().flatten() {
            maker[v.0 as usize] = Some(i);
        }
    }
    for v in &g.outputs {
        readers[v.0 as usize] += 1;
    }
    // From the back, so that a QuantizeLinear passes several moves in turn.
    for at in (0..g.nodes.len()).rev() {
        let q = &g.nodes[at];
        let whole = q.op == "QuantizeLinear"
            && q.inputs
                .iter()
                .skip(1)
                .flatten()
                .all(|&v| g.value(v).constant.as_ref().is_some_and(|c| c.len() == 1));
        let Some(moved) = q.input(0).filter(|v| whole && readers[v.0 as usize] == 1) else {
            continue;
        };
        let Some(m) = maker[moved.0 as usize].filter(|&m| MOVES.contains(&g.nodes[m].op.as_str())) else {
            continue;
        };
        let Some(source) = g.nodes[m].input(0).filter(|v| {
            let from_dequantized = maker[v.0 as usize].is_some_and(|p| g.nodes[p].op == "DequantizeLinear");
            readers[v.0 as usize] == 1 && maker[v.0 as usize].is_some() && !from_dequantized
        }) else {
            continue;
        };
        let single = g.nodes[m].outputs.iter().flatten().count() == 1;
        let (Some(Some(out)), true) = (g.nodes[at].outputs.first().copied(), single) else {
            continue;
        };
        let (Some(from), Some(to)) = (g.value(source).ty.clone(), g.value(out).ty.clone()) else {
            continue;
        };
        let early = ValueId(g.values.len() as u32);
        g.values.push(Value {
            name: format!("{}_quantized", g.value(source).name),
            ty: Some(Type { dtype: to.dtype, shape: from.shape }),
            constant: None,
            problem: None,
        });
        readers.push(1);
        maker.push(Some(m));
        g.nodes.swap(m, at);
        g.nodes[m].inputs[0] = Some(source);
        g.nodes[m].outputs = vec![Some(early)];
        g.nodes[at].inputs[0] = Some(early);
        g.nodes[at].outputs = vec![Some(out)];
        maker[out.0 as usize] = Some(at);
        // The slot that held the move now holds the QuantizeLinear; it is visited later in this loop.
    }
}
