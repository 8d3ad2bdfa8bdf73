//! `pilotlight sass`: what the assembler made of the matrix kernels.

use super::print_json;
use anyhow::{Context, Result, bail};
use pilotlight_kernels::sass::{self, Loop};
use serde::Serialize;
use std::path::PathBuf;
use std::process::Command;

/// Show what the assembler made of the convolution kernels: registers, shared memory, main loops
///
/// The figures are those of the sm_87 code that ships, as ptxas and nvdisasm gave them. With --nvdisasm the code is
/// disassembled anew. nvdisasm comes with CUDA, and as a Python package of its own:
/// pip install nvidia-cuda-nvdisasm
///
/// Beside them stand CUTLASS 4.7.0's int8 kernels for sm_87 (compiled by nvcc 13.5) at the same warp tiles.
#[derive(Debug, clap::Args)]
pub struct Sass {
    /// Disassemble with this program instead of showing the stored figures
    #[arg(long, value_name = "PATH")]
    nvdisasm: Option<PathBuf>,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// A CUTLASS main loop: kernel, warp tile, registers, IMMA, shared loads for each IMMA.
const CUTLASS: [(&str, &str, u32, u32, f64); 4] = [
    ("conv fprop 128x64x64", "64x32", 162, 32, 0.38),
    ("conv fprop 128x128x64", "64x64", 242, 64, 0.25),
    ("GEMM 128x64x64", "64x32", 146, 32, 0.38),
    ("GEMM 128x128x64", "64x64", 230, 64, 0.25),
];

#[derive(Serialize)]
struct Row {
    kernel: String,
    warp_tile: String,
    registers: u32,
    spills: u32,
    shared_bytes: u32,
    /// None where the kernel has no loop for whole tiles.
    instructions: Option<u32>,
    imma: Option<u32>,
    ldsm: Option<u32>,
    lds: Option<u32>,
    ldgsts: Option<u32>,
    loads_per_imma: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    schema: u32,
    kernels: Vec<Row>,
}

impl Sass {
    pub fn run(self) -> Result<()> {
        let loops: Vec<Loop> = match &self.nvdisasm {
            None => sass::loops().collect(),
            Some(program) => disassemble(program)?,
        };
        let rows: Vec<Row> = pilotlight_kernels::tiles()
            .flat_map(|tile| [true, false].map(|signed| (tile, tile.kernel(signed))))
            .filter_map(|(tile, kernel)| {
                let figures = pilotlight_kernels::figures().find(|f| f.name == kernel)?;
                let found = loops.iter().find(|l| l.kernel == kernel);
                let [channels, pixels] = tile.warp_tile();
                Some(Row {
                    warp_tile: format!("{channels}x{pixels}"),
                    registers: figures.registers,
                    // Made with a build that refuses spills.
                    spills: 0,
                    shared_bytes: tile.shared(),
                    instructions: found.map(|l| l.instructions),
                    imma: found.map(|l| l.imma),
                    ldsm: found.map(|l| l.ldsm),
                    lds: found.map(|l| l.lds),
                    ldgsts: found.map(|l| l.ldgsts),
                    loads_per_imma: found.map(Loop::loads_per_imma),
                    kernel,
                })
            })
            .collect();
        if self.json {
            return print_json(&Report { schema: 1, kernels: rows });
        }
        println!(
            "kernel             warp tile  regs  spills  shared  loop  IMMA  LDSM  LDS  LDGSTS  (LDSM+LDS)/IMMA"
        );
        for r in &rows {
            print!("{:18} {:9} {:5} {:7} {:7}", r.kernel, r.warp_tile, r.registers, r.spills, r.shared_bytes);
            match (r.instructions, r.imma, r.ldsm, r.lds, r.ldgsts, r.loads_per_imma) {
                (Some(all), Some(imma), Some(ldsm), Some(lds), Some(ldgsts), Some(ratio)) => {
                    println!(" {all:5} {imma:5} {ldsm:5} {lds:4} {ldgsts:7} {ratio:16.2}");
                }
                _ => println!("   (no loop of whole tiles: its fragments are all checked)"),
            }
        }
        println!("\nCUTLASS 4.7.0, compiled by nvcc 13.5 for sm_87:");
        for (kernel, tile, registers, imma, ratio) in CUTLASS {
            println!("{kernel:22} {tile:6} {registers:4} registers, {imma} IMMA, LDSM/IMMA {ratio:.2}");
        }
        Ok(())
    }
}

/// The shipped code through nvdisasm.
fn disassemble(program: &std::path::Path) -> Result<Vec<Loop>> {
    let folder = std::env::temp_dir().join(format!("pilotlight-sass-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let cubin = folder.join("pilotlight.sm_87.cubin");
    std::fs::write(&cubin, pilotlight_kernels::CUBIN)?;
    let output = Command::new(program).arg("-c").arg(&cubin).output();
    let _ = std::fs::remove_dir_all(&folder);
    let output = output.with_context(|| {
        format!(
            "{} cannot be started; nvdisasm comes with CUDA, or: pip install nvidia-cuda-nvdisasm",
            program.display()
        )
    })?;
    if !output.status.success() {
        bail!("{} failed: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    }
    let loops = sass::disassembly(&String::from_utf8_lossy(&output.stdout));
    if loops.is_empty() {
        bail!("{} shows no loop that multiplies matrices", program.display());
    }
    Ok(loops)
}
