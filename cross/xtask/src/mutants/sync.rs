//! Faults of synchronisation: every site of the shipped PTX weakened, and faults of scheduler, checker, mailbox,
//! and of the kernel's protocol.

use super::run::{Bench, Round};
use super::{Mutant, Options, Tally, sites};
use crate::shell;
use anyhow::{Context, Result, bail};
use std::time::Instant;

type Setting = (&'static str, &'static str);
const WEAK: Setting = ("PILOTLIGHT_VIRTUAL_WEAK", "1");
const RACE: Setting = ("PILOTLIGHT_VIRTUAL_RACE", "1");
const PERSISTENT: Setting = ("PILOTLIGHT_TEST_MODES", "persistent");
const LAUNCH: Setting = ("PILOTLIGHT_TEST_MODES", "launched");
const SEED: &str = "PILOTLIGHT_VIRTUAL_SEED";
const PARKS: &str = "PILOTLIGHT_TEST_PARKS";
const SCENARIO: &str = "PILOTLIGHT_TEST_SCENARIO";

/// A small network, with requests that race with parking.
const fn network(variables: &'static [Setting]) -> Round {
    Round { target: "weak", tests: Some("in_child_small_network"), variables }
}

const fn scenario(variables: &'static [Setting]) -> Round {
    Round { target: "persistent", tests: Some("scenario"), variables }
}

const fn suite(tests: &'static str, variables: &'static [Setting]) -> Round {
    Round { target: "suites", tests: Some(tests), variables }
}

const OUTPUTS: Round = suite("outputs_that", &[RACE, PERSISTENT]);
const USED_AGAIN: Round = suite("memory_that", &[RACE, PERSISTENT]);
const LIT: Round = Round { target: "lib", tests: Some("lamp"), variables: &[RACE] };
const LIT_WEAK: Round = Round { target: "lib", tests: Some("lamp"), variables: &[WEAK] };
const OBSERVED: Round = scenario(&[RACE, (SCENARIO, "observed")]);
const FULL_MAILBOX: Round = scenario(&[RACE, (SCENARIO, "more-threads-than-requests")]);
const HANG: Round = scenario(&[RACE, (SCENARIO, "hang")]);
const HANG_AT_THE_JOIN: Round = scenario(&[RACE, (SCENARIO, "hang-at-the-join")]);
const ABORT: Round = scenario(&[RACE, (SCENARIO, "abort")]);
const ABORT_AT_THE_JOIN: Round = scenario(&[RACE, (SCENARIO, "abort-at-the-join")]);
const PARKS_3: Round = network(&[WEAK, (PARKS, "60"), (SEED, "3")]);
const PARKS_4: Round = network(&[WEAK, (PARKS, "60"), (SEED, "4")]);

/// On a loaded machine fewer requests come at the right moment.
const MANY_PARKS_3: Round = network(&[WEAK, (PARKS, "400"), (SEED, "3")]);
const MANY_PARKS_4: Round = network(&[WEAK, (PARKS, "400"), (SEED, "4")]);

/// For the persistent kernel outside the tiles of convolutions.
const PROTOCOL: &[Round] = &[
    network(&[RACE, (PARKS, "20"), (SEED, "2")]),
    network(&[WEAK, (PARKS, "40"), (SEED, "1")]),
    OUTPUTS,
    OBSERVED,
    LIT,
    LIT_WEAK,
    FULL_MAILBOX,
    HANG_AT_THE_JOIN,
    ABORT_AT_THE_JOIN,
    HANG,
    ABORT,
    PARKS_3,
    PARKS_4,
];

/// What is tried first on sites that only some tests reach; the others follow.
const FIRST: &[(&str, Round)] = &[
    ("fence.sc.sys 1/", MANY_PARKS_3),
    ("fence.sc.sys 1/", MANY_PARKS_4),
    // First look at SUBMITTED.
    ("ld.relaxed.sys.global.u32 3/", FULL_MAILBOX),
    // BEAT.
    ("ld.relaxed.sys.global.u32 5/", LIT),
    // An order to abort.
    ("ld.relaxed.sys.global.u32 8/", ABORT),
    ("ld.relaxed.sys.global.u32 9/", ABORT_AT_THE_JOIN),
    // JOIN.
    ("ld.acquire.gpu.global.u32 3/", OUTPUTS),
    ("red.release.gpu.global.add.u32 1/", OUTPUTS),
    // DONE.
    ("st.release.sys.global.u32 3/", LIT_WEAK),
    // An output's flag.
    ("st.release.sys.global.u32 2/", OUTPUTS),
];

/// Few multiprocessors, so that each has many tiles.
const SMALL: Setting = ("PILOTLIGHT_VIRTUAL_BOARD", "orin-nano-4gb");

/// For the persistent kernel's convolutions.
const TILES: &[Round] = &[suite("whole_tiles", &[RACE, PERSISTENT, SMALL])];

/// For kernels that are launched: no memory but shared memory is shared within a launch.
const LAUNCHED: &[Round] = &[
    suite("whole_tiles", &[RACE, LAUNCH, SMALL]),
    suite("linear::convolutions", &[RACE, LAUNCH, (SEED, "2")]),
];

/// For faults of the host: the checker's own tests first.
const HOST: &[Round] = &[
    Round { target: "lib", tests: None, variables: &[] },
    network(&[WEAK, (PARKS, "40"), (SEED, "1")]),
    network(&[RACE, (PARKS, "20"), (SEED, "2")]),
    OUTPUTS,
    USED_AGAIN,
    suite("linear::", &[PERSISTENT, (SEED, "3")]),
    scenario(&[(SCENARIO, "hang")]),
];

/// The tests that exercise a site, the likeliest first.
fn rounds(site: &sites::Site) -> Vec<&'static Round> {
    let tile = site.what.starts_with("cp.async") || site.what == "bar.sync" && site.number > 6;
    match site.kernel.as_str() {
        "persistent" if tile => TILES.iter().chain(PROTOCOL).collect(),
        "persistent" => {
            let place = format!("{} {}/", site.what, site.number);
            let first = FIRST.iter().filter(|(known, _)| *known == place).map(|(_, round)| round);
            first.chain(PROTOCOL).collect()
        }
        _ => LAUNCHED.iter().collect(),
    }
}

/// Why a weakened site that nothing catches does no harm: its key (see [`sites::Site::key`]), how it is
/// weakened, and the argument. A key that names no site any more is an error.
#[rustfmt::skip]
const ARGUED: &[(&str, &str, &str)] = &[
    ("persistent ld.relaxed.sys.global.u32 1/9", "device scope", BEFORE),
    ("persistent ld.relaxed.sys.global.u32 1/9", "plain", BEFORE),
    ("persistent ld.relaxed.sys.global.u32 2/9", "device scope", ANY_BEAT),
    ("persistent ld.relaxed.sys.global.u32 2/9", "plain", ANY_BEAT),
    ("persistent ld.relaxed.sys.global.u32 6/9", "device scope", FRESH),
    ("persistent ld.relaxed.sys.global.u32 6/9", "plain", FRESH),
    ("persistent st.relaxed.sys.global.u64 1/5", "device scope", WITH_DONE),
    ("persistent st.relaxed.sys.global.u64 1/5", "plain", WITH_DONE),
    ("persistent st.relaxed.sys.global.u64 2/5", "device scope", TRACE),
    ("persistent st.relaxed.sys.global.u64 2/5", "plain", TRACE),
    ("persistent st.relaxed.sys.global.u64 3/5", "device scope", TRACE),
    ("persistent st.relaxed.sys.global.u64 3/5", "plain", TRACE),
    ("persistent st.relaxed.sys.global.u64 4/5", "device scope", TRACE),
    ("persistent st.relaxed.sys.global.u64 4/5", "plain", TRACE),
    ("persistent st.relaxed.sys.global.u64 5/5", "device scope", WITH_DONE),
    ("persistent st.relaxed.sys.global.u64 5/5", "plain", WITH_DONE),
    ("persistent st.relaxed.sys.global.u32 1/11", "device scope", WITH_PARKED),
    ("persistent st.relaxed.sys.global.u32 1/11", "plain", WITH_PARKED),
    ("persistent st.relaxed.sys.global.u32 2/11", "device scope", TAKEN_BACK),
    ("persistent st.relaxed.sys.global.u32 2/11", "plain", TAKEN_BACK),
    ("persistent st.relaxed.sys.global.u32 3/11", "device scope", PLACE),
    ("persistent st.relaxed.sys.global.u32 3/11", "plain", PLACE),
    ("persistent st.relaxed.sys.global.u32 4/11", "device scope", PLACE),
    ("persistent st.relaxed.sys.global.u32 4/11", "plain", PLACE),
    ("persistent st.relaxed.sys.global.u32 5/11", "device scope", PLACE),
    ("persistent st.relaxed.sys.global.u32 5/11", "plain", PLACE),
    ("persistent st.relaxed.sys.global.u32 6/11", "device scope", PLACE),
    ("persistent st.relaxed.sys.global.u32 6/11", "plain", PLACE),
    ("persistent st.relaxed.sys.global.u32 7/11", "device scope", PLACE),
    ("persistent st.relaxed.sys.global.u32 7/11", "plain", PLACE),
    ("persistent st.relaxed.sys.global.u32 8/11", "device scope", PLACE),
    ("persistent st.relaxed.sys.global.u32 8/11", "plain", PLACE),
    ("persistent st.relaxed.sys.global.u32 9/11", "device scope", PLACE),
    ("persistent st.relaxed.sys.global.u32 9/11", "plain", PLACE),
    ("persistent st.relaxed.sys.global.u32 10/11", "device scope", PLACE),
    ("persistent st.relaxed.sys.global.u32 10/11", "plain", PLACE),
    ("persistent st.relaxed.sys.global.u32 11/11", "device scope", WITH_PARKED),
    ("persistent st.relaxed.sys.global.u32 11/11", "plain", WITH_PARKED),
    ("persistent st.release.sys.global.u32 1/4", "relaxed", FENCED),
    ("persistent st.release.sys.global.u32 1/4", "device scope", FENCED),
    ("persistent st.release.sys.global.u32 2/4", "device scope", JOINED),
    ("persistent st.release.sys.global.u32 4/4", "relaxed", ENDED),
    ("persistent st.release.sys.global.u32 4/4", "device scope", ENDED),
    ("persistent ld.relaxed.gpu.global.u32 7/7", "block scope", OWN_DEADLINE),
    ("persistent ld.relaxed.gpu.global.u32 7/7", "plain", OWN_DEADLINE),
    ("persistent cp.async.wait_group 0 1/6", MORE, EMPTY),
    ("persistent cp.async.wait_group 0 2/6", MORE, EMPTY),
    ("persistent cp.async.wait_group 0 3/6", MORE, EMPTY),
    ("persistent cp.async.wait_group 0 4/6", MORE, EMPTY),
    ("persistent cp.async.wait_group 0 5/6", MORE, EMPTY),
    ("persistent cp.async.wait_group 0 6/6", MORE, EMPTY),
    ("conv_s8_128x256 cp.async.wait_group 0 1/1", MORE, EMPTY),
    ("conv_u8_128x256 cp.async.wait_group 0 1/1", MORE, EMPTY),
    ("conv_s8_64x64 cp.async.wait_group 0 1/1", MORE, EMPTY),
    ("conv_u8_64x64 cp.async.wait_group 0 1/1", MORE, EMPTY),
    ("conv_s8_gather cp.async.wait_group 0 1/1", MORE, EMPTY),
    ("conv_u8_gather cp.async.wait_group 0 1/1", MORE, EMPTY),
];
const MORE: &str = "one group more under way";
const EMPTY: &str =
    "the loop's last wait has left one group under way, which is empty, as the last steps load nothing";
const OWN_DEADLINE: &str = "block 0 alone polls here, for JOIN: others give up at the same deadline only, which it \
     looks at itself in the same loop, and orders to abort come to it alone";
const BEFORE: &str = "DONE was written by a launch that ended before this one began, or by the host before it launched: \
     the launch itself orders it";
const ANY_BEAT: &str = "any value does: one that is not the present beat has the patience begin anew at the next look, \
     once";
const FRESH: &str = "fence.sc.sys stands directly before this one load of SUBMITTED: no older copy of the word is left that it \
     could be served from, and what it finds is compared with nothing else";
const TRACE: &str = "the same thread releases JOIN behind it, block 0 acquires that and releases DONE at system scope, \
     and the host reads a trace after acquiring DONE";
const WITH_DONE: &str = "the same thread releases DONE behind it and the host reads it after acquiring DONE; where \
     another request has begun by then, the shipped order gives either time too, and a wait is planned by it only";
const PLACE: &str = "only the text of an error names where blocks stand; it is written after the kernel has ended, which \
     orders all, or of a kernel that ignores an abort, of which an older place is told";
const WITH_PARKED: &str = "the same thread releases PARKED behind it; the host acts on a reason to abort only, while it \
     holds the lock under which alone it gives that order, and looks at it again when the kernel has ended";
const TAKEN_BACK: &str = "a host that does not see PARKED taken back launches once more, which is safe at any time; a \
     later PARKED of the same thread and address comes behind it";
const FENCED: &str = "fence.sc.sys stands directly behind: a host whose fence comes later sees even a plain store; and no \
     reason that goes with it is acted on before the kernel has ended";
const JOINED: &str = "the same thread releases JOIN behind it, from which block 0 passes the outputs on to the host with \
     DONE; readers on the device need no more than their own scope";
const ENDED: &str = "where the host sees PARKED late or an older reason, it asks the driver whether the kernel has ended, \
     which orders all, and looks again";

/// Weakens every site and plants every fault.
pub fn run(options: &Options) -> Result<()> {
    let ptx = std::fs::read_to_string(shell::root().join("kernels/generated/pilotlight.ptx"))
        .context("kernels/generated/pilotlight.ptx")?;
    let all = sites::sites(&ptx);
    for (key, way, _) in ARGUED {
        let site = all.iter().find(|s| s.key() == *key);
        let known = site.is_some_and(|s| sites::weakenings(&ptx, s).iter().any(|(name, _)| name == way));
        if !known {
            bail!(
                "an argument is about `{key}` weakened to {way}, which the PTX does not have: argue it anew"
            );
        }
    }
    let mut weakened = Vec::new();
    for site in &all {
        for (way, line) in sites::weakenings(&ptx, site) {
            let name = format!("{} -> {way}", site.key());
            if options.wants(&name) {
                weakened.push((name, site, way, line));
            }
        }
    }
    let faults: Vec<&Mutant> =
        FAULTS.iter().filter(|m| options.wants(m.name) || options.wants(m.file)).collect();
    if options.list {
        weakened.iter().for_each(|(name, ..)| println!("{name}"));
        faults.iter().for_each(|m| println!("{}: {}", m.file, m.name));
        return Ok(());
    }
    if weakened.is_empty() && faults.is_empty() {
        bail!("no fault has this in its name; --list shows them");
    }
    let bench = Bench::new()?;
    let mut needed = Vec::new();
    if !weakened.is_empty() {
        needed.extend([TILES, LAUNCHED]);
    }
    if faults.iter().any(|fault| !fault.in_cuda()) {
        needed.push(HOST);
    }
    if !weakened.is_empty() || faults.iter().any(|fault| fault.in_cuda()) {
        needed.push(PROTOCOL);
    }
    let needed: Vec<&Round> = needed.into_iter().flatten().collect();
    bench.must_pass(&needed, "")?;
    let mut tally = Tally::default();
    for (name, site, way, line) in weakened {
        let since = Instant::now();
        let how = bench.try_ptx(&sites::planted(&ptx, site, &line), &rounds(site), "")?;
        let argued = ARGUED.iter().find(|(key, w, _)| *key == site.key() && *w == way);
        tally.line(&name, since, how.as_deref(), argued.map(|(.., argument)| *argument));
    }
    for fault in faults {
        let since = Instant::now();
        let rounds: Vec<&Round> = if fault.in_cuda() { PROTOCOL } else { HOST }.iter().collect();
        let how = bench.plant(fault, &rounds)?;
        tally.line(fault.name, since, how.as_deref(), None);
    }
    tally.finish()
}

const KERNEL: &str = "kernels/cuda/persistent.cuh";
const SCHEDULE: &str = "runtime/cuda/src/persist/schedule.rs";
const CHECK: &str = "runtime/cuda/src/persist/check.rs";
const FOOTPRINT: &str = "runtime/cuda/src/persist/footprint.rs";
const MAILBOX: &str = "runtime/cuda/src/persist/mailbox.rs";
const LAMP: &str = "runtime/cuda/src/persist/lamp/mod.rs";
const LAMP_KERNEL: &str = "runtime/cuda/src/persist/lamp/kernel.rs";
const RESIDENT_RS: &str = "runtime/cuda/src/persist/resident.rs";

macro_rules! faults {
    ($($file:ident $name:literal: $find:literal => $replace:literal;)*) => {
        &[$(Mutant { name: $name, file: $file, find: $find, replace: $replace, tests: "" },)*]
    };
}

/// Faults of the protocol on both sides, of the scheduler and of the checker.
const FAULTS: &[Mutant] = faults! {
    KERNEL "an instruction signals before its threads are done":
        "      __syncthreads();\n      if (tid == 0) {\n        // ORDER: releases this block's results"
        => "      if (tid == 0) {\n        // ORDER: releases this block's results";
    KERNEL "the epoch does not grow": "if (request.whole) *(u32*)request.state = epoch;" => "";
    KERNEL "a flag is waited for to reach the epoch before": "(int)(load_relaxed_gpu(flag) - r.epoch) >= 0" => "(int)(load_relaxed_gpu(flag) - r.epoch) >= -1";
    KERNEL "flags are compared without wrapping": "(int)(load_relaxed_gpu(flag) - r.epoch) >= 0" => "load_relaxed_gpu(flag) >= r.epoch + 0x80000000u";
    KERNEL "the end of an inference does not wait for all blocks": "while (load_relaxed_gpu(p.control + CONTROL_JOIN) != all)" => "while (false)";
    KERNEL "only the first of several flags is waited for": "const u32 lane = threadIdx.x & 31, mask = w.mask;" => "const u32 lane = threadIdx.x & 31, mask = w.mask & -w.mask;";
    KERNEL "the host is told before the outputs are there": "reason = wait_for_all(p, number, until);" => "reason = (store_release_sys(mail + MAIL_DONE, number), wait_for_all(p, number, until));";
    KERNEL "a request is read from the slot of the one before": "(served + 1) % REQUESTS * LINE" => "served % REQUESTS * LINE";
    KERNEL "a launch that parks does not look once more": "if (load_relaxed_sys(p.mailbox + MAIL_SUBMITTED) == served) return true;" => "return true;";
    MAILBOX "numbers are compared without wrapping": "self.done.load(Acquire).wrapping_sub(number) as i32 >= 0" => "self.done.load(Acquire) >= number";
    MAILBOX "a launch that left is not noticed: a lost wake-up": "        self.parked.load(Relaxed) == generation" => "        self.parked.load(Relaxed) == generation.wrapping_add(1)";
    LAMP "a request goes to the wrong slot": "abi::MAIL_REQUESTS + number % abi::REQUESTS * abi::LINE" => "abi::MAIL_REQUESTS + (number + 1) % abi::REQUESTS * abi::LINE";
    LAMP_KERNEL "the counter of joined blocks starts wrong": "number.wrapping_mul(self.ctas)" => "number";
    LAMP_KERNEL "blocks start one request ahead": "put(abi::CONTROL_GO, number);" => "put(abi::CONTROL_GO, number.wrapping_add(1));";
    LAMP_KERNEL "a new launch has the number of the old one": "(state.generation + 1) % GENERATIONS" => "state.generation.max(1) % GENERATIONS";
    SCHEDULE "a wait knows more than it may": "*mine = (*mine).max(*theirs);" => "*mine = (*mine).max(*theirs + 1);";
    SCHEDULE "a CTA counts as knowing all of another": "if knows[part.cta] >= part.number {" => "if knows[part.cta] > 0 {";
    SCHEDULE "the wrong flag is waited for": "wait.mask |= 1 << (flag - wait.first)" => "wait.mask |= 1 << ((flag - wait.first + 1) % 32)";
    SCHEDULE "two instructions share a flag": "(instruction.flag, flags) = (flags, flags + 1);" => "(instruction.flag, flags) = (flags, flags + flags % 2);";
    SCHEDULE "the last block of a part is left out": "count: range.end - range.start," => "count: (range.end - range.start).max(2) - 1,";
    SCHEDULE "outputs are not announced": "to_host: touches.iter().any(|t| t.writes && is_output(t.bytes.start)).into()," => "to_host: 0,";
    SCHEDULE "parameter blocks overlap": "block_bytes = (block_bytes + bytes).next_multiple_of(BLOCK_ALIGN);" => "block_bytes += BLOCK_ALIGN;";
    SCHEDULE "a list begins in the one before": "starts.push(instructions.len() as u32);" => "starts.push((instructions.len() as u32).max(1) - 1);";
    FOOTPRINT "reads and then writes are not ordered (no write-after-read edge)": "(self.writes || other.writes)" => "other.writes";
    FOOTPRINT "writes after writes and reads after writes are not ordered": "(self.writes || other.writes)" => "(self.writes && !other.writes)";
    FOOTPRINT "a footprint ends one element early": "(elements.1 + 1) * size" => "elements.1.max(elements.0 + 1) * size";
    CHECK "the checker believes that waits order their CTA's future": "let done = earlier - self.list(cta_of[earlier]).start + 1;" => "let done = earlier - self.list(cta_of[earlier]).start + 2;";
    CHECK "the checker takes any order for enough": "Some(t) if !ordered => {" => "Some(t) if !ordered && knows.is_empty() => {";
    CHECK "the checker does not count blocks": "if let Some(block) = list.iter().position(|&t| t != 1) {" => "if let Some(block) = list.iter().position(|&t| t > 1) {";
    CHECK "the checker lets an instruction write what is read-only": "(inside(&t.bytes, &map.writable), \"write\")" => "(inside(&t.bytes, &map.readable), \"write\")";
    CHECK "the checker does not see a circle": "Some(at) => Err(Flaw::Circle { at, stuck: instructions.len() - order.len() })," => "Some(_) => Ok((order, setters)),";
    CHECK "the checker lets two instructions set a flag": "Some(setter) if *setter == usize::MAX => *setter = at," => "Some(setter) => *setter = at,";
    CHECK "the checker lets a list go back": "if step < before {" => "if step + 1 < before {";
    RESIDENT_RS "no room for the flags": "abi::STATE_FLAGS as usize / 4 + schedule.flags as usize" => "schedule.flags as usize / 2";
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_and_every_argument_still_has_its_place() {
        for fault in FAULTS {
            let text = std::fs::read_to_string(shell::root().join(fault.file)).unwrap();
            fault.plant(&text).unwrap();
        }
        run(&Options { list: true, ..Options::default() }).unwrap();
    }
}
