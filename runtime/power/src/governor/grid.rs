//! The operating points a governor may ask for: every GPU clock at every lockable memory clock.

pub use crate::point::Point;
use pilotlight_units::Hertz;

/// Most GPU clocks in a grid.
pub const MAX_GPU: usize = 16;
/// Most memory (EMC) clocks in a grid. Orin boards lock four.
pub const MAX_EMC: usize = 4;
/// Most cells in a grid.
pub const MAX_CELLS: usize = MAX_GPU * MAX_EMC;

/// The place of an operating point in its [`Grid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Index of the GPU clock, ascending.
    pub gpu: usize,
    /// Index of the memory clock, ascending.
    pub emc: usize,
}

/// Why a list of clocks makes no grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GridError {
    /// A list is empty or too long.
    #[error("{domain}: {found} clocks; from 1 to {allowed} are allowed: leave some out")]
    Count {
        /// Which list.
        domain: &'static str,
        /// Clocks given.
        found: usize,
        /// Most clocks allowed.
        allowed: usize,
    },
    /// A list does not rise strictly, or holds zero.
    #[error("{domain}: {found} Hz does not lie above {previous} Hz: list positive clocks in rising order")]
    Order {
        /// Which list.
        domain: &'static str,
        /// The clock out of order.
        found: u64,
        /// The clock before it (0 at the start).
        previous: u64,
    },
}

/// Every pair of a GPU clock and a memory clock.
#[derive(Clone, Debug)]
pub struct Grid {
    gpu: [Hertz; MAX_GPU],
    gpus: usize,
    emc: [Hertz; MAX_EMC],
    emcs: usize,
}

impl Grid {
    /// The grid over two rising lists of clocks.
    ///
    /// # Errors
    /// [`GridError`] when a list is empty, longer than [`MAX_GPU`] or [`MAX_EMC`], or not strictly rising.
    ///
    /// ```
    /// use pilotlight_power::governor::Grid;
    /// use pilotlight_units::Hertz;
    /// let gpu = [306, 612, 1020].map(Hertz::from_mhz);
    /// let emc = [2133, 3199].map(Hertz::from_mhz);
    /// let grid = Grid::new(&gpu, &emc)?;
    /// assert_eq!(grid.point(grid.top()).gpu, Hertz::from_mhz(1020));
    /// # Ok::<(), pilotlight_power::governor::GridError>(())
    /// ```
    pub fn new(gpu: &[Hertz], emc: &[Hertz]) -> Result<Self, GridError> {
        let mut grid =
            Self { gpu: [Hertz(0); MAX_GPU], gpus: gpu.len(), emc: [Hertz(0); MAX_EMC], emcs: emc.len() };
        copy_rising("GPU clocks", gpu, &mut grid.gpu)?;
        copy_rising("EMC clocks", emc, &mut grid.emc)?;
        Ok(grid)
    }

    /// GPU clocks, rising.
    pub fn gpu_clocks(&self) -> &[Hertz] {
        &self.gpu[..self.gpus]
    }

    /// Memory clocks, rising.
    pub fn emc_clocks(&self) -> &[Hertz] {
        &self.emc[..self.emcs]
    }

    /// Number of cells.
    pub fn cells(&self) -> usize {
        self.gpus * self.emcs
    }

    /// The cell with both clocks at their highest.
    pub fn top(&self) -> Cell {
        Cell { gpu: self.gpus - 1, emc: self.emcs - 1 }
    }

    /// The clocks of a cell.
    pub fn point(&self, cell: Cell) -> Point {
        Point { gpu: self.gpu[cell.gpu.min(self.gpus - 1)], emc: self.emc[cell.emc.min(self.emcs - 1)] }
    }

    /// The cell nearest to a pair of clocks, by ratio: readbacks differ a little from what was asked.
    pub fn nearest(&self, point: Point) -> Cell {
        Cell { gpu: nearest(self.gpu_clocks(), point.gpu), emc: nearest(self.emc_clocks(), point.emc) }
    }

    pub(crate) fn index(&self, cell: Cell) -> usize {
        cell.emc * self.gpus + cell.gpu
    }

    pub(crate) fn cell(&self, index: usize) -> Cell {
        Cell { gpu: index % self.gpus, emc: index / self.gpus }
    }

    /// GPU clock as a share of the highest.
    pub(crate) fn gpu_share(&self, index: usize) -> f64 {
        self.gpu[index % self.gpus].as_f64() / self.gpu[self.gpus - 1].as_f64()
    }

    /// Memory clock as a share of the highest.
    pub(crate) fn emc_share(&self, index: usize) -> f64 {
        self.emc[index / self.gpus].as_f64() / self.emc[self.emcs - 1].as_f64()
    }
}

fn copy_rising(domain: &'static str, from: &[Hertz], to: &mut [Hertz]) -> Result<(), GridError> {
    if from.is_empty() || from.len() > to.len() {
        return Err(GridError::Count { domain, found: from.len(), allowed: to.len() });
    }
    let mut previous = Hertz(0);
    for (clock, slot) in from.iter().zip(to) {
        if *clock <= previous {
            return Err(GridError::Order { domain, found: clock.0, previous: previous.0 });
        }
        *slot = *clock;
        previous = *clock;
    }
    Ok(())
}

fn nearest(clocks: &[Hertz], wanted: Hertz) -> usize {
    let mut best = 0;
    for (i, clock) in clocks.iter().enumerate() {
        if clock.0.abs_diff(wanted.0) < clocks[best].0.abs_diff(wanted.0) {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_must_rise() {
        let ok = [Hertz(1), Hertz(2)];
        assert!(matches!(Grid::new(&[], &ok), Err(GridError::Count { domain: "GPU clocks", .. })));
        assert!(matches!(Grid::new(&ok, &[Hertz(5); 5]), Err(GridError::Count { domain: "EMC clocks", .. })));
        assert!(matches!(Grid::new(&[Hertz(0)], &ok), Err(GridError::Order { found: 0, .. })));
        assert!(matches!(Grid::new(&[Hertz(3), Hertz(3)], &ok), Err(GridError::Order { found: 3, .. })));
    }

    #[test]
    fn cells_and_points_agree() {
        let gpu = [306, 612, 1020].map(Hertz::from_mhz);
        let emc = [2133, 3199].map(Hertz::from_mhz);
        let grid = Grid::new(&gpu, &emc).unwrap();
        for i in 0..grid.cells() {
            assert_eq!(grid.index(grid.cell(i)), i);
            assert_eq!(grid.nearest(grid.point(grid.cell(i))), grid.cell(i));
        }
        let read = Point { gpu: Hertz::from_mhz(1013), emc: Hertz::from_mhz(2100) };
        assert_eq!(grid.nearest(read), Cell { gpu: 2, emc: 0 });
    }
}
