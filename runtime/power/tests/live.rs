//! The governor on a fixture tree, in both roles: with rights and without.

use pilotlight_boards::control::{Clocks, ControlError, Session};
use pilotlight_boards::fixture::{self, JetPack};
use pilotlight_boards::{Board, Tree};
use pilotlight_power::governor::{Governor, Grid, Settings};
use pilotlight_power::live::{Live, Recorder, Sensors, Time};
use pilotlight_units::{Hertz, Micros};

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
    let mut live =
        Live::new(governor(&tree), Sensors::new(&tree, Time::monotonic()), Some(session)).expect("allowed");
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
    let mut live = Live::<Session>::new(governor(&tree), Sensors::new(&tree, Time::monotonic()), None)
        .expect("nothing to set");
    assert!(!live.controls());
    for _ in 0..20 {
        live.cycle(Micros(900));
    }
    assert_eq!(Board::discover(&tree).gpu_state.map(|s| (s.min, s.max)), before);
}

#[test]
fn a_recording_gives_the_energy_between_two_times() {
    let (_folder, tree) = board();
    let time = Time::monotonic();
    let recorder = Recorder::start(&tree, &Board::discover(&tree), 200, &time).expect("a module rail");
    std::thread::sleep(std::time::Duration::from_millis(50));
    let begin = time.now();
    std::thread::sleep(std::time::Duration::from_millis(200));
    let end = time.now();
    let recording = recorder.stop();
    let window = recording.between(begin, end).expect("covered");
    // The fixture's rail stands still at 5.54 W.
    assert_eq!((window.begin, window.length), (end - begin, end - begin));
    assert!(window.mean().is_some_and(|p| p.0.abs_diff(5_540) <= 1), "{window:?}");
    assert!(window.covered.0 * 100 >= window.length.0 * 95, "{window:?}");
    assert!(window.deviation.0 > 0);
    assert_eq!(recording.between(end + Micros::from_secs(5), end + Micros::from_secs(6)), None);
}

#[test]
fn a_module_sensor_is_found_again_after_it_was_renumbered() {
    let (folder, tree) = board();
    let data = Board::discover(&tree).data.expect("known");
    let mut sensor = pilotlight_boards::rails::TotalSensor::open(&tree, &data).expect("VDD_IN");
    assert_eq!(sensor.read().expect("a reading").0, 5_540);
    let driver = folder.path().join("sys/bus/i2c/drivers/ina3221/1-0040/hwmon");
    std::fs::rename(driver.join("hwmon3"), driver.join("hwmon7")).expect("renamed");
    // Until the folder is back its files read as they were; a real one answers ENODEV. Say so by damage.
    std::fs::write(driver.join("hwmon7/curr1_input"), "").expect("written");
    assert!(sensor.read().is_err());
    std::fs::write(driver.join("hwmon7/curr1_input"), "1000\n").expect("written");
    assert_eq!(sensor.read().expect("found again").0, 5_000);
    std::fs::write(driver.join("hwmon7/curr1_input"), "999999\n").expect("written");
    assert!(sensor.read().is_err());
    std::fs::remove_dir_all(&driver).expect("removed");
    assert!(sensor.read().is_err() && sensor.read().is_err());
}

/// Clocks whose owner panics at a call.
struct Panicking {
    inner: Session,
    calls: u32,
}

impl Clocks for Panicking {
    fn set(&mut self, gpu: Hertz, emc: Option<Hertz>) -> Result<(), ControlError> {
        self.inner.set(gpu, emc)
    }

    fn read(&mut self) -> (Option<Hertz>, Option<Hertz>) {
        self.calls += 1;
        assert!(self.calls < 20, "the twentieth reading panics, as it is meant to");
        self.inner.read()
    }

    fn release(&mut self) -> Result<(), ControlError> {
        self.inner.release()
    }
}

#[test]
fn a_panic_restores_the_board() {
    let (_folder, tree) = board();
    let state = tempfile::tempdir().expect("a folder");
    let clocks = || Board::discover(&tree).gpu_state.map(|s| (s.min, s.max));
    let before = clocks();
    let inner = Session::open(&tree, &state.path().join("s")).expect("free");
    let clocks_of_ours = Panicking { inner, calls: 0 };
    let mut live = Live::new(governor(&tree), Sensors::new(&tree, Time::monotonic()), Some(clocks_of_ours))
        .expect("allowed");
    assert_ne!(clocks(), before);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        for _ in 0..30 {
            live.cycle(Micros(900));
        }
    }));
    assert!(panicked.is_err());
    assert_eq!(clocks(), before);
    assert!(!state.path().join("s").exists());
}
