//! Loads a PTX file as the virtual driver would, and says what each kernel needs or why the text is refused.

use cuda::board::BOARDS;
use cuda::emulator::{Emulator, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: load FILE.ptx")?;
    let (kernels, _) = Emulator::new(Options::new(&BOARDS[0])).load(&std::fs::read_to_string(path)?)?;
    let mut kernels: Vec<_> = kernels.into_iter().collect();
    kernels.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, kernel) in kernels {
        let p = &kernel.program;
        let (r, l, preds) = p.slots;
        println!(
            "{name}: {} instructions, {r} + {l} + {preds} slots, {} parameter bytes",
            p.code.len(),
            p.param_bytes
        );
    }
    Ok(())
}
