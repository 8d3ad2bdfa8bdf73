"""Small whole networks with f32 borders, quantised by ONNX Runtime's tool in both forms: how fusions meet."""

import numpy as np
import onnxruntime.quantization as tool

from .. import graph, quantise
from .cases import Net
from .qdq import SIGNED


class Maker(graph.Graph):
    """A graph builder with random weights of sane ranges."""

    def __init__(self, name, shape, seed):
        super().__init__(name, "x", shape)
        self.rng = np.random.default_rng(seed)

    def layer(self, name, x, cin, cout, kernel=3, stride=1, groups=1):
        fan_in = cin // groups * kernel * kernel
        w = (self.rng.standard_normal((cout, cin // groups, kernel, kernel)) * np.sqrt(2 / fan_in)).astype(np.float32)
        b = self.rng.uniform(-0.3, 0.3, cout).astype(np.float32)
        return self.conv(name, x, w, b, stride, [(kernel - 1) // 2] * 2 + [kernel // 2] * 2, groups)

    def unary(self, kind, x, **attributes):
        return self.op(kind, [x], f"{x}.{kind.lower()}", **attributes)

    def silu(self, x):
        return self.op("Mul", [x, self.unary("Sigmoid", x)], x + ".silu")

    def linear(self, name, x, cin, cout):
        w = (self.rng.standard_normal((cout, cin)) * np.sqrt(2 / cin)).astype(np.float32)
        b = self.rng.uniform(-0.3, 0.3, cout).astype(np.float32)
        return self.op("Gemm", [x, self.weight(name + ".weight", w), self.weight(name + ".bias", b)], name, transB=1)


def inverted_residual(g):
    x = g.relu6(g.layer("stem", "x", 3, 12, stride=2))
    y = g.relu6(g.layer("expand", x, 12, 40, kernel=1))
    y = g.relu6(g.layer("depthwise", y, 40, 40, groups=40))
    return g.add("sum", g.layer("project", y, 40, 12, kernel=1), x), (12, 6, 6)


def residual(g):
    x = g.relu(g.layer("stem", "x", 3, 16))
    x = g.op("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = g.layer("b", g.relu(g.layer("a", x, 16, 20, stride=2)), 20, 20)
    return g.relu(g.add("sum", y, g.layer("skip", x, 16, 20, kernel=1, stride=2))), (20, 3, 3)


def cross_stage(g):
    x = g.silu(g.layer("stem", "x", 3, 16, stride=2))
    left = g.silu(g.layer("left", x, 16, 9, kernel=1))
    right = g.silu(g.layer("right", x, 16, 9, kernel=1))
    left = g.add("sum", left, g.silu(g.layer("inner", left, 9, 9)))
    x = g.silu(g.layer("join", g.op("Concat", [left, right], "both", axis=1), 18, 20, kernel=1))
    pools = [x] + [
        g.op("MaxPool", [x], f"spp{k}", kernel_shape=[k, k], strides=[1, 1], pads=[k // 2] * 4) for k in (3, 5)
    ]
    return g.op("Concat", pools, "spp", axis=1), (60, 6, 6)


def upsample(g):
    x = g.relu(g.layer("stem", "x", 3, 10))
    y = g.relu(g.layer("down", x, 10, 13, stride=2))
    scales = g.weight("scales", np.array([1, 1, 2, 2], np.float32))
    y = g.op(
        "Resize",
        [y, "", scales],
        "up",
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return g.layer("head", g.op("Concat", [y, x], "both", axis=1), 23, 5), (5, 12, 12)


def inception(g):
    a = g.relu(g.layer("a", "x", 3, 7, kernel=1))
    b = g.relu(g.layer("b2", g.relu(g.layer("b1", "x", 3, 5, kernel=1)), 5, 11))
    pooled = g.op("AveragePool", ["x"], "average", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    x = g.op("Concat", [a, b, g.relu(g.layer("c", pooled, 3, 6, kernel=1))], "all", axis=1)
    return g.linear("logits", g.op("Flatten", [g.op("GlobalAveragePool", [x], "mean")], "flat"), 24, 10), (10,)


def excite(g):
    x = g.relu(g.layer("stem", "x", 3, 20, stride=2))
    gate = g.relu(g.layer("squeeze", g.op("GlobalAveragePool", [x], "mean"), 20, 5, kernel=1))
    gate = g.unary("Sigmoid", g.layer("excite", gate, 5, 20, kernel=1))
    return g.layer("out", g.op("Mul", [x, gate], "scaled"), 20, 8, kernel=1), (8, 6, 6)


def focus(g):
    parts = []
    for i, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        limits = [np.array(v) for v in ([row, column], [2**31, 2**31], [2, 3], [2, 2])]
        names = [g.weight(f"slice{i}.{j}", v) for j, v in enumerate(limits)]
        parts.append(g.op("Slice", ["x", *names], f"slice{i}"))
    x = g.unary("LeakyRelu", g.layer("stem", g.op("Concat", parts, "focus", axis=1), 12, 17), alpha=0.1)
    return g.layer("depthwise", x, 17, 17, kernel=5, groups=17), (17, 6, 6)


def perceptron(g):
    x = g.op("Flatten", ["x"], "flat")
    x = g.relu(g.linear("a", x, 432, 33))
    return g.op("Softmax", [g.linear("b", x, 33, 10)], "softmax", axis=-1), (10,)


NETWORKS = [inverted_residual, residual, cross_stage, upsample, inception, excite, focus, perceptron]


def build(suite):
    for seed, make in enumerate(NETWORKS):
        g = Maker(make.__name__, [1, 3, 12, 12], seed)
        output, shape = make(g)
        model = g.model(output, [1, *shape])
        rng = np.random.default_rng(seed)
        samples = [rng.standard_normal((1, 3, 12, 12)).astype(np.float32) for _ in range(8)]
        forms = [
            ("qdq", tool.QuantType.QUInt8, {}),
            ("qdq", tool.QuantType.QInt8, SIGNED),
            ("qoperator", tool.QuantType.QUInt8, {}),
        ]
        for form, activation, config in forms:
            quantised = quantise.quantise(model, form, samples, activation)
            name = "u8s8" if activation == tool.QuantType.QUInt8 else "s8s8"
            for scale in (1, 3):  # the second saturates
                x = (rng.standard_normal((1, 3, 12, 12)) * scale).astype(np.float32)
                suite.add(
                    "network",
                    f"{make.__name__}, {form} {name}{', saturating' if scale > 1 else ''}",
                    Given(quantised, x),
                    17,
                    config,
                )


class Given(Net):
    """A finished model in place of a net under construction."""

    def __init__(self, model, x):
        super().__init__()
        self.whole = model
        self.inputs, self.outputs = {model.graph.input[0].name: x}, [o.name for o in model.graph.output]

    def model(self, opset, shapes=None, dims=None):
        return self.whole
