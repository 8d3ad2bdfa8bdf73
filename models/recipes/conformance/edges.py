"""Cases at the edge of rounding: inputs for which a rule that looks right gives another result.

Each case searches scales and values until the plausible alternatives part from the rule, and holds those values.
"""

import numpy as np

from . import draw, functions, rules
from .cases import Net
from .draw import INT8, F

MAXIMUM = 64  # elements of one case


def saturated(value, dtype):
    low, high = rules.bounds(dtype)
    return np.rint(np.clip(value, low, high)).astype(dtype)


def every_pair(dtype):
    values = np.arange(256, dtype=np.uint8).view(dtype)
    return np.repeat(values, 256), np.tile(values, 256)


def separate_add(a, sa, za, b, sb, zb, sc, zc):
    """QLinearAdd with each product rounded before it is added."""
    ra, rb = sa / sc, sb / sc
    fix = F(zc) - (ra * F(za) + rb * F(zb))
    return saturated((fix + a.astype(F) * ra) + b.astype(F) * rb, a.dtype)


def float_add(a, sa, za, b, sb, zb, sc, zc):
    """Dequantise, add, quantise."""
    return rules.quantize(rules.dequantize(a, sa, za) + rules.dequantize(b, sb, zb), sc, zc, a.dtype)


def late_zero_mul(a, sa, za, b, sb, zb, sc, zc):
    """QLinearMul with the zero point added after rounding."""
    product = (a.astype(np.int32) - za) * (b.astype(np.int32) - zb)
    return rules.saturate(product.astype(F) * (F(sa * sb) / sc), zc, a.dtype)


def fused_mul(a, sa, za, b, sb, zb, sc, zc):
    """QLinearMul with a fused multiply-add."""
    product = (a.astype(np.int32) - za) * (b.astype(np.int32) - zb)
    return saturated(rules.fma(product, F(sa * sb) / sc, F(zc)), a.dtype)


def binary(suite, kind, rule, alternatives, count, seed):
    rng = np.random.default_rng(seed)
    for index in range(count):
        dtype, alternative = INT8[index % 2], alternatives[index // 2 % len(alternatives)]
        a, b = every_pair(dtype)
        info = np.iinfo(dtype)
        differ = np.zeros(0, int)
        while not len(differ):
            sa, sb = (F(v) for v in rng.uniform(0.005, 0.1, 2))
            za, zb, zc = (int(v) for v in rng.integers(info.min, info.max + 1, 3))
            sc = F((sa + sb) * rng.uniform(0.6, 1.4)) if kind == "Add" else F(sa * sb * rng.uniform(20, 200))
            right = rule(a, sa, za, b, sb, zb, sc, zc)
            differ = np.flatnonzero(right != alternative(a, sa, za, b, sb, zb, sc, zc))[:MAXIMUM]
        chosen = np.concatenate([differ, rng.integers(0, len(a), MAXIMUM - len(differ))])
        net = Net()
        first = [net.x(a[chosen]), *net.quant(sa, za, dtype)]
        net.y(
            net.ms("QLinear" + kind, first + [net.x(b[chosen]), *net.quant(sb, zb, dtype), *net.quant(sc, zc, dtype)])
        )
        about = f"{np.dtype(dtype)} QLinear{kind}: {len(differ)} of {MAXIMUM} differ from `{alternative.__name__}`"
        suite.add("edge", about, net, 13, expect=[right[chosen]])


def add_to_one_value(suite):
    """Where the first operand is a single value, the two operands change places in QLinearAdd."""
    rng = np.random.default_rng(57)
    for index in range(4):
        dtype = INT8[index % 2]
        info = np.iinfo(dtype)
        b = np.arange(256, dtype=np.uint8).view(dtype)
        differ = 0
        while not differ:
            a = np.array([rng.integers(info.min, info.max + 1)], dtype)
            sa, sb = (F(v) for v in rng.uniform(0.005, 0.1, 2))
            za, zb, zc = (int(v) for v in rng.integers(info.min, info.max + 1, 3))
            sc = F((sa + sb) * rng.uniform(0.6, 1.4))
            right = rules.add(a, sa, za, b, sb, zb, sc, zc)
            differ = (right != rules.ordered_add(a, sa, za, b, sb, zb, sc, zc)).sum()
        net = Net()
        first = [net.x(a), *net.quant(sa, za, dtype)]
        net.y(net.ms("QLinearAdd", first + [net.x(b), *net.quant(sb, zb, dtype), *net.quant(sc, zc, dtype)]))
        about = f"{np.dtype(dtype)} QLinearAdd, one value + 256: {differ} differ from the other order of operands"
        suite.add("edge", about, net, 13, expect=[right])


def global_average_pool(suite):
    """The zero point is added after rounding: adding it in float before moves some sums across a half step."""
    rng = np.random.default_rng(53)
    for index in range(6):
        dtype, count = INT8[index % 2], 49
        info = np.iinfo(dtype)
        sums = np.arange(-100 * count, 100 * count + 1)
        differ = np.zeros(0, int)
        while not len(differ):
            sx, sy = F(rng.uniform(0.01, 0.1)), F(rng.uniform(0.01, 0.1))
            zero = int(rng.integers(info.min, info.max + 1))
            value = sums.astype(F) * (sx / (sy * F(count)))
            early = saturated(value + F(zero), dtype)
            differ = np.flatnonzero(rules.saturate(value, zero, dtype) != early)[:16]
        zx = 128 if dtype == np.uint8 else 0
        share, rest = np.divmod(sums[differ], count)
        x = zx + share[:, None] + (np.arange(count) < rest[:, None])
        x = x.reshape(1, len(differ), 7, 7).astype(dtype)
        net = Net()
        net.y(net.ms("QLinearGlobalAveragePool", [net.x(x), *net.quant(sx, zx, dtype), *net.quant(sy, zero, dtype)]))
        about = (
            f"{np.dtype(dtype)} QLinearGlobalAveragePool: {len(differ)} sums that an early zero point rounds elsewhere"
        )
        suite.add("edge", about, net, 13, expect=[rules.global_average_pool(x, sx, zx, sy, zero)])


def requantisation(suite):
    """The scale is f32(f32(x * w) / y): other orders of the same factors round some accumulators elsewhere. Each
    output channel's accumulator is its bias, since the input equals its zero point."""
    rng = np.random.default_rng(54)
    alternatives = {
        "x * (w / y)": lambda x, w, y: x * F(w / y),
        "(x / y) * w": lambda x, w, y: F(x / y) * w,
        "one rounding": lambda x, w, y: F(np.float64(x) * w / y),
    }
    for index in range(12):
        dtype = INT8[index % 2]
        label, order = list(alternatives.items())[index // 2 % 3]
        differ = np.zeros(0, int)
        while not len(differ):
            sx, sw, sy = (F(v) for v in rng.uniform(0.001, 0.1, 3))
            zero = 128 if dtype == np.uint8 else 0
            reach = min(int(127 * sy / (sx * sw)), 2**24)
            acc = rng.integers(-reach, reach + 1, 200_000)
            right = rules.requantize(acc, sx, sw, sy, zero, dtype)
            other = rules.saturate(acc.astype(F) * order(sx, sw, sy), zero, dtype)
            differ = np.flatnonzero(right != other)[:MAXIMUM]
        bias = acc[differ].astype(np.int32)
        net = Net()
        x, w = np.full((1, 1, 1, 1), zero, dtype), np.ones((len(bias), 1, 1, 1), np.int8)
        inputs = [net.x(x), *net.quant(sx, zero, dtype), net.const(w, "w"), *net.quant(sw, 0, np.int8)]
        net.y(net.op("QLinearConv", [*inputs, *net.quant(sy, zero, dtype), net.const(bias, "b")]))
        about = f"{np.dtype(dtype)} QLinearConv: {len(bias)} accumulators that the scale `{label}` rounds elsewhere"
        suite.add("edge", about, net, 13, expect=[right[differ].reshape(1, -1, 1, 1)])


def reciprocal(suite):
    """QuantizeLinear divides; multiplying by 1 / scale rounds some values elsewhere."""
    rng = np.random.default_rng(55)
    for index in range(4):
        dtype = INT8[index % 2]
        scale, zero = F(rng.uniform(0.01, 0.1)), draw.zero_point(rng, dtype)
        x = (rng.integers(-300, 300, 100_000) + F(0.5)).astype(F) * scale
        right = rules.quantize(x, scale, zero, dtype)
        differ = np.flatnonzero(right != rules.saturate(x * (F(1) / scale), zero, dtype))[:MAXIMUM]
        net = Net()
        net.y(net.q(net.x(x[differ]), scale, zero, dtype))
        about = (
            f"{np.dtype(dtype)} QuantizeLinear: {len(differ)} values that the reciprocal of the scale rounds elsewhere"
        )
        suite.add("edge", about, net, 13, expect=[right[differ]])


def sigmoid(suite):
    """A correctly rounded logistic function gives another table entry now and then."""
    rng = np.random.default_rng(56)
    for index in range(4):
        dtype = INT8[index % 2]
        sy, zy = F(1 / 256), int(np.iinfo(dtype).min)
        values = np.arange(256, dtype=np.uint8).view(dtype)
        same = True
        while same:
            sx, zx = F(rng.uniform(0.005, 0.1)), draw.zero_point(rng, dtype)
            exact = 1 / (1 + np.exp(-rules.dequantize(values, sx, zx).astype(np.float64)))
            right = rules.table(functions.sigmoid, sx, zx, sy, zy, dtype)
            same = (right == rules.quantize(exact.astype(F), sy, zy, dtype)).all()
        net = Net()
        net.y(net.ms("QLinearSigmoid", [net.x(values), *net.quant(sx, zx, dtype), *net.quant(sy, zy, dtype)]))
        about = f"{np.dtype(dtype)} QLinearSigmoid: an entry that a correctly rounded sigmoid moves by one step"
        suite.add("edge", about, net, 13, expect=[right])


def build(suite):
    binary(suite, "Add", rules.add, [separate_add, float_add], 12, 51)
    binary(suite, "Mul", rules.mul, [late_zero_mul, fused_mul], 8, 52)
    for family in (add_to_one_value, global_average_pool, requantisation, reciprocal, sigmoid):
        family(suite)
