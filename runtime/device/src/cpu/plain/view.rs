//! Tensors of any rank and type, element by element.

use crate::cpu::place::{Bases, Place, place, strides};
use pilotlight_plan::{DType, Plan, TensorId, validate::MAX_RANK};

/// A position in a tensor.
pub(in crate::cpu) type Index = [usize; MAX_RANK];

/// A tensor of any rank.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct View {
    pub place: Place,
    pub dtype: DType,
    pub rank: usize,
    pub shape: Index,
    /// In bytes.
    pub strides: Index,
}

/// One element of any type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::cpu) enum Value {
    Int(i32),
    Long(i64),
    Float(f32),
}

impl View {
    pub(in crate::cpu) fn new(plan: &Plan, id: TensorId) -> Self {
        let t = plan.tensor(id);
        let mut view = Self {
            place: place(plan, t),
            dtype: t.dtype,
            rank: t.shape.len(),
            shape: [1; 8],
            strides: [0; 8],
        };
        for (d, (&extent, stride)) in t.shape.iter().zip(strides(t)).enumerate() {
            (view.shape[d], view.strides[d]) = (extent as usize, stride);
        }
        view
    }

    pub(in crate::cpu) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// # Safety
    /// The index is inside the shape and the bases are the plan's.
    pub(super) unsafe fn at(&self, bases: &Bases, index: &Index) -> *mut u8 {
        let at: usize = index.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
        bases.at(self.place).wrapping_add(at)
    }

    /// # Safety
    /// As [`View::at`].
    pub(super) unsafe fn read(&self, bases: &Bases, index: &Index) -> Value {
        // SAFETY: the caller's promise; validation has checked that the view lies in its buffer.
        unsafe {
            let p = self.at(bases, index);
            match self.dtype {
                DType::U8 => Value::Int(i32::from(*p)),
                DType::I8 => Value::Int(i32::from(*p as i8)),
                DType::I32 => Value::Int(p.cast::<i32>().read_unaligned()),
                DType::I64 => Value::Long(p.cast::<i64>().read_unaligned()),
                DType::F32 => Value::Float(p.cast::<f32>().read_unaligned()),
            }
        }
    }

    /// # Safety
    /// As [`View::at`].
    pub(in crate::cpu) unsafe fn int(&self, bases: &Bases, index: &Index) -> i32 {
        // SAFETY: the caller's promise.
        match unsafe { self.read(bases, index) } {
            Value::Int(v) => v,
            Value::Long(v) => v as i32,
            Value::Float(v) => v as i32,
        }
    }

    /// # Safety
    /// As [`View::at`].
    pub(in crate::cpu) unsafe fn float(&self, bases: &Bases, index: &Index) -> f32 {
        // SAFETY: the caller's promise.
        match unsafe { self.read(bases, index) } {
            Value::Int(v) => v as f32,
            Value::Long(v) => v as f32,
            Value::Float(v) => v,
        }
    }

    /// # Safety
    /// As [`View::at`], and no other thread touches the element.
    pub(in crate::cpu) unsafe fn write(&self, bases: &Bases, index: &Index, value: Value) {
        // SAFETY: the caller's promise.
        unsafe {
            let p = self.at(bases, index);
            match value {
                Value::Int(v) if self.dtype.is_int8() => *p = v as u8,
                Value::Int(v) => p.cast::<i32>().write_unaligned(v),
                Value::Long(v) => p.cast::<i64>().write_unaligned(v),
                Value::Float(v) => p.cast::<f32>().write_unaligned(v),
            }
        }
    }

    /// The index of an element by its number in row-major order.
    pub(in crate::cpu) fn index(&self, mut number: usize) -> Index {
        let mut index = [0; MAX_RANK];
        for d in (0..self.rank).rev() {
            index[d] = number % self.shape[d];
            number /= self.shape[d];
        }
        index
    }

    /// Steps an index to the next element in row-major order.
    pub(in crate::cpu) fn advance(&self, index: &mut Index) {
        for d in (0..self.rank).rev() {
            index[d] += 1;
            if index[d] < self.shape[d] {
                return;
            }
            index[d] = 0;
        }
    }

    /// An index of this tensor as the output of a broadcast, for the operand `self`.
    pub(super) fn broadcast(&self, index: &Index, rank: usize) -> Index {
        let mut own = [0; MAX_RANK];
        for d in 0..self.rank {
            own[d] = if self.shape[d] == 1 { 0 } else { index[rank - self.rank + d] };
        }
        own
    }
}
