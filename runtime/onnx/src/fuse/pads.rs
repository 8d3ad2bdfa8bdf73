//! A Pad with the zero point in front of a convolution becomes the convolution's own.

use super::join;
use crate::View;
use crate::quant::qgraph::{Kind, QGraph};
use pilotlight_plan::Op;

pub(super) fn fuse(g: &mut QGraph) {
    let uses = g.uses();
    let producers = g.producers();
    for i in 0..g.nodes.len() {
        let Kind::Op(Op::Conv(c)) = &g.nodes[i].kind else { continue };
        let Some(j) = producers[c.input.0 as usize].filter(|_| uses[c.input.0 as usize] == 1) else {
            continue;
        };
        let Kind::View { input, view: View::Index(axes), fill, .. } = &g.nodes[j].kind else { continue };
        let input = *input;
        let shape = &g.value(input).shape;
        if *fill as u8 != c.linear.input_zero as u8 || axes[..2].iter().any(Option::is_some) {
            continue;
        }
        // Height and width; a sequence has width alone.
        let lead = 4 - shape.len();
        let mut pads = c.window.pads;
        let fits = (2..shape.len()).all(|d| {
            let Some(list) = &axes[d] else { return true };
            match border(list, shape[d]) {
                Some((before, after)) => {
                    pads[d - 2 + lead] += before;
                    pads[d + lead] += after;
                    true
                }
                None => false,
            }
        });
        if !fits || pads.iter().any(|&p| p >= 1 << 20) {
            continue;
        }
        let names = join(&g.nodes[j].names, &g.nodes[i].names);
        if let Kind::Op(Op::Conv(c)) = &mut g.nodes[i].kind {
            c.input = input;
            c.window.pads = pads;
        }
        g.nodes[i].names = names;
    }
}

/// How many fills stand before and behind `0..extent`; `None` for any other list.
fn border(list: &[i32], extent: u32) -> Option<(u32, u32)> {
    let before = list.iter().take_while(|&&i| i == -1).count();
    let rest = &list[before..];
    let inside = rest.get(..extent as usize)?;
    let after = &rest[extent as usize..];
    let whole = inside.iter().enumerate().all(|(k, &i)| i == k as i32) && after.iter().all(|&i| i == -1);
    whole.then_some((before as u32, after.len() as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_borders_are_pads() {
        assert_eq!(border(&[-1, 0, 1, -1, -1], 2), Some((1, 2)));
        assert_eq!(border(&[0, 1], 2), Some((0, 0)));
        for list in [&[-1, 0][..], &[-1, -1], &[0, 0, 1], &[-1, 1, 0], &[-1, 0, 1, 0]] {
            assert_eq!(border(list, 2), None);
        }
    }
}
