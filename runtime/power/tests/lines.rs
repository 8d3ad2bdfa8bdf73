//! A plant that talks nonsense: damaged lines into a governor. The fuzz target `plant` does the same.

use pilotlight_power::governor::{Governor, Grid, Settings};
use pilotlight_power::line::govern_lines;
use pilotlight_units::{Hertz, Micros};

/// SplitMix64.
fn bits(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn damaged_lines_never_panic_and_only_clocks_of_the_grid_are_asked_for() {
    let gpu = [306, 612, 1020].map(Hertz::from_mhz);
    let emc = [665, 2133, 3199].map(Hertz::from_mhz);
    let grid = Grid::new(&gpu, &emc).expect("rising");
    let settings = Settings::new(Micros(8_000), 0.99, Micros(40_000)).expect("in range");
    let mut state = 3;
    let (mut ended, mut refused) = (0, 0);
    for round in 0..300u64 {
        let json = round.is_multiple_of(2);
        let mut text = String::new();
        let mut time = 0u64;
        for _ in 0..40 {
            time = time.saturating_add(bits(&mut state) >> (bits(&mut state) % 50 + 10));
            // Absurd but well-formed values: the largest numbers, zero, clocks that no board has.
            let latency = (bits(&mut state) >> (bits(&mut state) % 64)).min(time);
            let mw = bits(&mut state) >> (32 + bits(&mut state) % 32);
            let clock = bits(&mut state) >> (bits(&mut state) % 64);
            text += &match json {
                true => format!(
                    "{{\"t_us\":{time},\"latency_us\":{latency},\"gpu_hz\":{clock},\"emc_hz\":0,\"vdd_in_mw\":{mw}}}\n"
                ),
                false => format!("t_us={time} latency_us={latency} gpu_hz={clock} emc_hz=0 vdd_in_mw={mw}\n"),
            };
        }
        let mut bytes = text.into_bytes();
        if round % 3 > 0 {
            for _ in 0..1 + bits(&mut state) % 3 {
                let at = bits(&mut state) as usize % bytes.len();
                bytes[at] = bits(&mut state) as u8;
            }
        }
        let mut governor = Box::new(Governor::new(settings, grid.clone()).expect("in range"));
        match govern_lines(&mut governor, &bytes[..], std::io::sink(), json) {
            Ok(summary) => {
                ended += 1;
                assert!(summary.cycles <= 40);
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().starts_with("line "), "{error}");
            }
        }
        let asked = governor.asked();
        assert!(gpu.contains(&asked.gpu) && emc.contains(&asked.emc));
    }
    assert!(ended >= 100 && refused >= 50, "{ended} ended, {refused} refused");
}
