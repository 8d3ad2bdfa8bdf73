//! Instructions against what the PTX ISA says, each written here a second time and in another way.
#![allow(clippy::unwrap_used, reason = "a test's helper fails the test")]

use cuda::board::find;
use cuda::emulator::{Config, Emulator, Options, RunError};

const BUFFER: usize = 8192;

/// Runs `body` with %rd1 = a buffer, %r1 = tid.x, one block; returns the buffer.
fn run_on(body: &str, threads: u32, start: &[u8], options: Options) -> Result<Vec<u8>, RunError> {
    let text = format!(
        ".version 7.4\n.target sm_87\n.address_size 64\n.visible .entry k(.param .u64 p0)\n{{\n\
         .reg .pred %p<10>;\n.reg .b16 %rs<10>;\n.reg .b32 %r<60>;\n.reg .f32 %f<20>;\n.reg .b64 %rd<20>;\n\
         .shared .align 128 .b8 sm[8192];\n\
         ld.param.u64 %rd1, [p0];\nmov.u32 %r1, %tid.x;\nmul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd3, %rd1, %rd2;\n\
         {body}\nret;\n}}\n"
    );
    let mut emulator = Emulator::new(options);
    let (kernels, _) = emulator.load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut bytes = start.to_vec();
    bytes.resize(BUFFER, 0);
    let buffer = emulator.upload(&bytes).unwrap();
    emulator.run(&kernels["k"], Config::new(1, threads), buffer.to_le_bytes().to_vec())?;
    Ok(emulator.machine.memory.bytes(buffer, BUFFER).unwrap().to_vec())
}

fn options() -> Options {
    Options::new(find("orin-nano-super").unwrap())
}

fn run(body: &str, start: &[u8]) -> Vec<u8> {
    run_on(body, 32, start, options()).unwrap()
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// `op` on every lane's (a, b, c), which come from the first 384 bytes.
fn lanes_of(op: &str, a: &[u32; 32], b: &[u32; 32], c: &[u32; 32]) -> Vec<u32> {
    let body = format!(
        "ld.global.u32 %r10, [%rd3]; ld.global.u32 %r11, [%rd3+128]; ld.global.u32 %r12, [%rd3+256];\n\
         {op}\nst.global.u32 [%rd3+384], %r20;"
    );
    let out = run(&body, &bytes_of(&[*a, *b, *c].concat()));
    words(&out)[96..128].to_vec()
}

/// Values at which integer operations go wrong, and pseudorandom ones.
fn values(salt: u32) -> [u32; 32] {
    let edge = [0, 1, 2, 31, 32, 33, 0x7F, 0x80, 0xFF, 0x7FFF_FFFF, 0x8000_0000, 0x8000_0001, u32::MAX];
    std::array::from_fn(|n| match edge.get((n + salt as usize) % 20) {
        Some(&v) => v,
        None => (n as u32 + 1)
            .wrapping_mul(2_654_435_761)
            .wrapping_add(salt.wrapping_mul(40_503))
            .rotate_left(salt),
    })
}

fn check(op: &str, f: impl Fn(u32, u32, u32) -> u32) {
    for salt in 0..6 {
        let (a, b, c) = (values(salt), values(salt * 7 + 3), values(salt * 5 + 11));
        let got = lanes_of(op, &a, &b, &c);
        for n in 0..32 {
            let want = f(a[n], b[n], c[n]);
            assert_eq!(got[n], want, "{op}: a={:#x} b={:#x} c={:#x}", a[n], b[n], c[n]);
        }
    }
}

#[test]
fn integer_arithmetic() {
    check("add.s32 %r20, %r10, %r11;", |a, b, _| (u64::from(a) + u64::from(b)) as u32);
    check("sub.s32 %r20, %r10, %r11;", |a, b, _| (u64::from(a) + (1 << 32) - u64::from(b)) as u32);
    check("mul.lo.s32 %r20, %r10, %r11;", |a, b, _| (u64::from(a) * u64::from(b)) as u32);
    check("mul.hi.u32 %r20, %r10, %r11;", |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    check("mul.hi.s32 %r20, %r10, %r11;", |a, b, _| {
        ((i128::from(a as i32) * i128::from(b as i32)) >> 32) as u32
    });
    check("mad.lo.s32 %r20, %r10, %r11, %r12;", |a, b, c| {
        (u128::from(a) * u128::from(b) + u128::from(c)) as u32
    });
    check("min.s32 %r20, %r10, %r11;", |a, b, _| if (a as i32) < b as i32 { a } else { b });
    check("max.u32 %r20, %r10, %r11;", |a, b, _| if a > b { a } else { b });
    check("shl.b32 %r20, %r10, %r11;", |a, b, _| if b > 31 { 0 } else { (u64::from(a) << b) as u32 });
    check("shr.s32 %r20, %r10, %r11;", |a, b, _| (i64::from(a as i32) >> b.min(63)) as u32);
    check("shr.u32 %r20, %r10, %r11;", |a, b, _| if b > 31 { 0 } else { a >> b });
    check("bfi.b32 %r20, %r10, %r11, 5, 27;", |a, b, _| (b & 31) | (a << 5));
    check("bfe.u32 %r20, %r10, 8, 8;", |a, _, _| u32::from(a.to_le_bytes()[1]));
    check("bfe.s32 %r20, %r10, 28, 8;", |a, _, _| ((a as i32) >> 28) as u32);
    check("shf.l.wrap.b32 %r20, %r10, %r11, 8;", |a, b, _| b << 8 | a >> 24);
    check("lop3.b32 %r20, %r10, %r11, %r12, 0x96;", |a, b, c| a ^ b ^ c);
    check("lop3.b32 %r20, %r10, %r11, %r12, 0xE8;", |a, b, c| (a & b) | (a & c) | (b & c));
    check("prmt.b32 %r20, %r10, %r11, 0x5140;", |a, b, _| {
        let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
        u32::from_le_bytes([a[0], b[0], a[1], b[1]])
    });
    check("prmt.b32 %r20, %r10, %r11, 0x0008;", |a, _, _| {
        let (byte, fill) = (a & 0xFF, if a & 0x80 != 0 { 0xFF } else { 0 });
        // Selector 8 is byte 0's sign; the other three take byte 0.
        fill | byte << 8 | byte << 16 | byte << 24
    });
    check("mul.wide.s32 %rd5, %r10, %r11; mov.b64 {%r21, %r20}, %rd5;", |a, b, _| {
        ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
    });
    check("cvt.u16.u32 %rs1, %r10; cvt.s32.s16 %r20, %rs1;", |a, _, _| a as i16 as i32 as u32);
}

#[test]
fn dot_products_of_bytes() {
    let dot = |a: u32, b: u32, c: u32, sa: bool, sb: bool| {
        let v = |w: u32, n: u32, s: bool| {
            let byte = i64::from(w >> (8 * n) & 0xFF);
            if s && byte > 127 { byte - 256 } else { byte }
        };
        (0..4).fold(i64::from(c), |sum, n| sum + v(a, n, sa) * v(b, n, sb)) as u32
    };
    check("dp4a.s32.s32 %r20, %r10, %r11, %r12;", |a, b, c| dot(a, b, c, true, true));
    check("dp4a.u32.s32 %r20, %r10, %r11, %r12;", |a, b, c| dot(a, b, c, false, true));
    check("dp4a.u32.u32 %r20, %r10, %r11, %r12;", |a, b, c| dot(a, b, c, false, false));
}

#[test]
fn float_rounding_is_half_to_even_and_never_fused() {
    let f = f32::from_bits;
    let pairs: [(f32, i32); 8] = [
        (0.5, 0),
        (1.5, 2),
        (2.5, 2),
        (-0.5, 0),
        (-1.5, -2),
        (3e9, i32::MAX),
        (-3e9, i32::MIN),
        (f32::NAN, 0),
    ];
    let a: [u32; 32] = std::array::from_fn(|n| pairs[n % 8].0.to_bits());
    let got = lanes_of("cvt.rni.s32.f32 %r20, %r10;", &a, &a, &a);
    for n in 0..32 {
        assert_eq!(got[n] as i32, pairs[n % 8].1);
    }
    // (1 + 2^-12)^2 - (1 + 2^-11): 2^-24 only if the product is not rounded first.
    let (x, z) = (f(0x3F80_0800).to_bits(), (-f(0x3F80_1000)).to_bits());
    let separate =
        lanes_of("mul.rn.f32 %r20, %r10, %r11; add.rn.f32 %r20, %r20, %r12;", &[x; 32], &[x; 32], &[z; 32]);
    let fused = lanes_of("fma.rn.f32 %r20, %r10, %r11, %r12;", &[x; 32], &[x; 32], &[z; 32]);
    assert_eq!((separate[0], f(fused[0])), (0, 2f32.powi(-24)));
}

#[test]
fn ldmatrix_gives_each_lane_its_word_of_its_row() {
    // Shared memory holds its own offsets as bytes; rows are scattered on purpose.
    let body = "mov.u32 %r2, sm;\nshl.b32 %r3, %r1, 4;\nadd.s32 %r4, %r2, %r3;\n\
        ld.global.v4.u32 {%r10,%r11,%r12,%r13}, [%rd4];\nst.shared.v4.u32 [%r4], {%r10,%r11,%r12,%r13};\nbar.sync 0;\n\
        xor.b32 %r5, %r1, 5;\nshl.b32 %r5, %r5, 4;\nadd.s32 %r6, %r2, %r5;\n\
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r20,%r21,%r22,%r23}, [%r6];\n\
        st.global.u32 [%rd3+1024], %r20; st.global.u32 [%rd3+1152], %r21;\n\
        st.global.u32 [%rd3+1280], %r22; st.global.u32 [%rd3+1408], %r23;";
    let body = format!("mul.wide.u32 %rd4, %r1, 16; add.s64 %rd4, %rd1, %rd4;\n{body}");
    let data: Vec<u8> = (0..512u32).map(|n| (n * 7 + n / 256) as u8).collect();
    let out = run(&body, &data);
    for matrix in 0..4 {
        for lane in 0..32 {
            let row = (matrix * 8 + lane / 4) ^ 5;
            let want = &data[row * 16 + lane % 4 * 4..][..4];
            assert_eq!(&out[1024 + matrix * 128 + lane * 4..][..4], want, "matrix {matrix} lane {lane}");
        }
    }
}

#[test]
fn divergent_lanes_meet_again_and_a_spinning_lane_starves_nobody() {
    // Lane 0 spins at a low pc until lane 31, which waits at a barrier past the loop, has stored.
    let body = "setp.ne.s32 %p1, %r1, 0;\n@%p1 bra OTHERS;\n\
        SPIN: ld.volatile.global.u32 %r5, [%rd1+4096];\nsetp.eq.s32 %p2, %r5, 0;\n@%p2 bra SPIN;\nbra.uni JOIN;\n\
        OTHERS: mov.u32 %r6, 1;\nsetp.eq.s32 %p3, %r1, 31;\n@%p3 st.volatile.global.u32 [%rd1+4096], %r6;\n\
        JOIN: bar.sync 0;\nadd.s32 %r7, %r1, 100;\nst.global.u32 [%rd3], %r7;";
    let out = words(&run(body, &[]));
    assert_eq!(out[..32], std::array::from_fn::<u32, 32, _>(|n| n as u32 + 100));
}

#[test]
fn faults_are_trapped_and_named() {
    let cases: [(&str, &str); 9] = [
        ("ld.global.u32 %r5, [%rd1+8192];", "outside the allocation"),
        ("ld.global.u32 %r5, [%rd1+2];", "not a multiple of 4"),
        ("ld.global.v4.u32 {%r5,%r6,%r7,%r8}, [%rd3];", "not a multiple of 16"),
        ("mov.u64 %rd9, 16; ld.global.u32 %r5, [%rd9];", "not mapped"),
        ("mov.u32 %r9, 0; ld.shared.u32 %r5, [%r9];", "shared address 0x0"),
        ("mov.u32 %r9, sm; st.shared.u32 [%r9+8192], %r1;", "outside"),
        (
            "setp.lt.s32 %p1, %r1, 5; @%p1 bra L; bar.sync 0; bra.uni E; L: bar.sync 1; E: mov.u32 %r5, 0;",
            "lanes",
        ),
        ("LOOP: bra.uni LOOP;", "no progress"),
        ("trap;", "trap"),
    ];
    for (body, want) in cases {
        let error = run_on(body, 32, &[], options()).unwrap_err().to_string();
        assert!(error.contains(want), "{body}: {error}");
    }
}

#[test]
fn a_register_never_written_holds_poison() {
    let out = words(&run("st.global.u32 [%rd3], %r50;", &[]));
    assert_eq!(out[..32], [0xA5A5_A5A5; 32]);
}

/// One stage too few in flight is read too early: some seed must show poison.
#[test]
fn a_wrong_wait_count_is_seen_by_some_seed() {
    let body = |wait: u32| {
        format!(
            "mov.u32 %r2, sm; shl.b32 %r3, %r1, 4; add.s32 %r4, %r2, %r3; mul.wide.u32 %rd4, %r1, 16;\n\
             add.s64 %rd5, %rd1, %rd4; cp.async.cg.shared.global [%r4], [%rd5], 16; cp.async.commit_group;\n\
             cp.async.cg.shared.global [%r4+512], [%rd5+512], 16; cp.async.commit_group;\n\
             cp.async.wait_group {wait}; bar.sync 0; ld.shared.u32 %r10, [%r4+512]; st.global.u32 [%rd3+2048], %r10;"
        )
    };
    let data: Vec<u8> = (0..1024u32).map(|n| n as u8).collect();
    let want: Vec<u32> = (0..32).map(|n| words(&data)[128 + 4 * n]).collect();
    let result = |wait, seed| {
        words(&run_on(&body(wait), 32, &data, Options { seed, ..options() }).unwrap())[512..544].to_vec()
    };
    assert!((0..8).all(|seed| result(0, seed) == want));
    assert!((0..8).any(|seed| result(1, seed) != want));
    let race = |wait| run_on(&body(wait), 32, &data, Options { race: true, ..options() });
    assert!(race(0).is_ok());
    assert!(race(1).unwrap_err().to_string().contains("race on shared word"));
}

#[test]
fn cp_async_fills_with_zeros_past_the_source_size() {
    let body = "mov.u32 %r2, sm; shl.b32 %r3, %r1, 4; add.s32 %r4, %r2, %r3; and.b32 %r5, %r1, 15;\n\
        cp.async.cg.shared.global.L2::128B [%r4], [%rd1], 16, %r5; cp.async.commit_group; cp.async.wait_group 0;\n\
        bar.sync 0; ld.shared.u32 %r10, [%r4+8]; st.global.u32 [%rd3+2048], %r10;";
    let out = words(&run(body, &[0xEE; 16]));
    for lane in 0..32usize {
        let valid = (lane % 16).saturating_sub(8).min(4);
        let want = (0..valid).fold(0, |w, n| w | 0xEE << (8 * n));
        assert_eq!(out[512 + lane], want, "lane {lane}");
    }
}

#[test]
fn a_missing_barrier_is_a_race_though_the_values_may_be_right() {
    let body = |barrier: &str| {
        format!(
            "mov.u32 %r2, sm; shl.b32 %r3, %r1, 2; add.s32 %r4, %r2, %r3; st.shared.u32 [%r4], %r1; {barrier}\n\
             xor.b32 %r5, %r3, 128; add.s32 %r6, %r2, %r5; ld.shared.u32 %r7, [%r6]; st.global.u32 [%rd3], %r7;"
        )
    };
    let race = |barrier| run_on(&body(barrier), 64, &[], Options { race: true, ..options() });
    assert_eq!(words(&race("bar.sync 0;").unwrap())[..2], [32, 33]);
    assert!(race("").unwrap_err().to_string().contains("race"));
}

#[test]
fn shuffles_follow_the_isa() {
    let lane: [u32; 32] = std::array::from_fn(|n| n as u32);
    let go = |op: &str| lanes_of(op, &lane, &lane, &lane);
    let member = "0xffffffff";
    assert_eq!(go(&format!("shfl.sync.bfly.b32 %r20|%p1, %r10, 16, 31, {member};")), lane.map(|n| n ^ 16));
    assert_eq!(
        go(&format!("shfl.sync.down.b32 %r20|%p1, %r10, 1, 31, {member};")),
        lane.map(|n| (n + 1).min(31))
    );
    assert_eq!(
        go(&format!("shfl.sync.up.b32 %r20|%p1, %r10, 2, 0, {member};")),
        lane.map(|n| if n < 2 { n } else { n - 2 })
    );
    assert_eq!(go(&format!("shfl.sync.idx.b32 %r20|%p1, %r10, 7, 31, {member};")), [7; 32]);
    // Segments of 8 lanes (mask field 0x18).
    assert_eq!(
        go(&format!("shfl.sync.idx.b32 %r20|%p1, %r10, 3, 0x181f, {member};")),
        lane.map(|n| n / 8 * 8 + 3)
    );
}

#[test]
fn what_is_not_in_the_table_does_not_load() {
    let mut emulator = Emulator::new(options());
    let head = ".version 7.4\n.target sm_87\n.address_size 64\n";
    let kernel = |body: &str| {
        format!("{head}.visible .entry k()\n{{ .reg .f32 %f<4>; .reg .b32 %r<4>; {body} ret; }}")
    };
    for (text, want) in [
        (kernel("mul.f32 %f1, %f2, %f3;"), "`mul.f32` is not in the instruction table"),
        (kernel("add.s32 %r1, %r2;"), "operand 2"),
        (kernel("add.s32 %f1, %r1, %r2, %r3;"), "fewer operands"),
        (kernel("mov.u32 %r9, 0;"), "operand 0"),
        (kernel("bra NOWHERE;"), "NOWHERE"),
        (kernel(".local .b8 x[4];"), ".local"),
        (head.replace("sm_87", "sm_90"), "sm_87"),
        (head.replace("7.4", "9.0"), "8.5"),
        (format!("{head}.visible .entry k() {{ {{{{{{"), "expected"),
    ] {
        let error = emulator.load(&text).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(want), "{text}\n{error}");
    }
}
