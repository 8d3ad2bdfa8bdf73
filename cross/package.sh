#!/usr/bin/env bash
# Builds the C library with the firmware profile and lays it out under PREFIX: header, static and shared library,
# pkg-config and CMake files.
#
#   cross/package.sh PREFIX                 for this machine
#   cross/package.sh PREFIX aarch64         for a Jetson, with cross/toolchain.sh (run its setup first)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
[ $# -ge 1 ] || { sed -n '2,7p' "$0"; exit 2; }
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
cd "$root"

case "${2:-native}" in
  native)
    cargo build --profile firmware --package pilotlight-capi --locked
    built=${CARGO_TARGET_DIR:-target}/firmware
    strip=strip ;;
  aarch64)
    cross/toolchain.sh cargo build --profile firmware --package pilotlight-capi --locked
    built=${PILOTLIGHT_CROSS_DIR:-target/cross}/build/aarch64-unknown-linux-gnu/firmware
    strip=aarch64-linux-gnu-strip ;;
  *) echo "unknown target $2: aarch64, or none for this machine" >&2; exit 2 ;;
esac

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# Below 1.0 every minor version may break the ABI: runtime/capi/ABI.md.
soname=libpilotlight.so.${version%.*}

install -D -m 644 runtime/capi/include/pilotlight.h "$prefix/include/pilotlight.h"
install -D -m 644 "$built/libpilotlight_capi.a" "$prefix/lib/libpilotlight.a"
# The standard library's objects bring their debug information along.
$strip --strip-debug "$prefix/lib/libpilotlight.a"
install -D -m 755 "$built/libpilotlight_capi.so" "$prefix/lib/libpilotlight.so.$version"
ln -sf "libpilotlight.so.$version" "$prefix/lib/$soname"
ln -sf "$soname" "$prefix/lib/libpilotlight.so"

for file in lib/pkgconfig/pilotlight.pc lib/cmake/Pilotlight/PilotlightConfig.cmake \
  lib/cmake/Pilotlight/PilotlightConfigVersion.cmake; do
  mkdir -p "$prefix/$(dirname "$file")"
  sed -e "s|@VERSION@|$version|g" -e "s|@SERIES@|${version%.*}|g" \
    "cross/packaging/$(basename "$file").in" >"$prefix/$file"
done
ls -l "$prefix/lib"
