//! Instruction vectors (tests/vectors, made by its make.py apart from the emulator) on a CUDA device.
//!
//! On the virtual Orin by default. With PILOTLIGHT_TEST_GPU=1 on whatever device the machine's own driver has:
//! start the test's binary itself then, with LD_LIBRARY_PATH unset, because cargo puts the folder of the
//! emulator's libcuda.so into it. The PTX asks for compute capability 8.0.
#![allow(clippy::unwrap_used, reason = "a test's helper fails the test")]
#![allow(unsafe_code, reason = "cudarc's launches are unsafe")]

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const LANES: usize = 32;

/// The words of a line of hexadecimal digits, eight to a word.
fn words(hex: &str) -> Vec<u32> {
    (0..hex.len() / 8).map(|n| u32::from_str_radix(&hex[8 * n..8 * n + 8], 16).unwrap()).collect()
}

/// Runs every entry of a family; returns how many words were compared.
fn replay(ptx: &str, text: &str) -> usize {
    let gpu = std::env::var_os("PILOTLIGHT_TEST_GPU").is_some_and(|v| v == "1");
    if !gpu {
        let mut path = std::env::current_exe().unwrap();
        path.set_file_name("libcuda.so");
        // SAFETY: (1) the library's initialisers are Rust's, which do nothing. It is never unloaded.
        std::mem::forget(unsafe { libloading::Library::new(path) }.expect("libcuda.so beside the test"));
    }
    let context = CudaContext::new(0).unwrap();
    let name = context.name().unwrap();
    assert_eq!(name.contains("virtual"), !gpu, "the device is {name}; see the head of this file");
    let stream = context.new_stream().unwrap();
    let module = context.load_module(Ptx::from_src(ptx)).unwrap();
    let (mut lines, mut compared) = (text.lines(), 0);
    let fields = |line: &str| -> (String, usize, Vec<u32>) {
        let mut fields = line.split(' ');
        let mut next = || fields.next().unwrap();
        (next().to_owned(), next().parse().unwrap(), words(next()))
    };
    let (_, inputs, given) = fields(lines.next().unwrap());
    let blocks = given.len() / inputs / LANES;
    let input = stream.clone_htod(&given).unwrap();
    for line in lines {
        let (entry, outputs, want) = fields(line);
        assert_eq!(want.len(), outputs * LANES * blocks, "{entry}");
        let mut output = stream.clone_htod(&vec![0xEEEE_EEEEu32; want.len()]).unwrap();
        let f = module.load_function(&entry).unwrap();
        let config =
            LaunchConfig { grid_dim: (blocks as u32, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: (1) the arguments are those of every entry: input and output, as long as the file says.
        unsafe { stream.launch_builder(&f).arg(&input).arg(&mut output).launch(config) }.unwrap();
        let got = stream.clone_dtoh(&output).unwrap();
        for (at, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got, want, "{entry}: word {at}: {got:#010x}, the ISA says {want:#010x}");
        }
        compared += want.len();
    }
    println!("{compared} words as the ISA says, on {name}");
    compared
}

#[test]
fn integers_conversions_and_shuffles() {
    assert!(replay(include_str!("vectors/integer.ptx"), include_str!("vectors/integer.txt")) > 2000);
}

#[test]
fn floats() {
    assert!(replay(include_str!("vectors/float.ptx"), include_str!("vectors/float.txt")) >= 512);
}

#[test]
fn matrices() {
    assert!(replay(include_str!("vectors/matrix.ptx"), include_str!("vectors/matrix.txt")) > 2000);
}
