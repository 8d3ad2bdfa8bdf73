//! Gives the shared library its SONAME.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Below 1.0 every minor version may break the ABI; see ABI.md.
    let version = concat!("0.", env!("CARGO_PKG_VERSION_MINOR"));
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libpilotlight.so.{version}");
}
