//! An inference on one thread allocates nothing and makes no system call; with a meter attached, either.
//!
//! The allocator counts those of the thread that runs inferences (a meter's thread is another). The kernel watches the
//! calls: a child process enters seccomp's strict mode, in which any call but read, write and exit ends in SIGKILL, and
//! runs inferences there; a session's thread runs behind a filter that allows none at all. A control of each shows that
//! the trap works.

#[cfg(target_os = "linux")]
mod linux {
    use pilotlight::energy::{Meter, MeterOptions};
    use pilotlight::{Options, Session};
    use pilotlight_boards::fixture::{self, JetPack};
    use pilotlight_device::{Cpu, CpuOptions, Device};
    use pilotlight_plan::Plan;
    use pilotlight_tests::models;
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::process::{Command, ExitCode};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    thread_local! {
        static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    }

    struct Counting;

    fn count() {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
    }

    // SAFETY: every call goes to the system allocator with the arguments it came with.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count();
            // SAFETY: the caller keeps `alloc`'s contract, which is the same.
            unsafe { System.alloc(layout) }
        }
        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            count();
            // SAFETY: as above; `at` came from `System`.
            unsafe { System.dealloc(at, layout) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    const MODELS: [&str; 2] = ["digits/model.plan", "efficientnet-lite0/model.plan"];
    const RUNS: usize = 10;

    pub fn main() -> ExitCode {
        let args: Vec<String> = std::env::args().collect();
        if let Some(at) = args.iter().position(|a| a == "--inside") {
            return inside(&args[at + 1], args.iter().any(|a| a == "--misbehave"));
        }
        if let Some(at) = args.iter().position(|a| a == "--metered") {
            return metered(&args[at + 1], args.iter().any(|a| a == "--misbehave"));
        }
        let (mut passed, mut failed) = (0, 0);
        let cases = MODELS.map(|model| ("--inside", model));
        for (how, model) in cases.into_iter().chain([("--metered", MODELS[0])]) {
            // The control makes one system call more, and must be killed for it.
            for (extra, survives) in [(None, true), (Some("--misbehave"), false)] {
                let child = std::env::current_exe()
                    .and_then(|exe| Command::new(exe).args([how, model]).args(extra).output());
                let Ok(child) = child else {
                    println!("FAILED {model}: cannot start the child");
                    return ExitCode::FAILURE;
                };
                let said = String::from_utf8_lossy(&child.stdout);
                let fits = child.status.success() == survives && said.contains("0 allocations");
                println!("{model} {how} {}: {} {}", extra.unwrap_or("quiet"), said.trim(), child.status);
                if fits { passed += 1 } else { failed += 1 }
            }
        }
        println!("{passed} passed, {failed} failed");
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Runs inferences, counting allocations, then again where every system call kills.
    fn inside(model: &str, misbehave: bool) -> ExitCode {
        let Ok(plan) = Plan::open(models(model)) else { return ExitCode::FAILURE };
        let Ok(cpu) = Cpu::new(CpuOptions { threads: 1, ..CpuOptions::default() }) else {
            return ExitCode::FAILURE;
        };
        let Ok(mut program) = cpu.load(&plan) else { return ExitCode::FAILURE };
        let Ok(mut slot) = program.slot() else { return ExitCode::FAILURE };
        let mut run = |n: usize| (0..n).all(|_| program.run(&mut slot).is_ok());
        if !run(2) {
            return ExitCode::FAILURE;
        }
        let before = ALLOCATIONS.get();
        let ran = run(RUNS);
        let count = ALLOCATIONS.get() - before;
        println!("{RUNS} inferences: {count} allocations");
        if !ran || count != 0 {
            return ExitCode::FAILURE;
        }
        // SAFETY: prctl with these constants takes no pointer; it limits this thread, which the test wants.
        if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) } != 0 {
            println!("strict mode is refused here");
            return ExitCode::FAILURE;
        }
        let ran = run(RUNS);
        if misbehave {
            // SAFETY: getppid has no arguments; in strict mode it does not return.
            unsafe { libc::syscall(libc::SYS_getppid) };
        }
        // SAFETY: the plain exit call, the only one that strict mode allows; nothing runs after it.
        unsafe { libc::syscall(libc::SYS_exit, libc::c_long::from(!ran)) };
        ExitCode::FAILURE
    }

    /// From here on any system call ends this thread, and no other. Strict mode would forbid reading the processor's
    /// clock, too, which a session does and which is no call.
    fn forbid_all() -> bool {
        let kill = libc::sock_filter {
            code: (libc::BPF_RET | libc::BPF_K) as u16,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_KILL_THREAD,
        };
        let mut filter = [kill];
        let program = libc::sock_fprog { len: 1, filter: filter.as_mut_ptr() };
        // SAFETY: prctl with plain numbers; it keeps this thread from gaining rights.
        let fixed = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0;
        // SAFETY: `program` points to one instruction; the kernel copies both during the call.
        fixed
            && unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) }
                == 0
    }

    /// The same with a session whose results carry energies, in a thread of its own beside the meter's. Success is
    /// that it came to its end.
    fn metered(model: &str, misbehave: bool) -> ExitCode {
        static DONE: AtomicUsize = AtomicUsize::new(0);
        let Ok(plan) = Plan::open(models(model)) else { return ExitCode::FAILURE };
        let Ok(folder) = tempfile::tempdir() else { return ExitCode::FAILURE };
        if fixture::create(folder.path(), "orin-nano-8gb-super", JetPack::Six).is_err() {
            return ExitCode::FAILURE;
        }
        let window = Duration::from_millis(100);
        let options = MeterOptions::default().root(folder.path()).rate(1_000).window(window);
        let Ok(meter) = Meter::open(&options) else { return ExitCode::FAILURE };
        let Ok(session) = Session::open(&plan, &Options::default().meter(&meter)) else {
            return ExitCode::FAILURE;
        };
        std::thread::spawn(move || {
            // Whether every result carries an energy.
            let run = |n: usize| {
                (0..n).all(|_| {
                    let output =
                        session.lend().ok().and_then(|s| s.submit().ok()).and_then(|p| p.wait().ok());
                    output.is_some_and(|o| o.report().energy.window().is_some())
                })
            };
            while !run(1) {}
            let before = ALLOCATIONS.get();
            let ran = run(RUNS);
            let count = ALLOCATIONS.get() - before;
            println!("{RUNS} inferences, each with its energy: {count} allocations");
            if !ran || count != 0 || !forbid_all() {
                return;
            }
            // Long enough for the meter to publish windows meanwhile.
            for _ in 0..500 * RUNS {
                if !run(1) {
                    break;
                }
                DONE.fetch_add(1, Ordering::Relaxed);
            }
            if misbehave {
                // SAFETY: getppid has no arguments; in strict mode it does not return.
                unsafe { libc::syscall(libc::SYS_getppid) };
            }
            DONE.fetch_add(1, Ordering::Release);
            // Its stack and the session go with the process.
            loop {
                std::hint::spin_loop();
            }
        });
        let (end, mut seen) = (Instant::now() + Duration::from_secs(60), 0);
        // A thread that was killed comes no further; one that the system holds up for so long is taken for one.
        loop {
            std::thread::sleep(Duration::from_secs(2));
            let done = DONE.load(Ordering::Acquire);
            if done == 500 * RUNS + 1 {
                return ExitCode::SUCCESS;
            }
            if (done > 0 && done == seen) || Instant::now() > end {
                return ExitCode::FAILURE;
            }
            seen = done;
        }
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
