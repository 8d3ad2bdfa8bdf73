"""QOperator cases of multiply-accumulate operators: convolutions, matrix products."""

import numpy as np

from . import draw, rules
from .cases import Net, scalar
from .draw import whole, zero_point

DTYPES = {"u8s8": (np.uint8, np.int8), "s8s8": (np.int8, np.int8), "u8u8": (np.uint8, np.uint8)}
CHANNELS = [1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 20, 24, 31, 33]
OPSETS = [10, 11, 13, 14, 17, 19, 21, 22]
TENSOR_LIMIT = 3000  # elements; keeps a case near 4 KB


def scales(rng, taps, count, per_channel):
    """(input scale, weight scale, output scale, what): outputs that spread, tie on every half step, or saturate."""
    what = ["spread", "spread", "ties", "saturating", "tiny"][rng.integers(5)]
    shape = (count,) if per_channel else ()
    if what == "ties":
        return (
            np.float32(0.5),
            np.ldexp(np.float32(0.25), rng.integers(-1, 1, shape)).astype(np.float32),
            np.float32(4),
            what,
        )
    x_scale = np.float32(rng.uniform(0.005, 0.05))
    w_scale = np.asarray(rng.uniform(0.002, 0.02, shape), np.float32)
    tiny = x_scale * w_scale.mean() * np.sqrt(taps) * 73 * 73 * 3  # a few steps hold all outputs
    return x_scale, w_scale, np.float32(tiny), what


def settle(t, acc, axis=1):
    """Chooses the output quantisation from the accumulators: few outputs of "spread" and "ties" cases saturate, many
    of "saturating" ones do. "tiny" keeps its large scale and any zero point."""
    w_scale = np.asarray(t["ws"], np.float32)
    if w_scale.ndim:
        w_scale = w_scale.reshape([-1 if i == axis % acc.ndim else 1 for i in range(acc.ndim)])
    real = acc * (np.float32(t["xs"]) * w_scale).astype(np.float64)
    if t["what"] in ("spread", "saturating"):
        scale, t["yz"] = draw.fit(real, t["x"].dtype)
        t["ys"] = scale if t["what"] == "spread" else np.float32(scale * 0.3)
    elif t["what"] == "ties":
        t["yz"] = draw.centre(real, t["ys"], t["x"].dtype)


def make_ties(rng, x, x_zero, w, bias):
    """Changes tensors in place so that every accumulator is a multiple of 16 and small: times the 2^-5 of the
    "ties" scales, half of them lie exactly between two integers. The weight zero point must be 0."""
    info = np.iinfo(x.dtype)
    x[...] = np.clip(x_zero + rng.integers(-8, 9, x.shape), info.min, info.max)
    w[...] = w // 16 * 16
    if bias is not None:
        bias[...] = rng.integers(-64, 65, bias.shape) * 16


def draw_conv(rng, index):
    """A random convolution that fits the size limit: a dict of arrays and attributes."""
    while True:
        name = list(DTYPES)[index % 3]
        kind = ["plain", "plain", "group", "depthwise", "multiplier"][rng.integers(5)]
        kernel = [(1, 1), (3, 3), (3, 3), (5, 5), (1, 3), (3, 1), (2, 2), (4, 3), (7, 7)][rng.integers(9)]
        cin, cout = int(rng.choice(CHANNELS)), int(rng.choice(CHANNELS))
        group = 1
        if kind == "group":
            group = int(rng.choice([2, 3, 4]))
            cin, cout = cin * group, cout * group
        elif kind != "plain":
            group, cout = cin, cin * (1 if kind == "depthwise" else 2)
        size = [int(v) for v in rng.integers(3, 12, 2)]
        batch = int(rng.choice([1, 1, 2, 3]))
        strides = [(1, 1), (1, 1), (2, 2), (1, 2), (3, 2)][rng.integers(5)]
        dilations = [(1, 1), (1, 1), (1, 1), (2, 2), (1, 2), (3, 1)][rng.integers(6)]
        reach = [(k - 1) * d for k, d in zip(kernel, dilations)]
        mode = ["none", "same", "asymmetric", "wide", "SAME_UPPER", "SAME_LOWER", "VALID"][rng.integers(7)]
        if mode == "same":
            pads = [r // 2 for r in reach] + [r - r // 2 for r in reach]
        elif mode == "asymmetric":
            pads = [int(rng.integers(0, r + 1)) for r in reach + reach]
        elif mode == "wide":
            pads = [r + 1 for r in reach + reach]
        elif mode.startswith("SAME"):
            # ONNX Runtime's QLinearConv has no SAME with dilation.
            if dilations != (1, 1):
                continue
            pads = rules.same_pads(size, kernel, strides, dilations, mode == "SAME_UPPER")
        else:
            pads = [0] * 4
        out = [(size[i] + pads[i] + pads[i + 2] - reach[i] - 1) // strides[i] + 1 for i in range(2)]
        weights = cout * cin // group * kernel[0] * kernel[1]
        if min(out) < 1 or max(weights, batch * cin * size[0] * size[1], batch * cout * out[0] * out[1]) > TENSOR_LIMIT:
            continue
        return {
            "name": name,
            "kind": kind,
            "kernel": kernel,
            "group": group,
            "strides": strides,
            "dilations": dilations,
            "mode": mode,
            "pads": pads,
            "x": (batch, cin, *size),
            "w": (cout, cin // group, *kernel),
        }


def conv_attributes(c):
    attributes = {"strides": c["strides"], "dilations": c["dilations"], "group": c["group"]}
    if c["mode"] in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        return attributes | {"auto_pad": c["mode"]}
    return attributes | {"pads": c["pads"]}


def describe(c, per_channel, what, extra=""):
    shape = "x".join(map(str, c["x"]))
    return (
        f"{c['name']} {'per-channel' if per_channel else 'per-tensor'} {shape} -> {c['w'][0]}, kernel "
        f"{c['kernel'][0]}x{c['kernel'][1]}, stride {c['strides'][0]}x{c['strides'][1]}, dilation "
        f"{c['dilations'][0]}x{c['dilations'][1]}, group {c['group']}, pad {c['mode']} {c['pads']}, {what}{extra}"
    )


def fill_conv(rng, c):
    """Tensors and quantisation for a drawn convolution."""
    x_type, w_type = DTYPES[c["name"]]
    x, w = whole(rng, c["x"], x_type), whole(rng, c["w"], w_type)
    per_channel = bool(rng.integers(2))
    taps = int(np.prod(c["w"][1:]))
    xs, ws, ys, what = scales(rng, taps, c["w"][0], per_channel)
    wz = 0 if w_type == np.int8 and rng.integers(2) else zero_point(rng, w_type)
    bias = None
    if rng.integers(4):
        bias = rng.integers(-(2**12) * taps, 2**12 * taps + 1, c["w"][0]).astype(np.int32)
    xz = zero_point(rng, x_type)
    if what == "ties":
        wz = 0
        make_ties(rng, x, xz, w, bias)
    t = {
        "x": x,
        "w": w,
        "xs": xs,
        "xz": xz,
        "ws": ws,
        "wz": wz,
        "ys": ys,
        "yz": zero_point(rng, x_type),
        "bias": bias,
        "per_channel": per_channel,
        "what": what,
    }
    settle(t, conv_accumulators(c, t))
    return t


def conv_accumulators(c, t):
    return rules.conv(t["x"], t["xz"], t["w"], t["wz"], t["bias"], c["strides"], c["pads"], c["dilations"], c["group"])


def add_conv(suite, c, t, opset, extra="", dims=None):
    net = Net()
    x_type, w_type = t["x"].dtype, t["w"].dtype
    inputs = [
        net.x(t["x"]),
        *net.quant(t["xs"], t["xz"], x_type),
        net.const(t["w"], "w"),
        *net.quant(np.asarray(t["ws"], np.float32), t["wz"], w_type),
        *net.quant(t["ys"], t["yz"], x_type),
    ]
    if t["bias"] is not None:
        inputs.append(net.const(t["bias"], "b"))
    net.y(net.op("QLinearConv", inputs, kernel_shape=c["kernel"], **conv_attributes(c)))
    expect = rules.requantize(conv_accumulators(c, t), t["xs"], t["ws"], t["ys"], t["yz"], x_type)
    about = describe(c, t["per_channel"], t["what"], extra)
    suite.add("conv", about, net, opset, expect=[expect], dims=dims)


def qlinear_conv(suite):
    rng = np.random.default_rng(1)
    for index in range(120):
        c = draw_conv(rng, index)
        add_conv(suite, c, fill_conv(rng, c), OPSETS[index % len(OPSETS)])
    for index in range(12):  # accumulators beyond 2^24, which f32 rounds, and products beyond i32
        c = draw_conv(rng, index)
        t = fill_conv(rng, c)
        t["bias"] = rng.integers(-(2**30), 2**30, c["w"][0]).astype(np.int32)
        t["ys"] = np.float32(t["xs"] * np.mean(t["ws"]) * (2**24 if index % 2 else 2**-8))
        add_conv(suite, c, t, 17, ", bias up to 2^30" + ("" if index % 2 else ", product beyond i32"))
    for index in range(6):
        c = draw_conv(rng, index)
        add_conv(suite, c, fill_conv(rng, c), 17, ", symbolic batch", dims="N")


def conv_integer(suite):
    rng = np.random.default_rng(2)
    for index in range(16):
        c = draw_conv(rng, 0 if index % 2 else 2)
        t = fill_conv(rng, c)
        net = Net()
        inputs = [net.x(t["x"]), net.const(t["w"], "w")]
        zeros = index % 4 != 3
        if zeros:
            inputs += [net.const(scalar(t["xz"], t["x"].dtype)), net.const(scalar(t["wz"], t["w"].dtype))]
        net.y(net.op("ConvInteger", inputs, kernel_shape=c["kernel"], **conv_attributes(c)))
        t |= {"bias": None} | ({} if zeros else {"xz": 0, "wz": 0})
        about = describe(c, False, "i32 output" + ("" if zeros else ", no zero points"))
        suite.add("conv-integer", about, net, OPSETS[index % 8], expect=[conv_accumulators(c, t).astype(np.int32)])


MATRICES = [
    ((5, 7), (7, 3)),
    ((1, 33), (33, 17)),
    ((16, 16), (16, 16)),
    ((1, 128), (128, 10)),
    ((3, 4, 5), (5, 6)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 2, 3, 8), (2, 2, 8, 5)),
    ((2, 1, 3, 8), (1, 3, 8, 5)),
    ((17, 31), (31, 33)),
    ((1, 1), (1, 1)),
    ((7, 64), (64, 24)),
    ((9, 2), (2, 40)),
]


def fill_matmul(rng, shapes, name, per_column, bias=None):
    """Tensors and quantisation of a matrix product; `bias` is added to its accumulators."""
    a_type, b_type = DTYPES[name]
    a, b = whole(rng, shapes[0], a_type), whole(rng, shapes[1], b_type)
    sa, sb, sy, what = scales(rng, shapes[0][-1], shapes[1][-1], per_column)
    za, zb = zero_point(rng, a_type), zero_point(rng, b_type)
    if what == "ties":
        zb = 0
        make_ties(rng, a, za, b, None)
    t = {"x": a, "xs": sa, "ws": sb, "ys": sy, "yz": zero_point(rng, a_type), "what": what}
    settle(t, np.matmul(a.astype(np.int64) - za, b.astype(np.int64) - zb) + (0 if bias is None else bias), -1)
    return a, b, sa, sb, t["ys"], za, zb, t["yz"], what


def qlinear_matmul(suite):
    rng = np.random.default_rng(3)
    for index in range(36):
        name, shapes = list(DTYPES)[index % 3], MATRICES[index % len(MATRICES)]
        per_column = len(shapes[1]) == 2 and bool(rng.integers(2))
        a, b, sa, sb, sy, za, zb, zy, what = fill_matmul(rng, shapes, name, per_column)
        net = Net()
        net.y(
            net.op(
                "QLinearMatMul",
                [
                    net.x(a),
                    *net.quant(sa, za, a.dtype),
                    net.const(b, "b"),
                    *net.quant(np.asarray(sb, np.float32), zb, b.dtype),
                    *net.quant(sy, zy, a.dtype),
                ],
            )
        )
        acc = np.matmul(a.astype(np.int64) - za, b.astype(np.int64) - zb)
        about = f"{name} {shapes[0]} x {shapes[1]}{' per-column' if per_column else ''}, {what}"
        suite.add("matmul", about, net, OPSETS[index % 8], expect=[rules.requantize(acc, sa, sb, sy, zy, a.dtype, -1)])


def matmul_integer(suite):
    rng = np.random.default_rng(4)
    for index in range(8):
        name, shapes = ["u8s8", "u8u8"][index % 2], MATRICES[index]
        a, b, _, _, _, za, zb, _, _ = fill_matmul(rng, shapes, name, False)
        net = Net()
        zeros = [net.const(scalar(za, a.dtype)), net.const(scalar(zb, b.dtype))] if index < 6 else []
        za, zb = (za, zb) if index < 6 else (0, 0)
        net.y(net.op("MatMulInteger", [net.x(a), net.const(b, "b"), *zeros]))
        acc = np.matmul(a.astype(np.int64) - za, b.astype(np.int64) - zb).astype(np.int32)
        suite.add(
            "matmul-integer",
            f"{name} {shapes[0]} x {shapes[1]}, {len(zeros)} zero points",
            net,
            OPSETS[index],
            expect=[acc],
        )


def qgemm(suite):
    rng = np.random.default_rng(5)
    for index in range(30):
        name = list(DTYPES)[index % 3]
        m, k, n = int(rng.integers(1, 6)), int(rng.choice([1, 7, 16, 33, 64])), int(rng.choice([1, 3, 10, 16, 17, 40]))
        per_column = bool(rng.integers(2))
        bias = (rng.integers(-256, 257, n) * 16).astype(np.int32) if index % 4 else None
        a, b, sa, sb, sy, za, zb, zy, what = fill_matmul(rng, ((m, k), (k, n)), name, per_column, bias)
        trans_a, trans_b = int(index % 5 == 4), int(rng.integers(2))
        alpha = [1.0, 1.0, 1.0, 0.5][index % 4]
        floating = index % 6 == 5
        net = Net()
        inputs = [
            net.x(a.T if trans_a else a),
            *net.quant(sa, za, a.dtype),
            net.const(b.T if trans_b else b, "b"),
            *net.quant(np.asarray(sb, np.float32), zb, b.dtype),
            net.const(bias, "c") if bias is not None else "",
        ]
        if not floating:
            inputs += net.quant(sy, zy, a.dtype)
        net.y(net.ms("QGemm", inputs, transA=trans_a, transB=trans_b, alpha=alpha))
        acc = np.matmul(a.astype(np.int64) - za, b.astype(np.int64) - zb) + (0 if bias is None else bias)
        scale = np.float32(alpha) * np.float32(sa)
        if floating:
            expect = acc.astype(np.int32).astype(np.float32) * (scale * np.asarray(sb, np.float32))
        else:
            expect = rules.requantize(acc, scale, sb, sy, zy, a.dtype, -1)
        about = (
            f"{name} {m}x{k}x{n}{' per-column' if per_column else ''}, transA {trans_a}, transB {trans_b}, alpha {alpha}, "
            f"{'bias' if bias is not None else 'no bias'}, {'float output' if floating else what}"
        )
        suite.add("gemm", about, net, OPSETS[index % 8], expect=[expect])


def build(suite):
    qlinear_conv(suite)
    conv_integer(suite)
    qlinear_matmul(suite)
    matmul_integer(suite)
    qgemm(suite)
