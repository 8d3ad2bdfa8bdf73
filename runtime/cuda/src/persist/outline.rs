//! The persistent kernel's program as what waits for what, for those who reckon with it.

use super::schedule::Schedule;
use crate::Unsupported;
use crate::lower::Lowered;

/// An instruction: neighbouring blocks of a launch on one block (CTA) of the persistent kernel, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Which launch of the plan, counted over all steps; `None` for an instruction that only waits.
    pub launch: Option<usize>,
    /// How many of its blocks.
    pub blocks: u32,
    /// Bytes of the next launch's weights that it has brought into L2.
    pub ahead: u32,
    /// What it waits for: list and place in it.
    pub after: Vec<(usize, usize)>,
}

/// The instruction lists of a lowered plan, one for each of `ctas` blocks of the persistent kernel.
///
/// # Errors
/// [`Unsupported`]: what the persistent kernel cannot do.
pub fn outline(lowered: &Lowered, ctas: u32) -> Result<Vec<Vec<Part>>, Unsupported> {
    let schedule = Schedule::new(lowered, ctas as usize)?;
    let lists: Vec<_> =
        schedule.starts.windows(2).map(|w| &schedule.instructions[w[0] as usize..w[1] as usize]).collect();
    let mut places = vec![(0, 0); schedule.flags as usize];
    for (cta, list) in lists.iter().enumerate() {
        for (n, instruction) in list.iter().enumerate() {
            places[instruction.flag as usize] = (cta, n);
        }
    }
    let part = |instruction: &pilotlight_kernels::abi::Instruction| Part {
        // Each launch has a parameter block of its own; what only waits has none.
        launch: match instruction.count {
            0 => None,
            _ => schedule.blocks.iter().position(|&at| at == instruction.block),
        },
        blocks: instruction.count,
        ahead: instruction.weight_bytes,
        after: (instruction.wait.iter())
            .flat_map(|wait| {
                (0..32).filter(|n| wait.mask >> n & 1 == 1).map(|n| places[(wait.first + n) as usize])
            })
            .collect(),
    };
    Ok(lists.into_iter().map(|list| list.iter().map(part).collect()).collect())
}
