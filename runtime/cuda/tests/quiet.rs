//! What an inference costs the host: driver calls, allocations, copies, system calls.
//!
//! The virtual driver logs its calls. The allocator counts those of the thread that runs inferences (the emulator
//! runs in threads of its own). System calls are counted by the kernel: a seccomp filter has another thread told of
//! each one before it is let go. Spinning is also held to seccomp's strict mode, in which any call but read, write and
//! exit ends the thread, which says how far it came; a control shows that the trap works.

#[cfg(target_os = "linux")]
mod virtual_orin;

#[cfg(target_os = "linux")]
mod linux {
    use super::virtual_orin;
    use pilotlight::{DeviceKind, Options, Plan, Session};
    use pilotlight_cuda::{Mode, Settings, Wait};
    use pilotlight_device::Device;
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::path::Path;
    use std::process::{Command, ExitCode};
    use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
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

    /// Inferences that are counted; fewer of the network that takes the emulator seconds.
    const RUNS: usize = 8;
    const FEW: usize = 2;

    fn runs(case: &str) -> usize {
        if case == "predictive" { FEW } else { RUNS }
    }

    const SESSION: &str = "session that spins";

    /// A case: its name, and whether strict mode must be survived.
    const CASES: [(&str, Option<bool>); 6] = [
        ("spin", Some(true)),
        ("control", Some(false)),
        ("predictive", None),
        ("graph", None),
        ("launch", None),
        // As firmware opens it. Reading the clock, as a session does, is no call, but strict mode forbids it.
        (SESSION, None),
    ];

    /// Runs an inference; whether it did.
    type Run = Box<dyn FnMut() -> bool + Send>;

    fn load(case: &str) -> Run {
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
        // An inference must be long enough to sleep through a part of it.
        let net = if case == "predictive" { "efficientnet-lite0" } else { "digits" };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(net).join("model.plan");
        let plan = Plan::open(path).expect("a committed plan");
        let cuda = virtual_orin::open(mode).with(settings);
        if case == SESSION {
            // The board stays the process's driver.
            drop(cuda);
            let options = Options::default().device(DeviceKind::CudaPersistent).wait(pilotlight::Wait::Spin);
            let session = Session::open(&plan, &options).expect("it opens");
            return Box::new(move || {
                session.lend().is_ok_and(|s| s.submit().is_ok_and(|p| p.wait().is_ok()))
            });
        }
        let mut program = cuda.load(&plan).expect("it loads");
        let mut slot = program.slot().expect("a slot");
        // Its program keeps what it needs.
        Box::new(move || program.run(&mut slot).is_ok())
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
        println!(
            "per inference, digits (predictive: EfficientNet-Lite0), virtual Orin; system calls of graph and launch are its \
             driver's, not NVIDIA's; a session's kernel leaves and comes back where the host is held up for 8 ms:"
        );
        for (case, strict) in CASES {
            let Some(counts) = calls(case) else {
                println!("{case}: FAILED to run");
                failed += 1;
                continue;
            };
            let driver = counts.driver as f64 / runs(case) as f64;
            let copies = counts.copies as f64 / runs(case) as f64;
            let survived = strict.map(|_| strictly(case));
            let Some(system) = system_calls(case) else {
                println!("{case}: FAILED to count system calls");
                failed += 1;
                continue;
            };
            println!(
                "{case}: {driver} driver calls, {copies} copies, {} allocations in {}, system calls of each: \
                 {system:?}{}",
                counts.allocations,
                runs(case),
                match survived {
                    Some(true) => ", lives in strict mode",
                    Some(false) => ", killed in strict mode",
                    None => "",
                }
            );
            let persistent = !matches!(case, "graph" | "launch");
            // Most of one inference, and whether there was any at all: a wait that never sleeps would show nothing.
            let (most, any) = (system.iter().max().copied(), system.iter().any(|n| *n > 0));
            // A session's kernel may leave, and be launched anew, where the host is held up for the idle time.
            let session = case == SESSION;
            let least = system.iter().min().copied();
            let system_fits = match case {
                "spin" => most == Some(0),
                // Its own one.
                "control" => system.iter().all(|n| *n == 1),
                "predictive" => most == Some(1),
                SESSION => least == Some(0),
                _ => any,
            };
            let fits = survived == strict
                && system_fits
                && (!persistent || session || (driver, copies, counts.allocations) == (0.0, 0.0, 0))
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

    /// System calls of each inference.
    fn system_calls(case: &str) -> Option<Vec<u64>> {
        let exe = std::env::current_exe().ok()?;
        let child = Command::new(exe).args(["--inside", case, "system"]).output().ok()?;
        let said = String::from_utf8_lossy(&child.stdout);
        let line = said.lines().find_map(|l| l.strip_prefix("system"));
        if line.is_none() {
            println!("{case}: {said}{}", String::from_utf8_lossy(&child.stderr));
        }
        line?
            .split_whitespace()
            .map(|n| n.parse().ok())
            .collect::<Option<Vec<u64>>>()
            .filter(|n| n.len() == runs(case))
    }

    /// Runs inferences on a thread whose every system call is told to this one, which counts it and lets it go.
    fn count_system_calls(mut run: Run, case: &str) -> ExitCode {
        let (runs, misbehave) = (runs(case), case == "control");
        static LISTENER: AtomicI32 = AtomicI32::new(-1);
        static CALLS: AtomicU64 = AtomicU64::new(0);
        static BY_RUN: [AtomicU64; RUNS] = [const { AtomicU64::new(0) }; RUNS];
        static DONE: AtomicUsize = AtomicUsize::new(0);
        // It learns how long an inference takes.
        if !run() {
            return ExitCode::FAILURE;
        }
        std::thread::spawn(move || {
            let all = [libc::sock_filter {
                code: (libc::BPF_RET | libc::BPF_K) as u16,
                jt: 0,
                jf: 0,
                k: libc::SECCOMP_RET_USER_NOTIF,
            }];
            let filter = libc::sock_fprog { len: 1, filter: all.as_ptr().cast_mut() };
            // SAFETY: prctl with these constants takes no pointer; it limits this thread, which the test wants.
            if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
                return;
            }
            // SAFETY: the program is one instruction, which the kernel copies during the call.
            let listener = unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                    &raw const filter,
                )
            };
            LISTENER.store(listener as i32, Ordering::SeqCst);
            for calls in &BY_RUN[..runs] {
                let before = CALLS.load(Ordering::SeqCst);
                if !run() {
                    break;
                }
                if misbehave {
                    // SAFETY: getppid has no arguments.
                    unsafe { libc::syscall(libc::SYS_getppid) };
                }
                calls.store(CALLS.load(Ordering::SeqCst) - before, Ordering::SeqCst);
                DONE.fetch_add(1, Ordering::SeqCst);
            }
            // Nothing is dropped here, and nothing more is asked of the kernel. Whoever counts ends the process.
            loop {
                std::hint::spin_loop();
            }
        });
        let since = Instant::now();
        while LISTENER.load(Ordering::SeqCst) < 0 && since.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        let listener = LISTENER.load(Ordering::SeqCst);
        while DONE.load(Ordering::SeqCst) < runs && since.elapsed() < Duration::from_secs(100) {
            let mut ready = libc::pollfd { fd: listener, events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd, as said.
            if unsafe { libc::poll(&raw mut ready, 1, 1) } != 1 {
                continue;
            }
            // SAFETY: it holds numbers only, and the kernel wants it zeroed.
            let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            // SAFETY: the place is of the type that the request's number names.
            if unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notice) } != 0 {
                continue;
            }
            CALLS.fetch_add(1, Ordering::SeqCst);
            let go_on = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
            let mut answer = libc::seccomp_notif_resp { id: notice.id, val: 0, error: 0, flags: go_on };
            // SAFETY: as above, for the answer.
            unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
        }
        let calls: Vec<String> =
            BY_RUN[..runs].iter().map(|n| n.load(Ordering::SeqCst).to_string()).collect();
        if DONE.load(Ordering::SeqCst) == runs {
            println!("system {}", calls.join(" "));
        }
        std::process::exit(0);
    }

    fn inside(case: &str, what: &str) -> ExitCode {
        let mut run = load(case);
        match what {
            "strict" => return strict(run, case == "control"),
            "system" => return count_system_calls(run, case),
            _ => {}
        }
        // The first may launch the kernel.
        if !run() {
            return ExitCode::FAILURE;
        }
        mark();
        let before = ALLOCATIONS.get();
        let ran = (0..runs(case)).all(|_| run());
        let allocations = ALLOCATIONS.get() - before;
        mark();
        println!("allocations {allocations}");
        if ran { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Runs inferences on a thread in strict mode; this thread watches how far it comes.
    fn strict(mut run: Run, misbehave: bool) -> ExitCode {
        static DONE: AtomicUsize = AtomicUsize::new(0);
        if !run() {
            return ExitCode::FAILURE;
        }
        std::thread::spawn(move || {
            // SAFETY: prctl with these constants takes no pointer; it limits this thread, which the test wants.
            if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) } != 0 {
                return;
            }
            for _ in 0..RUNS {
                if !run() {
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
