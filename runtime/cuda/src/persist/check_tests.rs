//! The checker accepts what the scheduler makes of the committed models, and refuses programs broken by hand.

use super::*;
use crate::lower::lower;
use crate::persist::resident::map;
use pilotlight_plan::Plan;
use std::path::Path;
use std::time::Instant;

struct Program {
    schedule: Schedule,
    lowered: Lowered,
    map: Map,
}

fn program(model: &str, ctas: usize) -> Program {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(model).join("model.plan");
    let plan = Plan::open(path).expect("a committed plan");
    let lowered = lower(&plan, ctas as u32).expect("the kernels do it");
    let map = map(&plan, &lowered);
    Program { schedule: Schedule::new(&lowered, ctas).expect("it can be scheduled"), lowered, map }
}

impl Program {
    fn check(&self) -> Result<Proof, Flaw> {
        check(&self.schedule, &self.lowered, &self.map)
    }

    /// The first instruction that does work, from a place on.
    fn worker(&self, from: usize) -> usize {
        let list = &self.schedule.instructions;
        (from..list.len()).find(|&at| list[at].operation != abi::OPERATION_NONE).expect("work")
    }

    fn launch(&mut self, n: usize) -> &mut Launch {
        self.lowered.steps.iter_mut().flatten().nth(n).expect("a launch")
    }
}

#[test]
fn committed_models_are_accepted_for_any_number_of_blocks() {
    for model in ["digits", "efficientnet-lite0"] {
        for ctas in [1, 2, 4, 6, 7, 8, 14, 16, 64] {
            let program = program(model, ctas);
            let since = Instant::now();
            let proof = program.check().unwrap_or_else(|flaw| panic!("{model}, {ctas} blocks: {flaw}"));
            println!("{model}, {ctas} blocks: {proof:?} in {:?}", since.elapsed());
            assert!(proof.instructions >= program.lowered.steps.len());
            assert!((ctas == 1) == (proof.waits == 0), "{proof:?}");
        }
    }
}

#[test]
fn every_single_wait_is_needed_and_its_absence_is_found() {
    let mut program = program("efficientnet-lite0", 8);
    let mut removed = 0;
    for at in 0..program.schedule.instructions.len() {
        for group in 0..abi::WAITS as usize {
            let mask = program.schedule.instructions[at].wait[group].mask;
            for bit in (0..32).filter(|b| mask >> b & 1 == 1) {
                program.schedule.instructions[at].wait[group].mask = mask & !(1 << bit);
                let found = program.check();
                assert!(matches!(found, Err(Flaw::Unordered { .. })), "instruction {at}: {found:?}");
                removed += 1;
            }
            program.schedule.instructions[at].wait[group].mask = mask;
        }
    }
    println!("{removed} waits removed one by one, each found");
    assert!(removed > 100, "{removed}");
    assert!(program.check().is_ok());
}

/// A fault, what it does to a program, and whether a flaw is the one expected.
type Fault = (&'static str, fn(&mut Program), fn(&Flaw) -> bool);

const FAULTS: &[Fault] = &[
    ("waits for itself", |p| wait(p, 5, 5), |f| matches!(f, Flaw::Circle { .. })),
    ("waits for the next of its list", |p| wait(p, 5, 6), |f| matches!(f, Flaw::Circle { .. })),
    (
        "two lists wait for each other",
        |p| {
            let (a, b) = (p.schedule.starts[0] as usize, p.schedule.starts[1] as usize);
            wait(p, a + 4, b + 9);
            wait(p, b + 4, a + 9);
        },
        |f| matches!(f, Flaw::Circle { .. }),
    ),
    (
        "a list goes back by one step",
        |p| {
            let list = &mut p.schedule.instructions[..p.schedule.starts[1] as usize];
            let at =
                list.windows(2).position(|w| w[0].step + 1 == w[1].step).expect("a list has several steps");
            list.swap(at, at + 1);
        },
        |f| matches!(f, Flaw::Steps { .. }),
    ),
    (
        "a flag is set twice",
        |p| p.schedule.instructions[7].flag = p.schedule.instructions[6].flag,
        |f| matches!(f, Flaw::Flag { .. }),
    ),
    (
        "a flag outside the state",
        |p| p.schedule.instructions[7].flag = p.schedule.flags,
        |f| matches!(f, Flaw::Flag { .. }),
    ),
    (
        "a flag that nothing sets",
        |p| {
            p.schedule.flags += 1;
            p.schedule.instructions[9].wait[7] = abi::Wait { first: p.schedule.flags - 1, mask: 1 };
        },
        |f| matches!(f, Flaw::Wait { .. }),
    ),
    (
        "a wait far outside",
        |p| p.schedule.instructions[9].wait[7] = abi::Wait { first: 0x7FFF_0000, mask: 1 << 31 },
        |f| matches!(f, Flaw::Wait { .. }),
    ),
    (
        "waits for the neighbour's flag",
        |p| {
            // Of one flag alone: of several the neighbour may know the one left out.
            let list = &mut p.schedule.instructions;
            let middle = list.len() / 3;
            let alone = list[middle..].iter_mut().find(|i| i.wait[0].mask.count_ones() == 1).expect("a wait");
            alone.wait[0].mask = alone.wait[0].mask.rotate_left(1);
        },
        |f| matches!(f, Flaw::Unordered { .. } | Flaw::Circle { .. } | Flaw::Wait { .. }),
    ),
    (
        "waits for the launch before the one it needs",
        |p| {
            let at = waiting(p);
            p.schedule.instructions[at].wait[0].first -= 8;
        },
        |f| matches!(f, Flaw::Unordered { .. }),
    ),
    (
        "a block is left out",
        |p| {
            let at = p.worker(3);
            p.schedule.instructions[at].count -= 1;
        },
        |f| matches!(f, Flaw::Blocks { times: 0, .. } | Flaw::Form { .. }),
    ),
    (
        "a block is done twice",
        |p| {
            let at = p.worker(3);
            p.schedule.instructions[at].count += 1;
        },
        |f| matches!(f, Flaw::Blocks { times: 2, .. }),
    ),
    ("no block", |p| p.schedule.instructions[3].count = 0, |f| matches!(f, Flaw::Form { .. })),
    (
        "blocks outside the launch",
        |p| p.schedule.instructions[3].first = u32::MAX,
        |f| matches!(f, Flaw::Form { .. }),
    ),
    ("another kernel", |p| p.schedule.instructions[3].operation ^= 1, |f| matches!(f, Flaw::Form { .. })),
    ("no kernel", |p| p.schedule.instructions[3].operation = 999, |f| matches!(f, Flaw::Form { .. })),
    (
        "work turned into a wait",
        |p| p.schedule.instructions[3].operation = abi::OPERATION_NONE,
        |f| matches!(f, Flaw::Blocks { .. }),
    ),
    ("another grid", |p| p.schedule.instructions[3].grid_x += 1, |f| matches!(f, Flaw::Form { .. })),
    ("another grid along y", |p| p.schedule.instructions[3].grid_y += 1, |f| matches!(f, Flaw::Form { .. })),
    (
        "half a parameter block",
        |p| p.schedule.instructions[3].block_bytes -= 8,
        |f| matches!(f, Flaw::Form { .. }),
    ),
    (
        "the middle of a parameter block",
        |p| p.schedule.instructions[3].block += 16,
        |f| matches!(f, Flaw::Launch { .. }),
    ),
    (
        "parameters outside the slot's",
        |p| p.schedule.block_bytes -= 100,
        |f| matches!(f, Flaw::Launch { .. }),
    ),
    ("another step", |p| p.schedule.instructions[3].step += 1, |f| matches!(f, Flaw::Form { .. })),
    (
        "two instructions change places",
        |p| p.schedule.instructions.swap(10, 11),
        |f| matches!(f, Flaw::Steps { .. } | Flaw::Unordered { .. } | Flaw::Circle { .. }),
    ),
    (
        "the last instruction is outside all lists",
        |p| *p.schedule.starts.last_mut().expect("starts") -= 1,
        |f| matches!(f, Flaw::Lists { .. }),
    ),
    (
        "a list begins behind the next",
        |p| p.schedule.starts[1] = u32::MAX,
        |f| matches!(f, Flaw::Lists { .. }),
    ),
    ("the first instruction in no list", |p| p.schedule.starts[0] = 1, |f| matches!(f, Flaw::Lists { .. })),
    ("no blocks at all", |p| p.schedule.ctas = 0, |f| matches!(f, Flaw::Lists { .. })),
    (
        "an instruction moves to the next list",
        |p| p.schedule.starts[1] -= 1,
        |f| matches!(f, Flaw::Steps { .. } | Flaw::Unordered { .. } | Flaw::Circle { .. }),
    ),
    (
        "the arena is smaller",
        |p| p.map.writable.last_mut().expect("the arena").end -= 64,
        |f| matches!(f, Flaw::Memory { .. }),
    ),
    (
        "weights are prefetched from outside",
        |p| {
            let at = p.schedule.instructions.iter().position(|i| i.weight_bytes > 0).expect("weights");
            p.schedule.instructions[at].weights += 1 << 30;
        },
        |f| matches!(f, Flaw::Memory { how: "read", .. }),
    ),
    ("an output is smaller", |p| p.map.writable[0].end -= 1, |f| matches!(f, Flaw::Memory { .. })),
    ("an input is smaller", |p| p.map.readable[0].end -= 65, |f| matches!(f, Flaw::Memory { .. })),
    (
        "a result goes to the constants",
        |p| redirect(p, 2),
        |f| matches!(f, Flaw::Memory { how: "write", .. }),
    ),
    ("a result goes to the input", |p| redirect(p, 3), |f| matches!(f, Flaw::Memory { how: "write", .. })),
    (
        "a result overlaps what others still read",
        |p| redirect(p, 1),
        |f| matches!(f, Flaw::Unordered { .. } | Flaw::Memory { .. }),
    ),
    (
        "the host is not told",
        |p| p.schedule.instructions.iter_mut().for_each(|i| i.to_host = 0),
        |f| matches!(f, Flaw::Host { .. }),
    ),
    (
        "a list of taps is not there",
        |p| p.lowered.constants.truncate(64),
        |f| matches!(f, Flaw::Unknown { .. } | Flaw::Memory { .. }),
    ),
    (
        "two launches change places in the plan",
        |p| p.lowered.steps.swap(4, 5),
        |f| matches!(f, Flaw::Form { .. } | Flaw::Unordered { .. } | Flaw::Blocks { .. }),
    ),
];

/// Instruction `at` waits for the flag of instruction `of`.
fn wait(p: &mut Program, at: usize, of: usize) {
    p.schedule.instructions[at].wait[7] = abi::Wait { first: p.schedule.instructions[of].flag, mask: 1 };
}

/// An instruction that waits, in the middle of the program.
fn waiting(p: &Program) -> usize {
    let list = &p.schedule.instructions;
    (list.len() / 3..list.len()).find(|&at| list[at].wait[0].mask != 0).expect("a wait")
}

/// The output of launch 6 goes to the beginning of a space.
fn redirect(p: &mut Program, space: u64) {
    let launch = p.launch(6);
    let t = touches(launch, 0..1, &[]).or_else(|| touches(&launch.clone(), 0..1, &vec![0; 1 << 26]));
    let to = t.expect("known").into_iter().find(|t| t.writes).expect("a write").bytes.start;
    let word = launch.block.iter().position(|&w| w == to).expect("the output's word");
    launch.block[word] = space << 60;
}

#[test]
fn broken_programs_are_refused() {
    let mut slipped = Vec::new();
    for (name, fault, expected) in FAULTS {
        let mut program = program("efficientnet-lite0", 8);
        fault(&mut program);
        match program.check() {
            Err(flaw) if expected(&flaw) => println!("{name}: {flaw}"),
            other => slipped.push(format!("{name}: {other:?}")),
        }
    }
    println!("{} faults", FAULTS.len());
    assert!(slipped.is_empty(), "{slipped:#?}");
    assert!(FAULTS.len() >= 20);
}
