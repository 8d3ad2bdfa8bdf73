//! Prints the parameter blocks in C.

fn main() {
    print!("{}", pilotlight_kernels::abi::c_declarations());
}
