//! A decision allocates nothing: counted, not argued.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use pilotlight_power::governor::{Governor, Grid, Instant, Observation, RailReading, Settings};
use pilotlight_units::{Hertz, Micros, Milliwatts};

struct Counting;

thread_local! {
    // The test runner has threads of its own.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator unchanged; only a counter is touched besides.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn ten_thousand_decisions_allocate_nothing() {
    let gpu: Vec<Hertz> = (1..=16).map(|i| Hertz::from_mhz(80 * i)).collect();
    let emc = [204, 665, 2133, 3199].map(Hertz::from_mhz);
    let grid = Grid::new(&gpu, &emc).expect("rising");
    let settings = Settings::new(Micros::from_millis(9), 0.99, Micros::from_millis(40)).expect("in range");
    let mut governor = Box::new(Governor::new(settings, grid).expect("in range"));
    let mut point = governor.start();
    let mut requests = 0;
    let before = COUNT.get();
    for cycle in 0..10_000u64 {
        let (f, e) = (point.gpu.as_f64() / 1.28e9, point.emc.as_f64() / 3.199e9);
        // Slower in the middle third, infeasible for a while, and a rail that moves with the clocks.
        let factor =
            if (3_000..6_000).contains(&cycle) { 1.2 } else { 1.0 } + if cycle > 9_000 { 2.0 } else { 0.0 };
        let latency = Micros((factor * (1_000.0 + 2_500.0 / f + 800.0 / e)) as u64 + cycle % 37);
        let now = Micros(cycle * 40_000) + latency;
        let power = Milliwatts((4_000.0 + 1_500.0 * f + 1_200.0 * e) as u32 + (cycle % 7) as u32 * 20);
        let rail = Some(RailReading { at: Instant::from_micros(now.0 / 100_000 * 100_000), power });
        let decision = governor.observe(&Observation {
            now: Instant::from_micros(now.0),
            latency,
            readback: Some(point),
            rail,
        });
        if let Some(next) = decision.request {
            point = next;
            requests += 1;
        }
    }
    assert_eq!(COUNT.get() - before, 0);
    assert!(requests > 10, "only {requests} requests: the decisions were not exercised");
}
