"""QDQ cases of multiply-accumulate, two-operand and pooling operators: dequantise -> operator -> quantise."""

import numpy as np

from . import arith, draw, elementwise, rules
from .arith import DTYPES
from .cases import Net
from .draw import INT8, whole, zero_point

F = np.float32
# On x86-64 ONNX Runtime fuses signed activations only when told to.
SIGNED = {"session.qdqisint8allowed": "1"}
ACTIVATIONS = ["none", "none", "relu at the end", "relu inside", "clip at the ends", "clip inside"]


def config(dtype):
    return SIGNED if np.dtype(dtype) == np.int8 else None


def given(net, array, scale, zero):
    """A graph input behind its DequantizeLinear."""
    return net.dq(net.x(array), scale, zero, array.dtype)


def stored(net, array, scale, zero, axis=None):
    """A constant behind its DequantizeLinear."""
    attributes = {} if axis is None else {"axis": axis}
    return net.dq(net.const(array, "w"), np.asarray(scale, F), zero, array.dtype, **attributes)


def stored_bias(net, bias, x_scale, w_scale, per_channel):
    """An i32 bias whose scale is the product of the input's and the weight's."""
    scale = (F(x_scale) * np.asarray(w_scale, F)).astype(F)
    return stored(net, bias, scale, 0, 0 if per_channel else None)


def activate(net, kind, name, scale, dtype, opset):
    """Adds an activation before the last quantise: (value name, zero point or None, function on the integers).

    "At the end(s)" the quantiser's own range does all that the activation does, so that it may be dropped."""
    info = np.iinfo(dtype)
    if kind == "none":
        return name, None, lambda q, zero: q
    if kind.startswith("relu"):
        zero = info.min if kind.endswith("end") else None
        return net.op("Relu", [name]), zero, lambda q, z: np.maximum(q, dtype(z))
    low, high = F(0), F(scale * (255 if kind.endswith("ends") else 100))
    limits = {} if opset >= 11 else {"min": float(low), "max": float(high)}
    inputs = [name] if limits else [name, net.const(low), net.const(high)]
    zero = info.min if kind.endswith("ends") else None

    def clamp(q, z):
        return np.clip(q, *rules.quantize(np.array([low, high]), scale, z, dtype))

    return net.op("Clip", inputs, **limits), zero, clamp


def conv(suite):
    rng = np.random.default_rng(31)
    for index in range(66):
        c = arith.draw_conv(rng, index)
        t = arith.fill_conv(rng, c)
        x_type = t["x"].dtype.type
        if c["name"] == "s8s8" and t["wz"]:
            t["wz"] = 0
            arith.settle(t, arith.conv_accumulators(c, t))
        opset = [13, 14, 17, 19, 21, 22][index // 3 % 6] if t["per_channel"] else arith.OPSETS[index // 3 % 8]
        net = Net()
        axis = 0 if t["per_channel"] else None
        inputs = [given(net, t["x"], t["xs"], t["xz"]), stored(net, t["w"], t["ws"], t["wz"], axis)]
        if t["bias"] is not None:
            inputs.append(stored_bias(net, t["bias"], t["xs"], t["ws"], t["per_channel"]))
        value = net.op("Conv", inputs, kernel_shape=c["kernel"], **arith.conv_attributes(c))
        kind = ACTIVATIONS[index // 3 % 6]
        value, zero, after = activate(net, kind, value, t["ys"], x_type, opset)
        yz = t["yz"] if zero is None else zero
        net.y(net.q(value, t["ys"], yz, x_type))
        expect = rules.requantize(arith.conv_accumulators(c, t), t["xs"], t["ws"], t["ys"], yz, x_type)
        suite.add(
            "conv",
            arith.describe(c, t["per_channel"], t["what"], f", activation {kind}"),
            net,
            opset,
            config(x_type),
            [after(expect, yz)],
        )


def matmul(suite):
    rng = np.random.default_rng(32)
    for index in range(24):
        name, shapes = list(DTYPES)[index % 3], arith.MATRICES[index % len(arith.MATRICES)]
        per_column = len(shapes[1]) == 2 and bool(rng.integers(2))
        a, b, sa, sb, sy, za, zb, zy, what = arith.fill_matmul(rng, shapes, name, per_column)
        net = Net()
        both = index % 4 == 3 and not per_column  # two activations, no constant
        right = given(net, b, sb, zb) if both else None
        left = given(net, a, sa, za)
        right = right or stored(net, b, sb, zb, 1 if per_column else None)
        net.y(net.q(net.op("MatMul", [left, right]), sy, zy, a.dtype))
        if both:
            net.inputs = dict(sorted(net.inputs.items()))
        acc = np.matmul(a.astype(np.int64) - za, b.astype(np.int64) - zb)
        suite.add(
            "matmul",
            f"{name} {shapes[0]} x {shapes[1]}{' per-column' if per_column else ''}{', two inputs' if both else ''}, {what}",
            net,
            [13, 17, 19, 22][index % 4],
            config(a.dtype),
            [rules.requantize(acc, sa, sb, sy, zy, a.dtype, -1)],
        )


def gemm(suite):
    rng = np.random.default_rng(33)
    for index in range(24):
        name = list(DTYPES)[index % 3]
        m, k, n = int(rng.integers(1, 6)), int(rng.choice([1, 7, 16, 33, 64])), int(rng.choice([1, 3, 10, 16, 17, 40]))
        per_column, trans_b = bool(rng.integers(2)), int(index % 4 != 0)
        bias = (rng.integers(-256, 257, n) * 16).astype(np.int32) if index % 5 else None
        a, b, sa, sb, sy, za, zb, zy, what = arith.fill_matmul(rng, ((m, k), (k, n)), name, per_column, bias)
        net = Net()
        inputs = [
            given(net, a, sa, za),
            stored(net, b.T if trans_b else b, sb, zb, (0 if trans_b else 1) if per_column else None),
        ]
        if bias is not None:
            inputs.append(stored_bias(net, bias, sa, sb, per_column))
        kind = ACTIVATIONS[index // 3 % 6]
        value, zero, after = activate(net, kind, net.op("Gemm", inputs, transB=trans_b), sy, a.dtype.type, 13)
        zy = zy if zero is None else zero
        net.y(net.q(value, sy, zy, a.dtype))
        acc = np.matmul(a.astype(np.int64) - za, b.astype(np.int64) - zb) + (0 if bias is None else bias)
        about = (
            f"{name} {m}x{k}x{n}{' per-column' if per_column else ''}, transB {trans_b}, {'bias' if bias is not None else 'no bias'}, "
            f"{what}, activation {kind}"
        )
        suite.add(
            "gemm",
            about,
            net,
            [13, 17, 19, 22][index % 4],
            config(a.dtype),
            [after(rules.requantize(acc, sa, sb, sy, zy, a.dtype, -1), zy)],
        )


def sub(a, sa, za, b, sb, zb, sc, zc):
    """What stays in float: dequantise, subtract, quantise."""
    return rules.quantize(rules.dequantize(a, sa, za) - rules.dequantize(b, sb, zb), sc, zc, a.dtype)


def float_add_relu(a, sa, za, b, sb, zb, sc, zc):
    total = rules.dequantize(a, sa, za) + rules.dequantize(b, sb, zb)
    return rules.quantize(np.maximum(total, F(0)), sc, zc, a.dtype)


def binary(suite):
    rng = np.random.default_rng(34)
    kinds = [
        ("Add", rules.add, ""),
        ("Mul", rules.mul, ""),
        ("Sub", sub, ""),
        ("Add", rules.add, ", relu at the end"),
        ("Add", float_add_relu, ", relu inside"),
    ]
    for index in range(60):
        kind, rule, relu = kinds[index % 5]
        dtype = INT8[index // 5 % 2]
        (a, sa, za), (b, sb, zb), (sc, zc), what = draw.pair(rng, dtype, kind, elementwise.PAIRS[index // 5 % 10])
        zc = int(np.iinfo(dtype).min) if relu.endswith("end") else zc
        constant = index // 5 % 4 == 3
        net = Net()
        left, right = given(net, a, sa, za), stored(net, b, sb, zb) if constant else given(net, b, sb, zb)
        value = net.op(kind, [left, right])
        net.y(net.q(net.op("Relu", [value]) if relu else value, sc, zc, dtype))
        about = f"{elementwise.name(dtype)} {a.shape} {kind} {b.shape}{' constant' if constant else ''}, {what}{relu}"
        suite.add(
            kind.lower(), about, net, [13, 14, 17, 22][index % 4], config(dtype), [rule(a, sa, za, b, sb, zb, sc, zc)]
        )


def pools(suite):
    rng = np.random.default_rng(35)
    for index in range(12):
        dtype = INT8[index % 2]
        shape, attributes, pads, ceil, mode = elementwise.pool_shape(rng, index)
        x, sx = whole(rng, shape, dtype), F(rng.uniform(0.01, 0.1))
        sy, zx = F(sx * [0.4, 1, 0.5, 2][index % 4]), zero_point(rng, dtype)
        zy = elementwise.near(rng, index, draw.real(x, sx, zx), sy, dtype)
        net = Net()
        net.y(net.q(net.op("AveragePool", [given(net, x, sx, zx)], ceil_mode=int(ceil), **attributes), sy, zy, dtype))
        expect = rules.average_pool(
            x, sx, zx, sy, zy, attributes["kernel_shape"], attributes["strides"], pads, False, ceil
        )
        suite.add(
            "average-pool",
            elementwise.describe_pool(dtype, shape, attributes, pads, ceil, mode),
            net,
            [13, 17, 19, 22][index % 4],
            config(dtype),
            [expect],
        )
    for index in range(12):
        dtype = INT8[index % 2]
        shape, attributes, pads, ceil, mode = elementwise.pool_shape(rng, index)
        x, s, z = whole(rng, shape, dtype), F(rng.uniform(0.01, 0.1)), zero_point(rng, dtype)
        change = index % 4 == 3  # another scale behind the pool: stays in float
        sy = F(s * 2) if change else s
        net = Net()
        net.y(net.q(net.op("MaxPool", [given(net, x, s, z)], ceil_mode=int(ceil), **attributes), sy, z, dtype))
        expect = rules.max_pool(x, attributes["kernel_shape"], attributes["strides"], pads, (1, 1), ceil)
        suite.add(
            "max-pool",
            elementwise.describe_pool(dtype, shape, attributes, pads, ceil, mode) + (", rescaled" if change else ""),
            net,
            [13, 17, 19, 22][index % 4],
            config(dtype),
            [rules.quantize(rules.dequantize(expect, s, z), sy, z, dtype)],
        )


def means(suite):
    rng = np.random.default_rng(36)
    shapes = [(1, 5, 7, 7), (2, 17, 3, 5), (1, 33, 1, 1), (3, 16, 8, 8), (1, 20, 11, 4), (2, 40, 2, 2)]
    for index in range(24):
        dtype, shape = INT8[index % 2], shapes[index // 2 % 6]
        x, sx = draw.by_channel(rng, shape, dtype), F(rng.uniform(0.01, 0.1))
        zx = zero_point(rng, dtype)
        sy, zy = elementwise.mean_quant(rng, index // 2, draw.real(x, sx, zx).mean((2, 3)), dtype)
        net = Net()
        source = given(net, x, sx, zx)
        expect = rules.global_average_pool(x, sx, zx, sy, zy)
        if index < 12:
            value, opset, about = net.op("GlobalAveragePool", [source]), [13, 17, 22][index % 3], "GlobalAveragePool"
        elif index % 4 < 2:
            value, opset, about = net.op("ReduceMean", [source], axes=[2, 3], keepdims=1), 13, "ReduceMean over 2 and 3"
        else:
            value, opset = net.op("ReduceMean", [source, net.const(np.array([-1, -2]))], keepdims=0), 18
            about, expect = "ReduceMean over -1 and -2, axes as input, keepdims 0", expect[:, :, 0, 0]
        net.y(net.q(value, sy, zy, dtype))
        # ONNX Runtime has no integer ReduceMean; its float sum runs in an order of its own.
        steps = 1 if about.startswith("ReduceMean") else None
        suite.add(
            "mean", f"{elementwise.name(dtype)} {shape} {about}", net, opset, config(dtype), [expect], steps=steps
        )


def build(suite):
    for family in (conv, matmul, gemm, binary, pools, means):
        family(suite)
