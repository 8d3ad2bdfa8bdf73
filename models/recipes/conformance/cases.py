"""Builds, runs, checks and writes one case after another into a suite folder with its index."""

import collections
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from .. import packages, reference, toml

FOLDER = packages.MODELS / "conformance"
COMMAND = "python3 models/recipe.py conformance"
TYPES = {
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(bool): TensorProto.BOOL,
}
# Operators that only move values: in float or in integers, their results are the same.
MOVES = {"Flatten", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


def scalar(value, dtype=np.float32):
    """A rank-0 array."""
    return np.array(value, dtype)


class Net:
    """Collects nodes, inputs and constants of one small graph; `x`, `const` and `op` return value names."""

    def __init__(self):
        self.nodes, self.inputs, self.constants, self.outputs = [], {}, [], []
        self.float_inputs = set()
        self.count = collections.Counter()

    def fresh(self, stem):
        self.count[stem] += 1
        return f"{stem}{self.count[stem]}"

    def x(self, array):
        """A graph input that holds `array` in the case."""
        name = self.fresh("x")
        self.inputs[name] = np.ascontiguousarray(array)
        return name

    def const(self, array, stem="c"):
        name = self.fresh(stem)
        array = np.asarray(array)
        self.constants.append(numpy_helper.from_array(array.copy(order="C"), name))
        return name

    def op(self, kind, inputs, outputs=1, domain="", **attributes):
        names = [self.fresh("v") for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def ms(self, kind, inputs, **attributes):
        return self.op(kind, inputs, domain="com.microsoft", **attributes)

    def quant(self, scale, zero, dtype):
        """Constants for a scale and a zero point."""
        scale = scale if isinstance(scale, np.ndarray) else scalar(scale)
        zero = np.full(scale.shape, zero, dtype)
        return self.const(scale, "s"), self.const(zero, "z")

    def dq(self, name, scale, zero, dtype, **attributes):
        return self.op("DequantizeLinear", [name, *self.quant(scale, zero, dtype)], **attributes)

    def q(self, name, scale, zero, dtype, **attributes):
        return self.op("QuantizeLinear", [name, *self.quant(scale, zero, dtype)], **attributes)

    def y(self, *names):
        """Declares graph outputs, in order."""
        self.outputs += names

    def model(self, opset, shapes=None, dims=None):
        """The ONNX model; `shapes` are {output: array} and `dims` names the first axis of every input."""

        def info(name, array):
            shape = list(array.shape)
            if dims and shape:
                shape[0] = dims
            return helper.make_tensor_value_info(name, TYPES[array.dtype], shape)

        outs = [info(n, shapes[n]) if shapes else helper.make_empty_tensor_value_info(n) for n in self.outputs]
        graph = helper.make_graph(
            self.nodes, "case", [info(n, a) for n, a in self.inputs.items()], outs, self.constants
        )
        imports = [helper.make_opsetid("", opset)]
        if any(n.domain for n in self.nodes):
            imports.append(helper.make_opsetid("com.microsoft", 1))
        return helper.make_model(
            graph, opset_imports=imports, ir_version=10 if opset > 18 else 8, producer_name="pilotlight-models"
        )


def run(model, inputs, config=None):
    """(outputs, operator types that ONNX Runtime ran after its optimisations, whether it computed in integers only)."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder, "ran.onnx"))
        for key, value in (config or {}).items():
            options.add_session_config_entry(key, value)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(Path(folder, "ran.onnx")).graph.node
    floats = {i.name for i in session.get_inputs() if i.type == "tensor(float)"}
    fused = True
    for n in nodes:  # in topological order
        if n.op_type == "DequantizeLinear" or n.op_type in MOVES and floats & set(n.input):
            floats |= set(n.output)
        elif n.op_type != "QuantizeLinear" and floats & set(n.input):
            fused = False
    return session.run(None, inputs), [n.op_type for n in nodes], fused


class Suite:
    """A folder of cases; `close` writes its index."""

    def __init__(self, name, root):
        self.name, self.folder = name, root / name
        self.entries, self.numbers = [], collections.Counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.iterdir():
            old.unlink()

    def add(self, family, about, net, opset=17, config=None, expect=None, dims=None, steps=None):
        """Runs and writes a case. `expect` is what our own integer rules give, compared with ONNX Runtime's output;
        `steps` allows a reader that difference where ONNX Runtime's own float order is no rule to follow."""
        outputs, ran, fused = run(net.model(opset), net.inputs, config)
        shapes = dict(zip(net.outputs, outputs))
        model = net.model(opset, shapes, dims)
        onnx.checker.check_model(model)
        entry = {"name": f"{family}-{self.numbers[family]:03}", "family": family, "about": about, "opset": opset}
        self.numbers[family] += 1
        if expect is not None:
            self.compare(entry["name"], about, expect, outputs, ran, steps or 0)
        entry["steps"] = steps
        entry |= {
            "fused": fused,
            "ran": ran,
            "inputs": list(net.inputs),
            "outputs": list(net.outputs),
            "options": [f"{k}={v}" for k, v in (config or {}).items()] or None,
            "dims": f"{dims}={next(iter(net.inputs.values())).shape[0]}" if dims else None,
        }
        self.write(entry, model, net.inputs.values(), outputs)

    def compare(self, name, about, expect, outputs, ran, steps):
        """Stops where our rule and ONNX Runtime differ by more than `steps`, or at all in a float output."""
        for e, o in zip(expect, outputs, strict=True):
            if e.shape != o.shape or e.dtype != o.dtype:
                raise SystemExit(f"{name} ({about}): rule gives {e.dtype} {e.shape}, ONNX Runtime {o.dtype} {o.shape}")
            gap = np.abs(e.astype(np.int64) - o.astype(np.int64)) if e.dtype.kind in "iu" else (e != o) * (steps + 1)
            if gap.max(initial=0) > steps:
                raise SystemExit(
                    f"{name} ({about}): rule and ONNX Runtime {ran} differ in {(gap > 0).sum()} elements by up to {gap.max()}"
                )

    def write(self, entry, model, inputs, outputs):
        base = self.folder / entry["name"]
        Path(f"{base}.onnx").write_bytes(model.SerializeToString(deterministic=True))
        for kind, arrays in (("in", inputs), ("out", outputs)):
            for i, array in enumerate(arrays):
                np.save(f"{base}.{kind}{i}.npy", np.asarray(array, order="C"))
        self.entries.append(entry)

    def close(self):
        table = {
            "schema": 1,
            "provenance": reference.provenance() | {"onnx": onnx.__version__, "command": COMMAND},
            "cases": self.entries,
        }
        comment = "Conformance cases; the format is in models/README.md."
        (self.folder / "index.toml").write_text(toml.dump(table, comment))
        unfused = sum(e.get("fused") is False for e in self.entries)
        note = f", {unfused} of them computed in float by ONNX Runtime" if unfused else ""
        size = sum(f.stat().st_size for f in self.folder.iterdir())
        families = collections.Counter(e["family"] for e in self.entries)
        print(
            f"conformance/{self.name}: {len(self.entries)} cases{note}, {size:,} bytes: "
            + ", ".join(f"{f} {n}" for f, n in families.items())
        )
