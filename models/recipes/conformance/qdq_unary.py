"""QDQ cases of unary chains, softmax, concatenation and data movement."""

import numpy as np

from . import draw, functions, movement, rules
from .cases import Net
from .draw import INT8, every_value, fit, whole, zero_point
from .elementwise import name, near
from .qdq import config, given

F = np.float32


def clip(net, v, low, high):
    return net.op("Clip", [v, net.const(F(low)), net.const(F(high))])


def requantised(net, v, scale, zero, dtype):
    """A quantise and dequantise inside a chain."""
    return net.dq(net.q(v, scale, zero, dtype), scale, zero, dtype)


def hard_sigmoid(x, alpha=0.2):
    return np.clip(F(alpha) * x + F(0.5), F(0), F(1))


# Name, opset, graph of one f32 value, the same in numpy.
CHAINS = [
    ("Relu", 13, lambda n, v: n.op("Relu", [v]), lambda x: np.maximum(x, F(0))),
    ("Clip 0..6", 13, lambda n, v: clip(n, v, 0, 6), lambda x: np.clip(x, F(0), F(6))),
    ("Clip -1..0.7", 13, lambda n, v: clip(n, v, -1, 0.7), lambda x: np.clip(x, F(-1), F(0.7))),
    (
        "Clip by attribute, opset 10",
        10,
        lambda n, v: n.op("Clip", [v], min=-0.5, max=1.5),
        lambda x: np.clip(x, F(-0.5), F(1.5)),
    ),
    ("Sigmoid", 13, lambda n, v: n.op("Sigmoid", [v]), functions.sigmoid),
    ("HardSigmoid", 13, lambda n, v: n.op("HardSigmoid", [v]), hard_sigmoid),
    (
        "HardSigmoid, alpha 1/6",
        13,
        lambda n, v: n.op("HardSigmoid", [v], alpha=1 / 6),
        lambda x: hard_sigmoid(x, 1 / 6),
    ),
    ("HardSwish", 14, lambda n, v: n.op("HardSwish", [v]), lambda x: x * hard_sigmoid(x, 1 / 6)),
    (
        "x * HardSigmoid(x)",
        13,
        lambda n, v: n.op("Mul", [v, n.op("HardSigmoid", [v], alpha=1 / 6)]),
        lambda x: x * hard_sigmoid(x, 1 / 6),
    ),
    ("LeakyRelu 0.01", 13, lambda n, v: n.op("LeakyRelu", [v]), functions.leaky_relu(0.01)),
    ("LeakyRelu 0.3", 16, lambda n, v: n.op("LeakyRelu", [v], alpha=0.3), functions.leaky_relu(0.3)),
    ("Tanh", 13, lambda n, v: n.op("Tanh", [v]), functions.tanh),
    ("x * Sigmoid(x)", 13, lambda n, v: n.op("Mul", [v, n.op("Sigmoid", [v])]), lambda x: x * functions.sigmoid(x)),
    (
        "Relu, Sigmoid",
        13,
        lambda n, v: n.op("Sigmoid", [n.op("Relu", [v])]),
        lambda x: functions.sigmoid(np.maximum(x, F(0))),
    ),
    (
        "Clip, Tanh",
        13,
        lambda n, v: n.op("Tanh", [clip(n, v, -1, 2)]),
        lambda x: functions.tanh(np.clip(x, F(-1), F(2))),
    ),
    ("x * 1.7", 13, lambda n, v: n.op("Mul", [v, n.const(F(1.7))]), lambda x: x * F(1.7)),
    (
        "(x - 0.3) * 0.5 + 1",
        13,
        lambda n, v: n.op("Add", [n.op("Mul", [n.op("Sub", [v, n.const(F(0.3))]), n.const(F(0.5))]), n.const(F(1))]),
        lambda x: (x - F(0.3)) * F(0.5) + F(1),
    ),
    ("1 - x", 13, lambda n, v: n.op("Sub", [n.const(F(1)), v]), lambda x: F(1) - x),
]


def chains(suite):
    rng = np.random.default_rng(41)
    for label, opset, graph, function in CHAINS:
        for dtype in INT8:
            x, sx, zx = every_value(rng, dtype), F(rng.uniform(0.01, 0.06)), zero_point(rng, dtype)
            result = function(rules.dequantize(np.arange(256, dtype=np.uint8).view(dtype), sx, zx))
            sy, zy = fit(result, dtype)
            net = Net()
            net.y(net.q(graph(net, given(net, x, sx, zx)), sy, zy, dtype))
            lut = rules.table(function, sx, zx, sy, zy, dtype)
            suite.add("unary", f"{name(dtype)} {label}", net, opset, config(dtype), [rules.through(lut, x)])


def silu(suite):
    """x * sigmoid(x) with the sigmoid quantised in between, as a static quantiser writes it: two integer operators."""
    rng = np.random.default_rng(42)
    for index in range(8):
        dtype = INT8[index % 2]
        x, sx, zx = every_value(rng, dtype), F(rng.uniform(0.02, 0.06)), zero_point(rng, dtype)
        ss, zs = F(1 / 256), int(np.iinfo(dtype).min)
        result = rules.dequantize(np.arange(256, dtype=np.uint8).view(dtype), sx, zx)
        sy, zy = fit(result * functions.sigmoid(result), dtype)
        net = Net()
        v = given(net, x, sx, zx)
        net.y(net.q(net.op("Mul", [v, requantised(net, net.op("Sigmoid", [v]), ss, zs, dtype)]), sy, zy, dtype))
        gate = rules.through(rules.table(functions.sigmoid, sx, zx, ss, zs, dtype), x)
        suite.add(
            "silu",
            f"{name(dtype)} input scale {sx}, zero point {zx}",
            net,
            13,
            config(dtype),
            [rules.mul(x, sx, zx, gate, ss, zs, sy, zy)],
        )


def softmax(suite):
    rng = np.random.default_rng(43)
    for index in range(8):
        dtype = INT8[index % 2]
        shape, axis = [((1, 10), -1), ((3, 100), -1), ((2, 5, 7), 1), ((1, 8, 4, 4), 1)][index // 2]
        x, sx, zx = whole(rng, shape, dtype), F([0.05, 0.2][index % 2]), zero_point(rng, dtype)
        sy, zy = F(1 / 256), int(np.iinfo(dtype).min)
        net = Net()
        net.y(net.q(net.op("Softmax", [given(net, x, sx, zx)], axis=axis), sy, zy, dtype))
        suite.add(
            "softmax",
            f"{name(dtype)} {shape} on axis {axis}",
            net,
            [13, 17][index % 2],
            config(dtype),
            [functions.softmax(x, sx, sy, zy, axis)],
        )


def concat(suite):
    rng = np.random.default_rng(44)
    for index in range(12):
        dtype, axis = INT8[index % 2], [1, 1, 3, 2, -1, 1][index // 2]
        same = index % 3 == 2
        sy, zy = F(rng.uniform(0.02, 0.05)), near(rng, index, np.zeros(1), 1, dtype)
        net, values, parts = Net(), [], []
        for _ in range(2 + index % 3):
            shape = [1, 3, 4, 5]
            shape[axis] = int(rng.choice([1, 3, 5, 16, 20]))
            x = whole(rng, shape, dtype)
            sx, zx = (sy, zy) if same else (F(rng.uniform(0.01, 0.1)), zero_point(rng, dtype))
            values.append(given(net, x, sx, zx))
            parts.append(rules.quantize(rules.dequantize(x, sx, zx), sy, zy, dtype))
        net.y(net.q(net.op("Concat", values, axis=axis), sy, zy, dtype))
        suite.add(
            "concat",
            f"{name(dtype)} {len(parts)} parts on axis {axis}{', one scale' if same else ''}",
            net,
            [13, 17, 22][index % 3],
            config(dtype),
            [np.concatenate(parts, axis)],
        )


def bilinear(x):
    """Twice the size, half-pixel, in f32; the order of operations is that of the int8 rule without its cut-off."""
    return movement.linear(x, [*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]], np.array([1, 1, 2, 2], F), "half_pixel")


MOVES = [
    ("Transpose", 13, lambda n, v: n.op("Transpose", [v], perm=[0, 2, 3, 1]), lambda x: x.transpose(0, 2, 3, 1)),
    ("Reshape", 13, lambda n, v: n.op("Reshape", [v, n.const(np.array([0, -1]))]), lambda x: x.reshape(2, -1)),
    ("Flatten", 13, lambda n, v: n.op("Flatten", [v], axis=1), lambda x: x.reshape(2, -1)),
    (
        "Slice",
        13,
        lambda n, v: n.op("Slice", [v] + [n.const(np.array(a)) for a in ([1, 0], [9, 4], [1, 3], [1, 2])]),
        lambda x: x[:, 1:9, :, 0:4:2],
    ),
    (
        "Squeeze",
        13,
        lambda n, v: n.op("Squeeze", [n.op("Unsqueeze", [v, n.const(np.array([2]))]), n.const(np.array([2]))]),
        lambda x: x,
    ),
    ("Unsqueeze", 13, lambda n, v: n.op("Unsqueeze", [v, n.const(np.array([0]))]), lambda x: x[None]),
    (
        "Resize nearest",
        13,
        lambda n, v: n.op(
            "Resize",
            [v, "", n.const(np.array([1, 1, 2, 2], F))],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        lambda x: x.repeat(2, 2).repeat(2, 3),
    ),
    (
        "Resize linear",
        13,
        lambda n, v: n.op("Resize", [v, "", n.const(np.array([1, 1, 2, 2], F))], mode="linear"),
        bilinear,
    ),
    (
        "Pad with 0",
        13,
        lambda n, v: n.op("Pad", [v, n.const(np.array([0, 0, 1, 2, 0, 0, 0, 1]))]),
        lambda x: np.pad(x, ((0, 0), (0, 0), (1, 0), (2, 1))),
    ),
    (
        "Pad at the edge",
        13,
        lambda n, v: n.op("Pad", [v, n.const(np.array([0, 0, 1, 2, 0, 0, 0, 1]))], mode="edge"),
        lambda x: np.pad(x, ((0, 0), (0, 0), (1, 0), (2, 1)), mode="edge"),
    ),
]


def moves(suite):
    rng = np.random.default_rng(45)
    for label, opset, graph, function in MOVES:
        for index in range(4):
            dtype, change = INT8[index % 2], index >= 2
            x, s, z = whole(rng, (2, 17, 3, 5), dtype), F(rng.uniform(0.01, 0.1)), zero_point(rng, dtype)
            sy, zy = (F(s * 1.6), draw.centre(draw.real(x, s, z), s * 1.6, dtype)) if change else (s, z)
            net = Net()
            net.y(net.q(graph(net, given(net, x, s, z)), sy, zy, dtype))
            expect = rules.quantize(function(rules.dequantize(x, s, z)), sy, zy, dtype)
            suite.add(
                "move",
                f"{name(dtype)} {label}{', rescaled' if change else ''}",
                net,
                opset + 4 * (index % 2),
                config(dtype),
                [expect],
            )


def several_outputs(suite):
    rng = np.random.default_rng(46)
    for index in range(8):
        dtype, axis = INT8[index % 2], [1, 3][index // 2 % 2]
        sizes = [5, 12] if axis == 1 else [1, 4]
        x, s, z = whole(rng, (2, 17, 3, 5), dtype), F(rng.uniform(0.01, 0.1)), zero_point(rng, dtype)
        net = Net()
        parts = net.op("Split", [given(net, x, s, z), net.const(np.array(sizes))], outputs=2, axis=axis)
        net.y(*(net.q(p, s, z, dtype) for p in parts))
        suite.add(
            "split",
            f"{name(dtype)} {x.shape} into {sizes} on axis {axis}",
            net,
            [13, 17][index // 4],
            config(dtype),
            np.split(x, [sizes[0]], axis),
        )
    for index in range(4):
        dtype = INT8[index % 2]
        x = rng.integers(0, 9, (2, 17, 5)).astype(dtype)
        net = Net()
        net.y(net.op("ArgMax", [given(net, x, F(0.1), 3)], axis=[1, -1][index // 2], keepdims=0))
        suite.add(
            "arg-max",
            f"{name(dtype)} on axis {[1, -1][index // 2]}, i64 output",
            net,
            13,
            config(dtype),
            [x.argmax([1, -1][index // 2]).astype(np.int64)],
        )


def build(suite):
    for family in (chains, silu, softmax, concat, moves, several_outputs):
        family(suite)
