//! The living tree: it looks like a board, and clocks, rails and the stock governor behave as measured ones do.

use pilotlight_boards::control::{Clocks, Session};
use pilotlight_boards::fixture::JetPack;
use pilotlight_boards::model::Work;
use pilotlight_boards::virtual_tree::VirtualTree;
use pilotlight_boards::{Board, all, rails::TotalSensor};
use pilotlight_units::{Hertz, Micros};

/// A kernel that is bound by the GPU's clock for about a millisecond.
fn kernel() -> Work {
    Work {
        mma_macs: 1 << 24,
        instructions: 1 << 21,
        blocks: 64,
        warps_per_block: 8,
        blocks_per_sm: 1,
        ..Work::default()
    }
}

fn tree(board: &str, jetpack: JetPack) -> (tempfile::TempDir, VirtualTree) {
    let folder = tempfile::tempdir().expect("a folder");
    let tree = VirtualTree::create(folder.path(), board, jetpack, None).expect("a known board");
    (folder, tree)
}

#[test]
fn every_module_lives_under_every_layout() {
    for name in all() {
        for jetpack in JetPack::ALL {
            let (_folder, mut board) = tree(name, jetpack);
            for _ in 0..20 {
                let took = board.run(&[kernel(); 4]).expect("runs");
                assert!(took.0 > 0, "{name} {jetpack:?}");
                board.idle(Micros::from_millis(10)).expect("idles");
            }
            let seen = Board::discover(board.tree());
            assert!(seen.notes.is_empty(), "{name} {jetpack:?}: {:?}", seen.notes);
            assert_eq!(seen.data.as_ref().map(|d| d.name.as_str()), Some(name));
            let total = seen.total.expect("a total");
            let model = board.joules() / (board.now().as_f64() * 1e-6);
            // Of the last 20 ms, in steps of 40 mW a rail.
            assert!(
                (total.power.as_f64() / 1e3 - model).abs() < 0.25 * model,
                "{name}: {} {model}",
                total.power
            );
        }
    }
}

#[test]
fn clocks_take_hold_when_measured_ones_do() {
    let (folder, mut board) = tree("orin-nano-8gb-super", JetPack::Six);
    board.idle(Micros::from_secs(1)).expect("idles");
    let state = folder.path().join("run");
    let mut session = Session::open(&board.tree().clone(), &state).expect("free");
    let low = Hertz::from_mhz(408);
    session.set(low, Some(Hertz(665_600_000))).expect("allowed");
    let before = board.clocks();
    assert_eq!(before.1, Hertz::from_mhz(2133), "unlocked memory stays where stock firmware holds it");
    board.idle(Micros::from_millis(4)).expect("idles");
    assert_eq!(board.clocks(), before);
    board.idle(Micros::from_millis(2)).expect("idles");
    assert_eq!(board.clocks(), (low, before.1));
    board.idle(Micros::from_millis(4)).expect("idles");
    assert_eq!(board.clocks(), (low, Hertz(665_600_000)));
    assert_eq!(session.read(), (Some(low), Some(Hertz(665_600_000))));
    session.release().expect("restored");
    board.idle(Micros::from_millis(20)).expect("idles");
    assert_eq!(board.clocks().1, Hertz::from_mhz(2133));
}

#[test]
fn a_memory_clock_rounds_up_to_one_that_locks() {
    let (_folder, mut board) = tree("orin-nano-8gb-super", JetPack::Five);
    let lock = pilotlight_boards::emc::LOCK;
    board.tree().write(&format!("{lock}/mrq_rate_locked"), "1").expect("written");
    for (asked, given) in [("1600000000", 2_133_000_000), ("408000000", 665_600_000), ("9", 204_000_000)] {
        board.tree().write(&format!("{lock}/rate"), asked).expect("written");
        board.idle(Micros::from_millis(20)).expect("idles");
        assert_eq!(board.clocks().1, Hertz(given));
        assert_eq!(board.tree().number(&format!("{lock}/rate")).ok(), Some(given as i64));
    }
}

#[test]
fn the_stock_governor_rises_under_load_and_falls_without() {
    let (_folder, mut board) = tree("orin-nano-8gb-super", JetPack::Seven);
    let top = board.data().modes.iter().find(|m| m.default).and_then(|m| m.gpu_mhz).expect("a capped mode");
    for _ in 0..400 {
        board.run(&[kernel()]).expect("runs");
    }
    assert_eq!(board.clocks().0, Hertz((top * 1e6) as u64));
    board.idle(Micros::from_secs(2)).expect("idles");
    assert_eq!(board.clocks().0, Hertz::from_mhz(306));
}

#[test]
fn a_meter_on_the_rails_sees_the_energy_of_the_model() {
    for name in ["orin-nano-8gb-super", "agx-orin-64gb"] {
        let (_folder, mut board) = tree(name, JetPack::Six);
        let mut sensor = TotalSensor::open(board.tree(), &board.data().clone()).expect("rails");
        let (mut sum, mut samples) = (0.0, 0);
        let begin = board.joules();
        let began = board.now();
        while board.now() < began + Micros::from_secs(4) {
            board.run(&[kernel(); 3]).expect("runs");
            board.idle(Micros(20_000 - board.now().0 % 20_000)).expect("idles");
            sum += sensor.read().expect("answers").as_f64();
            samples += 1;
        }
        let seconds = (board.now() - began).as_f64() * 1e-6;
        let (seen, true_watts) = (sum / f64::from(samples) / 1e3, (board.joules() - begin) / seconds);
        assert!(
            (seen / true_watts - 1.0).abs() < 0.01,
            "{name}: {seen:.3} W seen, {true_watts:.3} W modelled"
        );
    }
}

#[test]
fn every_virtual_board_is_made_in_its_mode() {
    for (name, module, mode) in pilotlight_boards::virtual_tree::VIRTUAL {
        let folder = tempfile::tempdir().expect("a folder");
        let board = VirtualTree::create(folder.path(), module, JetPack::Six, Some(mode)).expect("made");
        let seen = Board::discover(board.tree());
        assert_eq!(seen.mode, Some(mode), "{name}");
        let mask = seen.gpu_state.and_then(|s| s.tpc_pg_mask);
        let data = board.data().modes.iter().find(|m| m.id == mode).expect("known").tpc_pg_mask;
        assert_eq!(mask, Some(u64::from(data)), "{name}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    assert!(VirtualTree::create(folder.path(), "orin-nano-8gb", JetPack::Six, Some(99)).is_err());
}
