//! Boards and schedules that tests go through.

/// Seeds for each board: three, or as many as the long tests ask for.
pub fn seeds() -> u64 {
    std::env::var("PILOTLIGHT_TEST_SEEDS").map_or(3, |n| n.parse().unwrap_or_else(|e| panic!("{n}: {e}")))
}

/// Boards with 16, 14, 8 and 4 multiprocessors.
pub const BOARDS: [&str; 4] = ["agx-orin-64", "agx-orin-32", "orin-nano-super", "orin-nano-4gb"];
