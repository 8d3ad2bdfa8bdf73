"""A small builder of float ONNX graphs: one method a layer, names made from the layer's own name."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8


class Graph:
    """Collects nodes and weights; `model` closes it. Activations are NCHW f32."""

    def __init__(self, name, input_name, input_shape):
        self.name = name
        self.nodes, self.weights = [], []
        self.input = (input_name, list(input_shape))

    def weight(self, name, array):
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def op(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def conv(self, name, x, w, b, stride=1, pads=(0, 0, 0, 0), groups=1):
        inputs = [x, self.weight(name + ".weight", w), self.weight(name + ".bias", b)]
        kernel = list(w.shape[2:])
        return self.op(
            "Conv", inputs, name, kernel_shape=kernel, strides=[stride, stride], pads=list(pads), group=groups
        )

    def relu(self, x):
        return self.op("Relu", [x], x + ".relu")

    def relu6(self, x):
        if not any(w.name == "zero" for w in self.weights):
            self.weight("zero", np.array(0, np.float32))
            self.weight("six", np.array(6, np.float32))
        return self.op("Clip", [x, "zero", "six"], x + ".relu6")

    def add(self, name, a, b):
        return self.op("Add", [a, b], name)

    def head(self, x, w, b, output):
        """Global average pool, then a fully connected layer whose weight is [out, in]."""
        pooled = self.op("GlobalAveragePool", [x], "pool")
        flat = self.op("Flatten", [pooled], "flat", axis=1)
        inputs = [flat, self.weight("fc.weight", w), self.weight("fc.bias", b)]
        return self.op("Gemm", inputs, output, transB=1)

    def model(self, output, shape):
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [value(self.input[0], TensorProto.FLOAT, self.input[1])],
            [value(output, TensorProto.FLOAT, shape)],
            self.weights,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="pilotlight-models",
        )
        onnx.checker.check_model(model, full_check=True)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def same_pads(size, kernel, stride):
    """TensorFlow's SAME padding as ONNX pads [top, left, bottom, right] for a square input."""
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    before = total // 2
    return (before, before, total - before, total - before)


def fold_batch_norm(w, gamma, beta, mean, var, eps):
    """Weight and bias of a convolution that has its batch normalisation folded in, in f64."""
    scale = gamma.astype(np.float64) / np.sqrt(var.astype(np.float64) + eps)
    bias = beta.astype(np.float64) - mean.astype(np.float64) * scale
    folded = w.astype(np.float64) * scale.reshape(-1, 1, 1, 1)
    return folded.astype(np.float32), bias.astype(np.float32)


def macs(model):
    """Multiply-accumulates of the Conv, Gemm and MatMul nodes of a float model with static shapes."""
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*model.graph.value_info, *model.graph.input, *model.graph.output]
    }
    shapes |= {w.name: list(w.dims) for w in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            total += int(np.prod(shapes[node.output[0]])) * int(np.prod(shapes[node.input[1]][1:]))
        elif node.op_type in ("Gemm", "MatMul"):
            inner = shapes[node.input[0]][-1]
            total += int(np.prod(shapes[node.output[0]])) * inner
    return total
