"""Generated conformance cases: small graphs with inputs and the outputs ONNX Runtime gives."""

import filecmp
import tempfile
from pathlib import Path

from .. import reference
from . import arith, cases, edges, elementwise, movement, networks, onnx_node, qdq, qdq_unary

SUITES = {
    "qoperator": (arith, elementwise, movement, edges),
    "qdq": (qdq, qdq_unary),
    "network": (networks,),
    "onnx-node": (onnx_node,),
}


def build(root=cases.FOLDER):
    """Writes every suite."""
    reference.require_vnni()
    for name, families in SUITES.items():
        suite = cases.Suite(name, root)
        for family in families:
            family.build(suite)
        suite.close()


def check():
    """Builds every suite anew and stops unless the committed files are the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        for name in SUITES:
            made, kept = ({f.name for f in (root / name).iterdir()} for root in (Path(folder), cases.FOLDER))
            same, differing, _ = filecmp.cmpfiles(Path(folder, name), cases.FOLDER / name, made & kept, shallow=False)
            if differing or made != kept:
                odd = sorted({*differing, *(made ^ kept)})
                raise SystemExit(
                    f"conformance/{name}: {len(odd)} files are not what the generator makes: {', '.join(odd[:8])}"
                )
            print(f"conformance/{name}: {len(same)} files are what the generator makes, byte for byte")
