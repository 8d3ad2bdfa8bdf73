//! The persistent kernel on the virtual Orin: exactness on every board, its life, and its faults.
//!
//! Each scenario runs in a process of its own, with a board and a seed: a trap is final for a process, and a kernel that
//! is lit takes the whole device. On a GPU, where `cargo xtask test-gpu` asks for it, boards and seeds are one.
#![allow(clippy::unwrap_used, reason = "a test's helper fails the test")]

mod boards;
mod virtual_orin;

use boards::{BOARDS, seeds};
use pilotlight_cuda::{Cuda, Mode, Settings, Wait};
use pilotlight_device::{Cpu, CpuOptions, Device, LoadError, Program, RunError, Slot};
use pilotlight_plan::Plan;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SCENARIO: &str = "PILOTLIGHT_TEST_SCENARIO";

fn model(name: &str) -> Plan {
    Plan::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name).join("model.plan"))
        .unwrap()
}

fn fill(slot: &mut Slot, seed: usize) {
    fill_image(slot.input_mut(0), seed);
}

fn fill_image(image: &mut [u8], seed: usize) {
    for (n, bytes) in image.chunks_exact_mut(4).enumerate() {
        let value = ((n + 1) * (seed + 3) * 2_654_435_761) % 255;
        bytes.copy_from_slice(&(value as f32 / 15.0 - 8.0).to_le_bytes());
    }
}

/// What the CPU device gives.
fn expected(plan: &Plan, seed: usize) -> Vec<u8> {
    let mut program = Cpu::new(CpuOptions::default()).unwrap().load(plan).unwrap();
    let mut slot = program.slot().unwrap();
    fill(&mut slot, seed);
    program.run(&mut slot).unwrap();
    slot.output(0).to_vec()
}

/// Waiting threads sleep, as emulation needs the cores; nothing is in a hurry.
fn settings() -> Settings {
    Settings { wait: Wait::Block, patience: Duration::from_secs(100), ..Settings::default() }
}

fn open(settings: Settings) -> Cuda {
    virtual_orin::open(Mode::Persistent).with(settings)
}

/// The shipped kernels with one change, made in the persistent kernel alone.
fn open_faulty(settings: Settings, from: &str, to: &str) -> Cuda {
    let tested = virtual_orin::ptx().unwrap_or_else(|| pilotlight_kernels::PTX.to_owned());
    let (before, persistent) = tested.split_once(".visible .entry persistent(").unwrap();
    assert!(persistent.contains(from), "the persistent kernel has no `{from}`");
    let ptx = format!("{before}.visible .entry persistent({}", persistent.replace(from, to));
    virtual_orin::open_with(Mode::Persistent, &ptx).with(settings)
}

/// Runs a slot and compares its output.
fn runs_exactly(program: &mut dyn Program, slot: &mut Slot, plan: &Plan, seed: usize) {
    fill(slot, seed);
    slot.output_mut(0).fill(0xEE);
    program.run(slot).unwrap();
    assert!(slot.output(0) == expected(plan, seed), "{}: input {seed} differs", plan.name);
}

/// Two slots in turn.
fn exact(name: &str, runs: usize, settings: Settings) {
    let plan = model(name);
    let cuda = open(settings);
    let mut program = cuda.load(&plan).unwrap();
    assert!(cuda.describe().contains("cuda:persistent"), "{}", cuda.describe());
    let mut slots = [program.slot().unwrap(), program.slot().unwrap()];
    for run in 0..runs {
        runs_exactly(&mut *program, &mut slots[run % 2], &plan, run);
    }
}

/// A kernel that leaves as soon as it may, and requests that come about then.
fn park_and_relaunch() {
    let plan = model("digits");
    let mut program = open(settings()).load(&plan).unwrap();
    let mut slot = program.slot().unwrap();
    for run in 0..25 {
        runs_exactly(&mut *program, &mut slot, &plan, run);
        std::thread::sleep(Duration::from_micros([0, 100, 1000, 10_000, 100_000][run % 5]));
    }
}

/// The application calls the driver while the kernel is out, and other threads' inferences wait.
fn pause() {
    let plan = model("digits");
    let cuda = open(Settings { idle: None, heartbeat: Duration::from_secs(1000), ..settings() });
    let mut program = cuda.load(&plan).unwrap();
    let mut slot = program.slot().unwrap();
    runs_exactly(&mut *program, &mut slot, &plan, 1);
    let pause = cuda.pause_gpu().unwrap().expect("a kernel to take out");
    assert!(
        matches!(program.run(&mut slot), Err(RunError::Device { .. })),
        "this thread would wait for itself"
    );
    assert!(cuda.pause_gpu().is_err(), "this thread would wait for itself");
    let other = std::thread::scope(|scope| {
        let (program, slot, plan) = (&mut program, &mut slot, &plan);
        let other = scope.spawn(move || {
            runs_exactly(&mut **program, slot, plan, 2);
            Instant::now()
        });
        // Calls that wait for all of the device: they would never return while a kernel is lit.
        let context = cudarc::driver::CudaContext::new(0).unwrap();
        let memory = context.default_stream().alloc_zeros::<u8>(1000).unwrap();
        context.synchronize().unwrap();
        drop(memory);
        std::thread::sleep(Duration::from_millis(100));
        let ended = Instant::now();
        drop(pause);
        assert!(other.join().unwrap() > ended, "an inference ran in the pause");
        true
    });
    assert!(other);
    runs_exactly(&mut *program, &mut slot, &plan, 3);
}

/// Two plans under one kernel, inferences from four threads, and a third plan loaded and dropped again and again.
fn swap_under_load() {
    let (digits, other) = (model("digits"), chain());
    let cuda = open(settings());
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (cuda, done, plan) = (&cuda, &done, if thread % 2 == 0 { &digits } else { &other });
            scope.spawn(move || {
                let mut program = cuda.load(plan).unwrap();
                let mut slot = program.slot().unwrap();
                for run in 0..8 {
                    runs_exactly(&mut *program, &mut slot, plan, thread * 100 + run);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for run in 0..6 {
            let mut program = cuda.load(&digits).unwrap();
            let mut slot = program.slot().unwrap();
            runs_exactly(&mut *program, &mut slot, &digits, run);
            drop(program);
            // The slot outlives its program.
            assert!(slot.output(0) == expected(&digits, run));
        }
    });
    assert_eq!(done.into_inner(), 32, "a request was lost");
}

/// A network's batches under one kernel, in turn: each image's result is what it is alone.
fn batches() {
    let one = model("digits");
    let cuda = open(settings());
    let mut resident = [1, 2, 3, 8].map(|batch| {
        let program = cuda.load(&pilotlight_plan::batch(&one, batch).unwrap()).unwrap();
        let slot = program.slot().unwrap();
        (batch as usize, program, slot)
    });
    for run in 0..3 {
        for (batch, program, slot) in &mut resident {
            let bytes = slot.input(0).len() / *batch;
            for (image, input) in slot.input_mut(0).chunks_exact_mut(bytes).enumerate() {
                fill_image(input, run * 100 + image);
            }
            slot.output_mut(0).fill(0xEE);
            program.run(slot).unwrap();
            let wanted: Vec<u8> = (0..*batch).flat_map(|image| expected(&one, run * 100 + image)).collect();
            assert!(slot.output(0) == wanted, "batch {batch}, run {run} differs");
        }
    }
}

/// More threads than the mailbox holds requests, all at once.
fn more_threads_than_requests() {
    let plan = model("digits");
    let cuda = open(settings());
    let start = Barrier::new(12);
    std::thread::scope(|scope| {
        for thread in 0..12 {
            let (cuda, plan, start) = (&cuda, &plan, &start);
            scope.spawn(move || {
                let mut program = cuda.load(plan).unwrap();
                let mut slot = program.slot().unwrap();
                start.wait();
                for run in 0..3 {
                    runs_exactly(&mut *program, &mut slot, plan, thread * 10 + run);
                }
            });
        }
    });
}

/// A plan of other shapes than the committed ones.
fn chain() -> Plan {
    let mut plan = model("digits");
    plan.name = "digits again".into();
    plan
}

/// Flags are never set: the others wait until the deadline, and the kernel says where.
fn hang() {
    let settings = Settings { deadline: Duration::from_millis(20), ..settings() };
    // The first such store is of GO in control memory, the second of an instruction's flag.
    let cuda = open_without(settings, "st.release.gpu.global.u32 [", 2);
    let plan = model("digits");
    let mut program = cuda.load(&plan).unwrap();
    let mut slot = program.slot().unwrap();
    let since = Instant::now();
    let found = program.run(&mut slot);
    let Err(RunError::Stalled { place, .. }) = &found else { panic!("{found:?}") };
    assert!(place.contains("waiting at instruction"), "{place}");
    println!("{}", found.unwrap_err());
    assert!(since.elapsed() < Duration::from_secs(60));
    // It begins anew, and stalls anew.
    assert!(matches!(program.run(&mut slot), Err(RunError::Stalled { .. })));
    // Other kernels of the process still run.
    let mut graph = virtual_orin::open(Mode::Graph).load(&plan).unwrap();
    let mut slot = graph.slot().unwrap();
    runs_exactly(&mut *graph, &mut slot, &plan, 5);
}

/// No block ever joins: block 0 waits for them until the deadline, and they wait for the next request.
fn hang_at_the_join() {
    let settings = Settings { deadline: Duration::from_millis(20), ..settings() };
    let cuda = open_without(settings, "red.release.gpu.global.add.u32", 1);
    let mut program = cuda.load(&model("digits")).unwrap();
    let mut slot = program.slot().unwrap();
    for _ in 0..2 {
        let found = program.run(&mut slot);
        let Err(RunError::Stalled { place, .. }) = &found else { panic!("{found:?}") };
        assert!(place.contains("block 1 between inferences"), "{place}");
    }
}

/// Aborted by the host while block 0 waits for the others.
fn abort_at_the_join() {
    let cuda = open_without(impatient(), "red.release.gpu.global.add.u32", 1);
    let mut program = cuda.load(&model("digits")).unwrap();
    aborted(&mut *program);
}

/// Step by step, so that each block passes over the instructions of the other steps.
fn observed() {
    let plan = model("digits");
    let mut program = open(settings()).load(&plan).unwrap();
    let mut cpu = Cpu::new(CpuOptions::default()).unwrap().load(&plan).unwrap();
    let (mut slot, mut wanted) = (program.slot().unwrap(), cpu.slot().unwrap());
    for slot in [&mut slot, &mut wanted] {
        fill(slot, 3);
    }
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    program.run_observed(&mut slot, &mut |step, bytes| found.push((step, bytes.to_vec()))).unwrap();
    cpu.run_observed(&mut wanted, &mut |step, bytes| expected.push((step, bytes.to_vec()))).unwrap();
    assert!(found == expected && !found.is_empty());
    runs_exactly(&mut *program, &mut slot, &plan, 4);
}

/// The same with no deadline on the device: the waiting thread has it abort.
fn abort() {
    let cuda = open_without(impatient(), "st.release.gpu.global.u32 [", 2);
    let mut program = cuda.load(&model("digits")).unwrap();
    aborted(&mut *program);
}

fn impatient() -> Settings {
    Settings {
        deadline: Duration::from_secs(1 << 30),
        look: Duration::from_millis(100),
        // Longer than the race detector takes for an inference.
        patience: Duration::from_secs(3),
        ..settings()
    }
}

fn aborted(program: &mut dyn Program) {
    let mut slot = program.slot().unwrap();
    let found = program.run(&mut slot);
    assert!(matches!(found, Err(RunError::Stalled { why: "the kernel was told to abort", .. })), "{found:?}");
}

/// The tested kernels without one instruction of the persistent kernel, the `which`th that begins so. Where they are the
/// shipped ones but for a line, the shipped ones say which line it is: that instruction itself may be the other line.
fn open_without(settings: Settings, from: &str, which: usize) -> Cuda {
    let tested = virtual_orin::ptx().unwrap_or_else(|| pilotlight_kernels::PTX.to_owned());
    let shipped = pilotlight_kernels::PTX;
    let like = if shipped.lines().count() == tested.lines().count() { shipped } else { &tested };
    let (gone, _) = like
        .lines()
        .enumerate()
        .skip_while(|(_, line)| !line.starts_with(".visible .entry persistent("))
        .filter(|(_, line)| line.trim_start().starts_with(from))
        .nth(which - 1)
        .unwrap();
    let ptx: String =
        tested.lines().enumerate().flat_map(|(n, l)| [if n == gone { "" } else { l }, "\n"]).collect();
    virtual_orin::open_with(Mode::Persistent, &ptx).with(settings)
}

/// The kernel traps in the middle of an inference.
fn trap() {
    let cuda = open_faulty(
        Settings { look: Duration::from_millis(50), ..settings() },
        "red.release.gpu.global.add.u32",
        "trap; red.release.gpu.global.add.u32",
    );
    let plan = model("digits");
    let mut program = cuda.load(&plan).unwrap();
    let mut slot = program.slot().unwrap();
    let error = program.run(&mut slot).unwrap_err();
    assert!(error.to_string().contains("restart the process"), "{error}");
    println!("{error}");
    // And from now on at once.
    assert!(matches!(program.run(&mut slot), Err(RunError::Device { .. })));
    drop((program, slot, cuda));
}

/// A driver that does not take the kernel: graph mode stands in, and says so.
fn refused() {
    let cuda = open_faulty(settings(), ".maxntid 256", ".maxntid 128");
    let plan = model("digits");
    let mut program = cuda.load(&plan).unwrap();
    assert!(cuda.describe().contains("graph, as the persistent kernel was refused"), "{}", cuda.describe());
    println!("{}", cuda.describe());
    let mut slot = program.slot().unwrap();
    runs_exactly(&mut *program, &mut slot, &plan, 4);
    assert!(cuda.pause_gpu().unwrap().is_none());
}

/// Settings and plans that cannot be.
fn impossible() {
    let plan = model("digits");
    let load = |settings: Settings, plan: &Plan| open(settings).load(plan).map(|_| ());
    let idle = load(Settings { idle: Some(Duration::from_millis(1)), ..settings() }, &plan);
    assert!(matches!(idle, Err(LoadError::Setting { setting: "idle time", .. })), "{idle:?}");
    let none = load(Settings { free_multiprocessors: u32::MAX, ..settings() }, &plan);
    assert!(matches!(none, Err(LoadError::Setting { setting: "free multiprocessors", .. })), "{none:?}");
    // The most that a plan may ask for is more than a board has; other GPUs may have it.
    let mut large = model("digits");
    large.arena_bytes = 1 << 32;
    let large = load(settings(), &large);
    assert!(virtual_orin::real() || matches!(large, Err(LoadError::Memory { .. })), "{large:?}");
    // What failed left nothing behind.
    exact("digits", 2, Settings { free_multiprocessors: 3, ..settings() });
}

/// A forked child must not use the parent's device.
fn fork() {
    let plan = model("digits");
    let mut program = open(settings()).load(&plan).unwrap();
    let mut slot = program.slot().unwrap();
    runs_exactly(&mut *program, &mut slot, &plan, 1);
    // SAFETY: the child only runs an inference, which is refused before it takes any lock, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused =
            matches!(program.run(&mut slot), Err(RunError::Device { call: "running in a forked child", .. }));
        // SAFETY: ends the child without running what the parent registered.
        unsafe { libc::_exit(if refused { 7 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: `status` is a place for the answer.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(libc::WEXITSTATUS(status), 7);
    runs_exactly(&mut *program, &mut slot, &plan, 2);
}

/// The process ends with its kernel lit and nothing dropped.
fn exit_while_lit() {
    let plan = model("digits");
    let cuda = open(Settings { idle: None, ..settings() });
    let mut program = cuda.load(&plan).unwrap();
    let mut slot = program.slot().unwrap();
    runs_exactly(&mut *program, &mut slot, &plan, 1);
    std::mem::forget((cuda, program, slot));
    std::process::exit(0);
}

/// Runs until it is killed.
fn run_for_ever() {
    let plan = model("digits");
    let cuda = open(Settings { idle: None, ..settings() });
    let mut program = cuda.load(&plan).unwrap();
    let mut slot = program.slot().unwrap();
    loop {
        runs_exactly(&mut *program, &mut slot, &plan, 1);
        println!("ran");
    }
}

const SCENARIOS: &[(&str, fn())] = &[
    ("digits", || exact("digits", 6, settings())),
    ("efficientnet", || exact("efficientnet-lite0", 1, settings())),
    ("wrap", || exact("digits", 8, Settings { first: u32::MAX - 3, ..settings() })),
    ("wrap-signed", || exact("digits", 8, Settings { first: (1 << 31) - 4, ..settings() })),
    ("predictive", || exact("digits", 6, Settings { wait: Wait::Predictive, ..settings() })),
    ("spin", || exact("digits", 6, Settings { wait: Wait::Spin, ..settings() })),
    ("park-and-relaunch", park_and_relaunch),
    ("pause", pause),
    ("swap-under-load", swap_under_load),
    ("batches", batches),
    ("more-threads-than-requests", more_threads_than_requests),
    ("hang", hang),
    ("hang-at-the-join", hang_at_the_join),
    ("abort", abort),
    ("abort-at-the-join", abort_at_the_join),
    ("observed", observed),
    ("trap", trap),
    ("refused", refused),
    ("impossible", impossible),
    ("fork", fork),
    ("exit-while-lit", exit_while_lit),
    ("run-for-ever", run_for_ever),
];

/// Not a test by itself: what the others run in processes of their own.
#[test]
fn scenario() {
    let Ok(name) = std::env::var(SCENARIO) else { return };
    let found = SCENARIOS.iter().find(|s| s.0 == name);
    found.unwrap_or_else(|| panic!("no scenario {name}")).1();
}

fn command(name: &str, variables: &[(&str, &str)]) -> Command {
    assert!(SCENARIOS.iter().any(|s| s.0 == name), "{name}");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["scenario", "--exact", "--nocapture"]).env(SCENARIO, name).envs(variables.iter().copied());
    command
}

/// Runs a scenario to its end, which must be good.
fn run(name: &str, variables: &[(&str, &str)]) -> Output {
    let output = command(name, variables).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{name} {variables:?}: {}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

fn on_boards(name: &str, seeds: impl Iterator<Item = u64> + Clone) {
    if virtual_orin::real() {
        run(name, &[]);
        return;
    }
    for board in BOARDS {
        for seed in seeds.clone() {
            run(name, &[("PILOTLIGHT_VIRTUAL_BOARD", board), ("PILOTLIGHT_VIRTUAL_SEED", &seed.to_string())]);
        }
    }
}

#[test]
fn digits_on_every_board_and_seed() {
    on_boards("digits", 1..=seeds());
}

#[test]
fn efficientnet_on_every_board_and_seed() {
    on_boards("efficientnet", 1..=seeds());
}

#[test]
fn numbers_may_wrap_around() {
    run("wrap", &[]);
    run("wrap-signed", &[]);
}

#[test]
fn every_way_of_waiting_is_exact() {
    run("predictive", &[]);
    run("spin", &[]);
}

#[test]
fn no_race_is_detected_and_weak_memory_changes_nothing() {
    for seed in ["1", "2", "3"] {
        for name in ["digits", "park-and-relaunch"] {
            for mode in ["PILOTLIGHT_VIRTUAL_RACE", "PILOTLIGHT_VIRTUAL_WEAK"] {
                run(name, &[(mode, "1"), ("PILOTLIGHT_VIRTUAL_SEED", seed)]);
            }
        }
    }
}

fn log_file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("pilotlight-persistent-{}-{name}", std::process::id()))
}

/// The driver calls of a scenario, in order.
fn calls(name: &str) -> Vec<String> {
    let log = log_file(name);
    run(name, &[("PILOTLIGHT_VIRTUAL_LOG", log.to_str().unwrap())]);
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    text.lines().map(|l| l.split(' ').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_kernel_parks_and_is_launched_again() {
    if virtual_orin::real() {
        // A GPU's driver keeps no log; the results are compared all the same.
        run("park-and-relaunch", &[]);
        return;
    }
    let launches = calls("park-and-relaunch").iter().filter(|c| *c == "cuLaunchCooperativeKernel").count();
    println!("{launches} launches for 25 inferences");
    assert!((4..=30).contains(&launches), "{launches}");
}

#[test]
fn a_pause_lets_the_application_call_the_driver() {
    run("pause", &[]);
}

#[test]
fn no_request_is_lost_while_plans_come_and_go() {
    run("swap-under-load", &[]);
}

#[test]
fn batches_share_a_kernel() {
    on_boards("batches", 1..=1);
    run("batches", &[("PILOTLIGHT_VIRTUAL_RACE", "1")]);
    run("batches", &[("PILOTLIGHT_VIRTUAL_WEAK", "1")]);
}

#[test]
fn threads_wait_for_room_in_the_mailbox() {
    run("more-threads-than-requests", &[]);
}

#[test]
fn a_hang_ends_at_the_deadline_and_says_where() {
    run("hang-at-the-join", &[]);
    let output = run("hang", &[]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("waiting at instruction"));
}

#[test]
fn a_hang_without_a_deadline_is_aborted_by_the_host() {
    run("abort", &[]);
    run("abort-at-the-join", &[]);
}

#[test]
fn giving_up_has_no_race() {
    for name in ["hang", "hang-at-the-join", "abort", "abort-at-the-join"] {
        run(name, &[("PILOTLIGHT_VIRTUAL_RACE", "1")]);
    }
}

#[test]
fn every_step_can_be_observed() {
    run("observed", &[("PILOTLIGHT_VIRTUAL_RACE", "1")]);
}

#[test]
fn a_trap_is_final_and_says_so() {
    run("trap", &[]);
}

#[test]
fn a_refused_launch_falls_back_to_graph_mode() {
    run("refused", &[]);
}

#[test]
fn impossible_settings_and_plans_are_refused_by_name() {
    run("impossible", &[]);
}

#[test]
fn a_forked_child_is_refused() {
    run("fork", &[]);
}

#[test]
fn a_process_may_end_or_be_killed_while_lit() {
    let since = Instant::now();
    run("exit-while-lit", &[]);
    let mut child = command("run-for-ever", &[]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|l| l.unwrap() == "ran"));
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(since.elapsed() < Duration::from_secs(60));
}
