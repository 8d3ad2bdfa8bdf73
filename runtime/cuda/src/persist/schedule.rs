//! A plan's launches spread over the blocks of the persistent kernel.
//!
//! Each launch's blocks are cut into neighbouring parts, one for each block of the kernel (CTA), in the same
//! order in every launch: then most of what a CTA reads it wrote itself, and needs no wait. Where it does depend
//! on others it waits for their flags: read after write, write after read and write after write, found from the
//! launches' footprints. A wait that follows from others is left out.

use super::footprint::{Touch, touches};
use crate::Unsupported;
use crate::lower::{Launch, Lowered, is_output};
use pilotlight_kernels::abi::{self, Instruction, Wait};
use std::ops::Range;
use zerocopy::{FromBytes, IntoBytes};

/// Lists of instructions. Weights are places until they are bound.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    /// Blocks of the kernel.
    pub(crate) ctas: usize,
    /// All lists, one after the other.
    pub(crate) instructions: Vec<Instruction>,
    /// Where each CTA's list begins; one more than there are CTAs.
    pub(crate) starts: Vec<u32>,
    /// How many flags there are.
    pub(crate) flags: u32,
    /// Bytes of a slot's parameter blocks.
    pub(crate) block_bytes: usize,
    /// Byte offset of each launch's parameter block.
    pub(crate) blocks: Vec<u32>,
}

/// Most bytes of weights that are brought into L2 ahead: half of the smallest Orin's. More would push out what is
/// being worked on, and then itself.
const MOST_AHEAD: u64 = 1 << 20;

/// Parameter blocks begin at multiples of this.
const BLOCK_ALIGN: usize = 16;

/// A part of a launch on one CTA.
struct Part {
    cta: usize,
    flag: u32,
    /// Place in its CTA's list of parts, from 1.
    number: u32,
    touches: Vec<Touch>,
    /// For each CTA how many of its parts are done when this one is.
    knows: Vec<u32>,
}

/// Blocks of a launch.
pub(crate) fn blocks_of(launch: &Launch) -> u32 {
    launch.grid.iter().product()
}

/// Neighbouring parts of `blocks`, as equal as can be.
fn parts(blocks: u32, ctas: usize) -> impl Iterator<Item = Range<u32>> {
    let n = blocks.min(ctas as u32);
    let cut = move |i: u32| (u64::from(blocks) * u64::from(i) / u64::from(n.max(1))) as u32;
    (0..n).map(move |i| cut(i)..cut(i + 1))
}

impl Schedule {
    /// Spreads a lowered plan over so many CTAs.
    pub(crate) fn new(lowered: &Lowered, ctas: usize) -> Result<Self, Unsupported> {
        let launches: Vec<(usize, &Launch)> =
            lowered.steps.iter().enumerate().flat_map(|(n, step)| step.iter().map(move |l| (n, l))).collect();
        let mut lists: Vec<Vec<Instruction>> = vec![Vec::new(); ctas];
        let mut counts = vec![0u32; ctas];
        let mut clocks = vec![vec![0u32; ctas]; ctas];
        let mut parts_of: Vec<Range<usize>> = Vec::with_capacity(launches.len());
        let mut all: Vec<Part> = Vec::new();
        let (mut flags, mut blocks, mut block_bytes) = (0u32, Vec::new(), 0usize);
        for (n, &(step, launch)) in launches.iter().enumerate() {
            let next_weights = launches.get(n + 1).and_then(|(_, next)| weights(next));
            let refuse = |problem: String| Unsupported {
                step: format!("step {step} ({})", launch.kernel),
                problem: format!("{problem}; use graph mode"),
            };
            let operation = abi::OPERATIONS.iter().position(|&name| name == launch.kernel);
            let operation =
                operation.ok_or_else(|| refuse("the persistent kernel has no such kernel".into()))?;
            let bytes = launch.block.len() * 8;
            if bytes > abi::MOST_BLOCK_BYTES as usize {
                return Err(refuse(format!(
                    "a parameter block of {bytes} bytes; the persistent kernel takes {}",
                    abi::MOST_BLOCK_BYTES
                )));
            }
            blocks.push(block_bytes as u32);
            let first_part = all.len();
            for (cta, range) in parts(blocks_of(launch), ctas).enumerate() {
                let touches = touches(launch, range.clone(), &lowered.constants)
                    .ok_or_else(|| refuse("its accesses are not known".into()))?;
                let mut knows = clocks[cta].clone();
                let mut needed = needs(&touches, &all, &parts_of, &mut knows);
                let mut instruction = Instruction {
                    operation: operation as u32,
                    block: block_bytes as u32,
                    block_bytes: bytes as u32,
                    first: range.start,
                    count: range.end - range.start,
                    grid_x: launch.grid[0],
                    grid_y: launch.grid[1],
                    step: step as u32,
                    to_host: touches.iter().any(|t| t.writes && is_output(t.bytes.start)).into(),
                    ..Instruction::default()
                };
                if let Some((address, size)) = next_weights {
                    let size = size.min(MOST_AHEAD);
                    let share = size.div_ceil(ctas as u64).next_multiple_of(128);
                    let from = (share * cta as u64).min(size);
                    instruction.weights = address + from;
                    instruction.weight_bytes = (size - from).min(share) as u32;
                }
                needed.sort_unstable();
                let mut waits = grouped(&needed);
                // More waits than an instruction holds go to instructions that only wait.
                while waits.len() > abi::WAITS as usize {
                    let rest = waits.split_off(abi::WAITS as usize);
                    let mut only = Instruction {
                        operation: abi::OPERATION_NONE,
                        step: step as u32,
                        ..Default::default()
                    };
                    only.wait.copy_from_slice(&waits);
                    (only.flag, flags) = (flags, flags + 1);
                    lists[cta].push(only);
                    waits = rest;
                }
                instruction.wait[..waits.len()].copy_from_slice(&waits);
                (instruction.flag, flags) = (flags, flags + 1);
                lists[cta].push(instruction);
                counts[cta] += 1;
                knows[cta] = counts[cta];
                clocks[cta].clone_from(&knows);
                let flag = instruction.flag;
                all.push(Part { cta, flag, number: counts[cta], touches, knows });
            }
            parts_of.push(first_part..all.len());
            block_bytes = (block_bytes + bytes).next_multiple_of(BLOCK_ALIGN);
        }
        let mut starts = vec![0];
        let mut instructions = Vec::new();
        for list in lists {
            instructions.extend(list);
            starts.push(instructions.len() as u32);
        }
        Ok(Self { ctas, instructions, starts, flags, block_bytes, blocks })
    }
}

/// Where a launch's weights lie, and their bytes: worth bringing into the L2 cache while the launch before it runs.
fn weights(launch: &Launch) -> Option<(u64, u64)> {
    if !launch.kernel.starts_with("conv_") {
        return None;
    }
    let (conv, _) = abi::Conv::read_from_prefix(launch.block.as_bytes()).ok()?;
    // 32 bytes for each 32 of k, each channel, each group.
    let bytes = u64::from(conv.pieces.div_ceil(2)) * 32 * u64::from(conv.padded) * u64::from(conv.groups);
    Some((conv.w, bytes))
}

/// Flags of the earlier parts that must be done first and are not known to be; `knows` learns of them.
///
/// Latest first: what they know is known with them, which leaves little to wait for.
fn needs(touches: &[Touch], all: &[Part], parts_of: &[Range<usize>], knows: &mut [u32]) -> Vec<u32> {
    let mut needed = Vec::new();
    for part in parts_of.iter().rev().flat_map(|range| &all[range.clone()]) {
        if knows[part.cta] >= part.number {
            continue;
        }
        if part.touches.iter().any(|before| touches.iter().any(|t| t.conflicts(before))) {
            needed.push(part.flag);
            for (mine, theirs) in knows.iter_mut().zip(&part.knows) {
                *mine = (*mine).max(*theirs);
            }
        }
    }
    needed
}

/// Sorted flags as groups within 32 of each other.
fn grouped(flags: &[u32]) -> Vec<Wait> {
    let mut waits: Vec<Wait> = Vec::new();
    for &flag in flags {
        match waits.last_mut() {
            Some(wait) if flag - wait.first < 32 => wait.mask |= 1 << (flag - wait.first),
            _ => waits.push(Wait { first: flag, mask: 1 }),
        }
    }
    waits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_blocks_in_order() {
        for (blocks, ctas) in [(1, 8), (8, 8), (9, 8), (100, 16), (7, 3)] {
            let all: Vec<u32> = parts(blocks, ctas).flatten().collect();
            assert_eq!(all, (0..blocks).collect::<Vec<_>>());
            assert!(parts(blocks, ctas).all(|p| p.len().abs_diff((blocks as usize).div_ceil(ctas)) <= 1));
        }
    }

    #[test]
    fn flags_are_grouped_by_32() {
        let found: Vec<(u32, u32)> = grouped(&[3, 4, 34, 35, 80]).iter().map(|w| (w.first, w.mask)).collect();
        assert_eq!(found, [(3, 0x8000_0003), (35, 1), (80, 1)]);
    }
}
