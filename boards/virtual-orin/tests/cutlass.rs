//! Second opinions on the emulator from CUTLASS, which shares neither author nor source with it: its int8
//! kernels against a plain product, and its tables of fragment layouts against mma and ldmatrix.
//!
//! `cargo xtask cutlass` fetches CUTLASS and nvcc, compiles into target/cutlass, and runs these.
#![allow(clippy::unwrap_used, reason = "a test's helper fails the test")]

use cuda::board::find;
use cuda::emulator::{Config, Emulator, Options};
use cuda::rng::Rng;

/// A file that `cargo xtask cutlass` made.
fn made(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/cutlass/made").join(name);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; `cargo xtask cutlass` makes it", path.display()))
}

/// A tile of CUTLASS: entry, rows, columns, threads.
const GEMMS: [(&str, u32, u32, u32); 4] = [
    ("gemm_64x64", 64, 64, 128),
    ("gemm_128x64", 128, 64, 128),
    ("gemm_128x128", 128, 128, 128),
    ("gemm_64x64_u8", 64, 64, 128),
];

struct Run {
    emulator: Emulator,
    kernels: cuda::emulator::Loaded,
    rng: Rng,
}

impl Run {
    fn new(seed: u64, race: bool) -> Self {
        let board = find("orin-nano-super").unwrap();
        let mut emulator = Emulator::new(Options { seed, race, ..Options::new(board) });
        let kernels = emulator.load_foreign(&made("kernels.ptx")).unwrap_or_else(|e| panic!("{e}"));
        Run { emulator, kernels, rng: Rng::new(seed + 100) }
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.rng.bits() as u8).collect()
    }

    /// Launches an entry that takes A, B, C and three numbers; returns C.
    fn launch(
        &mut self,
        name: &str,
        operands: [&[u8]; 2],
        outputs: usize,
        numbers: [u32; 3],
        grid: [u32; 3],
        threads: u32,
    ) -> Vec<i32> {
        let e = &mut self.emulator;
        let (a, b) = (e.upload(operands[0]).unwrap(), e.upload(operands[1]).unwrap());
        let c = e.upload(&vec![0xEE; outputs * 4]).unwrap();
        let word = e.machine.memory.bytes(self.kernels.1[&format!("{name}_shared")], 4).unwrap();
        let shared = u32::from_le_bytes(word.try_into().unwrap()) as usize;
        let params = [a, b, c]
            .into_iter()
            .flat_map(u64::to_le_bytes)
            .chain(numbers.into_iter().flat_map(u32::to_le_bytes));
        let config = Config { grid, shared, shared_limit: 163 * 1024, ..Config::new(1, threads) };
        e.run(&self.kernels.0[name], config, params.collect())
            .unwrap_or_else(|e| panic!("{name} {numbers:?}: {e}"));
        let out = e.machine.memory.bytes(c, outputs * 4).unwrap();
        out.chunks_exact(4).map(|w| i32::from_le_bytes(w.try_into().unwrap())).collect()
    }
}

fn value(byte: u8, signed: bool) -> i32 {
    if signed { i32::from(byte as i8) } else { i32::from(byte) }
}

#[test]
#[ignore = "needs CUTLASS's PTX; run by `cargo xtask cutlass`"]
fn cutlass_gemms_are_exact() {
    let mut compared = 0;
    for (seed, race) in [(1, false), (2, true)] {
        let mut run = Run::new(seed, race);
        for (name, rows, columns, threads) in GEMMS {
            // Whole tiles, and edges in every direction; CUTLASS wants 16-byte rows.
            for (m, n, k) in [(rows, columns, 128), (rows + 37, columns + 20, 208), (5, 12, 16)] {
                let (a, b) = (run.bytes((m * k) as usize), run.bytes((n * k) as usize));
                let grid = [m.div_ceil(rows), n.div_ceil(columns), 1];
                let got = run.launch(name, [&a, &b], (m * n) as usize, [m, n, k], grid, threads);
                let signed = !name.ends_with("u8");
                for (at, got) in got.iter().enumerate() {
                    let (row, column) = (at / n as usize * k as usize, at % n as usize * k as usize);
                    let want: i32 = (0..k as usize)
                        .map(|d| value(a[row + d], signed) * value(b[column + d], signed))
                        .sum();
                    assert_eq!(*got, want, "{name} {m}x{n}x{k}, element {at}, seed {seed}");
                }
                compared += got.len();
            }
        }
    }
    println!("cutlass: {compared} elements of GEMMs, 0 differing");
}

#[test]
#[ignore = "needs CUTLASS's PTX; run by `cargo xtask cutlass`"]
fn cutlass_convolution_is_exact() {
    let mut run = Run::new(3, false);
    let mut compared = 0;
    for (side, filters, channels) in [(7u32, 64u32, 64u32), (9, 72, 32), (12, 32, 80)] {
        let (a, b) =
            (run.bytes((side * side * channels) as usize), run.bytes((filters * 9 * channels) as usize));
        let grid = [(side * side).div_ceil(128), filters.div_ceil(64), 1];
        let outputs = (side * side * filters) as usize;
        let got = run.launch("conv_128x64", [&a, &b], outputs, [side, filters, channels], grid, 128);
        for (at, got) in got.iter().enumerate() {
            let (pixel, filter) = ((at as u32 / filters) as i32, at as u32 % filters);
            let (y, x) = (pixel / side as i32, pixel % side as i32);
            let mut want = 0;
            for tap in 0..9 {
                let (sy, sx) = (y + tap / 3 - 1, x + tap % 3 - 1);
                if sy < 0 || sx < 0 || sy >= side as i32 || sx >= side as i32 {
                    continue;
                }
                let (from, with) = (
                    (sy * side as i32 + sx) as usize * channels as usize,
                    (filter as usize * 9 + tap as usize) * channels as usize,
                );
                want += (0..channels as usize)
                    .map(|c| value(a[from + c], true) * value(b[with + c], true))
                    .sum::<i32>();
            }
            assert_eq!(*got, want, "{side}x{side}x{channels} -> {filters}, element {at}");
        }
        compared += got.len();
    }
    println!("cutlass: {compared} elements of convolutions, 0 differing");
}

/// `name thread value place` lines: where CuTe says that a thread's value lies, in a column-major tile or, for
/// ldmatrix, as bits of the rows one after the other.
fn layout(text: &str, name: &str) -> Vec<[usize; 3]> {
    let rows = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    rows.map(|row| {
        let mut numbers = row.split(' ').map(|n| n.parse().unwrap());
        std::array::from_fn(|_| numbers.next().unwrap())
    })
    .collect()
}

const HEAD: &str = ".version 7.4\n.target sm_87\n.address_size 64\n.visible .entry k(.param .u64 p) {\n\
    .reg .b32 %r<40>; .reg .b64 %rd<8>; .shared .align 128 .b8 sm[512];\n\
    ld.param.u64 %rd1, [p]; mov.u32 %r0, %tid.x; mul.wide.u32 %rd2, %r0, 64; add.s64 %rd2, %rd1, %rd2;\n";

/// Runs a warp on a buffer of 64 bytes a lane: `body` reads %rd2 and writes there.
fn warp(body: &str, start: &[u8]) -> Vec<u8> {
    let mut emulator = Emulator::new(Options::new(find("orin-nano-super").unwrap()));
    let (kernels, _) = emulator.load(&format!("{HEAD}{body} ret; }}")).unwrap_or_else(|e| panic!("{e}"));
    let buffer = emulator.upload(start).unwrap();
    emulator.run(&kernels["k"], Config::new(1, 32), buffer.to_le_bytes().to_vec()).unwrap();
    emulator.machine.memory.bytes(buffer, start.len()).unwrap().to_vec()
}

/// One element of A and one of B are set: their product must appear where CuTe says that C lies, nothing else.
fn check_mma(text: &str, shape: &str, k: usize, body: &str) {
    let tables = ["A", "B", "C"].map(|operand| layout(text, &format!("{shape}.{operand}")));
    let sizes = [16 * k, 8 * k, 16 * 8];
    for (table, size) in tables.iter().zip(sizes) {
        assert_eq!(table.len(), size, "{shape}: the table has every element");
    }
    // Places are column-major: row + rows * column; B's rows are its 8 columns.
    let find = |operand: usize, place: usize| tables[operand].iter().find(|e| e[2] == place).unwrap();
    let mut rng = Rng::new(5);
    for _ in 0..300 {
        let [row, column, depth] = [16, 8, k].map(|n| rng.below(n as u64) as usize);
        let (a, b) = (find(0, row + 16 * depth), find(1, column + 8 * depth));
        let mut start = vec![0u8; 32 * 64];
        start[64 * a[0] + a[1]] = 3;
        start[64 * b[0] + 16 + b[1]] = 7;
        let out = warp(body, &start);
        for [lane, at, place] in &tables[2] {
            let word = &out[64 * lane + 32 + 4 * at..][..4];
            let want = if *place == row + 16 * column { 21 } else { 0 };
            assert_eq!(
                i32::from_le_bytes(word.try_into().unwrap()),
                want,
                "{shape}: row {row} column {column} k {depth}"
            );
        }
    }
}

#[test]
#[ignore = "needs CUTLASS's tables; run by `cargo xtask cutlass`"]
fn fragments_lie_where_cute_says() {
    let text = made("layouts.txt");
    check_mma(
        &text,
        "m16n8k32",
        32,
        "ld.global.v4.u32 {%r1,%r2,%r3,%r4}, [%rd2]; ld.global.v2.u32 {%r5,%r6}, [%rd2+16]; mov.u32 %r7, 0;\n\
         mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r8,%r9,%r10,%r11}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%r7,%r7,%r7,%r7};\n\
         st.global.v4.u32 [%rd2+32], {%r8,%r9,%r10,%r11};",
    );
    check_mma(
        &text,
        "m16n8k16",
        16,
        "ld.global.v2.u32 {%r1,%r2}, [%rd2]; ld.global.u32 %r5, [%rd2+16]; mov.u32 %r7, 0;\n\
         mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%r8,%r9,%r10,%r11}, {%r1,%r2}, {%r5}, {%r7,%r7,%r7,%r7};\n\
         st.global.v4.u32 [%rd2+32], {%r8,%r9,%r10,%r11};",
    );
    // ldmatrix.x4: lane l points at row l; bit v of lane t's result is bit `place` of the rows in turn.
    let table = layout(&text, "ldmatrix.x4");
    assert_eq!(table.len(), 32 * 128);
    let mut rng = Rng::new(6);
    let start: Vec<u8> = (0..32 * 64).map(|_| rng.bits() as u8).collect();
    let out = warp(
        "ld.global.v4.u32 {%r1,%r2,%r3,%r4}, [%rd2]; mov.u32 %r5, sm; shl.b32 %r6, %r0, 4; add.s32 %r5, %r5, %r6;\n\
         st.shared.v4.u32 [%r5], {%r1,%r2,%r3,%r4}; bar.sync 0;\n\
         ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r8,%r9,%r10,%r11}, [%r5]; st.global.v4.u32 [%rd2+32], {%r8,%r9,%r10,%r11};",
        &start,
    );
    for [lane, bit, place] in table {
        let want = start[64 * (place / 128) + place % 128 / 8] >> (place % 8) & 1;
        assert_eq!(out[64 * lane + 32 + bit / 8] >> (bit % 8) & 1, want, "ldmatrix lane {lane} bit {bit}");
    }
}
