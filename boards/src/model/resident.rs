//! An inference of a resident kernel: a list of pieces for each SM, which wait for pieces of other lists.

use super::{Bound, Machine, Work};

/// A piece of a launch on one SM: some of its blocks, one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// What it does. Nothing where it only waits.
    pub work: Work,
    /// Bytes that it asks DRAM for ahead of later pieces.
    pub ahead: u64,
    /// Pieces of other lists that must be done before: list and place in it, both from 0.
    pub after: Vec<(usize, usize)>,
}

/// Where the time of the critical path goes, in modelled nanoseconds. It runs from the request to the last piece,
/// each time through what was waited for longest.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Critical {
    /// Pieces at work, but for the next field.
    pub work: f64,
    /// First data and last results of blocks.
    pub fill: f64,
    /// From a piece's end to what waits for it on another SM.
    pub waits: f64,
    /// From the host's store to the kernel, and back.
    pub mailbox: f64,
}

/// What the model says of an inference.
#[derive(Clone, Debug, PartialEq)]
pub struct Resident {
    /// Modelled nanoseconds from the host's store to the answer that it sees.
    pub ns: f64,
    /// Modelled joules of the module in that time.
    pub joules: f64,
    /// Where the time goes.
    pub critical: Critical,
    /// Share of the time of all SMs in which pieces are at work.
    pub busy: f64,
    /// What limits how much of the critical path's work, in nanoseconds, longest first.
    pub bounds: Vec<(Bound, f64)>,
}

/// When a piece was done, and how it came to that.
#[derive(Clone, Copy, Default)]
struct Done {
    end: f64,
    took: f64,
    fill: f64,
    bound: Option<Bound>,
    /// What it waited for longest: the piece, and the way of its flag.
    from: Option<(usize, usize)>,
    flag: f64,
}

impl Machine {
    /// An inference whose pieces are done in the order of their lists. `None` where a piece waits for one that
    /// is not there, or pieces wait for each other.
    pub fn resident(&self, lists: &[Vec<Piece>]) -> Option<Resident> {
        let mut done: Vec<Vec<Done>> = vec![Vec::new(); lists.len()];
        let all: usize = lists.iter().map(Vec::len).sum();
        let (mut finished, mut operations) = (0, 0.0);
        while finished < all {
            let before = finished;
            for (list, pieces) in lists.iter().enumerate() {
                while let Some(piece) = pieces.get(done[list].len()) {
                    if !piece.after.iter().all(|&(l, n)| done.get(l).is_some_and(|d| d.len() > n)) {
                        break;
                    }
                    let next = self.piece(list, piece, &done);
                    operations += self.operation_joules(&self.with_ahead(piece));
                    done[list].push(next);
                    finished += 1;
                }
            }
            if finished == before {
                return None;
            }
        }
        let last = (0..lists.len()).filter(|&l| !done[l].is_empty());
        let last = last.max_by(|&a, &b| end(&done[a]).total_cmp(&end(&done[b])));
        let mailbox = self.constants.mailbox_ns;
        let ns = mailbox + last.map_or(0.0, |l| end(&done[l]));
        let (critical, bounds) = path(&done, last, mailbox);
        let worked: f64 = done.iter().flatten().map(|d| d.took).sum();
        Some(Resident {
            ns,
            joules: operations + (self.idle_watts() + self.active_watts()) * ns * 1e-9,
            critical,
            busy: worked / (ns * lists.len().max(1) as f64),
            bounds,
        })
    }

    fn with_ahead(&self, piece: &Piece) -> Work {
        Work { dram_read: piece.work.dram_read + piece.ahead, ..piece.work }
    }

    fn piece(&self, list: usize, piece: &Piece, done: &[Vec<Done>]) -> Done {
        let own = done[list].len().checked_sub(1).map(|n| (list, n));
        let flag = self.constants.wait_clocks * 1e9 / self.clocks.gpu;
        // Its own list's pieces need no flag.
        let begins = own.map(|at| (at, 0.0)).into_iter().chain(piece.after.iter().map(|&at| (at, flag)));
        let latest = begins
            .map(|((l, n), flag)| (done[l][n].end + flag, (l, n), flag))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let begin = latest.map_or(0.0, |l| l.0);
        if piece.work.blocks == 0 {
            return Done {
                end: begin,
                from: latest.map(|l| l.1),
                flag: latest.map_or(0.0, |l| l.2),
                ..Done::default()
            };
        }
        let modelled = self.block(&self.with_ahead(piece));
        Done {
            end: begin + modelled.ns,
            took: modelled.ns,
            fill: modelled.parts.fill,
            bound: Some(modelled.bound),
            from: latest.map(|l| l.1),
            flag: latest.map_or(0.0, |l| l.2),
        }
    }
}

fn end(list: &[Done]) -> f64 {
    list.last().map_or(0.0, |d| d.end)
}

/// The critical path, from its end back.
fn path(done: &[Vec<Done>], last: Option<usize>, mailbox: f64) -> (Critical, Vec<(Bound, f64)>) {
    let mut critical = Critical { mailbox, ..Critical::default() };
    let mut bounds: Vec<(Bound, f64)> = Vec::new();
    let mut at = last.map(|l| (l, done[l].len() - 1));
    while let Some((l, n)) = at {
        let piece = &done[l][n];
        let work = piece.took - piece.fill;
        critical.work += work;
        critical.fill += piece.fill;
        critical.waits += piece.flag;
        if let Some(bound) = piece.bound {
            match bounds.iter_mut().find(|(b, _)| *b == bound) {
                Some((_, ns)) => *ns += work,
                None => bounds.push((bound, work)),
            }
        }
        at = piece.from;
    }
    bounds.sort_by(|a, b| b.1.total_cmp(&a.1));
    (critical, bounds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Clocks;

    fn machine() -> Machine {
        let board = crate::named("orin-nano-8gb-super").unwrap();
        Machine::of(&board, Clocks::highest(&board))
    }

    fn piece(clocks: u64, blocks: u64, after: &[(usize, usize)]) -> Piece {
        let work =
            Work { mma_macs: 2048 * clocks, blocks, warps_per_block: 8, blocks_per_sm: 1, ..Work::default() };
        Piece { work, ahead: 0, after: after.to_vec() }
    }

    #[test]
    fn the_path_goes_through_the_longest_and_its_parts_add_up() {
        let m = machine();
        let block = |clocks, blocks| m.block(&piece(clocks, blocks, &[]).work).ns;
        let flag = m.constants.wait_clocks * 1e9 / m.clocks.gpu;
        // The second SM's long piece holds up the first one's second.
        let lists = [vec![piece(1_000, 1, &[]), piece(1_000, 1, &[(1, 0)])], vec![piece(9_000, 2, &[])]];
        let found = m.resident(&lists).unwrap();
        let wanted = m.constants.mailbox_ns + block(9_000, 2) + flag + block(1_000, 1);
        assert!((found.ns - wanted).abs() < 1e-6, "{} {wanted}", found.ns);
        let c = found.critical;
        assert!((c.work + c.fill + c.waits + c.mailbox - found.ns).abs() < 1e-6, "{c:?}");
        assert!((c.waits - flag).abs() < 1e-9);
        // In one list nothing waits for a flag.
        let one = m.resident(&[vec![piece(1_000, 1, &[]), piece(1_000, 1, &[])]]).unwrap();
        assert_eq!(one.critical.waits, 0.0);
        assert!(one.joules > 0.0 && one.busy < 1.0);
    }

    #[test]
    fn what_never_comes_is_no_inference() {
        let m = machine();
        assert_eq!(m.resident(&[vec![piece(1, 1, &[(1, 0)])], vec![piece(1, 1, &[(0, 0)])]]), None);
        assert_eq!(m.resident(&[vec![piece(1, 1, &[(7, 0)])]]), None);
    }

    #[test]
    fn blocks_one_after_the_other_fill_each_and_data_from_dram_come_later() {
        let m = machine();
        let (one, ten) = (m.block(&piece(1_000, 1, &[]).work), m.block(&piece(1_000, 10, &[]).work));
        assert!(ten.parts.fill > 4.0 * one.parts.fill, "{} {}", ten.parts.fill, one.parts.fill);
        assert_eq!(ten.parts.tensor, one.parts.tensor);
        let mut far = piece(1_000, 1, &[]).work;
        (far.l2_bytes, far.dram_read) = (1_000, 1_000);
        assert!((m.block(&far).parts.fill - one.parts.fill - m.constants.block_ns).abs() < 1e-9);
    }
}
