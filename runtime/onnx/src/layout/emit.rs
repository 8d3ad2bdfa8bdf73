//! The forward pass: tensors, steps, weights.

use super::class::Class;
use super::place::{Place, own};
use super::{Layout, Way, can_read};
use crate::import::views::View;
use crate::quant::qgraph::Kind;
use crate::quant::visit;
use pilotlight_plan::{
    Blob, Buffer, BufferId, Op, Plan, Remap, Space, Step, Tensor, TensorId, Weights, arena,
};
use std::collections::BTreeMap;

struct Emit<'g> {
    l: Layout<'g>,
    tensors: Vec<Tensor>,
    steps: Vec<Step>,
    /// The tensor of each value.
    of: Vec<Option<TensorId>>,
    /// Copies made for readers that could not take the value as it lies.
    copies: BTreeMap<(TensorId, Class), TensorId>,
}

pub(super) fn emit(l: Layout<'_>) -> Plan {
    let g = l.g;
    let mut e =
        Emit { of: vec![None; g.values.len()], tensors: vec![], steps: vec![], copies: BTreeMap::new(), l };
    let inputs: Vec<TensorId> = g.inputs.iter().map(|&id| e.value(id)).collect();
    for i in 0..g.nodes.len() {
        e.node(i);
    }
    let outputs = (0..g.outputs.len()).map(|i| e.output(i)).collect();
    let mut plan = Plan {
        name: g.name.clone(),
        inputs,
        outputs,
        tensors: e.tensors,
        buffers: e.l.buffers.clone(),
        steps: e.steps,
        arena_bytes: 0,
        arena_lower_bound: 0,
        weights: Weights::default(),
    };
    weights(&e.l, &e.of, &mut plan);
    plan
}

impl Emit<'_> {
    /// A tensor with the type of a value, at a place, under a shape.
    fn tensor(&mut self, like: TensorId, name: String, shape: Vec<u32>, place: &Place) -> TensorId {
        let v = self.l.g.value(like);
        self.tensors.push(Tensor {
            name,
            dtype: v.dtype,
            shape,
            quant: v.quant,
            buffer: BufferId(place.buffer),
            offset: place.offset,
            strides: place.strides.clone(),
        });
        TensorId(self.tensors.len() as u32 - 1)
    }

    /// The tensor of a value that lies at its place, or in a buffer of its own.
    fn value(&mut self, id: TensorId) -> TensorId {
        if let Some(t) = self.of[id.0 as usize] {
            return t;
        }
        let place = match self.l.place[id.0 as usize].clone() {
            Some(p) => p,
            None => {
                let p = self.l.fresh(id);
                self.l.place[id.0 as usize] = Some(p.clone());
                p
            }
        };
        let v = self.l.g.value(id);
        let slot = self.l.buffers[place.buffer as usize].space;
        let name = match slot {
            Space::Output(o) if self.l.g.outputs[o as usize].1 == id => {
                self.l.g.outputs[o as usize].0.clone()
            }
            _ => v.name.clone(),
        };
        let t = self.tensor(id, name, v.shape.clone(), &place);
        self.of[id.0 as usize] = Some(t);
        t
    }

    fn place(&self, t: TensorId) -> Place {
        let t = &self.tensors[t.0 as usize];
        Place { buffer: t.buffer.0, offset: t.offset, strides: t.strides.clone() }
    }

    fn remap(
        &mut self,
        names: &[String],
        input: TensorId,
        output: TensorId,
        axes: Vec<Option<Vec<i32>>>,
        fill: u64,
    ) {
        let op = Op::Remap(Remap { input, output, axes, fill, table: None });
        self.steps.push(Step { nodes: names.to_vec(), op });
    }

    fn copy(&mut self, names: &[String], input: TensorId, output: TensorId) {
        let rank = self.tensors[input.0 as usize].shape.len();
        self.remap(names, input, output, vec![None; rank], 0);
    }

    fn node(&mut self, i: usize) {
        let g = self.l.g;
        let n = &g.nodes[i];
        let out = n.kind.writes();
        match &n.kind {
            Kind::Op(op) => {
                let demanded = match self.l.way[i] {
                    Way::Copied => self.l.place[out.0 as usize].take(),
                    _ => None,
                };
                let mut op = op.clone();
                let reads = op.reads();
                for (k, id) in reads.iter().enumerate() {
                    let t = self.readable(&n.names, &op, k, *id);
                    if let Some(slot) = visit::op_reads_mut(&mut op).into_iter().nth(k) {
                        *slot = t;
                    }
                }
                let t = self.value(out);
                *visit::op_write_mut(&mut op) = t;
                self.steps.push(Step { nodes: n.names.clone(), op });
                if let Some(p) = demanded {
                    let v = g.value(out);
                    let copy = self.demanded_tensor(out, v.shape.clone(), &p);
                    self.copy(&n.names, t, copy);
                    // Readers behind an output slot or a join take the copy's twin, which is laid out for them.
                    self.l.place[out.0 as usize] = Some(p);
                    self.of[out.0 as usize] =
                        Some(if g.outputs.iter().any(|o| o.1 == out) { copy } else { t });
                }
            }
            Kind::View { input, view, fill, .. } => self.view(i, *input, view, *fill, out),
            Kind::Concat { inputs, axis, .. } => {
                let whole = self.value(out);
                let p = self.place(whole);
                let starts: Vec<u32> = inputs
                    .iter()
                    .scan(0, |at, &x| {
                        let start = *at;
                        *at += g.value(x).shape[*axis];
                        Some(start)
                    })
                    .collect();
                for k in self.l.copied[i].clone() {
                    let x = self.value(inputs[k]);
                    let v = g.value(inputs[k]);
                    let part = p.part(v.dtype, *axis, starts[k]);
                    let t = self.tensor(inputs[k], format!("{}_part", v.name), v.shape.clone(), &part);
                    self.copy(&n.names, x, t);
                }
            }
        }
    }

    /// A tensor at a demanded place, with the output's name where it is one.
    fn demanded_tensor(&mut self, id: TensorId, shape: Vec<u32>, p: &Place) -> TensorId {
        let name = match self.l.buffers[p.buffer as usize].space {
            Space::Output(o) => self.l.g.outputs[o as usize].0.clone(),
            _ => format!("{}_copy", self.l.g.value(id).name),
        };
        self.tensor(id, name, shape, p)
    }

    /// Operand `k` in a layout that the operation can read.
    fn readable(&mut self, names: &[String], op: &Op, k: usize, id: TensorId) -> TensorId {
        let t = self.value(id);
        let v = self.l.g.value(id);
        let Err(class) = can_read(op, k, &v.shape, &self.tensors[t.0 as usize].strides) else {
            return t;
        };
        if let Some(&copy) = self.copies.get(&(id, class)) {
            return copy;
        }
        let (strides, bytes) = own(class, v.dtype, &v.shape);
        let place = Place { buffer: self.l.buffer(Space::Arena, bytes), offset: 0, strides };
        let copy = self.tensor(id, format!("{}_laid_out", v.name), v.shape.clone(), &place);
        self.copy(names, t, copy);
        self.copies.insert((id, class), copy);
        copy
    }

    fn view(&mut self, i: usize, input: TensorId, view: &View, fill: u64, out: TensorId) {
        let g = self.l.g;
        let names = &g.nodes[i].names;
        let x = self.value(input);
        if self.l.way[i] == Way::Pushed {
            self.value(out);
            return;
        }
        let (xs, ys) = (&g.value(input).shape, &g.value(out).shape);
        let dtype = g.value(input).dtype;
        let at = self.place(x);
        if self.l.way[i] == Way::Direct
            && let Some(seen) = at.seen(dtype, xs, view)
        {
            self.l.place[out.0 as usize] = Some(seen);
            self.value(out);
            return;
        }
        if let View::Index(axes) = view {
            let y = self.value(out);
            self.remap(names, x, y, axes.clone(), fill);
            return;
        }
        // A copy that ends in the wanted order: from the view of the source, or into the view of the result.
        let name = g.value(out).name.clone();
        if let Some(seen) = at.seen(dtype, xs, view) {
            let y = self.value(out);
            let seen = self.tensor(input, format!("{name}_view"), ys.clone(), &seen);
            self.copy(names, seen, y);
            return;
        }
        let y = self.value(out);
        if let Some(source) = self.place(y).source(xs, view, ys) {
            let t = self.tensor(input, format!("{name}_view"), xs.clone(), &source);
            self.copy(names, x, t);
            return;
        }
        // Neither: through a dense copy.
        let (strides, bytes) = own(Class::Plain, dtype, xs);
        let dense = Place { buffer: self.l.buffer(Space::Arena, bytes), offset: 0, strides };
        let a = self.tensor(input, format!("{name}_dense"), xs.clone(), &dense);
        self.copy(names, x, a);
        let strides = pilotlight_plan::row_major(ys);
        let b = self.tensor(input, format!("{name}_view"), ys.clone(), &Place { strides, ..dense });
        self.copy(names, b, y);
    }

    fn output(&mut self, i: usize) -> TensorId {
        let g = self.l.g;
        let (name, id) = &g.outputs[i];
        let t = self.value(*id);
        if !self.l.last.contains(&i) {
            return t;
        }
        let v = g.value(*id);
        let slot = self.l.buffers.iter().position(|b| b.space == Space::Output(i as u32)).unwrap_or(0);
        let strides = pilotlight_plan::row_major(&v.shape);
        let place = Place { buffer: slot as u32, offset: 0, strides };
        let out = self.tensor(*id, name.clone(), v.shape.clone(), &place);
        self.copy(std::slice::from_ref(name), t, out);
        out
    }
}

/// Packs the constants that are used and points everything to them.
fn weights(l: &Layout<'_>, of: &[Option<TensorId>], plan: &mut Plan) {
    let mut bytes: Vec<u8> = vec![];
    let mut moved: BTreeMap<u64, u64> = BTreeMap::new();
    let mut keep = |blob: Blob| {
        *moved.entry(blob.offset).or_insert_with(|| {
            bytes.resize(arena::align(bytes.len() as u64) as usize, 0);
            let at = bytes.len() as u64;
            bytes.extend(l.g.blobs.get(blob));
            at
        })
    };
    for step in &mut plan.steps {
        for blob in visit::blobs_mut(&mut step.op) {
            blob.offset = keep(*blob);
        }
    }
    for (i, v) in l.g.values.iter().enumerate() {
        if let (Some(blob), Some(t)) = (v.constant, of[i]) {
            let b = plan.tensors[t.0 as usize].buffer.0 as usize;
            plan.buffers[b].offset = keep(blob);
        }
    }
    plan.weights = Weights::from(bytes);
    drop_unused(plan);
}

/// Removes buffers that no tensor lies in, and tensors that nothing names.
fn drop_unused(plan: &mut Plan) {
    let mut named = vec![false; plan.tensors.len()];
    let steps = plan.steps.iter().flat_map(|s| s.op.reads().into_iter().chain([s.op.writes()]));
    for id in steps.chain(plan.inputs.iter().copied()).chain(plan.outputs.iter().copied()) {
        named[id.0 as usize] = true;
    }
    let mut to = vec![TensorId(0); named.len()];
    let mut tensors = vec![];
    let mut buffers: Vec<Buffer> = vec![];
    let mut buffer_to: BTreeMap<u32, u32> = BTreeMap::new();
    for (i, t) in plan.tensors.iter().enumerate().filter(|(i, _)| named[*i]) {
        let b = *buffer_to.entry(t.buffer.0).or_insert_with(|| {
            buffers.push(plan.buffers[t.buffer.0 as usize]);
            buffers.len() as u32 - 1
        });
        to[i] = TensorId(tensors.len() as u32);
        tensors.push(Tensor { buffer: BufferId(b), ..t.clone() });
    }
    for step in &mut plan.steps {
        for id in visit::op_reads_mut(&mut step.op) {
            *id = to[id.0 as usize];
        }
        let id = visit::op_write_mut(&mut step.op);
        *id = to[id.0 as usize];
    }
    for id in plan.inputs.iter_mut().chain(&mut plan.outputs) {
        *id = to[id.0 as usize];
    }
    (plan.tensors, plan.buffers) = (tensors, buffers);
}
