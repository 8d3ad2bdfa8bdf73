//! The governor on a fixture tree, in both roles: with rights and without.

use pilotlight_boards::control::Session;
use pilotlight_boards::fixture::{self, JetPack};
use pilotlight_boards::{Board, Tree};
use pilotlight_power::governor::{Governor, Grid, Settings};
use pilotlight_power::live::{Live, Sensors};
use pilotlight_units::Micros;

fn board() -> (tempfile::TempDir, Tree) {
    let folder = tempfile::tempdir().expect("a folder");
    fixture::create(folder.path(), "orin-nano-8gb-super", JetPack::Six).expect("the fixture");
    let tree = Tree::at(folder.path());
    (folder, tree)
}

fn governor(tree: &Tree) -> Governor {
    let (gpu, emc) = Board::discover(tree).governable().expect("clocks");
    let grid = Grid::new(&gpu, &emc).expect("rising");
    Governor::new(Settings::new(Micros(8_000), 0.99, Micros(1_000)).expect("in range"), grid)
        .expect("in range")
}

#[test]
fn clocks_are_set_on_the_board_and_put_back() {
    let (_folder, tree) = board();
    let state = tempfile::tempdir().expect("a folder");
    let before = Board::discover(&tree).gpu_state.map(|s| (s.min, s.max));
    let session = Session::open(&tree, &state.path().join("s")).expect("free");
    let mut live = Live::new(governor(&tree), Sensors::new(&tree), Some(session)).expect("allowed");
    assert!(live.controls());
    let top = Board::discover(&tree).gpu_state.map(|s| (s.min, s.max));
    assert_ne!(top, before);
    let mut moved = false;
    for _ in 0..60 {
        std::thread::sleep(std::time::Duration::from_millis(1));
        let live_decision = live.cycle(Micros(900));
        assert!(live_decision.refused.is_none(), "{:?}", live_decision.refused);
        moved |= live_decision.decision.request.is_some();
    }
    assert!(moved, "a budget of nine times the latency leaves room");
    assert!(live.sensors().module().is_some_and(|r| r.power.0 == 5_540));
    assert!(live.sensors().hottest().is_some() && live.sensors().throttle_events() == 0);
    live.close().expect("restored");
    assert_eq!(Board::discover(&tree).gpu_state.map(|s| (s.min, s.max)), before);
}

#[test]
fn without_rights_it_observes_and_advises() {
    let (_folder, tree) = board();
    let before = Board::discover(&tree).gpu_state.map(|s| (s.min, s.max));
    let mut live = Live::<Session>::new(governor(&tree), Sensors::new(&tree), None).expect("nothing to set");
    assert!(!live.controls());
    for _ in 0..20 {
        live.cycle(Micros(900));
    }
    assert_eq!(Board::discover(&tree).gpu_state.map(|s| (s.min, s.max)), before);
}
