"""Writes `model.toml`, the card of a model folder. README.md documents it."""

import hashlib
from pathlib import Path

import onnx

from . import packages, toml


def origin(name, what, licence, copyright_line=None):
    """An origin entry for something read from the pinned package `name`."""
    package = packages.pinned()[name]
    return {
        "package": package.name,
        "version": package.version,
        "sha256": package.sha256,
        "what": what,
        "licence": licence,
        "copyright": copyright_line,
    }


def file_entry(folder, path, form, default=False):
    """The card's entry for one file of the model folder."""
    data = Path(folder, path).read_bytes()
    opset = None
    if form != "plan":
        opset = next(o.version for o in onnx.load_from_string(data).opset_import if o.domain == "")
    return {
        "path": path,
        "form": form,
        "default": default,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "opset": opset,
    }


def files(folder, forms):
    """Entries for {form: path}, the first the default, and for a compiled plan where there is one."""
    out = [file_entry(folder, path, form, i == 0) for i, (form, path) in enumerate(forms.items())]
    if Path(folder, "model.plan").exists():
        out.append(file_entry(folder, "model.plan", "plan"))
    return out


def describe(path):
    """Size and hash of a file, for people."""
    data = Path(path).read_bytes()
    return f"{len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}"


def write(folder, card):
    """Writes the card and prints the files it lists."""
    text = toml.dump({"schema": 1} | card, "Model card; the format is in models/README.md.")
    Path(folder, "model.toml").write_text(text)
    print(f"{card['name']}: {card['macs']:,} multiply-accumulates")
    for entry in card["files"]:
        print(f"{card['name']}/{entry['path']}: {entry['form']}, {describe(Path(folder, entry['path']))}")
