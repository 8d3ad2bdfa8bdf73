//! A kernel's control flow: basic blocks, and the loops that multiply matrices.

use crate::code::{Class, Inst, NO_TARGET};

/// Instructions that run one after the other.
pub struct Block {
    /// The first.
    pub start: usize,
    /// Behind the last.
    pub end: usize,
    /// Blocks that may follow.
    pub next: Vec<usize>,
}

/// The blocks of a kernel, in the order of its instructions.
pub fn blocks(code: &[Inst]) -> Vec<Block> {
    let mut leader = vec![false; code.len() + 1];
    leader[0] = true;
    for (at, inst) in code.iter().enumerate() {
        if inst.class == Class::Branch {
            leader[at + 1] = true;
            if jumps(inst) {
                leader[inst.target as usize] = true;
            }
        }
    }
    let starts: Vec<usize> = (0..code.len()).filter(|&at| leader[at]).collect();
    let of = |at: usize| starts.partition_point(|&s| s <= at) - 1;
    (0..starts.len())
        .map(|n| {
            let (start, end) = (starts[n], starts.get(n + 1).copied().unwrap_or(code.len()));
            let last = &code[end - 1];
            let mut next = Vec::new();
            if last.class == Class::Branch && jumps(last) {
                next.push(of(last.target as usize));
            }
            let stops = last.class == Class::Branch && last.guard.is_none();
            if !stops && end < code.len() {
                next.push(of(end));
            }
            Block { start, end, next }
        })
        .collect()
}

/// Branch-class instructions that have a target: `ret` and its like do not.
fn jumps(inst: &Inst) -> bool {
    inst.target != NO_TARGET
}

/// Marks the instructions of main loops: the largest loops that multiply matrices and store no results.
///
/// A loop that stores results has the main loop inside it, as the persistent kernel's loop over instructions does.
pub fn mark_main_loops(code: &mut [Inst]) {
    let blocks = blocks(code);
    let next: Vec<Vec<usize>> = blocks.iter().map(|b| b.next.clone()).collect();
    let mut before = vec![Vec::new(); blocks.len()];
    for (n, block) in blocks.iter().enumerate() {
        block.next.iter().for_each(|&to| before[to].push(n));
    }
    let has = |code: &[Inst], n: usize, class| {
        code[blocks[n].start..blocks[n].end].iter().any(|inst| inst.class == class)
    };
    for n in 0..blocks.len() {
        if !has(code, n, Class::Mma) || code[blocks[n].start].main_loop {
            continue;
        }
        // From the outermost loop around the block inwards.
        let mut within = vec![true; blocks.len()];
        while within[n] {
            let (after, ahead) = (reached(n, &next, &within), reached(n, &before, &within));
            let body: Vec<usize> = (0..blocks.len()).filter(|&b| after[b] && ahead[b]).collect();
            if body.is_empty() {
                break;
            }
            if !body.iter().any(|&b| has(code, b, Class::StoreGlobal)) {
                let inside = body.iter().flat_map(|&b| blocks[b].start..blocks[b].end);
                inside.for_each(|at| code[at].main_loop = true);
                break;
            }
            // Without the blocks by which it is entered, only loops inside it are left.
            within = (0..blocks.len()).map(|b| after[b] && ahead[b]).collect();
            let entered =
                |&&b: &&usize| b == 0 || before[b].iter().any(|&from| !(after[from] && ahead[from]));
            let entries: Vec<usize> = body.iter().filter(entered).copied().collect();
            // One that is never entered is never run.
            if entries.is_empty() {
                break;
            }
            entries.into_iter().for_each(|b| within[b] = false);
        }
    }
}

/// The blocks that one or more of these steps lead to from a block, without leaving those `within`.
fn reached(from: usize, steps: &[Vec<usize>], within: &[bool]) -> Vec<bool> {
    let (mut seen, mut open) = (vec![false; steps.len()], vec![from]);
    while let Some(n) = open.pop() {
        for &to in &steps[n] {
            if within[to] && !seen[to] {
                seen[to] = true;
                open.push(to);
            }
        }
    }
    seen
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use crate::board::find;
    use crate::code::Class;
    use crate::emulator::{Emulator, Options};

    /// The classes of marked instructions, in order. The kernel has an inner loop with `inner`, in an outer one
    /// with `outer` behind it, and a loop of its own.
    fn marked(inner: &str, outer: &str) -> Vec<Class> {
        let text = format!(
            ".version 7.4\n.target sm_87\n.address_size 64\n.visible .entry k(.param .u64 p0)\n{{\n\
             .reg .pred %p<3>;\n.reg .b32 %r<9>;\n.reg .b64 %rd<2>;\n.shared .align 16 .b8 sm[64];\n\
             ld.param.u64 %rd1, [p0];\nmov.u32 %r1, %tid.x;\nsetp.eq.s32 %p1, %r1, 40;\n\
             $OUTER:\nbar.sync 0;\n$INNER:\n{inner}\n@%p1 bra $INNER;\n{outer}\n@%p1 bra $OUTER;\n\
             $ALONE:\nld.shared.u32 %r2, [sm];\n@%p1 bra $ALONE;\nret;\n}}\n"
        );
        let mut emulator = Emulator::new(Options::new(find("orin-nano-super").unwrap()));
        let (kernels, _) = emulator.load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        kernels["k"].program.code.iter().filter(|i| i.main_loop).map(|i| i.class).collect()
    }

    const MMA: &str = "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1,%r2,%r3,%r4}, {%r5,%r6,%r7,%r8}, \
        {%r5,%r6}, {%r1,%r2,%r3,%r4};";

    #[test]
    fn the_largest_loop_that_multiplies_and_stores_nothing_is_a_main_loop() {
        use Class::{Barrier, Branch, Mma, StoreGlobal, StoreShared};
        let store = "st.global.u32 [%rd1], %r1;";
        assert_eq!(marked(MMA, "st.shared.u32 [sm], %r1;"), [Barrier, Mma, Branch, StoreShared, Branch]);
        assert_eq!(marked(MMA, store), [Mma, Branch]);
        assert_eq!(marked(&format!("{MMA}\n{store}"), ""), [] as [Class; 0]);
        assert_eq!(marked("", store), [] as [Class; 0]);
        assert!(!marked(MMA, "").contains(&StoreGlobal));
    }
}
