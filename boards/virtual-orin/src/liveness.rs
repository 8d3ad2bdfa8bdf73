//! Liveness of virtual registers and their allocation to slots.
//!
//! Compilers emit thousands of virtual registers; a warp's register file must stay in the host's cache, so
//! registers whose lives do not meet share a slot. Sharing is sound under divergence because every write is
//! masked: each lane sees the sequence of its own path. A register that may be read before it is written is
//! live from the start, keeps a slot of its own, and so holds poison until it is written.

use crate::blocks::blocks;
use crate::code::Inst;
use crate::lower::{Place, Use};
use crate::ptx::Width;
use std::collections::HashMap;

/// Gives every used register a slot and writes it into the code. Returns slots needed per warp (32-bit,
/// 64-bit, predicate), or `None` if a bank overflows.
pub fn allocate(code: &mut [Inst], uses: &[Vec<Use>]) -> Option<(usize, usize, usize)> {
    let spans = spans(code, uses);
    let mut order: Vec<(u32, usize, usize, Width)> =
        spans.into_iter().map(|(r, (a, b, w))| (r, a, b, w)).collect();
    order.sort_by_key(|&(register, start, ..)| (start, register));
    let mut slot_of = HashMap::new();
    let mut banks: [Vec<usize>; 3] = Default::default();
    for (register, start, end, width) in order {
        let bank = &mut banks[bank(width)];
        // `bank[slot]` is the last instruction at which the slot is taken, plus one.
        let slot = match bank.iter().position(|&free_from| free_from <= start) {
            Some(slot) => slot,
            None => {
                bank.push(0);
                bank.len() - 1
            }
        };
        bank[slot] = end + 1;
        slot_of.insert(register, u16::try_from(slot).ok().filter(|s| *s < crate::code::CONSTANT)?);
    }
    for (inst, uses) in code.iter_mut().zip(uses) {
        for used in uses {
            let slot = slot_of[&used.register.index];
            match used.place {
                Place::Operand(n) => inst.ops[n] = slot,
                Place::Address(n) => inst.addr[n].slot = slot,
                Place::Guard => inst.guard = inst.guard.map(|(_, not)| (slot, not)),
            }
        }
    }
    Some((banks[0].len(), banks[1].len(), banks[2].len()))
}

fn bank(width: Width) -> usize {
    match width {
        Width::B16 | Width::B32 => 0,
        Width::B64 => 1,
        Width::Pred => 2,
    }
}

/// First and last instruction at which each register must keep its value.
fn spans(code: &[Inst], uses: &[Vec<Use>]) -> HashMap<u32, (usize, usize, Width)> {
    let mut number = HashMap::new();
    let mut widths = Vec::new();
    for used in uses.iter().flatten() {
        number.entry(used.register.index).or_insert_with(|| {
            widths.push((used.register.index, used.register.width));
            widths.len() - 1
        });
    }
    let words = widths.len().div_ceil(64);
    let blocks = blocks(code);
    let (mut needed, mut killed) =
        (vec![vec![0u64; words]; blocks.len()], vec![vec![0u64; words]; blocks.len()]);
    for (n, block) in blocks.iter().enumerate() {
        for at in (block.start..block.end).rev() {
            for used in &uses[at] {
                let bit = number[&used.register.index];
                // A guarded write may not happen, so it ends no life.
                if used.written && code[at].guard.is_none() {
                    killed[n][bit / 64] |= 1 << (bit % 64);
                    needed[n][bit / 64] &= !(1 << (bit % 64));
                }
            }
            for used in uses[at].iter().filter(|u| !u.written) {
                let bit = number[&used.register.index];
                needed[n][bit / 64] |= 1 << (bit % 64);
            }
        }
    }
    let (mut live_in, mut live_out) = (needed.clone(), vec![vec![0u64; words]; blocks.len()]);
    let mut changed = true;
    while changed {
        changed = false;
        for n in (0..blocks.len()).rev() {
            for word in 0..words {
                let out = blocks[n].next.iter().fold(0, |all, &s| all | live_in[s][word]);
                let into = needed[n][word] | (out & !killed[n][word]);
                changed |= live_in[n][word] != into;
                (live_out[n][word], live_in[n][word]) = (out, into);
            }
        }
    }
    let mut spans: Vec<(usize, usize)> = vec![(usize::MAX, 0); widths.len()];
    let mut touch = |bit: usize, at: usize| spans[bit] = (spans[bit].0.min(at), spans[bit].1.max(at));
    for (n, block) in blocks.iter().enumerate() {
        for bit in 0..widths.len() {
            let (word, mask) = (bit / 64, 1u64 << (bit % 64));
            if live_in[n][word] & mask != 0 {
                touch(bit, block.start);
            }
            if live_out[n][word] & mask != 0 {
                touch(bit, block.end - 1);
            }
        }
    }
    for (at, uses) in uses.iter().enumerate() {
        for used in uses {
            touch(number[&used.register.index], at);
        }
    }
    widths.iter().zip(spans).map(|(&(register, width), (a, b))| (register, (a, b, width))).collect()
}
