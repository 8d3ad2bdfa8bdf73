//! Operations on one element at a time: tables, sums, products, conversions, copies.

use super::epilogue::{combine, table_bytes};
use super::kernels::{Combine, Quantise, Source, Target};
use super::nest::Nest;
use super::step::{Call, Context, Scratch};
use pilotlight_plan::{Binary, Convert, DType, Plan, Remap, Table};

/// A lowered operation on elements.
pub(super) struct Pointwise {
    nest: Nest,
    kind: Kind,
}

enum Kind {
    Table(Box<[u8; 256]>),
    Combine(Combine),
    Quantise(Quantise),
    /// Per tensor: scale, zero point, whether i8.
    Dequantise(f32, i32, bool),
    /// Elements of this many bytes; the fill value's bits.
    Copy(usize, u64),
    /// As `Copy` of bytes through a table.
    Map(Box<[u8; 256]>, u8),
}

/// A table on bytes that lie alike in input and output.
pub(super) fn table(plan: &Plan, t: &Table) -> Option<Pointwise> {
    let nest = Nest::new(plan, t.output, &[t.input]);
    let fits = plan.tensor(t.output).dtype.is_int8() && nest.is_dense(2);
    fits.then(|| Pointwise { nest, kind: Kind::Table(table_bytes(plan, t.table)) })
}

/// An integer rule on bytes that lie alike in all three tensors, or are repeated by row.
pub(super) fn binary(plan: &Plan, b: &Binary) -> Option<Pointwise> {
    let dtype = |id| plan.tensor(id).dtype;
    let rule = combine(&b.rule, dtype(b.a), dtype(b.b), dtype(b.output))?;
    let nest = Nest::new(plan, b.output, &[b.a, b.b]);
    nest.is_dense(3).then_some(Pointwise { nest, kind: Kind::Combine(rule) })
}

/// Quantisation by one scale.
pub(super) fn quantise(plan: &Plan, c: &Convert) -> Option<Pointwise> {
    let [q] = c.quant[..] else { return None };
    let signed = plan.tensor(c.output).dtype == DType::I8;
    let (lo, hi) = if signed { (-128, 127) } else { (0, 255) };
    let rule = Quantise {
        scale: q.scale,
        zero: q.zero_point,
        lo: (lo - q.zero_point) as f32,
        hi: (hi - q.zero_point) as f32,
    };
    // Along the floats, which a row-major input has in whole vectors.
    let lists = vec![None; plan.tensor(c.input).shape.len()];
    let nest = Nest::with_lists(plan, c.output, &[c.input], &lists, 1);
    Some(Pointwise { nest, kind: Kind::Quantise(rule) })
}

/// Dequantisation of bytes by one scale.
pub(super) fn dequantise(plan: &Plan, c: &Convert) -> Option<Pointwise> {
    let [q] = c.quant[..] else { return None };
    let dtype = plan.tensor(c.input).dtype;
    let kind = Kind::Dequantise(q.scale, q.zero_point, dtype == DType::I8);
    dtype.is_int8().then(|| Pointwise { nest: Nest::new(plan, c.output, &[c.input]), kind })
}

/// Elements moved to other places.
pub(super) fn remap(plan: &Plan, r: &Remap) -> Option<Pointwise> {
    // Along the output or the input, whichever makes the inner loop longer.
    let [by_output, by_input] =
        [0, 1].map(|lead| Nest::with_lists(plan, r.output, &[r.input], &r.axes, lead));
    let size = plan.tensor(r.output).dtype.bytes();
    let dense = by_output.steps[..2] == [size; 2];
    let nest = if dense || by_output.cols >= by_input.cols { by_output } else { by_input };
    let kind = match r.table {
        Some(t) => Kind::Map(table_bytes(plan, t), r.fill as u8),
        None => Kind::Copy(size, r.fill),
    };
    Some(Pointwise { nest, kind })
}

impl Call for Pointwise {
    unsafe fn run(&self, context: &Context, thread: usize, _: &mut Scratch) {
        let nest = &self.nest;
        let bases = nest.places.map(|p| context.bases.at(p));
        let kernels = &context.kernels;
        nest.each(thread, context.threads, |grid, at, there| {
            let target = Target { at: bases[0].wrapping_add(at[0]), stride: nest.row_stride(0) };
            let source = |i: usize| Source { at: bases[i].wrapping_add(at[i]), stride: nest.row_stride(i) };
            let [to, from, _] = nest.steps;
            // One element of every row at a time, for kinds without a kernel for grids.
            let each = |f: &mut dyn FnMut(*const u8, *mut u8)| {
                for r in 0..grid.rows {
                    for c in 0..grid.cols {
                        let x = source(1).at.wrapping_add(r * nest.row_stride(1) + c * from);
                        f(x, target.at.wrapping_add(r * target.stride + c * to));
                    }
                }
            };
            // SAFETY: the nest's offsets are those of elements inside the tensors, and this thread's alone.
            unsafe {
                match &self.kind {
                    Kind::Table(t) => (kernels.table)(t, grid, source(1), target),
                    Kind::Combine(rule) => (kernels.combine)(rule, grid, source(1), source(2), target),
                    Kind::Quantise(q) => {
                        for r in 0..grid.rows {
                            let x = source(1).at.add(r * nest.row_stride(1)).cast();
                            (kernels.quantise)(q, grid.cols, x, from, target.at.add(r * target.stride), to);
                        }
                    }
                    Kind::Dequantise(scale, zero, signed) => each(&mut |x, y| {
                        let q = if *signed { i32::from(*x as i8) } else { i32::from(*x) };
                        y.cast::<f32>().write_unaligned((q - zero) as f32 * scale);
                    }),
                    Kind::Copy(size, _) if there && to == *size && from == *size => {
                        for r in 0..grid.rows {
                            let x = source(1).at.add(r * nest.row_stride(1));
                            std::ptr::copy_nonoverlapping(
                                x,
                                target.at.add(r * target.stride),
                                grid.cols * size,
                            );
                        }
                    }
                    Kind::Copy(size, fill) => {
                        let fill = fill.to_le_bytes();
                        let fixed = |x: *const u8| if there { x } else { fill.as_ptr() };
                        match size {
                            1 => each(&mut |x, y| *y = *fixed(x)),
                            4 => each(&mut |x, y| *y.cast::<[u8; 4]>() = *fixed(x).cast::<[u8; 4]>()),
                            _ => each(&mut |x, y| *y.cast::<[u8; 8]>() = *fixed(x).cast::<[u8; 8]>()),
                        }
                    }
                    Kind::Map(t, _) if there && nest.is_dense(2) => {
                        (kernels.table)(t, grid, source(1), target);
                    }
                    Kind::Map(t, fill) => {
                        each(&mut |x, y| *y = if there { t[usize::from(*x)] } else { *fill });
                    }
                }
            }
        });
    }
}
