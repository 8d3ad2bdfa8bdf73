//! The kernels' committed PTX, cubin and figures: made again, or compared.

use crate::{python::Environment, shell};
use anyhow::{Context, Result, bail};
use pilotlight_kernels::sass;
use std::path::PathBuf;

/// NVRTC and ptxas 12.6, nvdisasm.
pub const COMPILERS: Environment =
    Environment { folder: "target/kernels/compilers", requirements: "kernels/requirements.txt", alone: true };

/// The oldest ptxas there is a package of: it stands for the driver of JetPack 5.
const OLD: Environment = Environment {
    folder: "target/kernels/ptxas-11",
    requirements: "kernels/requirements-ptxas-11.txt",
    alone: true,
};

#[derive(clap::Args, Default)]
pub struct Kernels {
    /// Write nothing: compare what is committed, byte for byte
    #[arg(long)]
    check: bool,
}

impl Kernels {
    /// Compares, as `cargo xtask ci` does.
    pub fn check() -> Result<()> {
        Kernels { check: true }.run()
    }

    pub fn run(self) -> Result<()> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            println!("kernels: 0 passed, 0 failed, 1 skipped: the compilers are packaged for x86-64 Linux");
            return Ok(());
        }
        let python = COMPILERS.interpreter()?;
        let old = package(&OLD, "nvidia/cuda_nvcc/bin/ptxas")?;
        let mut command = shell::command(python.to_str().context("path is not text")?, &[]);
        command.arg("kernels/regenerate.py").arg("--old-ptxas").arg(old);
        if self.check {
            command.arg("--check");
        }
        shell::run_command(command)?;
        self.loops()
    }

    /// The main loops in the cubin, as nvdisasm shows them.
    fn loops(&self) -> Result<()> {
        let nvdisasm = package(&COMPILERS, "nvidia/cu13/bin/nvdisasm")?;
        let cubin = "kernels/generated/pilotlight.sm_87.cubin";
        let text = shell::output(nvdisasm.to_str().context("path is not text")?, &["-c", cubin])?;
        let mut table = String::from(
            "# kernel, instructions of the loop, IMMA, LDSM, LDS, LDGSTS, by nvdisasm 13.5.37\n",
        );
        for found in sass::disassembly(&text) {
            table.push_str(&found.line());
            table.push('\n');
        }
        let path = shell::root().join("kernels/generated/sass.txt");
        if !self.check {
            std::fs::write(&path, &table)?;
        } else if std::fs::read_to_string(&path).unwrap_or_default() != table {
            bail!("kernels/generated/sass.txt is not what the cubin holds; run cargo xtask kernels");
        }
        print!("{table}");
        Ok(())
    }
}

/// A program of an environment's package.
fn package(environment: &Environment, path: &str) -> Result<PathBuf> {
    environment.interpreter()?;
    let lib = shell::root().join(environment.folder).join("lib");
    let found = std::fs::read_dir(&lib)?
        .flatten()
        .map(|python| python.path().join("site-packages").join(path))
        .find(|program| program.exists());
    found.with_context(|| format!("{} has no {path}", lib.display()))
}
