"""Generated conformance cases: small graphs with inputs and the outputs ONNX Runtime gives."""

from . import arith, cases, elementwise, movement, networks, onnx_node, qdq, qdq_unary

SUITES = {"qoperator": (arith, elementwise, movement), "qdq": (qdq, qdq_unary), "network": (networks,), "onnx-node": (onnx_node,)}


def build():
    """Writes every suite."""
    for name, families in SUITES.items():
        suite = cases.Suite(name)
        for family in families:
            family.build(suite)
        suite.close()
