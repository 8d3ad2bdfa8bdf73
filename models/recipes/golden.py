"""Golden inputs and outputs of whole models. README.md documents `golden.toml`; a reader needs no Python."""

from pathlib import Path

import numpy as np

from . import pictures, reference, toml

DTYPES = {"float32": "f32", "uint8": "u8", "int8": "i8", "int32": "i32", "int64": "i64"}


def splitmix64(seed, count):
    """The first `count` outputs of splitmix64 from state `seed`, as u64."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def random_tensor(seed, low, span, shape):
    """low + span * u in f32, where u is the top 24 bits of each splitmix64 output times 2^-24."""
    bits = (splitmix64(seed, int(np.prod(shape))) >> np.uint64(40)).astype(np.float32)
    unit = bits * np.float32(2.0**-24)
    return (np.float32(low) + np.float32(span) * unit).reshape(shape)


def image_case(path, image, mean, std):
    """A case read from a picture that already has the model's size; returns (description, tensor)."""
    return {"source": "image", "path": path}, pictures.normalise(image, mean, std)


def random_case(seed, low, span, shape):
    """A case that a reader draws itself; returns (description, tensor)."""
    case = {"source": "random", "seed": seed, "low": float(low), "span": float(span)}
    return case, random_tensor(seed, low, span, shape)


def npy_cases(path, tensors):
    """Cases stored one behind the other in the array file `path`; returns [(description, tensor)]."""
    return [({"source": "npy", "path": path, "index": i}, t) for i, t in enumerate(tensors)]


def write(folder, model_path, cases, command, normalisation=None, config=None):
    """Runs `model_path` on every case and writes golden.toml and one array file an output into `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    session = reference.session(model_path, config=config)
    (given,) = session.get_inputs()
    results = [session.run(None, {given.name: tensor}) for _, tensor in cases]
    outputs = []
    for position, output in enumerate(session.get_outputs()):
        stacked = np.stack([r[position] for r in results])
        path = output.name.replace("/", "_") + ".npy"
        np.save(folder / path, stacked)
        outputs.append(
            {"name": output.name, "path": path, "dtype": DTYPES[str(stacked.dtype)], "shape": list(stacked.shape[1:])}
        )
    relative = Path(model_path).resolve().relative_to(folder.resolve().parent.parent)
    shape = list(cases[0][1].shape)
    table = {
        "schema": 1,
        "model": f"../../{relative}",
        "provenance": reference.provenance(config) | {"command": command},
        "input": {"name": given.name, "dtype": DTYPES[str(cases[0][1].dtype)], "shape": shape} | (normalisation or {}),
        "outputs": outputs,
        "cases": [case for case, _ in cases],
    }
    (folder / "golden.toml").write_text(toml.dump(table, "Golden outputs; the format is in models/README.md."))
