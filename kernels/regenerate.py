#!/usr/bin/env python3
"""Compiles kernels/cuda to kernels/generated, or with --check compares what is committed.

`cargo xtask kernels [--check]` calls this with the packages of requirements.txt (x86-64 Linux), and with the
ptxas of requirements-ptxas-11.txt as --old-ptxas, which must take the PTX too.

The sources have no includes, and NVRTC sees a fixed program name, so the result depends on the compiler's
version alone. PTX is labelled .version 7.4, the newest that JetPack 5's driver takes; ptxas checks the label.
"""

import argparse
import ctypes
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
SOURCES = ["common", "abi", "rules", "conv", "linear", "element", "reduce", "persistent"]
OPTIONS = [
    b"--gpu-architecture=compute_87",
    b"--std=c++17",
    b"--fmad=false",
    b"--device-as-default-execution-space",  # lambdas that take a constant as a type
]
# Forms whose bits depend on what ptxas fuses, that approximate, or that bypass the memory model.
FORBIDDEN = re.compile(r"\b(?:add|sub|mul|mad|fma)\.f32\b|\.approx|\.ftz|\.satfinite|ld\.global\.nc|\.local\b")
# Hints that only newer PTX has; they change no meaning.
HINT = re.compile(r'^\s*\.pragma "used_bytes_mask [^"]*";\n', re.M)
# What the compiler puts around inline assembly.
COMMENT = re.compile(r"^\s*// (?:begin|end) inline asm\n", re.M)
# By a part of the kernel's name, the first that fits.
REGISTERS = [("depthwise4", 96), ("128x256", 255), ("conv", 168), ("persistent", 255), ("", 64)]
BYTES = {"pilotlight.ptx": 2_400_000, "pilotlight.sm_87.cubin": 1_150_000, "figures.txt": 4_000}


def package(path):
    found = pathlib.Path(sysconfig.get_path("purelib")) / "nvidia" / path
    if not found.exists():
        sys.exit(f"{found} is not there; install kernels/requirements.txt")
    return found


def nvrtc(source):
    lib = ctypes.CDLL(str(package("cuda_nvrtc/lib/libnvrtc.so.12")))
    program = ctypes.c_void_p()

    def text(name):
        size = ctypes.c_size_t()
        getattr(lib, f"nvrtcGet{name}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(lib, f"nvrtcGet{name}")(program, buffer)
        return buffer.raw.rstrip(b"\0").decode()

    lib.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"pilotlight.cu", 0, None, None)
    if lib.nvrtcCompileProgram(program, len(OPTIONS), (ctypes.c_char_p * len(OPTIONS))(*OPTIONS)):
        sys.exit(text("ProgramLog"))
    return text("PTX")


def relabel(ptx):
    ptx, count = re.subn(r"^\.version 8\.5$", ".version 7.4", ptx, flags=re.M)
    if count != 1:
        sys.exit("the compiler wrote another .version than 8.5; is it NVRTC 12.6.85?")
    return COMMENT.sub("", HINT.sub("", ptx))


def check_forms(ptx):
    for number, line in enumerate(ptx.splitlines(), 1):
        code = line.split("//")[0]
        if found := FORBIDDEN.search(code):
            sys.exit(f"PTX line {number}: {found.group(0)} may not be used: {line.strip()}")


def budget(name):
    """Registers that a kernel may use: 256 threads of 255 fill a multiprocessor, 128 let two blocks share it."""
    return next(most for part, most in REGISTERS if part in name)


def assemble(ptxas, ptx):
    """The cubin, and for each kernel a line: name, registers, bytes of static shared memory."""
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = pathlib.Path(folder, "pilotlight.ptx"), pathlib.Path(folder, "pilotlight.cubin")
        source.write_text(ptx)
        command = [ptxas, "-v", "-arch=sm_87", source.name, "-o", cubin.name]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if run.returncode:
            sys.exit(run.stderr)
        binary = cubin.read_bytes()
    figures = []
    for block in run.stderr.split("Compiling entry function ")[1:]:
        name = re.match(r"'(\w+)'", block).group(1)
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", block))
        stack = int(re.search(r"(\d+) bytes stack frame", block).group(1))
        registers = int(re.search(r"Used (\d+) registers", block).group(1))
        shared = re.search(r"(\d+) bytes smem", block)
        if spills or stack:
            sys.exit(f"{name}: {spills} bytes of spills, {stack} of stack by {ptxas}; none are allowed")
        if registers > budget(name):
            sys.exit(f"{name}: {registers} registers by {ptxas}; at most {budget(name)} are allowed")
        figures.append(f"{name} {registers} {shared.group(1) if shared else 0}\n")
    if not figures:
        sys.exit(f"{ptxas} names no kernel")
    return binary, "# kernel, registers, bytes of static shared memory, by ptxas 12.6.85\n" + "".join(sorted(figures))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with what is in the folder, write nothing")
    parser.add_argument("--sources", type=pathlib.Path, default=HERE / "cuda", help="where the .cuh files lie")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "generated", help="where the results go")
    parser.add_argument("--ptx-only", action="store_true", help="write PTX of allowed forms, whatever its size: for faults")
    parser.add_argument("--old-ptxas", type=pathlib.Path, help="a second assembler that must take the PTX")
    arguments = parser.parse_args()
    source = "".join((arguments.sources / f"{name}.cuh").read_text() for name in SOURCES)
    ptx = relabel(nvrtc(source))
    check_forms(ptx)
    if arguments.ptx_only:
        (arguments.out / "pilotlight.ptx").write_text(ptx)
        return
    cubin, figures = assemble(package("cuda_nvcc/bin/ptxas"), ptx)
    if arguments.old_ptxas:
        assemble(arguments.old_ptxas.resolve(), ptx)
        print("the old ptxas takes it too: no spills, registers within their budget")
    files = {"pilotlight.ptx": ptx.encode(), "pilotlight.sm_87.cubin": cubin, "figures.txt": figures.encode()}
    for name, data in files.items():
        path = arguments.out / name
        if len(data) > BYTES[name]:
            sys.exit(f"{name}: {len(data)} bytes; at most {BYTES[name]} are allowed")
        if not arguments.check:
            path.write_bytes(data)
        elif not path.exists() or path.read_bytes() != data:
            sys.exit(f"{path} is not what the sources give; run cargo xtask kernels")
        print(f"{name}: {len(data)} bytes")
    print(figures, end="")


if __name__ == "__main__":
    main()
