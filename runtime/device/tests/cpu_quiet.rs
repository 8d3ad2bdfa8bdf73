//! An inference on one thread allocates nothing, however often it runs.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use pilotlight_device::{Cpu, CpuOptions, Device, Isa};
use pilotlight_plan::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use support::{Builder, rule};

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|c| c.set(c.get() + 1));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One step of most kinds, with and without kernels.
fn plan() -> Plan {
    let mut b = Builder::new(3);
    let shape = [1, 20, 9, 11];
    let real = b.input(&shape, DType::F32);
    let quant = vec![Quant { scale: 0.5, zero_point: 100 }];
    let x = b.activation(&shape, DType::U8);
    b.step(Op::Quantize(Convert { input: real, output: x, axis: 0, quant: quant.clone() }));
    let window = Window { kernel: [3; 2], stride: [1; 2], dilation: [1; 2], pads: [1; 4] };
    let mut last = x;
    for (groups, weights) in [(1, 20 * 20 * 9), (20, 20 * 9), (2, 20 * 10 * 9)] {
        let bytes: Vec<u8> = (0..weights).map(|_| b.rng.next() as u8).collect();
        let weights = b.blob(&bytes);
        let scale = b.f32_blob(&[1e-3]);
        let table = Post::Table { table: b.table(), dtype: DType::U8 };
        let rule = rule(&mut b, [DType::U8; 2], DType::U8);
        let add = Post::Binary { other: x, value_is_a: true, rule, dtype: DType::U8 };
        let requant = Requant { scale, zero: 9, dtype: DType::U8, lo: 0, hi: 255, post: vec![table, add] };
        let linear = Linear {
            weights,
            weights_dtype: DType::I8,
            weights_zero: vec![0],
            bias: None,
            input_zero: 100,
            group_inputs: 20 / groups,
            outputs: 20,
            epilogue: Epilogue::Requant(requant),
        };
        let output = b.activation(&shape, DType::U8);
        b.step(Op::Conv(Conv { input: last, output, window, groups, linear }));
        last = output;
    }
    let pooled = b.activation(&shape, DType::U8);
    b.step(Op::Pool(Pool { input: last, output: pooled, window, rule: PoolRule::Max }));
    let averaged = b.activation(&shape, DType::U8);
    let q = quant[0];
    let mean = PoolRule::Mean8 { input: q, output: q, count_pads: false };
    b.step(Op::Pool(Pool { input: pooled, output: averaged, window, rule: mean }));
    let output = b.output(&shape, DType::F32);
    b.step(Op::Dequantize(Convert { input: averaged, output, axis: 0, quant }));
    let soft = b.output(&shape, DType::F32);
    b.step(Op::Softmax(Softmax { input: output, output: soft, axis: 1, rule: SoftmaxRule::Float }));
    b.finish()
}

#[test]
fn an_inference_allocates_nothing() {
    let plan = plan();
    for isa in Isa::available() {
        let cpu = Cpu::new(CpuOptions { threads: 1, isa: Some(isa) }).unwrap();
        let mut program = cpu.load(&plan).unwrap();
        let mut slot = program.slot().unwrap();
        program.run(&mut slot).unwrap();
        let before = COUNT.get();
        for _ in 0..10 {
            program.run(&mut slot).unwrap();
        }
        assert_eq!(COUNT.get() - before, 0, "allocations of ten runs on {}", cpu.describe());
    }
    // The count counts: a list is one allocation.
    let before = COUNT.get();
    drop(std::hint::black_box(vec![0_u8; 100]));
    assert_eq!(COUNT.get() - before, 1);
}
