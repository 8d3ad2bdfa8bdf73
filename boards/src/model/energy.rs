//! Energy: the module's idle power, the power of a GPU at work, and an amount for each operation.

use super::{Machine, Work};

/// GPU clock at which the constants of energy were fitted or assumed.
const REFERENCE_HZ: f64 = 1.02e9;

impl Machine {
    /// Watts of the module with nothing to do at these clocks.
    pub fn idle_watts(&self) -> f64 {
        let c = &self.constants;
        let emc = match self.clocks.emc / 1e6 {
            mhz if mhz < 1_000.0 => c.emc_low_watts,
            mhz if mhz > 2_600.0 => c.emc_high_watts,
            _ => 0.0,
        };
        c.idle_watts + c.idle_watts_per_ghz * self.clocks.gpu / 1e9 + emc
    }

    /// Watts on top of idle while a kernel runs, its operations not counted.
    pub fn active_watts(&self) -> f64 {
        self.constants.active_watts * self.clocks.gpu / REFERENCE_HZ * self.voltage()
    }

    /// What an operation costs at this clock, as a share of its cost at the reference clock: lower clocks run
    /// at lower voltage.
    pub fn voltage(&self) -> f64 {
        let floor = self.constants.voltage_floor;
        floor + (1.0 - floor) * self.clocks.gpu / REFERENCE_HZ
    }

    /// Joules of the operations alone.
    pub fn operation_joules(&self, work: &Work) -> f64 {
        let c = &self.constants;
        let gpu = work.mma_macs as f64 * c.mac_pj
            + work.instructions as f64 * 32.0 * c.lane_pj
            + work.shared_passes as f64 * 128.0 * c.shared_pj_per_byte
            + work.l2_bytes as f64 * c.l2_pj_per_byte;
        let dram = (work.dram_read + work.dram_written) as f64 * c.dram_pj_per_byte;
        (gpu * self.voltage() + dram) * 1e-12
    }

    /// Joules of the module over `ns` nanoseconds of this work.
    pub fn joules(&self, work: &Work, ns: f64) -> f64 {
        (self.idle_watts() + self.active_watts()) * ns * 1e-9 + self.operation_joules(work)
    }

    /// Watts of the module when the GPU is busy for `busy` of the time and streams `bytes` per second from
    /// DRAM. Arithmetic beyond a plain stream's is not in it.
    pub fn watts(&self, busy: f64, bytes: f64) -> f64 {
        let path = self.constants.dram_pj_per_byte + self.constants.l2_pj_per_byte * self.voltage();
        self.idle_watts() + busy * self.active_watts() + bytes * path * 1e-12
    }
}

#[cfg(test)]
mod tests {
    use crate::model::{Clocks, Machine, Work};

    #[test]
    fn lower_clocks_cost_less_power_and_less_energy_an_operation() {
        let board = crate::named("orin-nano-8gb-super").unwrap();
        let at = |gpu, emc| Machine::of(&board, Clocks::mhz(gpu, emc));
        let (low, high) = (at(306.0, 2133.0), at(1020.0, 2133.0));
        assert!(low.idle_watts() < high.idle_watts() && low.active_watts() < high.active_watts());
        let work = Work { mma_macs: 1 << 30, dram_read: 1 << 20, ..Work::default() };
        assert!(low.operation_joules(&work) < high.operation_joules(&work));
        assert!(at(1020.0, 3199.0).idle_watts() - high.idle_watts() > 0.8);
    }
}
