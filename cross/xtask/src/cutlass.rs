//! CUTLASS as a second opinion on the emulator: its int8 kernels and its tables of fragment layouts.

use crate::shell;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

const REQUIREMENTS: &str = "cross/cutlass/requirements.txt";

/// Compiles CUTLASS's kernels, evaluates its layouts, and runs the emulator's tests against both. Fetches about
/// 135 MB once; needs a C++ compiler.
pub fn test() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the compiler's packages are for x86-64; run this on such a machine");
    }
    let packages = packages()?;
    let headers = packages.join("cutlass_library/source/include");
    let made = shell::root().join("target/cutlass/made");
    std::fs::create_dir_all(&made)?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("path is not text");
    let nvcc = packages.join("nvidia/cu13/bin/nvcc");
    let (include, ptx) = (format!("-I{}", text(&headers)?), text(&made.join("kernels.ptx"))?);
    let options = [
        "-std=c++17",
        "-arch=compute_87",
        "-ptx",
        "-O3",
        "-DNDEBUG",
        "-w",
        &include,
        "cross/cutlass/kernels.cu",
        "-o",
        &ptx,
    ];
    shell::run(&text(&nvcc)?, &options)?;
    let layouts = shell::output(&text(&python())?, &["cross/cutlass/layouts.py", &text(&headers)?])?;
    std::fs::write(made.join("layouts.txt"), layouts)?;
    shell::run(
        "cargo",
        &[
            "test",
            "--package",
            "pilotlight-virtual-orin",
            "--test",
            "cutlass",
            "--",
            "--ignored",
            "--nocapture",
        ],
    )
}

fn python() -> PathBuf {
    shell::root().join("target/cutlass/venv/bin/python")
}

/// The folder of the installed packages; installs them where they are not there yet.
fn packages() -> Result<PathBuf> {
    let venv = shell::root().join("target/cutlass/venv");
    let done = venv.join(".complete");
    let wanted = std::fs::read(shell::root().join(REQUIREMENTS)).context(REQUIREMENTS)?;
    let python = python();
    let python = python.to_str().context("path is not text")?;
    if std::fs::read(&done).ok().as_ref() != Some(&wanted) {
        shell::run("python3", &["-m", "venv", "target/cutlass/venv"])?;
        let pip = ["-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", REQUIREMENTS];
        shell::run(python, &pip)?;
        std::fs::write(done, wanted)?;
    }
    let site = shell::output(python, &["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])?;
    Ok(PathBuf::from(site.trim()))
}
