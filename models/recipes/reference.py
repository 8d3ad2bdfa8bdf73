"""The outside reference: ONNX Runtime on x86-64 with VNNI, one thread, everything else at its default."""

import platform
import re
from pathlib import Path

import numpy as np
import onnxruntime as ort

OPTIMISATIONS = "graph optimisations all (the default), CPUExecutionProvider"
OPTIONS = f"{OPTIMISATIONS}, 1 intra-op thread"


def require_vnni():
    """Stops on a CPU without VNNI: there, ONNX Runtime's u8s8 kernels saturate in i16 and are no reference."""
    text = Path("/proc/cpuinfo").read_text() if platform.machine() == "x86_64" else ""
    if not re.search(r"\b(avx512_vnni|avx_vnni)\b", text):
        raise SystemExit("golden outputs need an x86-64 CPU with VNNI; /proc/cpuinfo shows none")


def session(model, threads=1, config=None):
    """An inference session for the bytes or path `model`; `config` is a dict of session configuration entries."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def provenance(config=None):
    """What a golden file says of where its outputs came from."""
    entries = "".join(f", {k}={v}" for k, v in (config or {}).items())
    require_vnni()
    return {
        "runtime": f"onnxruntime {ort.__version__}",
        "cpu": "x86-64 with VNNI",
        "options": OPTIONS + entries,
        "numpy": np.__version__,
    }
