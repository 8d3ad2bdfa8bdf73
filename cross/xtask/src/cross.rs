//! The way to a Jetson: built for aarch64, tested under qemu; Cross.toml checked without an engine.

use crate::abi::target;
use crate::c_programs::{DIGITS, EFFICIENTNET, Kit, Tally, path};
use crate::shell::{self, root, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Crates that run on the device and need no other machine for their tests.
const FIRMWARE: &[&str] = &[
    "pilotlight-units",
    "pilotlight-wire",
    "pilotlight-plan",
    "pilotlight-device",
    "pilotlight-link",
    "pilotlight-boards",
    "pilotlight-power",
    "pilotlight",
];

/// Tests that qemu's user mode cannot run, and why.
const NOT_UNDER_QEMU: &[(&str, &str)] = &[
    (
        "frames_cross_a_noisy_serial_line_and_a_port_that_goes_and_comes",
        "qemu's user mode does not open the peer of a pseudo-terminal (TIOCGPTPEER)",
    ),
    ("an_awake_thread_does_not_sleep_for_a_lock", "a thread of qemu's may sleep for qemu's own locks"),
];

/// JetPack 6 is Ubuntu 22.04.
const NEWEST_GLIBC: (u32, u32) = (2, 35);

fn cross_dir() -> PathBuf {
    std::env::var_os("PILOTLIGHT_CROSS_DIR").map_or_else(|| root().join("target/cross"), PathBuf::from)
}

pub fn test() -> Result<()> {
    run("bash", &["cross/toolchain.sh", "setup"])?;
    let out = target()?.join("aarch64");
    let prefix = out.join("prefix");
    run("bash", &["cross/package.sh", path(&prefix)?, "aarch64"])?;
    let mut tally = Tally::default();

    let qemu = ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"];
    let kit = Kit {
        name: "aarch64",
        cc: "aarch64-linux-gnu-gcc",
        cxx: "aarch64-linux-gnu-g++",
        flags: vec![],
        library: prefix.join("lib/libpilotlight.a"),
        runner: qemu.to_vec(),
        out: out.clone(),
    };
    kit.test(&mut tally, "tests/misuse.c", &[DIGITS, DIGITS])?;
    tally.skip("aarch64 tests/memory.c", "qemu's user mode does not hold RLIMIT_AS");
    tally.skip("aarch64 tests/quiet.c", "qemu's user mode has no seccomp filter");
    let firmware = kit.build("examples/firmware.c")?;
    kit.golden(&mut tally, &firmware, 4)?;
    let cpp = kit.build("examples/firmware.cpp")?;
    kit.run(&mut tally, "examples/firmware.cpp", &cpp, &[DIGITS])?;
    let shared = Kit { library: prefix.join("lib/libpilotlight.so"), out: out.join("shared"), ..kit };
    let library_path = format!("LD_LIBRARY_PATH={}", path(&prefix.join("lib"))?);
    let program = shared.build("examples/firmware.c")?;
    let mut command = vec!["-E", &library_path, path(&program)?, DIGITS];
    command.splice(0..0, qemu[1..].iter().copied());
    shell::output(qemu[0], &command)?;

    glibc(&prefix.join("lib/libpilotlight.so"))?;
    suites(&mut tally)?;
    verify()?;
    tally.close("cross")
}

/// The highest glibc symbol that a library needs.
fn glibc(library: &Path) -> Result<()> {
    let text = shell::output("readelf", &["--version-info", "--wide", path(library)?])?;
    let versions = text.split("GLIBC_").skip(1).filter_map(|rest| {
        let version = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let (major, minor) = version.split_once('.')?;
        Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
    });
    let highest: (u32, u32) = versions.max().context("the library names no glibc version")?;
    println!("glibc: libpilotlight.so for aarch64 needs GLIBC_{}.{}", highest.0, highest.1);
    if highest > NEWEST_GLIBC {
        bail!("JetPack 6 has glibc {}.{}", NEWEST_GLIBC.0, NEWEST_GLIBC.1);
    }
    Ok(())
}

/// The tests of every crate that runs on the device.
fn suites(tally: &mut Tally) -> Result<()> {
    let json = shell::output("cargo", &["metadata", "--format-version", "1", "--no-deps", "--locked"])?;
    let there = |name: &&&str| json.contains(&format!("\"name\":\"{name}\",\"version\""));
    let packages = FIRMWARE.iter().filter(there).flat_map(|name| ["--package", name]);
    for (test, reason) in NOT_UNDER_QEMU {
        tally.skip(test, reason);
    }
    let skips = std::iter::once("--").chain(NOT_UNDER_QEMU.iter().flat_map(|(test, _)| ["--skip", test]));
    let args = ["cross/toolchain.sh", "cargo", "test", "--locked", "--tests", "--lib"];
    run("bash", &args.into_iter().chain(packages).chain(skips).collect::<Vec<_>>())
}

/// Every golden output of the committed models, by the command itself.
fn verify() -> Result<()> {
    run(
        "bash",
        &["cross/toolchain.sh", "cargo", "build", "--release", "--locked", "--package", "pilotlight-cli"],
    )?;
    let program = cross_dir().join("build/aarch64-unknown-linux-gnu/release/pilotlight");
    for plan in [DIGITS, EFFICIENTNET] {
        let golden = Path::new(plan).with_file_name("golden/qdq");
        run(
            "qemu-aarch64-static",
            &["-L", "/usr/aarch64-linux-gnu", path(&program)?, "verify", plan, "--golden", path(&golden)?],
        )?;
    }
    Ok(())
}

/// Cross.toml parses without a warning, and gives the engine the image and variables that it should.
///
/// `cross` asks rustup for a tool chain and would download one: a stub stands in front of it, and the engine is a
/// script that writes down what it is told. This proves what is asked for, not that the image builds.
pub fn check() -> Result<()> {
    let tools = target()?.join("tools");
    if !tools.join("bin/cross").exists() {
        let root = path(&tools)?.to_owned();
        run("cargo", &["install", "--locked", "--quiet", "--version", "0.2.5", "cross", "--root", &root])?;
    }
    let stub = target()?.join("cross-check");
    fs::create_dir_all(&stub)?;
    let log = stub.join("engine.log");
    fs::write(&log, "")?;
    script(&stub.join("engine"), &format!("echo \"$@\" >>{}", path(&log)?))?;
    script(
        &stub.join("rustup"),
        "case \"$1 $2\" in\n'toolchain list') echo 'stable-x86_64-unknown-linux-gnu (default)' ;;\n\
         'target list') printf 'aarch64-unknown-linux-gnu (installed)\\nx86_64-unknown-linux-gnu (installed)\\n' ;;\n\
         'component list') echo 'rust-src (installed)' ;;\n*) echo \"rustup $*: not here\" >&2; exit 1 ;;\nesac",
    )?;
    let mut command =
        shell::command(path(&tools.join("bin/cross"))?, &["build", "--package", "pilotlight-capi"]);
    let search = std::env::var("PATH").unwrap_or_default();
    command
        .env("PATH", format!("{}:{search}", path(&stub)?))
        .env("CROSS_CONTAINER_ENGINE", stub.join("engine"));
    let output = command.env("CUDARC_CUDA_VERSION", "12060").output().context("cross")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let asked = fs::read_to_string(&log)?;
    let mut problems = Vec::new();
    if !output.status.success() || said.contains("unused key") {
        problems.push(format!("cross ended with {}: {said}", output.status));
    }
    for word in
        ["Dockerfile.jetson", "CROSS_DEB_ARCH=arm64", "CUDARC_CUDA_VERSION", "RUST_LOG", "pilotlight-capi"]
    {
        if !asked.contains(word) {
            problems.push(format!("the engine was not given {word}"));
        }
    }
    if !problems.is_empty() {
        bail!("{}\nthe engine was given: {asked}", problems.join("\n"));
    }
    println!(
        "cross-check: Cross.toml parses; {} calls of the engine, as expected (no image was built)",
        asked.lines().count()
    );
    Ok(())
}

fn script(path: &Path, body: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{body}\n"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
