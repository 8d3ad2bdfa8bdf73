//! Where a window's taps lie, as lists for the kernels.

use pilotlight_plan::Window;

/// For each tap and piece of its inputs: byte offset from the window's first pixel, then row and column.
pub(super) fn tap_list(
    window: &Window,
    row_bytes: u32,
    column_bytes: u32,
    pieces: u32,
) -> Result<Vec<i32>, String> {
    let mut list = Vec::new();
    for ky in 0..window.kernel[0] {
        for kx in 0..window.kernel[1] {
            let (dy, dx) = (ky * window.dilation[0], kx * window.dilation[1]);
            for piece in 0..pieces {
                let at = u64::from(dy) * u64::from(row_bytes)
                    + u64::from(dx) * u64::from(column_bytes)
                    + u64::from(piece) * 16;
                list.push(i32::try_from(at).map_err(|_| "a window of more than 2 GiB".to_owned())?);
                list.push((dy << 16 | dx) as i32);
            }
        }
    }
    Ok(list)
}

/// For each word of k without filler: two taps, each as byte offset and place, and which of their eight bytes make
/// the word. Pixels are words of up to four channels, of which `inputs`, two or more, are taken.
pub(super) fn word_list(
    window: &Window,
    row_bytes: u32,
    column_bytes: u32,
    inputs: u32,
) -> Result<Vec<i32>, String> {
    let taps = tap_list(window, row_bytes, column_bytes, 1)?;
    let all = window.kernel[0] * window.kernel[1] * inputs;
    let tap = |k: u32| match taps.get(k as usize / inputs as usize * 2..) {
        Some(&[offset, place, ..]) => [offset, place],
        // Behind the last: outside every image.
        _ => [0, 0x7FFF_7FFF],
    };
    let mut list = Vec::new();
    for first in (0..all.next_multiple_of(16)).step_by(4) {
        let low = first / inputs;
        let select = (0..4).fold(0, |s, byte| {
            let k = first + byte;
            s | (k % inputs + if k / inputs > low { 4 } else { 0 }) << (4 * byte)
        });
        list.extend(tap(first));
        list.extend(tap((low + 1) * inputs));
        list.extend([select as i32, 0, 0, 0]);
    }
    Ok(list)
}
