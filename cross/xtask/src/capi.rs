//! The C ABI from C and C++: misuse, quietness, memory, examples; plain, sanitized, and under valgrind.

use crate::abi::target;
use crate::c_programs::{DIGITS, EFFICIENTNET, Kit, Tally, path};
use crate::shell::{self, run};
use anyhow::{Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

/// The fewest ways of misuse that the suite must have shown.
const MISUSES: u32 = 25;

pub fn test() -> Result<()> {
    // Not the firmware profile: here panics unwind and overflows are checked.
    run("cargo", &["build", "--package", "pilotlight-capi", "--locked"])?;
    let library = target()?.join("debug/libpilotlight_capi.a");
    let out = target()?.join("capi");
    let kit = |name, flags: &[&'static str], runner: &[&'static str]| Kit {
        name,
        cc: "cc",
        cxx: "c++",
        flags: flags.to_vec(),
        library: library.clone(),
        runner: runner.to_vec(),
        out: out.join(name),
    };
    let mut tally = Tally::default();

    let plain = kit("plain", &[], &[]);
    let misuses = plain.test(&mut tally, "tests/misuse.c", &[DIGITS, EFFICIENTNET])?;
    if misuses < MISUSES {
        bail!("{misuses} ways of misuse passed, at least {MISUSES} must");
    }
    plain.test(&mut tally, "tests/memory.c", &[DIGITS])?;
    plain.test(&mut tally, "tests/quiet.c", &[EFFICIENTNET])?;
    system_calls(&plain, &mut tally)?;
    let firmware = plain.build("examples/firmware.c")?;
    plain.golden(&mut tally, &firmware, 8)?;

    let sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    // Valgrind has no AVX-512; the CPU device takes what it is told the machine has.
    let valgrind = [
        "valgrind",
        "--quiet",
        "--error-exitcode=9",
        "--leak-check=full",
        "--show-leak-kinds=definite",
        "--errors-for-leak-kinds=definite",
    ];
    for kit in [kit("sanitized", &sanitize, &[]), kit("valgrind", &[], &valgrind)] {
        kit.test(&mut tally, "tests/misuse.c", &[DIGITS, DIGITS])?;
        examples(&kit, &mut tally)?;
    }
    package(&mut tally, &out)?;
    tally.close("capi")
}

/// System calls for each inference with a worker, by wait policy: none that spin, and no more than documented.
fn system_calls(kit: &Kit, tally: &mut Tally) -> Result<()> {
    let program = kit.build("tests/calls.c")?;
    let log = kit.out.join("strace.txt");
    // PL_WAIT_BLOCK, PL_WAIT_PREDICTIVE and PL_WAIT_SPIN, and the calls that each may make.
    for (wait, name, most) in [("0", "block", 4), ("1", "predictive", 3), ("2", "spin", 0)] {
        let strace =
            shell::command("strace", &["-f", "-o", path(&log)?, path(&program)?, EFFICIENTNET, wait])
                .stderr(Stdio::null())
                .status();
        if !strace.is_ok_and(|status| status.success()) {
            tally.skip(&format!("system calls, {name}"), "strace is missing or may not trace");
            continue;
        }
        let text = std::fs::read_to_string(&log)?;
        let marked = text.split("MARK").nth(1).unwrap_or_default();
        // The rest of the first mark's own line, and a call that was interrupted counts once.
        let calls =
            marked.lines().skip(1).filter(|l| !l.contains("resumed>") && !l.contains("write(2")).count();
        // Where both threads want the lock at the same moment there is one more: an eighth is allowed.
        tally.note(&format!("system calls, {name}: {calls} in 100 inferences"), calls <= most * 100 * 9 / 8);
    }
    Ok(())
}

fn examples(kit: &Kit, tally: &mut Tally) -> Result<()> {
    for source in ["examples/firmware.c", "examples/firmware.cpp", "examples/joules.c"] {
        let program = kit.build(source)?;
        kit.run(tally, source, &program, &[DIGITS])?;
    }
    Ok(())
}

/// What is installed can be found and linked with pkg-config and with CMake.
fn package(tally: &mut Tally, out: &Path) -> Result<()> {
    let prefix = out.join("prefix");
    run("bash", &["cross/package.sh", path(&prefix)?])?;
    let lib = prefix.join("lib");
    let pkg_config = |word: &str| -> Result<Vec<String>> {
        let mut command = Command::new("pkg-config");
        let text = command
            .env("PKG_CONFIG_PATH", lib.join("pkgconfig"))
            .args([word, "--cflags", "--libs", "pilotlight"])
            .output()?;
        Ok(String::from_utf8(text.stdout)?.split_whitespace().map(str::to_owned).collect())
    };
    let run_path = format!("-Wl,-rpath,{}", path(&lib)?);
    for (name, word, flag) in
        [("shared", "--print-errors", run_path.as_str()), ("static", "--static", "-static")]
    {
        let program = out.join(format!("firmware-{name}"));
        let mut command =
            shell::command("cc", &["runtime/capi/examples/firmware.c", "-o", path(&program)?, flag]);
        command.args(pkg_config(word)?);
        shell::run_command(command)?;
        let kit = Kit {
            name: "pkg-config",
            cc: "",
            cxx: "",
            flags: vec![],
            library: lib.clone(),
            runner: vec![],
            out: out.into(),
        };
        kit.run(tally, name, &program, &[DIGITS])?;
    }

    let build = out.join("cmake");
    let prefix_path = format!("-DCMAKE_PREFIX_PATH={}", path(&prefix)?);
    run("cmake", &["-S", "runtime/capi/examples", "-B", path(&build)?, &prefix_path])?;
    run("cmake", &["--build", path(&build)?])?;
    for name in ["firmware", "firmware_cpp"] {
        let kit = Kit {
            name: "cmake",
            cc: "",
            cxx: "",
            flags: vec![],
            library: lib.clone(),
            runner: vec![],
            out: out.into(),
        };
        kit.run(tally, name, &build.join(name), &[DIGITS])?;
    }
    Ok(())
}
