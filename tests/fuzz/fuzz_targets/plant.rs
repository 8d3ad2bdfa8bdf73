#![no_main]

use pilotlight_power::governor::{Governor, Grid, Settings};
use pilotlight_units::{Hertz, Micros};

// Lines of a plant straight into a governor: whatever it says, no panic, and only clocks of the grid are asked for.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let gpu = [306, 612, 1020].map(Hertz::from_mhz);
    let emc = [665, 2133, 3199].map(Hertz::from_mhz);
    let Ok(grid) = Grid::new(&gpu, &emc) else { return };
    let Ok(settings) = Settings::new(Micros(8_000), 0.99, Micros(40_000)) else { return };
    for json in [false, true] {
        let Ok(governor) = Governor::new(settings, grid.clone()) else { return };
        let mut governor = Box::new(governor);
        let _ = pilotlight_power::line::govern_lines(&mut governor, bytes, std::io::sink(), json);
        let asked = governor.asked();
        assert!(gpu.contains(&asked.gpu) && emc.contains(&asked.emc));
    }
});
