//! Where a value lies: buffer, offset, strides; and the same bytes seen through a view.

use super::class::Class;
use crate::import::views::View;
use pilotlight_plan::{DType, row_major};

/// A value's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub buffer: u32,
    /// Bytes from the start of the buffer.
    pub offset: u64,
    /// In elements, one for each dimension.
    pub strides: Vec<u64>,
}

impl Place {
    /// The same elements seen through `view`, if strides can say it.
    pub(crate) fn seen(&self, dtype: DType, shape: &[u32], view: &View) -> Option<Self> {
        let mut at = self.clone();
        match view {
            View::Transpose(perm) => at.strides = perm.iter().map(|&p| self.strides[p]).collect(),
            View::Reshape(to) => at.strides = reshaped(shape, &self.strides, to)?,
            View::Index(axes) => {
                for (d, list) in axes.iter().enumerate() {
                    let Some(list) = list else { continue };
                    let (start, step) = progression(list)?;
                    at.offset += start * self.strides[d] * dtype.bytes() as u64;
                    at.strides[d] *= step;
                }
            }
        }
        Some(at)
    }

    /// The place that a source of `shape` must have so that `view` of it lies here.
    pub(crate) fn source(&self, shape: &[u32], view: &View, out: &[u32]) -> Option<Self> {
        let mut at = self.clone();
        match view {
            View::Transpose(perm) => {
                for (i, &p) in perm.iter().enumerate() {
                    at.strides[p] = self.strides[i];
                }
            }
            View::Reshape(_) => at.strides = reshaped(out, &self.strides, shape)?,
            View::Index(_) => return None,
        }
        Some(at)
    }

    /// The part that begins at index `start` of dimension `axis`.
    pub(crate) fn part(&self, dtype: DType, axis: usize, start: u32) -> Self {
        let offset = self.offset + u64::from(start) * self.strides[axis] * dtype.bytes() as u64;
        Self { offset, ..self.clone() }
    }
}

/// Start and step of a rising arithmetic progression.
fn progression(list: &[i32]) -> Option<(u64, u64)> {
    let start = u64::try_from(*list.first()?).ok()?;
    let step = match list {
        [a, b, ..] => i64::from(*b) - i64::from(*a),
        _ => 1,
    };
    let rises = step >= 1 && list.windows(2).all(|w| i64::from(w[1]) - i64::from(w[0]) == step);
    rises.then_some((start, step as u64))
}

/// Strides of the same elements under another shape, where no copy is needed (numpy's rule).
fn reshaped(from: &[u32], strides: &[u64], to: &[u32]) -> Option<Vec<u64>> {
    // Dimensions of extent 1 have no say.
    let old: Vec<(u64, u64)> =
        from.iter().zip(strides).filter(|p| *p.0 != 1).map(|(&d, &s)| (u64::from(d), s)).collect();
    let mut out = vec![0; to.len()];
    let (mut i, mut j) = (0, 0);
    while i < old.len() && j < to.len() {
        // The shortest runs of old and new dimensions with one number of elements.
        let (first, start) = (i, j);
        let (mut a, mut b) = (old[i].0, u64::from(to[j]));
        while a != b {
            if a < b {
                i += 1;
                a *= old.get(i)?.0;
            } else {
                j += 1;
                b *= u64::from(*to.get(j)?);
            }
        }
        if (first..i).any(|k| old[k].1 != old[k + 1].0 * old[k + 1].1) {
            return None;
        }
        let mut stride = old[i].1;
        for k in (start..=j).rev() {
            out[k] = stride;
            stride *= u64::from(to[k]);
        }
        (i, j) = (i + 1, j + 1);
    }
    // What is left has extent 1: the stride of a dense neighbour.
    for k in (0..to.len()).rev().filter(|&k| to[k] == 1) {
        out[k] = match to.get(k + 1) {
            Some(&d) => out[k + 1] * u64::from(d),
            None => 1,
        };
    }
    Some(out)
}

/// The distance between two pixels or rows of `n` 8-bit elements.
pub(crate) fn padded(n: u32) -> u64 {
    if n <= 4 { 4 } else { u64::from(n).next_multiple_of(16) }
}

/// Strides and bytes of a buffer for one value of this class.
pub(crate) fn own(class: Class, dtype: DType, shape: &[u32]) -> (Vec<u64>, u64) {
    let size = dtype.bytes() as u64;
    let wide = |d: usize| u64::from(shape[d]);
    match (class, shape.len()) {
        (Class::Pixels, 4) => {
            let p = padded(shape[1]);
            let strides = vec![wide(2) * wide(3) * p, 1, wide(3) * p, p];
            let bytes = wide(0) * strides[0] * size;
            (strides, bytes)
        }
        (Class::Pixels, 3) => {
            let p = padded(shape[1]);
            (vec![wide(2) * p, 1, p], wide(0) * wide(2) * p * size)
        }
        (Class::Rows, rank) if rank > 0 && dtype.is_int8() => {
            let mut strides = vec![1; rank];
            let mut stride = padded(shape[rank - 1]);
            for d in (0..rank - 1).rev() {
                strides[d] = stride;
                stride *= wide(d);
            }
            (strides, stride)
        }
        _ => (row_major(shape), shape.iter().map(|&d| u64::from(d)).product::<u64>() * size),
    }
}

/// Whether a convolution or pool can work on these strides: channels side by side, pixels in rows without gaps.
pub(crate) fn is_pixels(shape: &[u32], strides: &[u64]) -> bool {
    let (s, d): ([u64; 4], [u32; 4]) = match (strides, shape) {
        (&[n, c, h, w], &[dn, dc, dh, dw]) => ([n, c, h, w], [dn, dc, dh, dw]),
        (&[n, c, w], &[dn, dc, dw]) => ([n, c, w * u64::from(dw), w], [dn, dc, 1, dw]),
        _ => return false,
    };
    let pixel = s[3];
    let aligned = pixel % 16 == 0 || (pixel == 4 && d[1] <= 4);
    (s[1] == 1 || d[1] == 1)
        && aligned
        && pixel >= u64::from(d[1])
        && (s[2] == u64::from(d[3]) * pixel || d[2] == 1)
        && (s[0] == u64::from(d[2]) * u64::from(d[3]) * pixel || d[0] == 1)
}

/// Whether a matrix product can read these strides: the last dimension dense, rows at one distance.
pub(crate) fn is_rows(shape: &[u32], strides: &[u64], aligned: bool) -> bool {
    let Some((&k, rows)) = shape.split_last() else {
        return false;
    };
    if strides[rows.len()] != 1 && k != 1 {
        return false;
    }
    let mut next: Option<u64> = None;
    for d in (0..rows.len()).rev().filter(|&d| rows[d] != 1) {
        match next {
            None if aligned && !strides[d].is_multiple_of(if k <= 4 { 4 } else { 16 }) => return false,
            Some(stride) if strides[d] != stride => return false,
            _ => {}
        }
        next = Some(strides[d] * u64::from(rows[d]));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshape_without_a_copy_follows_numpy() {
        assert_eq!(reshaped(&[2, 3, 4], &[12, 4, 1], &[6, 4]), Some(vec![4, 1]));
        assert_eq!(reshaped(&[2, 3, 4], &[12, 4, 1], &[24]), Some(vec![1]));
        assert_eq!(reshaped(&[2, 3, 4], &[16, 4, 1], &[6, 4]), None);
        assert_eq!(reshaped(&[1, 1280, 1, 1], &[1280, 1, 1280, 1280], &[1, 1280]), Some(vec![1280, 1]));
        assert_eq!(reshaped(&[4, 6], &[1, 4], &[4, 2, 3]), Some(vec![1, 12, 4]));
        assert_eq!(reshaped(&[4, 6], &[1, 4], &[24]), None);
        assert_eq!(reshaped(&[1], &[9], &[]), Some(vec![]));
    }

    #[test]
    fn slices_with_a_step_are_views_and_repeats_are_not() {
        let place = Place { buffer: 0, offset: 3, strides: vec![10, 1] };
        let index = |list: &[i32]| View::Index(vec![None, Some(list.to_vec())]);
        let seen = place.seen(DType::F32, &[2, 10], &index(&[1, 3, 5])).unwrap();
        assert_eq!(seen, Place { buffer: 0, offset: 7, strides: vec![10, 2] });
        for list in [&[0, 0, 1][..], &[2, 1], &[-1, 0], &[0, 1, 3]] {
            assert_eq!(place.seen(DType::F32, &[2, 10], &index(list)), None);
        }
    }

    #[test]
    fn pixels_and_rows_are_recognised() {
        let (s, bytes) = own(Class::Pixels, DType::U8, &[2, 24, 3, 5]);
        assert_eq!((bytes, is_pixels(&[2, 24, 3, 5], &s)), (2 * 15 * 32, true));
        assert!(!is_pixels(&[2, 24, 3, 5], &row_major(&[2, 24, 3, 5])));
        assert!(!is_pixels(&[1, 16, 4, 4], &[0, 1, 128, 16]));
        let (s, bytes) = own(Class::Rows, DType::I8, &[2, 3, 20]);
        assert_eq!((s.clone(), bytes), (vec![96, 32, 1], 192));
        assert!(is_rows(&[2, 3, 20], &s, true));
        assert!(!is_rows(&[2, 3, 20], &[60, 20, 1], true) && is_rows(&[2, 3, 20], &[60, 20, 1], false));
        assert!(!is_rows(&[2, 3, 20], &[1, 40, 2], false));
    }
}
