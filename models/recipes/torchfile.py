"""Reads the tensors of a PyTorch checkpoint in its pre-1.6 (non-zip) format, without torch.

The file is a run of pickles: magic number, protocol version, system info, the object itself, and the
list of storage keys. The raw storages follow in that order, each behind an i64 element count. Tensors in
the object point at storages through persistent ids.
"""

import pickle
import struct
from collections import OrderedDict

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Tensor:
    """A view into a storage whose bytes are read later."""

    def __init__(self, storage, offset, shape, strides):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides


def _rebuild(storage, offset, shape, strides, *_):
    return _Tensor(storage, offset, shape, strides)


class _Unpickler(pickle.Unpickler):
    # Only these names can be reached from the pickle: a checkpoint must not be able to run code.
    ALLOWED = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    }

    def find_class(self, module, name):
        if module == "torch" and name in DTYPES:
            return name
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise ValueError(f"checkpoint refers to {module}.{name}, which is not a tensor") from None

    def persistent_load(self, pid):
        kind, storage_type, key, _location, count = pid[:5]
        if kind != "storage":
            raise ValueError(f"unknown persistent id {kind!r}")
        return key, DTYPES[storage_type], count


def load(file):
    """Returns {name: numpy array} for the state dict in the open binary `file`."""
    if _Unpickler(file).load() != MAGIC:
        raise ValueError("not a pre-1.6 PyTorch checkpoint")
    for _ in range(2):  # protocol version, system info
        _Unpickler(file).load()
    tensors = _Unpickler(file).load()
    keys = _Unpickler(file).load()
    dtypes = {t.storage[0]: t.storage[1] for t in tensors.values()}
    data = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        raw = file.read(count * dtypes[key].itemsize)
        data[key] = np.frombuffer(raw, dtypes[key], count)
    out = {}
    for name, t in tensors.items():
        flat = data[t.storage[0]]
        strides = [s * flat.itemsize for s in t.strides]
        view = np.lib.stride_tricks.as_strided(flat[t.offset :], t.shape, strides)
        out[name] = np.array(view)
    return out
