#!/usr/bin/env bash
# The aarch64 tool chain from Debian packages, for machines without containers.
#
#   cross/toolchain.sh setup [--no-std]    compiler, linker and qemu (once; skipped when they are there)
#   cross/toolchain.sh cargo ARGS...       cargo for aarch64; run and test go through qemu
#   cross/toolchain.sh nostd TARGET ARGS   cargo build -Z build-std=core for a bare-metal target
#
# Needs Debian bookworm on amd64, root for the first setup, and any recent cargo. It changes neither dpkg's list
# of architectures nor rustup: Debian's compiler is unpacked into target/cross (or $PILOTLIGHT_CROSS_DIR) and used
# through $RUSTC. What it builds needs glibc 2.34; see cross/JETPACK.md.
#
#   cross/toolchain.sh setup && cross/toolchain.sh cargo test -p pilotlight
#   cross/toolchain.sh setup --no-std && cross/toolchain.sh nostd thumbv7em-none-eabi -p pilotlight-wire
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
dir=${PILOTLIGHT_CROSS_DIR:-$root/target/cross}
tc=$dir/toolchain
triple=aarch64-unknown-linux-gnu

setup() {
  local apt=(apt-get -q -o APT::Architectures::=amd64 -o APT::Architectures::=arm64)
  local cache=(apt-cache -o APT::Architectures::=amd64 -o APT::Architectures::=arm64)
  if ! command -v aarch64-linux-gnu-g++ >/dev/null || ! command -v qemu-aarch64-static >/dev/null; then
    apt-get -q update
    apt-get -q install -y --no-install-recommends \
      gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
  fi
  if [ ! -e "$tc/.complete" ]; then
    rm -rf "$tc" "$dir/debs" "$dir/root"
    mkdir -p "$tc/lib" "$tc/bin" "$dir/debs" "$dir/root"
    "${apt[@]}" update
    # The names of these two carry a version that security updates move, so ask for today's.
    local std llvm
    std=$("${cache[@]}" depends libstd-rust-web-dev:amd64 |
      sed -n 's/.*Depends: \(libstd-rust-web-[0-9][^: ]*\).*/\1/p' | head -n1)
    llvm=$("${cache[@]}" depends "$std:amd64" | sed -n 's/.*Depends: \(libllvm[0-9]*\).*/\1/p' | head -n1)
    (cd "$dir/debs" && "${apt[@]}" download rustc-web:amd64 "$std:amd64" "$llvm:amd64" \
      libstd-rust-web-dev:amd64 libstd-rust-web-dev:arm64)
    local deb
    for deb in "$dir"/debs/*.deb; do dpkg-deb -x "$deb" "$dir/root"; done
    mv "$dir/root/usr/lib/rustlib" "$tc/lib/"
    cp -aL "$dir"/root/usr/lib/x86_64-linux-gnu/*.so* "$tc/lib/"
    mv "$dir/root/usr/bin/rustc" "$dir/root/usr/bin/rustdoc" "$tc/bin/"
    local tool
    for tool in rustc rustdoc; do
      # Debian's compiler finds its libraries in /usr/lib only; the wrapper sets the path for it alone.
      # shellcheck disable=SC2016
      printf '%s\n' '#!/bin/sh' 'd=$(dirname "$(readlink -f "$0")")' \
        "LD_LIBRARY_PATH=\"\$d/lib\" exec \"\$d/bin/$tool\" \"\$@\"" >"$tc/$tool"
      chmod +x "$tc/$tool"
    done
    rm -rf "$dir/debs" "$dir/root"
    touch "$tc/.complete"
  fi
  if [ "${1:-}" = --no-std ] && [ ! -d "$tc/lib/rustlib/src/rust/library" ]; then
    local want
    want=$("$tc/rustc" --version | cut -d' ' -f2)
    mkdir -p "$dir/src"
    (cd "$dir/src" && apt-get -q download rust-web-src && dpkg-deb -x rust-web-src_*.deb .)
    # build-std takes the source of the very same version only.
    test -d "$dir/src/usr/src/rustc-$want"
    mkdir -p "$tc/lib/rustlib/src/rust"
    mv "$dir/src/usr/src/rustc-$want/library" "$tc/lib/rustlib/src/rust/"
    rm -rf "$dir/src"
  fi
  "$tc/rustc" --version
}

use_toolchain() {
  test -e "$tc/.complete" || { echo "no tool chain in $tc; run: cross/toolchain.sh setup" >&2; exit 1; }
  export RUSTC=$tc/rustc RUSTDOC=$tc/rustdoc RUSTUP_AUTO_INSTALL=0
  # A folder of its own: the host's builds use another compiler.
  export CARGO_TARGET_DIR=$dir/build
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L /usr/aarch64-linux-gnu"
}

cd "$root"
case "${1:-}" in
  setup) shift; setup "$@" ;;
  cargo) shift; use_toolchain; sub=$1; shift; exec cargo "$sub" --target "$triple" "$@" ;;
  nostd)
    shift; use_toolchain; target=$1; shift
    # -Z on a stable compiler: to check that it compiles, never for what is shipped.
    RUSTC_BOOTSTRAP=1 exec cargo build -Z build-std=core --target "$target" "$@" ;;
  *) sed -n '2,15p' "$0"; exit 2 ;;
esac
