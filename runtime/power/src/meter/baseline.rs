//! What the board draws at some clocks without the work: three conditions, each measured, none assumed.

use pilotlight_units::{Microjoules, Micros, Milliwatts};

use super::Window;
use crate::point::Point;

/// What the device did while a baseline was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// No kernel resident.
    Parked,
    /// The kernel resident and waiting.
    Lit,
    /// Work back to back, none of it the model's.
    Busy,
}

/// Mean power at some clocks in a condition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Baseline {
    /// The clocks.
    pub point: Point,
    /// The condition.
    pub condition: Condition,
    /// Mean power.
    pub power: Milliwatts,
    /// Time it was measured over.
    pub measured_for: Micros,
    energy: Microjoules,
}

/// Baselines of up to `N` pairs of clocks and condition; the one measured shortest gives way.
#[derive(Clone, Debug)]
pub struct Baselines<const N: usize> {
    list: [Option<Baseline>; N],
}

impl<const N: usize> Default for Baselines<N> {
    fn default() -> Self {
        Self { list: [None; N] }
    }
}

impl<const N: usize> Baselines<N> {
    /// Takes in a window that was in one condition, at the same clocks, from end to end.
    pub fn learn(&mut self, point: Point, condition: Condition, window: &Window) {
        let same = |b: &Baseline| b.point == point && b.condition == condition;
        let known = self.list.iter().position(|b| b.as_ref().is_some_and(same));
        let slot = known.or_else(|| self.list.iter().position(Option::is_none)).or_else(|| {
            let time = |i: &usize| self.list[*i].map_or(0, |b| b.measured_for.0);
            (0..N).min_by_key(time)
        });
        let Some(slot) = slot.and_then(|i| self.list.get_mut(i)) else { return };
        let before = slot.filter(|b| same(b));
        let energy = before.map_or(Microjoules(0), |b| b.energy) + window.gross;
        let measured_for = before.map_or(Micros(0), |b| b.measured_for) + window.covered;
        if let Some(power) = energy.mean_power(measured_for) {
            *slot = Some(Baseline { point, condition, power, measured_for, energy });
        }
    }

    /// The baseline at some clocks.
    pub fn get(&self, point: Point, condition: Condition) -> Option<&Baseline> {
        self.list.iter().flatten().find(|b| b.point == point && b.condition == condition)
    }

    /// Energy of a window above a baseline; `None` where that baseline was never measured. Never below zero.
    pub fn net(&self, point: Point, condition: Condition, window: &Window) -> Option<Microjoules> {
        Some(window.gross - self.get(point, condition)?.power.over(window.covered))
    }
}
