//! Where the elements of a tensor lie.

use pilotlight_plan::Tensor;

/// Calls `visit` with the byte offset of every element in the tensor's buffer, in row-major order.
pub fn places(t: &Tensor, mut visit: impl FnMut(usize)) {
    let shape: Vec<usize> = t.shape.iter().map(|&d| d as usize).collect();
    each_index(&shape, |index| {
        let at: u64 = index.iter().zip(&t.strides).map(|(&i, &s)| i as u64 * s).sum();
        visit(t.offset as usize + at as usize * t.dtype.bytes());
    });
}

/// The elements of a tensor from its buffer's bytes, dense in row-major order.
///
/// # Panics
/// When the buffer is shorter than the plan says.
pub fn dense(t: &Tensor, buffer: &[u8]) -> Vec<u8> {
    let size = t.dtype.bytes();
    let mut all = Vec::with_capacity(t.elements() as usize * size);
    places(t, |at| all.extend_from_slice(&buffer[at..at + size]));
    all
}

/// Calls `visit` with every index of a shape, in row-major order.
pub(crate) fn each_index(shape: &[usize], mut visit: impl FnMut(&[usize])) {
    let mut index = vec![0; shape.len()];
    loop {
        visit(&index);
        let Some(d) = (0..shape.len()).rev().find(|&d| index[d] + 1 < shape[d]) else { return };
        index[d] += 1;
        index[d + 1..].fill(0);
    }
}
