//! Sliding windows: kernel, stride, dilation and pads of convolutions and pools.

use super::graph::Node;
use crate::error::{Why, why};
use pilotlight_plan::Window;

/// A window and the extents it gives: height, width.
pub(crate) struct Slide {
    pub window: Window,
    pub out: [u32; 2],
}

/// The window of a node over an input of this shape; `kernel` is the weights' where the node names none.
///
/// Rank 3 has height 1.
pub(crate) fn slide(n: &Node, shape: &[u32], kernel: Option<&[u32]>) -> Result<Slide, Why> {
    let spatial = match shape.len() {
        3 | 4 => shape.len() - 2,
        rank => return why!("rank {rank}; [N, C, W] and [N, C, H, W] are supported"),
    };
    let pick = |name: &str, default: &[i64]| -> Result<[u32; 2], Why> {
        let list = n.ints(name)?.unwrap_or(default);
        if list.len() != spatial {
            return why!("{name} {list:?} for {spatial} spatial dimensions");
        }
        let mut out = [1; 2];
        for (o, &v) in out[2 - spatial..].iter_mut().zip(list) {
            *o = u32::try_from(v).ok().filter(|&v| v > 0 && v < 1 << 20).ok_or(format!("{name} {list:?}"))?;
        }
        Ok(out)
    };
    let from_weights: Option<Vec<i64>> = kernel.map(|k| k.iter().map(|&v| i64::from(v)).collect());
    if let (Some(k), Some(attr)) = (&from_weights, n.ints("kernel_shape")?)
        && k != attr
    {
        return why!("kernel_shape {attr:?}, but the weights have {k:?}");
    }
    let kernel = pick("kernel_shape", from_weights.as_deref().unwrap_or(&[]))?;
    let stride = pick("strides", &vec![1; spatial])?;
    let dilation = pick("dilations", &vec![1; spatial])?;
    let input = if spatial == 2 { [shape[2], shape[3]] } else { [1, shape[2]] };

    let mut pads = [0_u32; 4];
    let auto = n.text("auto_pad", "NOTSET")?;
    match auto {
        "NOTSET" => {
            if let Some(list) = n.ints("pads")? {
                if list.len() != 2 * spatial {
                    return why!("pads {list:?} for {spatial} spatial dimensions");
                }
                for (i, &p) in list.iter().enumerate() {
                    let (side, d) = (i / spatial, i % spatial + 2 - spatial);
                    pads[side * 2 + d] =
                        u32::try_from(p).ok().filter(|&p| p < 1 << 20).ok_or(format!("pads {list:?}"))?;
                }
            }
        }
        "VALID" => {}
        "SAME_UPPER" | "SAME_LOWER" => {
            for d in 0..2 {
                let reach = dilation[d] * (kernel[d] - 1) + 1;
                let needed = (u64::from(input[d].div_ceil(stride[d]) - 1) * u64::from(stride[d])
                    + u64::from(reach))
                .saturating_sub(u64::from(input[d])) as u32;
                let (less, more) = (needed / 2, needed - needed / 2);
                (pads[d], pads[d + 2]) = if auto == "SAME_UPPER" { (less, more) } else { (more, less) };
            }
        }
        other => return why!("auto_pad {other} is not supported"),
    }
    let window = Window { kernel, stride, dilation, pads };
    let ceil = n.int("ceil_mode", 0)? != 0;
    let mut out = [1; 2];
    for d in 0..2 {
        let padded = u64::from(input[d]) + u64::from(pads[d]) + u64::from(pads[d + 2]);
        let reach = u64::from(dilation[d]) * (u64::from(kernel[d]) - 1) + 1;
        let Some(room) = padded.checked_sub(reach) else {
            return why!("a window of {reach} over {padded} padded elements");
        };
        let mut extent = room / u64::from(stride[d]) + 1;
        if ceil && room % u64::from(stride[d]) != 0 {
            // The last window must begin inside the input or its leading pad.
            let begins = extent * u64::from(stride[d]);
            if begins < u64::from(input[d]) + u64::from(pads[d]) {
                extent += 1;
            }
        }
        out[d] = u32::try_from(extent).map_err(|_| format!("an extent of {extent}"))?;
    }
    Ok(Slide { window, out })
}

/// The output shape: batch, channels, then the slide's extents.
pub(crate) fn output(shape: &[u32], channels: u32, slide: &Slide) -> Vec<u32> {
    let mut out = vec![shape[0], channels];
    out.extend(&slide.out[4 - shape.len()..]);
    out
}
