//! What it costs to stay lit: a resident kernel that waits, against parking it and launching it again.

use super::{Machine, Work};

/// How a resident kernel, or none, waits for the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Every block polls without pause.
    Spinning,
    /// Blocks sleep between polls (`nanosleep`).
    BackOff,
    /// No kernel is resident.
    Parked,
}

/// The constants that [`Lit`] and its break-even follow from, by name.
pub const INPUTS: [&str; 8] = [
    "call_ns",
    "active_watts",
    "voltage_floor",
    "cpu_core_watts",
    "sleep_share",
    "poll_clocks",
    "poll_instructions",
    "gate_exit_ns",
];

/// Modelled power of waiting and cost of coming back, and the idle time from which parking pays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lit {
    /// Watts of the module, spinning.
    pub spinning_watts: f64,
    /// Watts of the module, backing off.
    pub back_off_watts: f64,
    /// Watts of the module, parked.
    pub parked_watts: f64,
    /// Nanoseconds that a relaunch adds to the request that ends the pause.
    pub relaunch_ns: f64,
    /// Joules of a relaunch, on top of parked power.
    pub relaunch_joules: f64,
}

impl Lit {
    /// Watts while waiting in a way.
    pub fn watts(&self, waiting: Waiting) -> f64 {
        match waiting {
            Waiting::Spinning => self.spinning_watts,
            Waiting::BackOff => self.back_off_watts,
            Waiting::Parked => self.parked_watts,
        }
    }

    /// Nanoseconds of idle time beyond which parking costs less than waiting this way. `None` when parking
    /// never pays.
    pub fn break_even_ns(&self, waiting: Waiting) -> Option<f64> {
        let saved = self.watts(waiting) - self.parked_watts;
        (saved > 0.0).then(|| self.relaunch_joules / saved * 1e9)
    }
}

impl Machine {
    /// What staying lit costs at these clocks, which the governor is taken to leave as they are. The host
    /// sleeps while it waits; a host that spins adds [`super::Constants::cpu_core_watts`] in every state.
    pub fn lit(&self) -> Lit {
        let c = &self.constants;
        let (active, parked) = (self.active_watts(), self.idle_watts());
        // One warp of one block on each SM polls a word of its own.
        let poll = Work { instructions: c.poll_instructions as u64, l2_bytes: 32, ..Work::default() };
        let polls = f64::from(self.sms) * self.clocks.gpu / c.poll_clocks;
        // The launch is made by a core that was asleep, and the GPU may have to wake first.
        let relaunch_ns = c.gate_exit_ns + c.call_ns;
        Lit {
            spinning_watts: parked + active + polls * self.operation_joules(&poll),
            back_off_watts: parked + active * c.sleep_share,
            parked_watts: parked,
            relaunch_ns,
            relaunch_joules: (active + c.cpu_core_watts) * relaunch_ns * 1e-9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Clocks;

    #[test]
    fn break_even_balances_the_two_bills() {
        let board = crate::named("orin-nano-8gb-super").unwrap();
        let lit = Machine::of(&board, Clocks::highest(&board)).lit();
        assert!(lit.spinning_watts > lit.back_off_watts && lit.back_off_watts > lit.parked_watts);
        for waiting in [Waiting::Spinning, Waiting::BackOff] {
            let t = lit.break_even_ns(waiting).unwrap() * 1e-9;
            let (stay, park) = (lit.watts(waiting) * t, lit.parked_watts * t + lit.relaunch_joules);
            assert!((stay - park).abs() < 1e-9 * stay);
        }
        assert_eq!(lit.break_even_ns(Waiting::Parked), None);
    }
}
