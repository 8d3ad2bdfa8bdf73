//! The emulator as programs meet it: opened as libcuda.so by cudarc.
//!
//! A library that is already loaded under the name libcuda.so is the one that cudarc's `dlopen` finds, so no
//! search path is set. What must not disturb other tests (another board, a failed device) runs in a child.
#![allow(clippy::unwrap_used, reason = "a test's helper fails the test")]
#![allow(unsafe_code, reason = "cudarc's launches are unsafe")]

use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DevicePtrMut, DriverError, LaunchConfig, PushKernelArg, sys,
};
use cudarc::nvrtc::Ptx;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const HEAD: &str = ".version 7.4\n.target sm_87\n.address_size 64\n";

fn library() -> std::path::PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.set_file_name("libcuda.so");
    path
}

fn loaded() -> &'static libloading::Library {
    static LOADED: std::sync::OnceLock<libloading::Library> = std::sync::OnceLock::new();
    // SAFETY: (1) the library's initialisers are Rust's, which do nothing.
    LOADED.get_or_init(|| unsafe { libloading::Library::new(library()) }.expect("libcuda.so beside the test"))
}

fn context() -> Arc<CudaContext> {
    loaded();
    CudaContext::new(0).unwrap()
}

/// Finished launches of a kernel since the last call, as the library reports them.
fn report(kernel: &str) -> Vec<serde_json::Value> {
    // SAFETY: (1) the symbol has this type.
    let report: libloading::Symbol<'_, unsafe extern "C" fn(*mut u8, usize) -> usize> =
        unsafe { loaded().get(b"pilotlight_virtual_report") }.unwrap();
    let mut text = vec![0u8; 1];
    loop {
        // SAFETY: (1) the buffer has the length given.
        let needed = unsafe { report(text.as_mut_ptr(), text.len()) };
        if needed <= text.len() {
            text.truncate(needed - 1);
            break;
        }
        text.resize(needed, 0);
    }
    let all = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let all = all.map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap());
    all.filter(|launch| launch["kernel"] == kernel).collect()
}

fn kernel(context: &Arc<CudaContext>, text: &str) -> Result<CudaFunction, DriverError> {
    context.load_module(Ptx::from_src(format!("{HEAD}{text}")))?.load_function("k")
}

/// y[i] = 3 x[i] + 1, one element a thread.
const AFFINE: &str = ".visible .entry k(.param .u64 x, .param .u64 y, .param .u32 n) {
    .reg .pred %p<2>; .reg .b32 %r<9>; .reg .b64 %rd<9>;
    ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x; mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1; @%p1 bra END;
    mul.wide.u32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;
    ld.global.u32 %r6, [%rd4]; mad.lo.s32 %r7, %r6, 3, 1; st.global.u32 [%rd5], %r7;
    END: ret; }";

fn affine(stream: &Arc<CudaStream>, f: &CudaFunction, n: usize) {
    let input: Vec<u32> = (0..n as u32).map(|v| v.wrapping_mul(2_654_435_761)).collect();
    let x = stream.clone_htod(&input).unwrap();
    let mut y = stream.alloc_zeros::<u32>(n).unwrap();
    let count = n as u32;
    let config =
        LaunchConfig { grid_dim: (count.div_ceil(128), 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: (1) the arguments are those of the kernel.
    unsafe { stream.launch_builder(f).arg(&x).arg(&mut y).arg(&count).launch(config) }.unwrap();
    let output = stream.clone_dtoh(&y).unwrap();
    assert!(input.iter().zip(&output).all(|(a, b)| a.wrapping_mul(3).wrapping_add(1) == *b));
}

#[test]
fn a_launch_is_reported_with_its_counts_and_modelled_time() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let text = AFFINE.replace(".entry k(", ".entry reported(");
    let module = context.load_module(Ptx::from_src(format!("{HEAD}{text}"))).unwrap();
    let f = module.load_function("reported").unwrap();
    let x = stream.clone_htod(&vec![1u32; 65_536]).unwrap();
    let mut y = stream.alloc_zeros::<u32>(65_536).unwrap();
    let count = 65_536u32;
    let config = LaunchConfig { grid_dim: (512, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
    let event = || stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    let start = event();
    for _ in 0..2 {
        // SAFETY: (1) the arguments are those of the kernel.
        unsafe { stream.launch_builder(&f).arg(&x).arg(&mut y).arg(&count).launch(config) }.unwrap();
    }
    let end = event();
    stream.synchronize().unwrap();
    let launches = report("reported");
    assert_eq!(launches.len(), 2);
    let number = |v: &serde_json::Value| v.as_f64().unwrap();
    for launch in &launches {
        // 8,192 sectors in, as many out; 16 warp instructions in each of 2,048 warps.
        assert_eq!(
            (number(&launch["counters"]["load_bytes"]), number(&launch["work"]["l2_bytes"])),
            (262_144.0, 524_288.0)
        );
        assert_eq!(number(&launch["issued"]["load.global"]), 2048.0);
        assert!(number(&launch["modelled"]["ns"]) > 0.0 && number(&launch["modelled"]["joules"]) > 0.0);
        let took = number(&launch["end_ns"]) - number(&launch["start_ns"]);
        assert!(took + 1.0 >= number(&launch["modelled"]["ns"]).floor(), "{launch}");
    }
    // The first launch brings its input from DRAM; the second finds it in L2.
    let read = |launch: &serde_json::Value| number(&launch["work"]["dram_read"]);
    assert_eq!((read(&launches[0]), read(&launches[1])), (262_144.0, 0.0));
    assert_eq!(launches[0]["dram_read_by"].as_array().unwrap().len(), 1);
    let modelled: f64 = launches.iter().map(|l| number(&l["modelled"]["ns"])).sum();
    assert!(f64::from(start.elapsed_ms(&end).unwrap()) * 1e6 >= modelled * 0.999);
}

#[test]
fn cudarc_finds_the_virtual_device_and_runs_a_kernel() {
    let context = context();
    assert_eq!(context.name().unwrap(), "Orin (virtual)");
    assert_eq!(context.compute_capability().unwrap(), (8, 7));
    let f = kernel(&context, AFFINE).unwrap();
    affine(&context.default_stream(), &f, 1000);
    affine(&context.new_stream().unwrap(), &f, 70_000);
}

#[test]
fn a_captured_graph_repeats_its_work() {
    let context = context();
    let f = kernel(
        &context,
        ".visible .entry k(.param .u64 x) { .reg .b32 %r<3>; .reg .b64 %rd<2>; ld.param.u64 %rd1, [x];
         ld.global.u32 %r1, [%rd1]; add.s32 %r2, %r1, 1; st.global.u32 [%rd1], %r2; ret; }",
    )
    .unwrap();
    let stream = context.new_stream().unwrap();
    // SAFETY: (1) one stream, waited for before anything is dropped.
    unsafe { context.disable_event_tracking() };
    let mut x = stream.alloc_zeros::<u32>(1).unwrap();
    let one = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    for _ in 0..5 {
        // SAFETY: (1) the argument is the kernel's.
        unsafe { stream.launch_builder(&f).arg(&mut x).launch(one) }.unwrap();
    }
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().unwrap();
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [0], "capturing runs nothing");
    for _ in 0..3 {
        graph.launch().unwrap();
    }
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [15]);
}

/// Waits for a number above the last in the mailbox, squares it, answers; 0 ends it.
const MAILBOX: &str = ".visible .entry k(.param .u64 m) {
    .reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [m]; mov.u32 %r1, 0;
    WAIT: nanosleep.u32 100; ld.acquire.sys.global.u32 %r2, [%rd1];
    setp.eq.s32 %p1, %r2, %r1; @%p1 bra WAIT;
    setp.eq.s32 %p2, %r2, -1; @%p2 bra END;
    mov.u32 %r1, %r2; mul.lo.s32 %r3, %r2, %r2;
    st.global.u32 [%rd1+64], %r3; st.release.sys.global.u32 [%rd1+128], %r2; bra.uni WAIT;
    END: ret; }";

#[test]
fn a_resident_kernel_serves_a_mailbox_while_the_host_goes_on() {
    child("in_child_a_resident_kernel", &[]);
}

#[test]
#[ignore = "other tests' frees would wait for its kernel; run in a child by the test above"]
fn in_child_a_resident_kernel() {
    let context = context();
    let f = kernel(&context, MAILBOX).unwrap();
    let other = kernel(&context, AFFINE).unwrap();
    let (stream, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    // Freeing waits for the whole device, so what the second stream needs lives longer than the kernel.
    let mut buffer = second.clone_htod(&(0..500).collect::<Vec<u32>>()).unwrap();
    // SAFETY: (1) plain words; they are written before they are read.
    let mut pinned = unsafe { context.alloc_pinned::<u32>(64) }.unwrap();
    pinned.as_mut_slice().unwrap().fill(0);
    let base = pinned.as_mut_ptr().unwrap();
    let device = base as u64;
    let one = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: (1) the argument is the kernel's; the mailbox lives until the stream has been waited for.
    unsafe { stream.launch_builder(&f).arg(&device).launch_cooperative(one) }.unwrap();
    // SAFETY: (1) both sides touch these words by atomics only, and they are aligned and live.
    let word = |n: usize| unsafe { AtomicU32::from_ptr(base.add(n)) };
    for n in 1..200u32 {
        word(0).store(n, Ordering::Release);
        let start = Instant::now();
        while word(32).load(Ordering::Acquire) != n {
            assert!(start.elapsed() < Duration::from_secs(20), "no answer to {n}");
            std::thread::yield_now();
        }
        assert_eq!(word(16).load(Ordering::Relaxed), n * n);
        if n == 100 {
            let config = LaunchConfig { grid_dim: (4, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
            let in_place = buffer.device_ptr_mut(&second).0;
            // SAFETY: (1) the arguments are those of the kernel, which reads each element before it writes it.
            unsafe {
                second.launch_builder(&other).arg(&in_place).arg(&in_place).arg(&500u32).launch(config)
            }
            .unwrap();
            second.synchronize().unwrap();
        }
    }
    word(0).store(u32::MAX, Ordering::Release);
    stream.synchronize().unwrap();
    assert!(second.clone_dtoh(&buffer).unwrap().into_iter().enumerate().all(|(n, v)| v == 3 * n as u32 + 1));
}

#[test]
fn calls_that_may_wait_for_the_device_do_while_a_kernel_is_lit() {
    child("in_child_lit", &[("PILOTLIGHT_VIRTUAL_LIT_SECONDS", "1")]);
}

/// `call count`, a line each.
fn lit_calls() -> String {
    type Calls = unsafe extern "C" fn(*mut std::ffi::c_char, usize) -> usize;
    // SAFETY: (1) the library is loaded and the symbol is of this type; (2) the buffer has the bytes it names.
    unsafe {
        let library = libloading::Library::new(library()).unwrap();
        let calls = library.get::<Calls>(b"pilotlight_virtual_lit_calls").unwrap();
        let mut text = vec![0u8; 4096];
        let needed = calls(text.as_mut_ptr().cast(), text.len());
        text.truncate(needed.saturating_sub(1));
        String::from_utf8(text).unwrap()
    }
}

#[test]
#[ignore = "other tests' calls would wait for its kernel; run in a child by the test above"]
fn in_child_lit() {
    let context = context();
    let f = kernel(&context, MAILBOX).unwrap();
    let stream = context.new_stream().unwrap();
    // SAFETY: (1) plain words; they are written before they are read.
    let mut pinned = unsafe { context.alloc_pinned::<u32>(64) }.unwrap();
    pinned.as_mut_slice().unwrap().fill(0);
    let base = pinned.as_mut_ptr().unwrap();
    let device = base as u64;
    // SAFETY: (1) both sides touch these words by atomics only, and they are aligned and live.
    let word = |n: usize| unsafe { AtomicU32::from_ptr(base.add(n)) };
    let ask = |n: u32| {
        word(0).store(n, Ordering::Release);
        while word(32).load(Ordering::Acquire) != n {
            std::thread::yield_now();
        }
    };
    let one = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: (1) the argument is the kernel's; the mailbox lives until the stream has been waited for.
    unsafe { stream.launch_builder(&f).arg(&device).launch_cooperative(one) }.unwrap();
    ask(1);
    assert_eq!(lit_calls(), "");
    // A question about a stream is answered at once.
    // SAFETY: (1) the stream lives.
    let busy = unsafe { sys::cuStreamQuery(stream.cu_stream()) };
    assert_eq!((busy, lit_calls()), (sys::CUresult::CUDA_ERROR_NOT_READY, String::new()));
    // Nobody takes the kernel out: the call fails in the end, and the kernel is still there.
    let mut address = 0;
    // SAFETY: (1) a place for the answer.
    let found = unsafe { sys::cuMemAlloc_v2(&mut address, 64) };
    assert_eq!(found, sys::CUresult::CUDA_ERROR_LAUNCH_TIMEOUT);
    ask(2);
    // It leaves while calls wait: they go on.
    let waiting = std::thread::spawn({
        let context = Arc::clone(&context);
        move || {
            context.bind_to_thread().unwrap();
            (context.synchronize(), kernel(&context, AFFINE).map(drop))
        }
    });
    while !lit_calls().contains("cuCtxSynchronize") {
        std::thread::yield_now();
    }
    word(0).store(u32::MAX, Ordering::Release);
    assert_eq!(waiting.join().unwrap(), (Ok(()), Ok(())));
    assert_eq!(lit_calls(), "cuCtxSynchronize 1\ncuMemAlloc_v2 1\n");
    stream.synchronize().unwrap();
}

#[test]
fn what_cannot_be_launched_is_refused_and_the_device_lives_on() {
    let context = context();
    let stream = context.default_stream();
    let f = kernel(&context, AFFINE).unwrap();
    let x = stream.alloc_zeros::<u32>(8).unwrap();
    let launch = |grid: u32, block: u32, shared: u32| {
        let config =
            LaunchConfig { grid_dim: (grid, 1, 1), block_dim: (block, 1, 1), shared_mem_bytes: shared };
        // SAFETY: (1) the arguments are those of the kernel, which works on 8 elements.
        unsafe { stream.launch_builder(&f).arg(&x).arg(&x).arg(&8u32).launch(config) }.err().map(|e| e.0)
    };
    use sys::CUresult::*;
    assert_eq!(launch(0, 32, 0), Some(CUDA_ERROR_INVALID_VALUE));
    assert_eq!(launch(1, 2048, 0), Some(CUDA_ERROR_INVALID_VALUE));
    assert_eq!(launch(1, 32, 49 * 1024), Some(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES));
    // No figure is known for this kernel, so it counts as needing 255 registers: 1024 threads do not fit.
    assert_eq!(launch(1, 1024, 0), Some(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES));
    let refused = kernel(&context, ".visible .entry k() { .reg .f32 %f<3>; mul.f32 %f1, %f2, %f2; ret; }");
    assert_eq!(refused.err().map(|e| e.0), Some(CUDA_ERROR_INVALID_PTX));
    assert_eq!(
        context.load_module(Ptx::from_binary(b"\x7fELF....".to_vec())).err().map(|e| e.0),
        Some(CUDA_ERROR_NO_BINARY_FOR_GPU)
    );
    assert_eq!(launch(1, 32, 0), None);
    stream.synchronize().unwrap();
}

/// Runs a test of this file in a child with this environment; returns what it printed.
fn child(test: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    text
}

#[test]
fn a_fault_is_sticky_and_named() {
    let text = child("in_child_a_fault", &[]);
    assert!(text.contains("outside the allocation"), "{text}");
}

#[test]
#[ignore = "ends its device; run in a child by a_fault_is_sticky_and_named"]
fn in_child_a_fault() {
    let context = context();
    let stream = context.default_stream();
    let f = kernel(&context, AFFINE).unwrap();
    let x = stream.alloc_zeros::<u32>(8).unwrap();
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: (1) the arguments are of the right types; that 9 elements are asked for is the point.
    unsafe { stream.launch_builder(&f).arg(&x).arg(&x).arg(&9u32).launch(config) }.unwrap();
    for _ in 0..3 {
        assert_eq!(stream.synchronize().err().map(|e| e.0), Some(sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
    }
    assert!(stream.alloc_zeros::<u32>(8).is_err(), "a failed device serves nothing more");
    std::mem::forget((x, f, stream, context));
}

#[test]
fn boards_differ_in_what_they_hold_at_once() {
    for (board, sms) in
        [("orin-nano-super", "8"), ("agx-orin-64", "16"), ("agx-orin-32", "14"), ("orin-nano-4gb", "4")]
    {
        child("in_child_cooperative_limit", &[("PILOTLIGHT_VIRTUAL_BOARD", board), ("EXPECTED_SMS", sms)]);
    }
}

#[test]
#[ignore = "needs a board of its own; run in children by boards_differ_in_what_they_hold_at_once"]
fn in_child_cooperative_limit() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let sms: u32 = std::env::var("EXPECTED_SMS").unwrap().parse().unwrap();
    // A barrier over the whole grid: passes only if all blocks are resident together.
    let f = kernel(
        &context,
        ".visible .entry k(.param .u64 x, .param .u32 n) { .reg .pred %p<4>; .reg .b32 %r<5>; .reg .b64 %rd<2>;
         ld.param.u64 %rd1, [x]; ld.param.u32 %r1, [n]; mov.u32 %r2, %tid.x; setp.ne.s32 %p1, %r2, 0; @%p1 bra JOIN;
         red.release.gpu.global.add.u32 [%rd1], 1;
         WAIT: nanosleep.u32 50; ld.acquire.gpu.global.u32 %r3, [%rd1]; setp.lt.u32 %p2, %r3, %r1; @%p2 bra WAIT;
         JOIN: bar.sync 0; ret; }",
    )
    .unwrap();
    let x = stream.alloc_zeros::<u32>(1).unwrap();
    let launch = |blocks: u32| {
        let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: (1) the arguments are the kernel's.
        unsafe { stream.launch_builder(&f).arg(&x).arg(&blocks).launch_cooperative(config) }
            .err()
            .map(|e| e.0)
    };
    assert_eq!(launch(sms + 1), Some(sys::CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE));
    assert_eq!(launch(sms), None);
    stream.synchronize().unwrap();
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [sms]);
}
