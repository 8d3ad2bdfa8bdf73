"""QOperator cases of element-wise operators, pools and quantisation itself."""

import numpy as np

from . import draw, functions, rules
from .arith import OPSETS
from .cases import Net
from .draw import INT8, whole, zero_point

F = np.float32
# Shapes of two operands; the second broadcasts in the later ones.
PAIRS = [
    ((1, 5, 7, 3), (1, 5, 7, 3)),
    ((2, 17, 5, 5), (2, 17, 5, 5)),
    ((1000,), (1000,)),
    ((3, 33), (3, 33)),
    ((1, 16, 4, 4), (1, 16, 1, 1)),
    ((2, 3, 4, 5), (5,)),
    ((2, 3, 4, 5), (3, 1, 1)),
    ((1, 24, 6, 6), ()),
    ((1, 8, 1, 7), (1, 8, 6, 1)),
    ((4, 1), (1, 9)),
]


def name(dtype):
    return np.dtype(dtype).name


def binary(suite, kind, rule, family, count, seed):
    rng = np.random.default_rng(seed)
    for index in range(count):
        dtype = INT8[index % 2]
        first, second, (sc, zc), what = draw.pair(rng, dtype, kind, PAIRS[index % len(PAIRS)])
        (a, sa, za), (b, sb, zb) = first, second
        constant = index % 4 == 3
        swap = index % 7 == 6
        net = Net()
        left = [net.x(a), *net.quant(sa, za, dtype)]
        right = [net.const(b, "b") if constant else net.x(b), *net.quant(sb, zb, dtype)]
        net.y(net.ms("QLinear" + kind, (right + left if swap else left + right) + list(net.quant(sc, zc, dtype))))
        expect = rule(*second, *first, sc, zc) if swap else rule(*first, *second, sc, zc)
        about = f"{name(dtype)} {a.shape} and {b.shape}{' constant' if constant else ''}{', swapped' if swap else ''}, {what}"
        suite.add(family, about, net, OPSETS[index % 8], expect=[expect])


def near(rng, index, values, scale, dtype):
    """A zero point that keeps most of `values` in range; any at all in every fourth case."""
    return zero_point(rng, dtype) if index % 4 == 3 else draw.centre(values, scale, dtype)


def mean_quant(rng, index, means, dtype):
    """Scale and zero point of pooled values: they fit, then saturate, fit, then any zero point at all."""
    scale, zero = draw.fit(means, dtype)
    return F(scale * [1, 0.5, 1, 1][index % 4]), zero_point(rng, dtype) if index % 4 == 3 else zero


def global_average_pool(suite):
    rng = np.random.default_rng(13)
    shapes = [
        (1, 5, 7, 7),
        (2, 17, 3, 5),
        (1, 33, 1, 1),
        (3, 16, 8, 8),
        (1, 20, 11, 4),
        (1, 3, 30, 30),
        (2, 40, 2, 2),
        (1, 1, 5, 5),
    ]
    for index in range(20):
        dtype, last = INT8[index % 2], index >= 16
        shape = shapes[index % 8]
        x = draw.by_channel(rng, shape, dtype, 3 if last else 1)
        sx = F(rng.uniform(0.01, 0.1))
        zx = zero_point(rng, dtype)
        axes = (1, 2) if last else (2, 3)
        sy, zy = mean_quant(rng, index // 2, draw.real(x, sx, zx).mean(axes), dtype)
        net = Net()
        net.y(
            net.ms(
                "QLinearGlobalAveragePool",
                [net.x(x), *net.quant(sx, zx, dtype), *net.quant(sy, zy, dtype)],
                channels_last=int(last),
            )
        )
        expect = rules.global_average_pool(x, sx, zx, sy, zy, axes)
        suite.add(
            "global-average-pool",
            f"{name(dtype)} {shape}{' channels last' if last else ''}",
            net,
            OPSETS[index % 8],
            expect=[expect],
        )


def pool_shape(rng, index):
    """(x shape, attributes of the node, pads, ceil) of a pooling window that ONNX allows."""
    while True:
        shape = (
            int(rng.choice([1, 1, 2])),
            int(rng.choice([1, 3, 8, 17, 20])),
            *(int(v) for v in rng.integers(4, 12, 2)),
        )
        kernel = [(2, 2), (3, 3), (3, 2), (1, 3), (5, 5)][rng.integers(5)]
        strides = [(1, 1), (2, 2), (2, 1), (3, 3)][rng.integers(4)]
        mode = ["none", "same", "asymmetric", "SAME_UPPER", "SAME_LOWER", "VALID"][index % 6]
        pads = [0] * 4
        if mode == "same":
            pads = [k // 2 for k in kernel] * 2
        elif mode == "asymmetric":
            pads = [int(rng.integers(0, k)) for k in kernel * 2]
        elif mode.startswith("SAME"):
            pads = rules.same_pads(shape[2:], kernel, strides, (1, 1), mode == "SAME_UPPER")
        ceil = mode in ("none", "same", "asymmetric") and bool(rng.integers(2))
        # Where a stride exceeds the kernel, SAME would need negative pads, which ONNX does not define.
        gaps = mode.startswith("SAME") and any(s > k for s, k in zip(strides, kernel))
        if gaps or max(kernel) > min(shape[2:]) or np.prod(shape) > 3000:
            continue
        attributes = {"kernel_shape": kernel, "strides": strides}
        attributes |= {"auto_pad": mode} if mode.isupper() else {"pads": pads}
        return shape, attributes, pads, ceil, mode


def describe_pool(dtype, shape, attributes, pads, ceil, mode):
    kernel, strides = attributes["kernel_shape"], attributes["strides"]
    return f"{name(dtype)} {shape}, kernel {kernel}, stride {strides}, pad {mode} {pads}, ceil {int(ceil)}"


def average_pool(suite):
    rng = np.random.default_rng(14)
    for index in range(30):
        dtype = INT8[index % 2]
        shape, attributes, pads, ceil, mode = pool_shape(rng, index)
        include = bool(rng.integers(2)) and not ceil
        x = whole(rng, shape, dtype)
        sx = F(rng.uniform(0.01, 0.1))
        sy = F(sx * [0.4, 1, 0.5, 2][index % 4])
        zx = zero_point(rng, dtype)
        zy = near(rng, index, draw.real(x, sx, zx), sy, dtype)
        net = Net()
        net.y(
            net.ms(
                "QLinearAveragePool",
                [net.x(x), *net.quant(sx, zx, dtype), *net.quant(sy, zy, dtype)],
                count_include_pad=int(include),
                ceil_mode=int(ceil),
                **attributes,
            )
        )
        expect = rules.average_pool(
            x, sx, zx, sy, zy, attributes["kernel_shape"], attributes["strides"], pads, include, ceil
        )
        suite.add(
            "average-pool",
            describe_pool(dtype, shape, attributes, pads, ceil, mode) + f", count_include_pad {int(include)}",
            net,
            OPSETS[index % 8],
            expect=[expect],
        )


def max_pool(suite):
    rng = np.random.default_rng(15)
    for index in range(24):
        dtype = INT8[index % 2]
        shape, attributes, pads, ceil, mode = pool_shape(rng, index)
        dilations = (1, 1)
        if mode == "none" and index % 4 == 0 and min(shape[2:]) > 6 and max(attributes["kernel_shape"]) < 4:
            dilations = (2, 2)
        x = whole(rng, shape, dtype)
        net = Net()
        net.y(net.op("MaxPool", [net.x(x)], ceil_mode=int(ceil), dilations=dilations, **attributes))
        expect = rules.max_pool(x, attributes["kernel_shape"], attributes["strides"], pads, dilations, ceil)
        suite.add(
            "max-pool",
            describe_pool(dtype, shape, attributes, pads, ceil, mode) + f", dilation {dilations[0]}",
            net,
            [12, 13, 17, 22][index % 4],
            expect=[expect],
        )


def unary(suite):
    rng = np.random.default_rng(16)
    for index in range(28):
        dtype = INT8[index % 2]
        kind = ["QLinearSigmoid", "QLinearLeakyRelu"][index // 2 % 2]
        alpha = [0.01, 0.1, 0.25, 1.5][index // 4 % 4]
        x = draw.every_value(rng, dtype)
        sx = F(rng.uniform(0.01, 0.1))
        zx = zero_point(rng, dtype)
        if kind == "QLinearSigmoid":
            sy, zy, function, attributes = F(1 / 256), np.iinfo(dtype).min, functions.sigmoid, {}
            if index % 3 == 0:
                sy, zy = F(rng.uniform(0.003, 0.01)), zero_point(rng, dtype)
        else:
            function, attributes = functions.leaky_relu(alpha), {"alpha": alpha}
            sy, zy = draw.fit(function(rules.dequantize(x, sx, zx)), dtype)
            sy = F(sy * rng.uniform(0.6, 1.2))
        net = Net()
        net.y(net.ms(kind, [net.x(x), *net.quant(sx, zx, dtype), *net.quant(sy, zy, dtype)], **attributes))
        lut = rules.table(function, sx, zx, sy, zy, dtype)
        about = f"{name(dtype)}, all 256 values" + (f", alpha {alpha}" if attributes else "")
        suite.add(kind[7:].lower(), about, net, OPSETS[index % 8], expect=[rules.through(lut, x)])


def concat(suite):
    rng = np.random.default_rng(17)
    for index in range(16):
        dtype = INT8[index % 2]
        axis = [1, 1, 3, 2, 0, -1][index % 6]
        base = [int(rng.choice([1, 2])), int(rng.choice([3, 16, 17])), 4, 5]
        sy, zy = F(rng.uniform(0.02, 0.05)), near(rng, index, np.zeros(1), 1, dtype)
        net, parts, inputs = Net(), [], []
        for part in range(int(rng.integers(2, 5))):
            shape = list(base)
            shape[axis] = int(rng.choice([1, 3, 5, 16, 20]))
            x = whole(rng, shape, dtype)
            same = part % 2 == 1
            sx, zx = (sy, zy) if same else (F(rng.uniform(0.01, 0.1)), zero_point(rng, dtype))
            inputs += [net.x(x), *net.quant(sx, zx, dtype)]
            parts.append(rules.quantize(rules.dequantize(x, sx, zx), sy, zy, dtype))
        net.y(net.ms("QLinearConcat", [*net.quant(sy, zy, dtype), *inputs], axis=axis))
        about = f"{name(dtype)} {' + '.join(str(p.shape) for p in parts)} on axis {axis}"
        suite.add("concat", about, net, OPSETS[index % 8], expect=[np.concatenate(parts, axis)])


def softmax(suite):
    rng = np.random.default_rng(18)
    shapes = [
        ((1, 10), -1),
        ((3, 100), -1),
        ((2, 5, 7), -1),
        ((2, 5, 7), 1),
        ((1, 8, 4, 4), 1),
        ((4, 33), 1),
        ((1, 1000), -1),
        ((2, 3), -1),
    ]
    for index in range(18):
        dtype = INT8[index % 2]
        shape, axis = shapes[index // 2 % 8]
        sx = F([0.05, 0.2, 0.01, 1.0][index % 4])
        x, zx = whole(rng, shape, dtype), zero_point(rng, dtype)
        if index >= 16:  # one class takes it all: 256 steps of 1/256, one more than the type holds
            x = np.full(shape, np.iinfo(dtype).min, dtype)
            x[0, 3] = np.iinfo(dtype).max
        net = Net()
        net.y(
            net.ms(
                "QLinearSoftmax",
                [net.x(x), *net.quant(sx, zx, dtype), *net.quant(F(1 / 256), np.iinfo(dtype).min, dtype)],
                axis=axis,
                opset=13,
            )
        )
        expect = functions.softmax(x, sx, F(1 / 256), np.iinfo(dtype).min, axis)
        suite.add("softmax", f"{name(dtype)} {shape} on axis {axis}, scale {sx}", net, 13, expect=[expect])


def quantisation(suite):
    rng = np.random.default_rng(19)
    for index in range(16):
        dtype, scale = INT8[index % 2], F([0.5, 0.02, 1 / 3, 7.25][index // 2 % 4])
        axis = index >= 12
        zero = zero_point(rng, dtype)
        x = rng.uniform(-200, 200, (2, 7, 5, 9)).astype(F) * scale
        ties = (rng.integers(-300, 300, 200) + F(0.5)) * scale
        x.ravel()[:200] = ties
        x.ravel()[200:210] = [0.0, -0.0, np.inf, -np.inf, 3e38, -3e38, 1e-45, -1e-45, 2147483648.0, -2147483904.0]
        if axis:
            scale = rng.uniform(0.01, 2, 7).astype(F)
        net = Net()
        net.y(net.q(net.x(x), scale, zero, dtype, **({"axis": 1} if axis else {})))
        wide = scale.reshape(1, 7, 1, 1) if axis else scale
        with np.errstate(over="ignore"):  # 3e38 / 0.02 is infinity, as wanted
            steps = x / wide
        suite.add(
            "quantize",
            f"{name(dtype)}, half steps, infinities{', per axis' if axis else ''}, zero point {zero}",
            net,
            [13, 17, 19, 21, 22][index % 5] if axis else OPSETS[index % 8],
            expect=[rules.saturate(steps, zero, dtype)],
        )
    for index in range(12):
        dtype = [np.uint8, np.int8, np.int32][index % 3]
        axis = index >= 8
        x = (
            whole(rng, (2, 7, 5, 9), dtype)
            if dtype != np.int32
            else rng.integers(-(2**31), 2**31, (2, 7, 5, 9)).astype(np.int32)
        )
        zero = 0 if dtype == np.int32 else zero_point(rng, dtype)
        scale = rng.uniform(0.001, 1, 7).astype(F) if axis else F(rng.uniform(0.001, 1))
        net = Net()
        net.y(net.dq(net.x(x), scale, zero, dtype, **({"axis": 1} if axis else {})))
        wide = scale.reshape(1, 7, 1, 1) if axis else scale
        expect = (x.astype(np.int64) - zero).astype(F) * wide
        suite.add(
            "dequantize",
            f"{name(dtype)}{', per axis' if axis else ''}, zero point {zero}",
            net,
            [13, 17, 19, 21, 22][index % 5] if axis else OPSETS[index % 8],
            expect=[expect],
        )


def build(suite):
    binary(suite, "Add", rules.add, "add", 36, 11)
    binary(suite, "Mul", rules.mul, "mul", 30, 12)
    global_average_pool(suite)
    average_pool(suite)
    max_pool(suite)
    unary(suite)
    concat(suite)
    softmax(suite)
    quantisation(suite)
