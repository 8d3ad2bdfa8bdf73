//! What an inference costs the host: driver calls, allocations, copies, system calls.
//!
//! The virtual driver logs its calls. The allocator counts those of the thread that runs inferences (the emulator
//! runs in threads of its own). The kernel watches system calls: the thread enters seccomp's strict mode, in which
//! any call but read, write and exit ends it, and says how far it came. A control shows that the trap works.

#[cfg(target_os = "linux")]
mod virtual_orin;

#[cfg(target_os = "linux")]
mod linux {
    use super::virtual_orin;
    use pilotlight_cuda::{Mode, Settings, Wait};
    use pilotlight_device::{Device, Program, Slot};
    use pilotlight_plan::Plan;
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::path::Path;
    use std::process::{Command, ExitCode};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    thread_local! {
        static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    }

    struct Counting;

    // SAFETY: every call goes to the system allocator with the arguments it came with.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
            // SAFETY: the caller keeps `alloc`'s contract, which is the same.
            unsafe { System.alloc(layout) }
        }
        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
            // SAFETY: as above; `at` came from `System`.
            unsafe { System.dealloc(at, layout) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    const RUNS: usize = 8;

    /// A case: its name, and whether strict mode must be survived.
    const CASES: [(&str, Option<bool>); 5] = [
        ("spin", Some(true)),
        ("control", Some(false)),
        ("predictive", None),
        ("graph", None),
        ("launch", None),
    ];

    fn load(case: &str) -> (Box<dyn Program>, Slot) {
        let mode = match case {
            "graph" => Mode::Graph,
            "launch" => Mode::Launch,
            _ => Mode::Persistent,
        };
        let settings = Settings {
            wait: if case == "predictive" { Wait::Predictive } else { Wait::Spin },
            idle: None,
            // The emulator may be slow; asking the driver whether the kernel lives is not part of an inference.
            heartbeat: Duration::from_secs(3600),
            look: Duration::from_secs(60),
            patience: Duration::from_secs(100),
            ..Settings::default()
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/digits/model.plan");
        let plan = Plan::open(path).expect("a committed plan");
        let cuda = virtual_orin::open(mode).with(settings);
        let program = cuda.load(&plan).expect("it loads");
        let slot = program.slot().expect("a slot");
        // Its program keeps what it needs.
        (program, slot)
    }

    pub fn main() -> ExitCode {
        let args: Vec<String> = std::env::args().collect();
        if let Some(at) = args.iter().position(|a| a == "--inside") {
            return inside(&args[at + 1], &args[at + 2]);
        }
        if args.iter().any(|a| a == "--list") {
            CASES.iter().for_each(|(case, _)| println!("{case}: test"));
            return ExitCode::SUCCESS;
        }
        let (mut passed, mut failed) = (0, 0);
        if virtual_orin::real() {
            // A GPU's driver keeps no log of its calls: system calls alone are counted.
            let as_wanted = CASES.iter().filter_map(|(case, strict)| Some((case, (*strict)?)));
            let (good, bad): (Vec<_>, Vec<_>) =
                as_wanted.partition(|(case, strict)| strictly(case) == *strict);
            println!("as they should in strict mode: {good:?}; not so: {bad:?}");
            println!("test result: {}. {} passed", if bad.is_empty() { "ok" } else { "FAILED" }, good.len());
            return if bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        println!("per inference, digits, virtual Orin:");
        for (case, strict) in CASES {
            let Some(counts) = calls(case) else {
                println!("{case}: FAILED to run");
                failed += 1;
                continue;
            };
            let driver = counts.driver as f64 / RUNS as f64;
            let copies = counts.copies as f64 / RUNS as f64;
            let survived = strict.map(|_| strictly(case));
            println!(
                "{case}: {driver} driver calls, {copies} copies, {} allocations in {RUNS}{}",
                counts.allocations,
                match survived {
                    Some(true) => ", 0 system calls",
                    Some(false) => ", killed for a system call",
                    None => "",
                }
            );
            let persistent = !matches!(case, "graph" | "launch");
            let fits = survived == strict
                && (!persistent || (driver, copies, counts.allocations) == (0.0, 0.0, 0))
                && (persistent || driver >= 1.0);
            if fits { passed += 1 } else { failed += 1 }
        }
        println!("{passed} passed, {failed} failed");
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    struct Counts {
        driver: usize,
        copies: usize,
        allocations: u64,
    }

    /// Runs a case in a process of its own and counts, between two marks in the log.
    fn calls(case: &str) -> Option<Counts> {
        let log = std::env::temp_dir().join(format!("pilotlight-quiet-{}-{case}", std::process::id()));
        let child = Command::new(std::env::current_exe().ok()?)
            .args(["--inside", case, "count"])
            .env("PILOTLIGHT_VIRTUAL_LOG", &log)
            .output()
            .ok()?;
        let text = std::fs::read_to_string(&log).ok()?;
        std::fs::remove_file(&log).ok()?;
        let said = String::from_utf8_lossy(&child.stdout);
        if !child.status.success() {
            println!("{case}: {said}{}", String::from_utf8_lossy(&child.stderr));
        }
        let allocations = said.lines().find_map(|l| l.strip_prefix("allocations "))?.parse().ok()?;
        let marks: Vec<_> = text.match_indices(MARK).collect();
        let [.., (from, mark), (to, _)] = marks[..] else { return None };
        let between = &text[from + mark.len()..to];
        // What is left of the mark's own line.
        let calls: Vec<&str> = between.lines().skip(1).collect();
        let copies = calls.iter().filter(|l| l.starts_with("cuMemcpy")).count();
        Some(Counts { driver: calls.len(), copies, allocations })
    }

    /// A driver call that nothing else makes while a program runs.
    const MARK: &str = "cuDriverGetVersion";

    fn mark() {
        let mut version = 0;
        // SAFETY: `version` is a place for the answer.
        let _ = unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) };
    }

    /// Whether inferences survive seccomp's strict mode.
    fn strictly(case: &str) -> bool {
        let child = std::env::current_exe()
            .and_then(|exe| Command::new(exe).args(["--inside", case, "strict"]).output());
        child.is_ok_and(|c| String::from_utf8_lossy(&c.stdout).contains("survived"))
    }

    fn inside(case: &str, what: &str) -> ExitCode {
        let (mut program, mut slot) = load(case);
        if what == "strict" {
            return strict(program, slot, case == "control");
        }
        // The first may launch the kernel.
        if program.run(&mut slot).is_err() {
            return ExitCode::FAILURE;
        }
        mark();
        let before = ALLOCATIONS.get();
        let ran = (0..RUNS).all(|_| program.run(&mut slot).is_ok());
        let allocations = ALLOCATIONS.get() - before;
        mark();
        println!("allocations {allocations}");
        if ran { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Runs inferences on a thread in strict mode; this thread watches how far it comes.
    fn strict(mut program: Box<dyn Program>, mut slot: Slot, misbehave: bool) -> ExitCode {
        static DONE: AtomicUsize = AtomicUsize::new(0);
        if program.run(&mut slot).is_err() {
            return ExitCode::FAILURE;
        }
        std::thread::spawn(move || {
            // SAFETY: prctl with these constants takes no pointer; it limits this thread, which the test wants.
            if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) } != 0 {
                return;
            }
            for _ in 0..RUNS {
                if program.run(&mut slot).is_err() {
                    return;
                }
                if misbehave {
                    // SAFETY: getppid has no arguments; in strict mode it does not return.
                    unsafe { libc::syscall(libc::SYS_getppid) };
                }
                DONE.fetch_add(1, Ordering::Relaxed);
            }
            // Nothing may be dropped here: that would call the driver. Whoever watches ends the process.
            loop {
                std::hint::spin_loop();
            }
        });
        let limit = if misbehave { Duration::from_secs(2) } else { Duration::from_secs(60) };
        let since = Instant::now();
        while DONE.load(Ordering::Relaxed) < RUNS && since.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(5));
        }
        println!("{}", if DONE.load(Ordering::Relaxed) == RUNS { "survived" } else { "killed" });
        std::process::exit(0);
    }
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("0 passed, 0 failed, 1 skipped: system calls are counted with seccomp, which only Linux has");
}
