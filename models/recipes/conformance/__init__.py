"""Generated conformance cases: small graphs with inputs and the outputs ONNX Runtime gives."""

from . import arith, cases, elementwise, movement


def build():
    """Writes every suite."""
    suite = cases.Suite("qoperator")
    for module in (arith, elementwise, movement):
        module.build(suite)
    suite.close()
