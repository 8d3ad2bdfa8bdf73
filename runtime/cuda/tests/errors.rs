//! What keeps the CUDA device from being opened or loaded is an error with a type; nothing panics.
#![allow(clippy::unwrap_used, reason = "a test's helper fails the test")]

#[path = "../../device/tests/support/mod.rs"]
mod support;
mod virtual_orin;

use pilotlight_cuda::{Cuda, Mode, VirtualBoard};
use pilotlight_device::{Device, LoadError};
use pilotlight_plan::{DType, Op, Plan, Table};
use std::path::{Path, PathBuf};
use std::process::Command;

const CASE: &str = "PILOTLIGHT_TEST_CASE";

/// Not a test by itself: each case in a process of its own, since a process has one driver. It prints the error.
#[test]
fn child() {
    let Ok(case) = std::env::var(CASE) else { return };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/digits/model.plan");
    let mut plan = Plan::open(path).unwrap();
    let error = match case.as_str() {
        "open" => Cuda::open(Mode::Graph).map(|_| ()).unwrap_err().to_string(),
        "board" => VirtualBoard::load(&[("BOARD", "orin")]).map(|_| ()).unwrap_err().to_string(),
        "late" => {
            virtual_orin::open(Mode::Graph);
            VirtualBoard::load(&[("SEED", "1")]).map(|_| ()).unwrap_err().to_string()
        }
        "memory" => {
            plan.arena_bytes = 1 << 32;
            virtual_orin::open(Mode::Graph).load(&plan).map(|_| ()).unwrap_err().to_string()
        }
        "operation" => {
            let loaded = virtual_orin::open(Mode::Graph).load(&seven_dimensions()).map(|_| ());
            assert!(matches!(loaded, Err(LoadError::Unsupported { .. })), "{loaded:?}");
            loaded.unwrap_err().to_string()
        }
        "kernels" => {
            virtual_orin::board();
            Cuda::open_with(Mode::Graph, "no kernels").map(|_| ()).unwrap_err().to_string()
        }
        other => panic!("{other}"),
    };
    println!("error: {error}");
}

fn error(case: &str, set_up: impl FnOnce(&mut Command) -> &mut Command) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--nocapture"]).env(CASE, case);
    let output = set_up(&mut command).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().find_map(|l| l.split_once("error: ")).unwrap().1.to_owned()
}

/// A folder with a driver of this C text in it.
fn driver(name: &str, text: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("pilotlight-driver-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("driver.c"), text).unwrap();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o", "libcuda.so", "driver.c"])
        .current_dir(&folder)
        .status()
        .unwrap();
    assert!(status.success());
    folder
}

#[test]
fn an_old_driver_is_named_with_what_it_lacks() {
    let old = driver("old", "int cuDriverGetVersion(int *v) { *v = 10020; return 0; }");
    let text = error("open", |c| c.env("LD_LIBRARY_PATH", &old));
    assert!(text.contains("CUDA 10.2") && text.contains("11.4") && text.contains("lacks cu"), "{text}");
    let none = driver("none", "int unrelated;");
    let text = error("open", |c| c.env("LD_LIBRARY_PATH", &none));
    assert!(text.contains("lacks cu"), "{text}");
    [old, none].iter().for_each(|folder| std::fs::remove_dir_all(folder).unwrap());
}

#[test]
fn a_driver_that_fails_is_named_with_the_call() {
    let mut text = String::from("int cuDriverGetVersion(int *v) { *v = 12060; return 0; }\n");
    for name in pilotlight_cuda::FUNCTIONS.iter().filter(|n| **n != "cuDriverGetVersion") {
        // 100: no device.
        text.push_str(&format!("int {name}() {{ return 100; }}\n"));
    }
    let folder = driver("no-gpu", &text);
    let text = error("open", |c| c.env("LD_LIBRARY_PATH", &folder));
    assert!(text.contains("finds no GPU"), "{text}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn without_a_driver_the_error_says_what_to_do() {
    let installed = Command::new("sh").args(["-c", "ldconfig -p 2>/dev/null | grep -q libcuda.so"]).status();
    if installed.is_ok_and(|s| s.success()) {
        println!("skipped: this machine has a CUDA driver, so nothing is to be seen");
        return;
    }
    let text = error("open", |c| c.env_remove("LD_LIBRARY_PATH"));
    assert!(text.contains("no CUDA driver"), "{text}");
}

#[test]
fn a_board_that_there_is_not_is_answered_with_all_names() {
    let text = error("board", |c| c);
    assert!(text.contains("no such board") && text.contains("agx-orin-64"), "{text}");
}

#[test]
fn a_board_cannot_be_changed_under_a_device() {
    let text = error("late", |c| c);
    assert!(text.contains("before the first CUDA call"), "{text}");
}

#[test]
fn memory_that_the_board_has_not_is_an_error() {
    let text = error("memory", |c| c.env("PILOTLIGHT_VIRTUAL_BOARD", "orin-nano-4gb"));
    assert!(text.contains("device arena") && text.contains("no "), "{text}");
}

/// A plan whose second step no kernel does.
fn seven_dimensions() -> Plan {
    let mut b = support::Builder::new(1);
    for shape in [&[2; 6][..], &[2; 7]] {
        let (input, table) = (b.input(shape, DType::U8), b.table());
        let output = b.output(shape, DType::U8);
        b.step(Op::Table(Table { input, output, table }));
    }
    b.finish()
}

#[test]
fn an_operation_that_no_kernel_does_is_named_with_its_step() {
    let text = error("operation", |c| c);
    assert!(text.contains("step 1 (table n1)") && text.contains("7 dimensions"), "{text}");
    assert!(text.contains("the kernels walk 6"), "{text}");
}

#[test]
fn kernels_that_are_none_are_refused() {
    let text = error("kernels", |c| c);
    assert!(text.contains("loading the kernels"), "{text}");
}
