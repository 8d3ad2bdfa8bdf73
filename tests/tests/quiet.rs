//! An inference on one thread allocates nothing and makes no system call.
//!
//! The allocator counts. The kernel watches the calls: a child process enters seccomp's strict mode, in which any
//! call but read, write and exit ends in SIGKILL, and runs inferences there. A control shows that the trap works.

#[cfg(target_os = "linux")]
mod linux {
    use pilotlight_device::{Cpu, CpuOptions, Device};
    use pilotlight_plan::Plan;
    use pilotlight_tests::models;
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::process::{Command, ExitCode};
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Counting;

    static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

    // SAFETY: every call goes to the system allocator with the arguments it came with.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the caller keeps `alloc`'s contract, which is the same.
            unsafe { System.alloc(layout) }
        }
        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
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
        let (mut passed, mut failed) = (0, 0);
        for model in MODELS {
            // The control makes one system call more, and must be killed for it.
            for (extra, survives) in [(None, true), (Some("--misbehave"), false)] {
                let child = std::env::current_exe()
                    .and_then(|exe| Command::new(exe).args(["--inside", model]).args(extra).output());
                let Ok(child) = child else {
                    println!("FAILED {model}: cannot start the child");
                    return ExitCode::FAILURE;
                };
                let said = String::from_utf8_lossy(&child.stdout);
                let fits = child.status.success() == survives && said.contains("0 allocations");
                println!("{model} {}: {} {}", extra.unwrap_or("quiet"), said.trim(), child.status);
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
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let ran = run(RUNS);
        let count = ALLOCATIONS.load(Ordering::Relaxed) - before;
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
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("0 passed, 0 failed, 1 skipped: system calls are counted with seccomp, which only Linux has");
}
