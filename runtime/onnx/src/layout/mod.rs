//! Stage "plan": every value gets its place.
//!
//! From the back: an output's bytes, a join's parts and whatever a view shows are demanded of the node that makes
//! them, so that it writes them where they are wanted. From the front: what was not demanded gets a buffer of its
//! own layout, views become strides, and where neither works a Remap copies.

mod class;
mod emit;
mod place;

use crate::import::views::View;
use crate::quant::qgraph::{Kind, QGraph};
use class::Class;
use pilotlight_plan::{Buffer, Op, Plan, Space, TensorId, row_major};
use place::{Place, is_pixels, is_rows, own};

/// What the backward pass decided for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Writes its place, or is a view of its input.
    Direct,
    /// A view whose input was asked to lie so that nothing is to be done.
    Pushed,
    /// Writes a buffer of its own and is copied to the place demanded.
    Copied,
}

struct Layout<'g> {
    g: &'g QGraph,
    classes: Vec<Class>,
    uses: Vec<u32>,
    buffers: Vec<Buffer>,
    /// Demanded or chosen places by value.
    place: Vec<Option<Place>>,
    way: Vec<Way>,
    /// For each join, which parts are copied.
    copied: Vec<Vec<usize>>,
    /// Outputs that are copied at the end.
    last: Vec<usize>,
}

/// Gives every value a place.
pub(crate) fn plan(g: QGraph) -> Plan {
    let mut l = Layout {
        classes: class::classes(&g),
        uses: g.uses(),
        buffers: vec![],
        place: vec![None; g.values.len()],
        way: vec![Way::Direct; g.nodes.len()],
        copied: vec![vec![]; g.nodes.len()],
        last: vec![],
        g: &g,
    };
    l.borders();
    l.backward();
    emit::emit(l)
}

impl Layout<'_> {
    fn buffer(&mut self, space: Space, bytes: u64) -> u32 {
        self.buffers.push(Buffer { space, offset: 0, bytes });
        self.buffers.len() as u32 - 1
    }

    fn dense(&mut self, id: TensorId, space: Space) -> Place {
        let v = self.g.value(id);
        let bytes = v.shape.iter().map(|&d| u64::from(d)).product::<u64>() * v.dtype.bytes() as u64;
        let strides = row_major(&v.shape);
        Place { buffer: self.buffer(space, bytes), offset: 0, strides }
    }

    /// A buffer of the value's own layout.
    fn fresh(&mut self, id: TensorId) -> Place {
        let v = self.g.value(id);
        let (strides, bytes) = own(self.classes[id.0 as usize], v.dtype, &v.shape);
        Place { buffer: self.buffer(Space::Arena, bytes), offset: 0, strides }
    }

    /// Slots of the caller and constants.
    fn borders(&mut self) {
        for (i, &id) in self.g.inputs.iter().enumerate() {
            self.place[id.0 as usize] = Some(self.dense(id, Space::Input(i as u32)));
        }
        for i in 0..self.g.values.len() {
            let id = TensorId(i as u32);
            if self.g.value(id).constant.is_some() && self.uses[i] > 0 {
                self.place[i] = Some(self.dense(id, Space::Weights));
            }
        }
        for (i, &(_, id)) in self.g.outputs.iter().enumerate() {
            let slot = self.dense(id, Space::Output(i as u32));
            if self.uses[id.0 as usize] == 1 && self.place[id.0 as usize].is_none() {
                self.place[id.0 as usize] = Some(slot);
            } else {
                self.last.push(i);
            }
        }
    }

    fn backward(&mut self) {
        let g = self.g;
        for i in (0..g.nodes.len()).rev() {
            let out = g.nodes[i].kind.writes();
            let demanded = self.place[out.0 as usize].clone();
            match &g.nodes[i].kind {
                Kind::Op(op) => {
                    if demanded.is_some_and(|p| !can_write(op, &g.value(out).shape, &p.strides)) {
                        self.way[i] = Way::Copied;
                    }
                }
                Kind::View { input, view, .. } => {
                    if let Some(p) = demanded {
                        self.push_view(i, *input, view, out, &p);
                    }
                }
                Kind::Concat { inputs, output, axis } => {
                    let p = match demanded {
                        Some(p) => p,
                        None => self.fresh(*output),
                    };
                    self.place[output.0 as usize] = Some(p.clone());
                    self.push_parts(i, inputs, *output, *axis, &p);
                }
            }
        }
    }

    fn push_view(&mut self, i: usize, input: TensorId, view: &View, out: TensorId, p: &Place) {
        let x = self.g.value(input);
        let free = self.place[input.0 as usize].is_none() && self.uses[input.0 as usize] == 1;
        match p.source(&x.shape, view, &self.g.value(out).shape) {
            Some(source) if free => {
                self.place[input.0 as usize] = Some(source);
                self.way[i] = Way::Pushed;
            }
            _ => self.way[i] = Way::Copied,
        }
    }

    fn push_parts(&mut self, i: usize, inputs: &[TensorId], output: TensorId, axis: usize, p: &Place) {
        let y = self.g.value(output);
        let natural = p.strides == own(self.classes[output.0 as usize], y.dtype, &y.shape).0
            || is_pixels(&y.shape, &p.strides);
        let mut start = 0;
        for (k, &input) in inputs.iter().enumerate() {
            let slot = &mut self.place[input.0 as usize];
            let alone = self.uses[input.0 as usize] == 1;
            // Other readers of a part must be able to read it where the join wants it.
            if slot.is_none() && (alone || natural) {
                *slot = Some(p.part(y.dtype, axis, start));
            } else {
                self.copied[i].push(k);
            }
            start += self.g.value(input).shape[axis];
        }
    }
}

/// Whether an operation can write these strides.
fn can_write(op: &Op, shape: &[u32], strides: &[u64]) -> bool {
    match op {
        Op::Conv(_) | Op::Pool(_) | Op::Bilinear(_) => is_pixels(shape, strides),
        Op::Gemm(_) => is_rows(shape, strides, false),
        _ => true,
    }
}

/// Whether an operation can read its operand `k` with these strides, and the class that it wants instead.
fn can_read(op: &Op, k: usize, shape: &[u32], strides: &[u64]) -> Result<(), Class> {
    match op {
        Op::Conv(_) | Op::Pool(_) | Op::Bilinear(_) if k == 0 && !is_pixels(shape, strides) => {
            Err(Class::Pixels)
        }
        Op::Gemm(_) if k == 0 && !is_rows(shape, strides, true) => Err(Class::Rows),
        _ => Ok(()),
    }
}
