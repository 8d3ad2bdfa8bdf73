//! Sessions with a meter on a board's tree whose power is known.
//!
//! The fixture's rail stands still, so the truth does not depend on when anything ran: a window's energy is its
//! power times the time covered, and all of it belongs to those who worked.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::gain;
use pilotlight::device::{Device, LoadError, Program, Reference};
use pilotlight::energy::{
    Basis, Condition, LearnError, Meter, MeterError, MeterOptions, NotMeasured, WindowEnergy,
};
use pilotlight::{Energy, Options, Plan, Runner, Session, Thread};
use pilotlight_boards::Tree;
use pilotlight_boards::fixture::{self, JetPack};
use std::path::Path;
use std::time::{Duration, Instant};

/// Power of the fixtures, mW: VDD_IN of the small modules, and the sum of an AGX.
const NANO_MW: u64 = 5_540;
const AGX_MW: u64 = 3 * 1_440;

fn tree(board: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fixture::create(folder.path(), board, JetPack::Six).unwrap();
    folder
}

fn options(root: &Path) -> MeterOptions {
    MeterOptions::default().root(root).rate(200).window(Duration::from_millis(100))
}

fn metered(meter: &Meter) -> Session {
    Session::open(&gain(1, 2.0), &Options::default().meter(meter)).unwrap()
}

/// Runs one inference; its number and energy.
fn infer(session: &Session) -> (u64, Energy) {
    let output = session.lend().unwrap().submit().unwrap().wait().unwrap();
    (output.report().sequence, output.report().energy)
}

/// Asks until there is an answer. A machine that stands still for a minute fails the test.
fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "no answer within a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn window_of(energy: Energy) -> Option<WindowEnergy> {
    match energy {
        Energy::Window(window) => Some(window),
        Energy::NotMeasured(NotMeasured::Open) => None,
        other => panic!("{other:?}"),
    }
}

/// All inferences of the window together took what the rail gave (each figure is rounded down).
fn is_all_of(window: &WindowEnergy, mw: u64) {
    let rail = mw * window.covered.as_micros() as u64 / 1_000;
    let sum = window.gross.0 * u64::from(window.inferences);
    assert!(sum <= rail + 1 && rail <= sum + u64::from(window.inferences) + 1, "{rail} uJ: {window:?}");
}

#[test]
fn a_result_carries_the_last_closed_window_and_its_age() {
    for (board, mw) in
        [("orin-nano-8gb-super", NANO_MW), ("orin-nx-16gb", NANO_MW), ("agx-orin-64gb", AGX_MW)]
    {
        let folder = tree(board);
        let meter = Meter::open(&options(folder.path())).unwrap();
        let session = metered(&meter);
        assert_eq!(infer(&session).1, Energy::NotMeasured(NotMeasured::Open));
        let window = until(|| window_of(infer(&session).1));
        is_all_of(&window, mw);
        // The fixture is not this machine.
        assert_eq!((window.basis, window.length), (Basis::Modelled, Duration::from_millis(100)));
        assert!(window.covered <= window.length && window.deviation.0 > 0);
        let module = meter.module().unwrap();
        let (gross, deviation, _) = module.window.unwrap();
        assert!(gross.0 <= mw * 100 && deviation.0 > 0, "{module:?}");
        assert_eq!(module.rails[0].as_str(), if mw == AGX_MW { "VDD_GPU_SOC" } else { "VDD_IN" });
    }
}

#[test]
fn the_energy_of_an_inference_is_that_of_its_own_window() {
    let folder = tree("orin-nano-8gb-super");
    let meter = Meter::open(&options(folder.path())).unwrap();
    let session = metered(&meter);
    assert_eq!(session.energy(1), Energy::NotMeasured(NotMeasured::Unknown));
    let (number, _) = infer(&session);
    let window = until(|| window_of(session.energy(number)));
    is_all_of(&window, NANO_MW);
    assert_eq!(window.inferences, 1);
    // It grows older as time goes by; ages are whole microseconds.
    let ask = || (Instant::now(), window_of(session.energy(number)).unwrap().age, Instant::now());
    let (first, second) = (ask(), ask());
    let (older, micro) = (second.1 - first.1, Duration::from_micros(1));
    assert!(older <= second.2 - first.0 + micro && older + micro >= second.0 - first.2);
    assert_eq!(session.energy(0), Energy::NotMeasured(NotMeasured::Unknown));
    assert_eq!(session.energy(number + 1), Energy::NotMeasured(NotMeasured::Unknown));
    // 64 windows later it is forgotten; without inferences results are not.
    until(|| (session.energy(number) == Energy::NotMeasured(NotMeasured::Forgotten)).then_some(()));
    let (_, energy) = infer(&session);
    let window = energy.window().expect("the last one");
    assert!(window.age > Duration::from_secs(6), "{window:?}");
}

#[test]
fn sessions_share_a_window_by_the_time_that_they_worked() {
    let folder = tree("orin-nano-8gb-super");
    let meter = Meter::open(&options(folder.path())).unwrap();
    let inline = metered(&meter);
    let worker = Options::default().meter(&meter).runner(Runner::Worker(Thread::default()));
    let threaded = Session::open(&gain(2, 3.0), &worker).unwrap();
    // Of windows in which both worked: together they have all of it.
    let (a, b) = until(|| {
        let (a, b) = (infer(&inline).0, infer(&threaded).0);
        let both = until(|| Some((window_of(inline.energy(a))?, window_of(threaded.energy(b))?)));
        let same = (both.0.age).abs_diff(both.1.age) < Duration::from_millis(50);
        same.then_some(both)
    });
    let rail = NANO_MW * a.covered.as_micros() as u64 / 1_000;
    let sum = a.gross.0 * u64::from(a.inferences) + b.gross.0 * u64::from(b.inferences);
    let rounded = u64::from(a.inferences + b.inferences) + 2;
    assert!(sum <= rail && rail <= sum + rounded, "{rail}: {a:?} {b:?}");
    // A session that ends gives its place free, and its number of inferences does not go to the next one.
    drop(inline);
    let next = metered(&meter);
    let number = infer(&next).0;
    assert_eq!(number, 1);
    until(|| window_of(next.energy(number)));
}

#[test]
fn an_eighth_session_is_not_told_apart() {
    let folder = tree("orin-nano-8gb-super");
    let meter = Meter::open(&options(folder.path())).unwrap();
    let sessions: Vec<Session> = (0..8).map(|_| metered(&meter)).collect();
    let energies: Vec<Energy> = sessions.iter().map(|s| infer(s).1).collect();
    let not = |why| Energy::NotMeasured(why);
    assert_eq!(energies[..7], [not(NotMeasured::Open); 7]);
    assert_eq!(energies[7], not(NotMeasured::Crowded));
    assert_eq!(sessions[7].energy(1), not(NotMeasured::Crowded));
}

#[test]
fn baselines_are_learned_and_taken_off() {
    let folder = tree("orin-nano-8gb-super");
    let half_a_second = options(folder.path()).window(Duration::from_millis(500));
    let meter = Meter::open(&half_a_second).unwrap();
    let session = metered(&meter);
    // Windows in which nobody works teach what a parked board draws.
    let parked = until(|| meter.baseline(Condition::Parked));
    assert_eq!(parked.0, NANO_MW as u32);
    assert_eq!(meter.baseline(Condition::Lit), None);
    let busy = meter.learn(Condition::Busy, || std::thread::sleep(Duration::from_millis(5))).unwrap();
    assert_eq!(busy.0, NANO_MW as u32);
    // The rail rises by a watt, and the session works from before the step on: that is what the work costs.
    infer(&session);
    Tree::at(folder.path())
        .write("/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr1_input", "1308\n")
        .unwrap();
    let window = until(|| {
        let window = window_of(infer(&session).1)?;
        // One that is wholly after the step.
        let (all, n) = (window.gross.0 * u64::from(window.inferences), u64::from(window.inferences));
        (all + n >= 6_540 * window.covered.as_micros() as u64 / 1_000).then_some(window)
    });
    let (net, n) = (window.net, u64::from(window.inferences));
    let (above, truth) = (n * net.parked.unwrap().0, window.covered.as_micros() as u64);
    assert!(above <= truth + 1 && truth <= above + n + 1, "{window:?}");
    assert_eq!((net.busy, net.lit), (net.parked, None));
    // While a session works nothing can be learned of a board without it.
    let disturbed = meter.learn(Condition::Lit, || {
        infer(&session);
    });
    assert_eq!(disturbed, Err(LearnError::Disturbed { windows: 10 }));
}

#[test]
fn what_cannot_be_measured_says_why() {
    // No board at all.
    let folder = tempfile::tempdir().unwrap();
    let meter = Meter::open(&options(folder.path())).unwrap();
    assert!(meter.module().unwrap_err().contains("not a Jetson"), "{meter:?}");
    let session = metered(&meter);
    let (number, energy) = infer(&session);
    assert_eq!(energy, Energy::NotMeasured(NotMeasured::NoPower));
    assert_eq!(session.energy(number), energy);
    assert_eq!(meter.learn(Condition::Busy, || {}), Err(LearnError::NotMeasured(NotMeasured::NoPower)));
    // An unknown board, and one whose sensor has gone.
    let unknown = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(unknown.path().join("proc/device-tree")).unwrap();
    std::fs::write(unknown.path().join("proc/device-tree/compatible"), "acme,anvil\0").unwrap();
    assert!(Meter::open(&options(unknown.path())).unwrap().module().unwrap_err().contains("acme,anvil"));
    let bare = tree("orin-nano-8gb-super");
    std::fs::remove_dir_all(bare.path().join("sys/bus/i2c")).unwrap();
    assert!(Meter::open(&options(bare.path())).unwrap().module().unwrap_err().contains("VDD_IN"));
    // No meter.
    let plain = Session::open(&gain(1, 2.0), &Options::default()).unwrap();
    assert_eq!(infer(&plain).1, Energy::NotMeasured(NotMeasured::NoMeter));
    // Settings out of range.
    for wrong in [
        options(folder.path()).rate(9),
        options(folder.path()).rate(1_001),
        options(folder.path()).rate(50),
        options(folder.path()).window(Duration::from_secs(61)),
    ] {
        assert!(matches!(Meter::open(&wrong), Err(MeterError::Option { .. })), "{wrong:?}");
    }
}

/// A device that stands for a board.
struct Virtual;

impl Device for Virtual {
    fn describe(&self) -> String {
        "virtual".into()
    }

    fn load(&self, plan: &Plan) -> Result<Box<dyn Program>, LoadError> {
        Reference.load(plan)
    }

    fn is_virtual(&self) -> bool {
        true
    }
}

#[test]
fn no_rail_shows_the_power_of_a_virtual_board() {
    let folder = tree("orin-nano-8gb-super");
    let meter = Meter::open(&options(folder.path())).unwrap();
    let session =
        Session::open_on(Box::new(Virtual), &gain(1, 2.0), &Options::default().meter(&meter)).unwrap();
    let (number, energy) = infer(&session);
    assert_eq!(energy, Energy::NotMeasured(NotMeasured::VirtualBoard));
    assert_eq!(session.energy(number), energy);
}

#[test]
fn a_lost_sensor_is_told_and_found_again() {
    let folder = tree("orin-nano-8gb-super");
    let meter = Meter::open(&options(folder.path())).unwrap();
    let session = metered(&meter);
    until(|| window_of(infer(&session).1));
    let amps = "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr1_input";
    let tree = Tree::at(folder.path());
    tree.write(amps, "").unwrap();
    let number = until(|| {
        let (number, energy) = infer(&session);
        (energy == Energy::NotMeasured(NotMeasured::SensorLost)).then_some(number)
    });
    assert_eq!(session.energy(number), Energy::NotMeasured(NotMeasured::SensorLost));
    tree.write(amps, "1108\n").unwrap();
    until(|| infer(&session).1.window().copied());
    assert!(meter.module().unwrap().faults.gaps > 0);
}

#[test]
fn a_closed_meter_leaves_sessions_without_energies() {
    let folder = tree("orin-nano-8gb-super");
    let meter = Meter::open(&options(folder.path())).unwrap();
    let session = metered(&meter);
    let known = infer(&session).0;
    until(|| window_of(session.energy(known)));
    meter.close();
    meter.close();
    let (number, energy) = infer(&session);
    assert_eq!(energy, Energy::NotMeasured(NotMeasured::Closed));
    assert_eq!(session.energy(number), Energy::NotMeasured(NotMeasured::Closed));
    // What was known still is.
    assert!(session.energy(known).window().is_some());
    let learned = meter.learn(Condition::Parked, || {});
    assert_eq!(learned, Err(LearnError::NotMeasured(NotMeasured::Closed)));
    // Handles, sessions and slots may go in any order.
    let (late, lent) = (metered(&meter), session.lend().unwrap());
    drop((meter, session));
    assert_eq!(infer(&late).1, Energy::NotMeasured(NotMeasured::Closed));
    drop((late, lent));
}
