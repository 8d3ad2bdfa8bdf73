//! Requests at a rate: the modelled energy of staying lit, of parking between them, and of a graph for each.

use super::Machine;
use super::lit::{Lit, Waiting};

/// How requests are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The persistent kernel stays; its blocks sleep between polls.
    Lit,
    /// The persistent kernel leaves after an idle time; a request that comes later launches it again.
    Parked,
    /// No kernel is resident: a graph launch for each request.
    Graph,
}

impl Policy {
    /// All.
    pub const ALL: [Policy; 3] = [Policy::Lit, Policy::Parked, Policy::Graph];

    /// Lower-case name for tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Lit => "lit",
            Policy::Parked => "parked",
            Policy::Graph => "graph",
        }
    }
}

/// An inference once it runs: modelled nanoseconds, and joules of the module in them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Served {
    /// Nanoseconds.
    pub ns: f64,
    /// Joules.
    pub joules: f64,
}

/// What the two modes need for an inference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// Persistent mode, the kernel being lit.
    pub persistent: Served,
    /// Graph mode, without what its launch costs.
    pub graph: Served,
}

/// What a policy costs over some requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bill {
    /// Joules of the module for a request, pauses included.
    pub joules: f64,
    /// Of them, what is above a module with nothing to do in the same time.
    pub above_parked: f64,
    /// Mean nanoseconds from request to answer.
    pub latency_ns: f64,
    /// Launches for a request.
    pub launches: f64,
}

/// The idle time after which a persistent kernel leaves.
///
/// Where waiting costs more than a launch it pays to leave: at the break-even, but no sooner than `least_ns`, in
/// which the board's clocks could not even change. At the break-even this costs at most twice what knowing the
/// next request would (the ski-rental bound). `None`: it never pays.
pub fn idle_ns(lit: &Lit, least_ns: f64) -> Option<f64> {
    lit.break_even_ns(Waiting::BackOff).map(|ns| ns.max(least_ns))
}

impl Machine {
    /// Serves requests, each with the nanoseconds to the next one, and adds up what it costs. `idle_ns` is the idle
    /// time of [`Policy::Parked`]. `None` where requests come faster than they are served, or there are none.
    ///
    /// Every launch after a pause is taken to find the GPU asleep, in graph mode too.
    pub fn serve(&self, policy: Policy, demand: &Demand, idle_ns: f64, gaps: &[f64]) -> Option<Bill> {
        let lit = self.lit();
        let inference = if policy == Policy::Graph { demand.graph } else { demand.persistent };
        let dark_after = |pause: f64| match policy {
            Policy::Lit => false,
            Policy::Parked => pause > idle_ns,
            Policy::Graph => true,
        };
        let total: f64 = gaps.iter().sum();
        // The row goes round: before the first request is the pause behind the last.
        let mut dark = dark_after(gaps.last()? - inference.ns);
        let (mut arrival, mut free, mut joules, mut latency, mut launches) = (0.0f64, 0.0f64, 0.0, 0.0, 0.0);
        for gap in gaps {
            // A request that comes while another is served waits for its turn.
            let mut begin = free.max(arrival);
            if dark {
                launches += 1.0;
                joules += lit.relaunch_joules + lit.relaunch_ns * 1e-9 * lit.parked_watts;
                begin += lit.relaunch_ns;
            }
            joules += inference.joules;
            free = begin + inference.ns;
            latency += free - arrival;
            arrival += gap;
            let pause = (arrival - free).max(0.0);
            let awake = match policy {
                Policy::Lit => pause,
                Policy::Parked => pause.min(idle_ns),
                Policy::Graph => 0.0,
            };
            joules += (awake * lit.back_off_watts + (pause - awake) * lit.parked_watts) * 1e-9;
            dark = dark_after(pause);
        }
        let requests = gaps.len() as f64;
        let busy = requests * inference.ns + launches * lit.relaunch_ns;
        (busy <= total).then(|| Bill {
            joules: joules / requests,
            above_parked: (joules - total.max(free) * 1e-9 * lit.parked_watts) / requests,
            latency_ns: latency / requests,
            launches: launches / requests,
        })
    }

    /// The policy that costs least at a steady rate, requests `period_ns` apart; of equals the first of
    /// [`Policy::ALL`]. `None` where none keeps up.
    pub fn choose(&self, demand: &Demand, idle_ns: f64, period_ns: f64) -> Option<Policy> {
        let bill =
            |policy| self.serve(policy, demand, idle_ns, &[period_ns; 2]).map(|bill| (policy, bill.joules));
        let bills = Policy::ALL.into_iter().filter_map(bill);
        bills.reduce(|best, next| if next.1 < best.1 { next } else { best }).map(|(policy, _)| policy)
    }
}

/// Pauses of a Poisson process of mean `period_ns`, the same ones each time: requests that nobody can foresee.
pub fn irregular(period_ns: f64, count: usize) -> Vec<f64> {
    // A 64-bit congruential generator (Knuth, MMIX).
    let mut state = 1u64;
    let mut gaps: Vec<f64> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let uniform = ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            -uniform.ln()
        })
        .collect();
    // Their mean is made exact, so that bills compare with those of the steady rate.
    let scale = period_ns * count as f64 / gaps.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    gaps.iter_mut().for_each(|gap| *gap *= scale);
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CONSTANTS, Clocks, Constants, Known};

    const LEAST_NS: f64 = 8e6;

    fn machine() -> Machine {
        let board = crate::named("orin-nano-8gb-super").unwrap();
        Machine::of(&board, Clocks::highest(&board))
    }

    /// An inference of 0.6 ms lit, and of 0.75 ms as a graph.
    fn demand(machine: &Machine) -> Demand {
        let served = |ns: f64| Served {
            ns,
            joules: ns * 1e-9 * (machine.idle_watts() + machine.active_watts()) + 2e-3,
        };
        Demand { persistent: served(0.6e6), graph: served(0.75e6) }
    }

    #[test]
    fn bills_add_up_what_each_moment_costs() {
        let m = machine();
        let (d, lit) = (demand(&m), m.lit());
        let bill = |policy, gap: f64| m.serve(policy, &d, LEAST_NS, &[gap; 3]).unwrap();
        // 40 ms apart, by hand.
        let (ns, graph) = (d.persistent.ns, d.graph.ns);
        let near = |found: Bill, joules: f64, latency: f64, launches: f64| {
            assert!((found.joules / joules - 1.0).abs() < 1e-9, "{found:?} {joules}");
            assert!((found.above_parked - (joules - 40e-3 * lit.parked_watts)).abs() < 1e-9);
            assert!((found.latency_ns - latency).abs() < 1e-3 && found.launches == launches, "{found:?}");
        };
        near(bill(Policy::Lit, 40e6), d.persistent.joules + (40e6 - ns) * 1e-9 * lit.back_off_watts, ns, 0.0);
        let parked = d.persistent.joules
            + 8e-3 * lit.back_off_watts
            + lit.relaunch_joules
            + (40e6 - ns - 8e6) * 1e-9 * lit.parked_watts;
        near(bill(Policy::Parked, 40e6), parked, ns + lit.relaunch_ns, 1.0);
        near(
            bill(Policy::Graph, 40e6),
            d.graph.joules + lit.relaunch_joules + (40e6 - graph) * 1e-9 * lit.parked_watts,
            graph + lit.relaunch_ns,
            1.0,
        );
        // Requests that come before the idle time is over find the kernel lit.
        assert_eq!(bill(Policy::Parked, 5e6), bill(Policy::Lit, 5e6));
        // 0.7 ms is enough for persistent mode and too short for the graph and its launch.
        assert!(m.serve(Policy::Lit, &d, LEAST_NS, &[0.7e6]).is_some());
        assert_eq!(m.serve(Policy::Graph, &d, LEAST_NS, &[0.7e6]), None);
        assert_eq!(m.choose(&d, LEAST_NS, 0.7e6), Some(Policy::Lit));
        assert_eq!(m.choose(&d, LEAST_NS, 0.5e6), None);
        assert_eq!(m.serve(Policy::Lit, &d, LEAST_NS, &[]), None);
    }

    #[test]
    fn without_a_least_the_idle_time_balances_waiting_and_launching() {
        let m = machine();
        let lit = m.lit();
        let idle = idle_ns(&lit, 0.0).unwrap();
        let waited = idle * 1e-9 * (lit.back_off_watts - lit.parked_watts);
        assert!((waited / lit.relaunch_joules - 1.0).abs() < 1e-9);
        assert_eq!(idle_ns(&lit, LEAST_NS), Some(idle.max(LEAST_NS)));
        assert_eq!(idle_ns(&Lit { back_off_watts: lit.parked_watts, ..lit }, 0.0), None);
    }

    #[test]
    fn irregular_requests_come_at_the_rate() {
        let gaps = irregular(10e6, 2_000);
        let mean = gaps.iter().sum::<f64>() / 2_000.0;
        assert!((mean - 10e6).abs() < 1.0, "{mean}");
        let longer = gaps.iter().filter(|g| **g > 10e6).count();
        // e^-1 of them.
        assert!((640..840).contains(&longer), "{longer}");
    }

    /// The choice is made for requests at a steady rate by the constants as they are. It is judged on requests that
    /// nobody foresees, and with every guess at half and at twice its value.
    #[test]
    fn the_choice_is_within_three_percent_of_the_best_at_every_rate() {
        let nominal = machine();
        let idle = idle_ns(&nominal.lit(), LEAST_NS).unwrap();
        let mut worst = (0.0f64, String::new());
        for hz in [1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 110.0, 115.0, 120.0, 150.0, 200.0, 400.0, 800.0] {
            let period = 1e9 / hz;
            let d = demand(&nominal);
            let chosen = nominal.choose(&d, idle, period).unwrap();
            let mut judge = |machine: &Machine, gaps: &[f64], what: &str| {
                let d = demand(machine);
                let bill = |policy| machine.serve(policy, &d, idle, gaps).map(|b| b.joules);
                let best = Policy::ALL.into_iter().filter_map(bill).fold(f64::INFINITY, f64::min);
                let over = bill(chosen).unwrap() / best - 1.0;
                if over > worst.0 {
                    worst =
                        (over, format!("{hz} Hz, {} chosen, {what}: {:.1} %", chosen.name(), over * 100.0));
                }
            };
            judge(&nominal, &[period; 4], "steady");
            judge(&nominal, &irregular(period, 2_000), "irregular");
            for constant in CONSTANTS.iter().filter(|c| c.known == Known::Assumed) {
                for factor in [0.5, 2.0] {
                    let mut constants = Constants::default();
                    *(constant.of)(&mut constants) *= factor;
                    let machine = Machine { constants, ..nominal };
                    judge(&machine, &[period; 4], &format!("{} x {factor}", constant.name));
                }
            }
        }
        println!("worst: {}", worst.1);
        assert!(worst.0 <= 0.03, "{}", worst.1);
    }
}
