//! Discovery, modes, control and the helper on fixture trees of every module and JetPack layout.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};

use pilotlight_boards::control::{Clocks, ControlError, Session, parse_state, restore};
use pilotlight_boards::fixture::{self, JetPack};
use pilotlight_boards::rails::Basis;
use pilotlight_boards::{Board, Tree, all, helper, named};
use pilotlight_units::{Hertz, Milliwatts};

fn tree(board: &str, jetpack: JetPack) -> (tempfile::TempDir, Tree) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fixture::create(folder.path(), board, jetpack).expect("the fixture is written");
    let tree = Tree::at(folder.path());
    (folder, tree)
}

/// Every file below a folder and what it holds.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).expect("a folder").flatten() {
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                open.push(entry.path());
                found.insert(entry.path(), Vec::new());
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path()).expect("a link");
                found.insert(entry.path(), target.to_string_lossy().as_bytes().to_vec());
            } else {
                let text = fs::read_to_string(entry.path()).expect("text");
                // A write replaces the kernel's newline; only the value counts.
                found.insert(entry.path(), text.trim_end().as_bytes().to_vec());
            }
        }
    }
    found
}

#[test]
fn every_module_is_discovered_under_every_layout() {
    for name in all() {
        for jetpack in JetPack::ALL {
            let (_folder, tree) = tree(name, jetpack);
            let board = Board::discover(&tree);
            let data = named(name).expect("known");
            assert_eq!(board.data.as_ref().map(|d| d.name.as_str()), Some(name), "{jetpack:?}");
            assert!(board.notes.is_empty(), "{name} {jetpack:?}: {:?}", board.notes);
            let gpu = board.gpu.as_ref().expect("a GPU");
            assert!(gpu.devfreq.starts_with("/sys/class/devfreq/"), "{}", gpu.devfreq);
            assert_eq!(gpu.clocks.len(), data.gpu.clocks_mhz.len());
            let state = board.gpu_state.as_ref().expect("its state");
            assert!(state.tpc_pg_mask.is_some() && state.load_permille == Some(0), "{name} {jetpack:?}");
            assert_eq!(board.rails.len(), data.rails.len());
            assert_eq!(board.zones.len(), data.thermal.zones.len());
            assert!(board.over_current.is_some() && !board.cpu.is_empty());
            let modes = board.modes.as_ref().expect("modes");
            assert_eq!(modes.modes.len(), data.modes.len());
            assert_eq!(Some(modes.default), board.mode);
            let release = board.identity.release.as_ref().expect("a release");
            assert!(release.jetpack.starts_with(match jetpack {
                JetPack::Five => "5",
                JetPack::Six => "6",
                JetPack::Seven => "7",
            }));
            assert!(board.to_string().contains(&data.title));
        }
    }
}

#[test]
fn parts_of_a_rail_are_never_added_to_it() {
    let (_folder, nano) = tree("orin-nano-8gb-super", JetPack::Six);
    let total = Board::discover(&nano).total.expect("a total");
    assert_eq!((total.power, total.upper), (Milliwatts(5_540), Milliwatts(5_540)));
    let (_folder, agx) = tree("agx-orin-64gb", JetPack::Five);
    let total = Board::discover(&agx).total.expect("a total");
    assert_eq!((total.power, total.upper), (Milliwatts(3 * 1_440), Milliwatts(4 * 1_440)));
}

#[test]
fn only_this_machines_own_tree_measures() {
    let data = |name| named(name).expect("a board");
    let (nano, agx) = (data("orin-nano-8gb-super"), data("agx-orin-64gb"));
    let (here, elsewhere) = (Tree::at("/"), Tree::at("/srv/copy"));
    assert_eq!(Basis::of(&here, Some(&nano)), Basis::Measured);
    assert_eq!(Basis::of(&here, Some(&agx)), Basis::Estimated, "a sum of rails");
    assert_eq!(Basis::of(&here, None), Basis::Estimated, "RAPL");
    assert_eq!(Basis::of(&elsewhere, Some(&nano)), Basis::Modelled);
}

#[test]
fn modes_with_another_mask_need_a_reboot() {
    let (_folder, tree) = tree("orin-nx-16gb-super", JetPack::Six);
    let modes = Board::discover(&tree).modes.expect("modes");
    assert_eq!(modes.switches_live(4, 0), Some(true));
    assert_eq!(modes.switches_live(4, 3), Some(true));
    assert_eq!(modes.switches_live(4, 1), Some(false));
    assert_eq!(modes.switches_live(4, 9), None);
    let param = &modes.params["GPU"];
    assert_eq!(
        param.path(&tree, "MAX_FREQ"),
        Some("/sys/devices/platform/bus@0/17000000.gpu/devfreq/17000000.gpu/max_freq")
    );
}

#[test]
fn faults_are_named_and_the_rest_is_still_found() {
    let (folder, tree) = tree("orin-nano-8gb-super", JetPack::Six);
    let hwmon = folder.path().join("sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3");
    let note = |part: &str| {
        let board = Board::discover(&tree);
        assert!(board.notes.iter().any(|n| n.contains(part)), "{part}: {:?}", board.notes);
        board
    };
    // Renumbered: labels decide.
    fs::write(hwmon.join("in1_label"), "VDD_SOC").expect("write");
    fs::write(hwmon.join("in3_label"), "VDD_IN").expect("write");
    let board = note("on channel 3, not 1");
    assert_eq!(board.total.expect("a total").power, Milliwatts(1_440));
    // A wild reading.
    fs::write(hwmon.join("curr3_input"), "99999999").expect("write");
    assert!(note("a power from 0 to 200 W").total.is_none());
    fs::write(hwmon.join("curr3_input"), "soon").expect("write");
    note("a whole number");
    // A channel that is off, a sensor that is gone.
    fs::write(hwmon.join("in2_enable"), "0").expect("write");
    note("switched off");
    fs::remove_file(hwmon.join("in2_label")).expect("remove");
    note("VDD_CPU_GPU_CV: no sensor");
    // A broken mode file.
    fs::write(folder.path().join("etc/nvpmodel.conf"), "< PARAM TYPE=CLOCK >\n").expect("write");
    assert!(note("line 1: PARAM needs NAME").modes.is_none());
    // Old firmware under a super board.
    let table = folder.path().join("sys/class/devfreq/17000000.gpu/available_frequencies");
    fs::write(&table, "306000000 624750000").expect("write");
    note("firmware is old");
    fs::write(&table, "").expect("write");
    assert!(note("at least one clock").gpu.is_none());
    // No debugfs.
    fs::remove_dir_all(folder.path().join("sys/kernel/debug")).expect("remove");
    note("memory clock:");
    // An unknown board.
    fs::write(folder.path().join("proc/device-tree/compatible"), "vendor,other\0").expect("write");
    note("unknown board 'vendor,other'");
}

#[test]
fn this_machine_is_looked_at_without_harm() {
    let board = Board::discover(&Tree::system());
    assert!(!board.to_string().is_empty());
}

#[test]
fn a_session_sets_clocks_and_puts_everything_back() {
    for name in ["orin-nano-8gb-super", "agx-orin-32gb"] {
        for jetpack in JetPack::ALL {
            let (folder, tree) = tree(name, jetpack);
            let before = content(folder.path());
            let state = folder.path().join("run/pilotlight");
            fs::create_dir(folder.path().join("run")).expect("create");
            let mut session = Session::open(&tree, &state).expect("clocks are free");
            let gpu = session.gpu_clocks()[2];
            let emc = session.emc_clocks()[1];
            session.set(gpu, Some(emc)).expect("allowed");
            assert_ne!(content(folder.path()), before);
            assert_eq!(Board::discover(&tree).gpu_state.map(|s| (s.min, s.max)), Some((gpu, gpu)));
            assert!(matches!(
                session.set(Hertz(gpu.0 + 1), None),
                Err(ControlError::Clock { domain: "GPU", .. })
            ));
            assert!(matches!(
                session.set(gpu, Some(Hertz(1))),
                Err(ControlError::Clock { domain: "memory", .. })
            ));
            drop(session);
            fs::remove_dir(folder.path().join("run")).expect("nothing is left in it");
            assert_eq!(content(folder.path()), before, "{name} {jetpack:?}");
        }
    }
}

#[test]
fn a_killed_owner_is_undone_by_restore() {
    let (folder, tree) = tree("orin-nano-8gb-super", JetPack::Six);
    let before = content(folder.path());
    let state = tempfile::tempdir().expect("a folder");
    let place = state.path().join("pilotlight");
    assert!(!restore(&tree, &place).expect("nothing to do"));
    let mut session = Session::open(&tree, &place).expect("free");
    let low = session.gpu_clocks()[0];
    session.set(low, Some(Hertz(665_600_000))).expect("allowed");
    // While it lives there is one owner.
    assert!(matches!(Session::open(&tree, &place), Err(ControlError::Owned { .. })));
    assert!(matches!(restore(&tree, &place), Err(ControlError::Owned { .. })));
    // Killed: no destructor runs, but the kernel drops the lock. The leaked handle is closed by taking its copy.
    let saved = fs::read(place.join("clocks.json")).expect("a state file");
    drop(session);
    fs::create_dir_all(&place).expect("create");
    fs::write(place.join("clocks.json"), saved).expect("write");
    let devfreq = "/sys/class/devfreq/17000000.gpu";
    for (file, value) in [("min_freq", "306000000"), ("max_freq", "306000000")] {
        tree.write(&format!("{devfreq}/{file}"), value).expect("write");
    }
    assert!(matches!(Session::open(&tree, &place), Err(ControlError::LeftOver { .. })));
    assert!(restore(&tree, &place).expect("restores"));
    assert_eq!(content(folder.path()), before);
    assert!(!place.exists());
}

#[test]
fn pinned_clocks_and_bad_state_files_are_refused() {
    let (folder, tree) = tree("orin-nx-8gb", JetPack::Five);
    let state = tempfile::tempdir().expect("a folder");
    let limit = folder.path().join("sys/devices/17000000.ga10b/devfreq/17000000.ga10b/min_freq");
    fs::write(limit, "765000000").expect("write");
    let error = Session::open(&tree, state.path()).expect_err("pinned");
    assert!(matches!(error, ControlError::Pinned { clock } if clock == Hertz::from_mhz(765)), "{error}");
    let before = content(folder.path());
    for bad in [
        "",
        "{}",
        r#"{"schema":2,"pid":1,"attributes":[]}"#,
        r#"{"schema":1,"pid":1,"attributes":[{"path":"/etc/passwd","value":"0"}]}"#,
        r#"{"schema":1,"pid":1,"attributes":[{"path":"/sys/devices/../../etc/min_freq","value":"0"}]}"#,
        r#"{"schema":1,"pid":1,"attributes":[{"path":"/sys/devices/x/min_freq","value":"; rm"}]}"#,
    ] {
        assert!(parse_state(bad).is_err(), "{bad}");
        fs::write(state.path().join("clocks.json"), bad).expect("write");
        assert!(matches!(restore(&tree, state.path()), Err(ControlError::State { .. })), "{bad}");
        assert_eq!(content(folder.path()), before);
    }
}

#[test]
fn the_helper_speaks_its_protocol_and_restores_at_the_end_of_input() {
    let (folder, tree) = tree("orin-nano-8gb-super", JetPack::Seven);
    let before = content(folder.path());
    let state = tempfile::tempdir().expect("a folder");
    let requests = "hello 1\nset 510000000 2133000000\nread\nset 510000001 -\nset 510000000 /etc/passwd\nhello 7\n\
                    dance\nset 408000000 -\n";
    let mut session = Session::open(&tree, &state.path().join("s")).expect("free");
    let mut answers = Vec::new();
    helper::serve(&mut session, Cursor::new(requests), &mut answers).expect("serves");
    let text = String::from_utf8(answers).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("ok 1 gpu 306000000")
            && lines[0].ends_with("emc 204000000 665600000 2133000000 3199000000")
    );
    assert_eq!(lines[1], "ok");
    assert!(lines[2].ends_with(" 2133000000"), "{}", lines[2]);
    for (i, part) in
        [(3, "not in the board's table"), (4, "no clock in Hz"), (5, "speaks 1"), (6, "unknown request")]
    {
        assert!(lines[i].starts_with("err ") && lines[i].contains(part), "{}", lines[i]);
    }
    assert_eq!(lines[7], "ok");
    assert_eq!(content(folder.path()), before);
    // A line without end is refused, and the board restored.
    let mut session = Session::open(&tree, &state.path().join("s")).expect("free again");
    let mut answers = Vec::new();
    helper::serve(&mut session, Cursor::new("x".repeat(10_000)), &mut answers).expect("serves");
    assert!(String::from_utf8_lossy(&answers).starts_with("err a request has at most"));
}

#[test]
fn the_client_understands_the_helper() {
    let answers =
        "ok 1 gpu 306000000 408000000 emc 2133000000\nok\nerr GPU clock is not allowed\nok 306000000 -\nok\n";
    let mut asked = Vec::new();
    let mut client = helper::Client::connect(BufReader::new(answers.as_bytes()), &mut asked).expect("greets");
    assert_eq!(client.gpu_clocks.len(), 2);
    assert_eq!(client.emc_clocks, [Hertz::from_mhz(2133)]);
    client.set(Hertz::from_mhz(408), None).expect("ok");
    assert!(client.set(Hertz(1), Some(Hertz(2))).is_err());
    assert_eq!(client.read().expect("reads"), (Some(Hertz::from_mhz(306)), None));
    client.release().expect("releases");
    assert_eq!(String::from_utf8(asked).expect("text"), "hello 1\nset 408000000 -\nset 1 2\nread\nrelease\n");
}

#[test]
fn a_mode_switches_live_only_where_the_mask_stays() {
    use pilotlight_boards::modes::{ModeError, switch};
    let (folder, tree) = tree("orin-nx-16gb-super", JetPack::Six);
    let before = content(folder.path());
    // From 40W: another mask, no such mode, someone else's clocks; nothing is written.
    assert!(matches!(switch(&tree, 1), Err(ModeError::Reboot { id: 1, .. })));
    assert!(switch(&tree, 9).is_err_and(|e| e.to_string().contains("3 (25W)")));
    let state = tempfile::tempdir().expect("a folder");
    let session = Session::open(&tree, &state.path().join("s")).expect("free");
    assert!(matches!(switch(&tree, 3), Err(ModeError::Owned(ControlError::Owned { .. }))));
    drop(session);
    assert_eq!(content(folder.path()), before);
    // 25W: the GPU capped at 408 MHz.
    let missing = switch(&tree, 3).expect("the same mask");
    assert!(missing.iter().all(|path| path.contains("/cpu")), "{missing:?}");
    let board = Board::discover(&tree);
    assert_eq!((board.mode, board.gpu_state.map(|s| s.max)), (Some(3), Some(Hertz::from_mhz(408))));
    // MAXN_SUPER: the top of the table.
    switch(&tree, 0).expect("the same mask");
    let board = Board::discover(&tree);
    assert_eq!((board.mode, board.gpu_state.map(|s| s.max)), (Some(0), Some(Hertz::from_mhz(1173))));
    switch(&tree, 4).expect("back");
    // A file that sets something else, and a status that says nothing.
    let status = folder.path().join("var/lib/nvpmodel/status");
    let conf = folder.path().join("etc/nvpmodel.conf");
    let damaged =
        fs::read_to_string(&conf).expect("text").replace("/sys/kernel/nvpmodel_clk_cap/emc", "/etc/passwd");
    fs::write(&conf, damaged).expect("write");
    assert!(matches!(switch(&tree, 3), Err(ModeError::Path { .. })));
    fs::write(&status, "").expect("write");
    assert!(matches!(switch(&tree, 3), Err(ModeError::Unknown { .. })));
}
