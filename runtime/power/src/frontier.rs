//! What a model can be run at: latency, throughput and energy of batches and clocks, and which to pick.
//!
//! | word | meaning |
//! |---|---|
//! | candidate | a batch at a pair of clocks, run back to back |
//! | frontier | candidates that no other beats in latency, throughput and energy an inference at once |
//! | thrift line | of the frontier, those that no other beats in throughput and energy, by rising throughput |
//! | knee | where the thrift line bends most: beyond it more throughput costs energy ever faster |
//! | pick | one notch below the knee on the thrift line: room for what the measurement did not show |

use std::fmt::Write as _;

use serde::Serialize;

use crate::svg::{LEFT, Panel, RIGHT, WIDTH, close, open};

/// A batch at a pair of clocks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Inputs at once.
    pub batch: u32,
    /// GPU clock, MHz.
    pub gpu_mhz: f64,
    /// Memory clock, MHz.
    pub emc_mhz: f64,
    /// Latency of the batch, microseconds.
    pub latency_us: f64,
    /// Inferences a second, back to back.
    pub per_second: f64,
    /// Energy of an inference, mJ; `None` where it was not measured.
    pub energy_mj: Option<f64>,
}

impl Candidate {
    /// At least as good in everything, and better in something. Energy that nobody measured beats nothing.
    fn beats(&self, other: &Self) -> bool {
        let energy = |c: &Self| c.energy_mj.unwrap_or(0.0);
        let no_worse = self.latency_us <= other.latency_us
            && self.per_second >= other.per_second
            && energy(self) <= energy(other);
        let better = self.latency_us < other.latency_us
            || self.per_second > other.per_second
            || energy(self) < energy(other);
        no_worse && better
    }
}

/// The frontier of some candidates, its knee, and the pick; each an index into the candidates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frontier {
    /// Candidates that none beats, by rising latency.
    pub members: Vec<usize>,
    /// Those of them on the thrift line, by rising throughput.
    pub thrift: Vec<usize>,
    /// Where the thrift line bends most.
    pub knee: usize,
    /// One notch below it.
    pub pick: usize,
}

/// Finds the frontier of the candidates whose latency is at most `budget_us`; `None` when there is none.
///
/// ```
/// use pilotlight_power::frontier::{Candidate, frontier};
/// let at = |gpu_mhz: f64, latency_us: f64, mj: f64| Candidate {
///     batch: 1, gpu_mhz, emc_mhz: 2133.0, latency_us, per_second: 1e6 / latency_us, energy_mj: Some(mj),
/// };
/// let all = [at(306.0, 4000.0, 20.0), at(510.0, 2500.0, 20.5), at(714.0, 1900.0, 21.5), at(1020.0, 1700.0, 30.0)];
/// let found = frontier(&all, None).expect("candidates");
/// assert_eq!((found.knee, found.pick), (2, 1));
/// ```
pub fn frontier(candidates: &[Candidate], budget_us: Option<f64>) -> Option<Frontier> {
    let allowed: Vec<usize> = (0..candidates.len())
        .filter(|i| budget_us.is_none_or(|budget| candidates[*i].latency_us <= budget))
        .collect();
    let beaten = |i: usize| allowed.iter().any(|j| candidates[*j].beats(&candidates[i]));
    let mut members: Vec<usize> = allowed.iter().copied().filter(|i| !beaten(*i)).collect();
    members.sort_by(|a, b| candidates[*a].latency_us.total_cmp(&candidates[*b].latency_us));
    let energy = |i: usize| candidates[i].energy_mj.unwrap_or(0.0);
    let speed = |i: usize| candidates[i].per_second;
    // From the fastest down: what costs less than everything faster. Equal speed: the cheaper first.
    let mut by_speed = members.clone();
    by_speed.sort_by(|a, b| speed(*b).total_cmp(&speed(*a)).then(energy(*a).total_cmp(&energy(*b))));
    let mut thrift: Vec<usize> = Vec::new();
    for i in by_speed {
        if thrift.last().is_none_or(|last| energy(i) < energy(*last)) {
            thrift.push(i);
        }
    }
    thrift.reverse();
    let knee_at = bend(&thrift.iter().map(|i| (speed(*i), energy(*i))).collect::<Vec<_>>())?;
    Some(Frontier { knee: thrift[knee_at], pick: thrift[knee_at.saturating_sub(1)], members, thrift })
}

/// The point furthest below the straight line from the first to the last, both axes scaled to one; the last of two.
fn bend(line: &[(f64, f64)]) -> Option<usize> {
    let (first, last) = (line.first()?, line.last()?);
    let scale = |from: f64, to: f64, v: f64| if to > from { (v - from) / (to - from) } else { 0.0 };
    let below = |p: &(f64, f64)| scale(first.0, last.0, p.0) - scale(first.1, last.1, p.1);
    let mut best = line.len() - 1;
    for (i, point) in line.iter().enumerate() {
        if below(point) > below(&line[best]) + 1e-12 {
            best = i;
        }
    }
    Some(best)
}

/// The candidates as a plot: energy an inference over throughput, a colour for each batch.
pub fn frontier_svg(title: &str, source: &str, candidates: &[Candidate], found: &Frontier) -> String {
    const COLOURS: [&str; 6] = ["#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#17becf"];
    let height = 440.0;
    let mut svg = open(height, title);
    let most = |f: fn(&Candidate) -> f64| candidates.iter().map(f).fold(0.0, f64::max);
    let least = |f: fn(&Candidate) -> f64| candidates.iter().map(f).fold(f64::INFINITY, f64::min);
    let energy = |c: &Candidate| c.energy_mj.unwrap_or(0.0);
    let panel = Panel {
        top: 60.0,
        height: 300.0,
        low: 0.95 * least(energy),
        high: 1.02 * most(energy).max(1e-9),
        x_low: 0.0,
        x_high: 1.05 * most(|c| c.per_second),
    };
    panel.frame(&mut svg, "mJ an inference");
    let mut batches: Vec<u32> = candidates.iter().map(|c| c.batch).collect();
    batches.sort_unstable();
    batches.dedup();
    let colour = |batch: u32| {
        let at = batches.iter().position(|b| *b == batch).unwrap_or(0);
        COLOURS[at % COLOURS.len()]
    };
    let names: Vec<String> = batches.iter().map(|b| format!("batch {b}")).collect();
    let legend: Vec<(&str, &str)> =
        names.iter().zip(&batches).map(|(n, b)| (n.as_str(), colour(*b))).collect();
    panel.legend(&mut svg, &legend);
    panel.line(
        &mut svg,
        "#999",
        found.thrift.iter().map(|i| (candidates[*i].per_second, energy(&candidates[*i]))),
    );
    for (i, c) in candidates.iter().enumerate() {
        let member = found.members.contains(&i);
        let _ = writeln!(
            svg,
            r##"<circle cx="{:.1}" cy="{:.1}" r="{}" fill="{}" fill-opacity="{}"/>"##,
            panel.x(c.per_second),
            panel.y(energy(c)),
            if member { 4 } else { 2 },
            colour(c.batch),
            if member { 1.0 } else { 0.45 },
        );
    }
    for (i, name, up) in [(found.knee, "knee", 10.0), (found.pick, "pick", 26.0)] {
        let c = &candidates[i];
        let (x, y) = (panel.x(c.per_second), panel.y(energy(c)));
        let _ = writeln!(
            svg,
            r##"<circle cx="{x:.1}" cy="{y:.1}" r="7" fill="none" stroke="#d62728" stroke-width="1.5"/><text x="{:.1}" y="{:.1}" class="e" fill="#d62728">{name}: batch {}, GPU {:.0}, EMC {:.0} MHz</text>"##,
            (x - 8.0).max(LEFT + 230.0),
            y - up,
            c.batch,
            c.gpu_mhz,
            c.emc_mhz
        );
    }
    for i in 0..=5 {
        let value = panel.x_high * f64::from(i) / 5.0;
        let _ = writeln!(svg, r##"<text x="{:.1}" y="378" class="x">{value:.0}</text>"##, panel.x(value));
    }
    let middle = LEFT + (WIDTH - LEFT - RIGHT) / 2.0;
    let _ = writeln!(
        svg,
        r##"<text x="{middle:.1}" y="398" class="x">inferences a second, back to back; large dots: no other is better in latency, throughput and energy at once</text>"##
    );
    close(svg, height, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(batch: u32, latency_us: f64, mj: f64) -> Candidate {
        Candidate {
            batch,
            gpu_mhz: 1.0,
            emc_mhz: 1.0,
            latency_us,
            per_second: 1e6 * f64::from(batch) / latency_us,
            energy_mj: Some(mj),
        }
    }

    #[test]
    fn what_is_beaten_is_no_member_and_the_budget_holds() {
        let all = [
            at(1, 1_000.0, 5.0),
            at(1, 1_200.0, 6.0),
            at(2, 1_500.0, 4.0),
            at(4, 2_600.0, 3.5),
            at(8, 6_000.0, 3.4),
        ];
        let found = frontier(&all, None).unwrap();
        assert_eq!(found.members, [0, 2, 3, 4]);
        // Batch 8 is slower than batch 4 and hardly cheaper; batch 2 and 1 are slower and dearer.
        assert_eq!(found.thrift, [4, 3]);
        let tight = frontier(&all, Some(2_000.0)).unwrap();
        assert_eq!(tight.members, [0, 2]);
        assert_eq!((tight.knee, tight.pick), (2, 2));
        assert_eq!(frontier(&all, Some(10.0)), None);
        assert_eq!(frontier(&[], None), None);
    }

    #[test]
    fn without_energy_the_fastest_is_the_knee() {
        let bare = |batch, us| Candidate { energy_mj: None, ..at(batch, us, 0.0) };
        let found = frontier(&[bare(1, 100.0), bare(2, 150.0), bare(4, 400.0)], None).unwrap();
        assert_eq!(found.members, [0, 1]);
        assert_eq!((found.knee, found.pick), (1, 1));
    }

    #[test]
    fn a_plot_names_knee_and_pick_and_its_source() {
        let all = [at(1, 4_000.0, 5.0), at(1, 2_500.0, 5.1), at(1, 2_000.0, 5.6), at(1, 1_800.0, 9.0)];
        let found = frontier(&all, None).unwrap();
        let svg = frontier_svg("t", "MODELLED", &all, &found);
        assert!(svg.contains("knee: batch 1") && svg.contains("pick: batch 1") && svg.contains("MODELLED"));
        assert_eq!(svg.matches("<circle").count(), all.len() + 2);
    }
}
