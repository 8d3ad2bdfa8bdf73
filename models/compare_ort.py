#!/usr/bin/env python3
"""Compares `pilotlight` with ONNX Runtime on a model, element by element; exits with 1 if any bit differs.

Inputs are half real crops and half random, all mapped onto the range that the model's first quantisation holds;
every fourth goes beyond it and saturates. The model is compiled once, and each input is one run of the program.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from recipes import golden, pictures, reference

HEADER = f"{'model':<44} {'form':<10} {'inputs':>6} {'elements':>10} {'differing':>9} {'max difference':>14}"


def form(model):
    kinds = {n.op_type for n in model.graph.node}
    if kinds & {"QLinearConv", "QLinearMatMul", "QGemm"}:
        return "QOperator"
    return "QDQ" if "DequantizeLinear" in kinds else "float"


def input_range(model):
    """(name, shape, low, high) of the one f32 input; the range is that of the quantisation it meets first."""
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1:
        raise SystemExit(f"the model has {len(inputs)} inputs; one is supported")
    name = inputs[0].name
    shape = [d.dim_value or 1 for d in inputs[0].type.tensor_type.shape.dim]
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[1] in constants:
            scale, zero = float(constants[node.input[1]]), constants[node.input[2]]
            limits = np.iinfo(zero.dtype)
            return name, shape, (limits.min - int(zero)) * scale, (limits.max - int(zero)) * scale
    raise SystemExit("the model has no QuantizeLinear")


def inputs(shape, low, high, count):
    """`count` tensors: crops and random ones in turn."""
    span = high - low
    channels, height, width = shape[1:] if len(shape) == 4 else (0, 0, 0)
    crops = iter(())
    if channels in (1, 3) and height == width:
        crops = pictures.crops(height, each=-(-count // len(pictures.NAMES)), seed=7)
    for i in range(count):
        wide = 1.5 if i % 4 == 3 else 1.0
        image = next(crops, None) if i % 2 == 0 else None
        if image is None:
            yield golden.random_tensor(1000 + i, low * wide, span * wide, shape)
        else:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), np.float32).reshape(
                height, width, channels
            )
            yield np.ascontiguousarray((np.float32(low) + np.float32(span / 255) * pixels).transpose(2, 0, 1)[None])


def difference(got, want):
    """(differing elements, largest difference); a different shape or type differs everywhere."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return want.size, float("inf")
    bits = f"u{want.dtype.itemsize}"
    same = got.view(bits) == want.view(bits)
    gap = np.abs(got.astype(np.float64) - want.astype(np.float64))[~same]
    return int((~same).sum()), float(gap.max(initial=0))


def pilotlight(program, *arguments):
    """Runs the program; stops with its own message where it fails."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{program} {arguments[0]} ended with {done.returncode}: {done.stderr.strip()}")


def compare(path, program, count):
    model = onnx.load(path)
    name, shape, low, high = input_range(model)
    session = reference.session(path)
    names = [o.name for o in session.get_outputs()]
    elements = differing = 0
    largest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        plan, given, out = (Path(folder, n) for n in ("model.plan", "input.npy", "outputs"))
        pilotlight(program, "compile", path, "--output", plan)
        for tensor in inputs(shape, low, high, count):
            np.save(given, tensor)
            pilotlight(program, "run", plan, "--input", f"{name}={given}", "--output-dir", out, "--repeat", "1")
            for output, want in zip(names, session.run(names, {name: tensor})):
                wrong, gap = difference(np.load(out / f"{output.replace('/', '_')}.npy"), want)
                elements, differing, largest = elements + want.size, differing + wrong, max(largest, gap)
    print(f"{path:<44} {form(model):<10} {count:>6} {elements:>10} {differing:>9} {largest:>14.6g}", flush=True)
    return differing == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--pilotlight", required=True, metavar="BIN", help="the pilotlight program")
    parser.add_argument("-n", type=int, default=32, help="inputs for each model (default 32)")
    a = parser.parse_args()
    reference.require_vnni()
    print(HEADER, flush=True)
    return 0 if all([compare(m, a.pilotlight, a.n) for m in a.models]) else 1


if __name__ == "__main__":
    sys.exit(main())
