"""QOperator-graph cases of operators that move or select int8 values: resize, pad, slice, split and their like."""

import numpy as np

from .arith import OPSETS
from .cases import Net, scalar
from .draw import INT8, whole
from .elementwise import name

F = np.float32
COORDINATES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
ROUNDINGS = ["round_prefer_floor", "floor", "ceil", "round_prefer_ceil"]


def source(out, size, scale, mode):
    """The input coordinate (f32) of each of `out` positions along one axis."""
    at = np.arange(out, dtype=F)
    if mode == "asymmetric":
        return at / F(scale)
    if mode == "align_corners":
        return at * F(size - 1) / F(out - 1) if out > 1 else at * 0
    if mode == "pytorch_half_pixel" and out <= 1:
        return at * 0
    return (at + F(0.5)) / F(scale) - F(0.5)


def nearest(x, outs, scales, mode, rounding):
    for axis, (out, scale) in enumerate(zip(outs, scales)):
        at = source(out, x.shape[axis], scale, mode)
        index = {
            "round_prefer_floor": np.ceil(at - F(0.5)),
            "floor": np.floor(at),
            "ceil": np.ceil(at),
            "round_prefer_ceil": np.floor(at + F(0.5)),
            "down ceil, up floor": np.ceil(at) if scale < 1 else np.floor(at),
        }[rounding]
        if out == x.shape[axis]:
            index = np.arange(out)
        x = np.take(x, np.clip(index, 0, x.shape[axis] - 1).astype(int), axis)
    return x


def linear(x, outs, scales, mode):
    """Bilinear over the last two axes in f32. On int8 values it is cut off toward zero, not rounded."""
    weights = []
    for axis in (2, 3):
        size = x.shape[axis]
        at = np.clip(source(outs[axis], size, scales[axis], mode), 0, F(size - 1)).astype(F)
        low = np.minimum(at.astype(int), size - 1)
        high = np.minimum(low + 1, size - 1)
        to_low, to_high = np.abs(at - low.astype(F)), np.abs(at - high.astype(F))
        to_low[low == high] = to_high[low == high] = F(0.5)
        weights.append((low, high, to_low, to_high))
    (y1, y2, dy1, dy2), (x1, x2, dx1, dx2) = weights
    dy1, dy2 = dy1[:, None], dy2[:, None]
    v = x.astype(F)
    corner = [v[:, :, a][..., b] for a, b in ((y1, x1), (y1, x2), (y2, x1), (y2, x2))]
    value = ((dx2 * dy2 * corner[0] + dx1 * dy2 * corner[1]) + dx2 * dy1 * corner[2]) + dx1 * dy1 * corner[3]
    return value if x.dtype == F else np.trunc(value).astype(x.dtype)


def resize(suite):
    rng = np.random.default_rng(21)
    factors = [(2, 2), (1.5, 2), (0.5, 0.5), (3, 1), (2.5, 0.75), (4, 4)]
    for index in range(40):
        dtype = INT8[index % 2]
        bilinear = index % 5 >= 3
        mode, rounding = COORDINATES[index % 4], ROUNDINGS[index // 4 % 4]
        x = whole(
            rng,
            (int(rng.choice([1, 2])), int(rng.choice([1, 3, 17])), int(rng.integers(2, 8)), int(rng.integers(2, 8))),
            dtype,
        )
        scale = np.array([1, 1, *factors[index % 6]], F)
        outs = [int(np.floor(F(s) * F(d))) for s, d in zip(scale, x.shape)]
        if min(outs) < 1:
            outs, scale = list(x.shape), np.ones(4, F)
        net = Net()
        old = index % 10 == 0
        if old:  # opset 10 has neither coordinate modes nor rounding modes
            mode, rounding = "asymmetric", "down ceil, up floor"
            net.y(net.op("Resize", [net.x(x), net.const(scale)], mode="nearest"))
        else:
            by_size = index % 3 == 2
            if by_size:
                scale = np.array([o / d for o, d in zip(outs, x.shape)], F)
            inputs = [net.x(x), net.const(np.zeros(0, F)), net.const(np.zeros(0, F)) if by_size else net.const(scale)]
            attributes = {"mode": "linear" if bilinear else "nearest", "coordinate_transformation_mode": mode}
            net.y(
                net.op(
                    "Resize",
                    inputs + ([net.const(np.array(outs))] if by_size else []),
                    **attributes | ({} if bilinear else {"nearest_mode": rounding}),
                )
            )
        how = "linear" if bilinear and not old else "nearest " + rounding
        expect = linear(x, outs, scale, mode) if bilinear and not old else nearest(x, outs, scale, mode, rounding)
        suite.add(
            "resize",
            f"{name(dtype)} {x.shape} -> {tuple(outs)}, {how}, {mode}",
            net,
            10 if old else [11, 13, 18, 19, 22][index % 5],
            expect=[expect],
        )


def pad(suite):
    rng = np.random.default_rng(22)
    for index in range(14):
        dtype = INT8[index % 2]
        mode = ["constant", "constant", "constant", "reflect", "edge"][index % 5]
        x = whole(rng, (1, int(rng.choice([3, 17])), 5, 6), dtype)
        pads = rng.integers(0, 4, 8)
        pads[[0, 4]] = 0
        if mode == "reflect":
            pads[[1, 5]] = 0
        elif index % 7 == 6:
            pads[3] = -1
        value = scalar(int(whole(rng, (), dtype)), dtype)
        given = mode == "constant" and index % 3 != 2
        net = Net()
        net.y(net.op("Pad", [net.x(x), net.const(pads)] + ([net.const(value)] if given else []), mode=mode))
        cropped = x[..., max(0, -pads[3]) :]
        widths = [(max(0, int(a)), max(0, int(b))) for a, b in zip(pads[:4], pads[4:])]
        extra = {"constant_values": value if given else 0} if mode == "constant" else {}
        suite.add(
            "pad",
            f"{name(dtype)} {x.shape} {mode} {pads.tolist()}",
            net,
            [13, 18, 21][index % 3],
            expect=[np.pad(cropped, widths, mode=mode, **extra)],
        )


def slice_(suite):
    rng = np.random.default_rng(23)
    forms = [
        ([0, 0], [2, 3], [1, 2], [1, 1]),
        ([1], [9999], [1], [2]),
        ([-1], [-9999], [3], [-1]),
        ([0, 4], [-1, 0], [1, 3], [2, -2]),
        ([-3], [-1], [-1], [1]),
        ([2, 1, 0, 0], [1, 3, 5, 4], [1, 2, 3, 0], [1, 1, 1, 1]),
    ]
    for index in range(12):
        dtype = INT8[index % 2]
        starts, ends, axes, steps = (np.array(v) for v in forms[index % 6])
        x = whole(rng, (2, int(rng.choice([4, 17])), 6, 7), dtype)
        if index % 6 == 5:
            starts[0] = 0
        net = Net()
        net.y(net.op("Slice", [net.x(x), *(net.const(v) for v in (starts, ends, axes, steps))]))
        view = x
        for s, e, a, t in zip(starts, ends, axes, steps):
            full = [slice(None)] * 4
            size = x.shape[a]
            end = None if t < 0 and e < -size else e
            full[a] = slice(int(s), None if end is None else int(end), int(t))
            view = view[tuple(full)]
        suite.add(
            "slice",
            f"{name(dtype)} {x.shape} starts {starts.tolist()} ends {ends.tolist()} axes {axes.tolist()} steps {steps.tolist()}",
            net,
            [10, 11, 13, 17, 22][index % 5],
            expect=[view],
        )


def split(suite):
    rng = np.random.default_rng(24)
    for index in range(8):
        dtype = INT8[index % 2]
        x = whole(rng, (2, 20, 3, 4), dtype)
        sizes, axis = [[7, 13], [4, 4, 12], [10, 10], [1, 2, 1]][index % 4], [1, 1, 1, 3][index % 4]
        net, even = Net(), index % 4 == 2
        if index >= 4:
            net.y(*net.op("Split", [net.x(x)], outputs=len(sizes), axis=axis, **({} if even else {"split": sizes})))
            opset = 11
        else:
            opset = 18 if even else 13
            extra = {"num_outputs": 2} if even else {}
            net.y(
                *net.op(
                    "Split",
                    [net.x(x)] + ([] if even else [net.const(np.array(sizes))]),
                    outputs=len(sizes),
                    axis=axis,
                    **extra,
                )
            )
        suite.add(
            "split",
            f"{name(dtype)} {x.shape} into {sizes} on axis {axis}",
            net,
            opset,
            expect=np.split(x, np.cumsum(sizes)[:-1], axis),
        )


def reshape_family(suite):
    rng = np.random.default_rng(25)
    for index in range(12):
        dtype = INT8[index % 2]
        x = whole(rng, (2, 3, 1, 20), dtype)
        net = Net()
        form = index // 2
        if form == 0:
            net.y(net.op("Reshape", [net.x(x), net.const(np.array([0, -1, 4]))]))
            expect, about, opset = x.reshape(2, 15, 4), "Reshape with 0 and -1", 13
        elif form == 1:
            net.y(net.op("Flatten", [net.x(x)], axis=2))
            expect, about, opset = x.reshape(6, 20), "Flatten at 2", 11
        elif form == 2:
            net.y(net.op("Squeeze", [net.x(x), net.const(np.array([2]))]))
            expect, about, opset = x[:, :, 0], "Squeeze, axes as input", 13
        elif form == 3:
            net.y(net.op("Squeeze", [net.x(x)], axes=[2]))
            expect, about, opset = x[:, :, 0], "Squeeze, axes as attribute", 11
        elif form == 4:
            net.y(net.op("Unsqueeze", [net.x(x), net.const(np.array([0, -1]))]))
            expect, about, opset = x[None, ..., None], "Unsqueeze, axes as input", 17
        else:
            net.y(net.op("Unsqueeze", [net.x(x)], axes=[1]))
            expect, about, opset = x[:, None], "Unsqueeze, axes as attribute", 11
        suite.add("reshape", f"{name(dtype)} {about}", net, opset, expect=[expect])


def transpose(suite):
    rng = np.random.default_rng(26)
    for index, perm in enumerate([(0, 2, 3, 1), (0, 3, 1, 2), (3, 2, 1, 0), (1, 0, 2, 3), (0, 1, 3, 2), (0, 2, 1)]):
        dtype = INT8[index % 2]
        x = whole(rng, (2, 17, 3, 5)[: len(perm)], dtype)
        net = Net()
        net.y(net.op("Transpose", [net.x(x)], perm=perm))
        suite.add("transpose", f"{name(dtype)} {x.shape} {perm}", net, OPSETS[index], expect=[x.transpose(perm)])


def arg_max(suite):
    rng = np.random.default_rng(27)
    for index in range(8):
        dtype = INT8[index % 2]
        axis, keep, last = [1, -1, 2, 0][index // 2], int(index % 4 < 2), int(index % 3 == 2)
        x = rng.integers(0, 9, (2, 17, 5)).astype(dtype)  # many equal maxima
        net = Net()
        net.y(net.op("ArgMax", [net.x(x)], axis=axis, keepdims=keep, select_last_index=last))
        flipped = np.flip(x, axis) if last else x
        index_of = flipped.argmax(axis)
        expect = (x.shape[axis] - 1 - index_of if last else index_of).astype(np.int64)
        suite.add(
            "arg-max",
            f"{name(dtype)} {x.shape} axis {axis}, keepdims {keep}, select_last_index {last}",
            net,
            13,
            expect=[np.expand_dims(expect, axis) if keep else expect],
        )


def concat_and_cast(suite):
    rng = np.random.default_rng(28)
    for index in range(6):
        dtype, axis = INT8[index % 2], [1, 3, -2][index // 2]
        shapes = [[1, 3, 4, 5], [1, 3, 4, 5]]
        shapes[1][axis] = 16
        parts = [whole(rng, s, dtype) for s in shapes]
        net = Net()
        net.y(net.op("Concat", [net.x(p) for p in parts], axis=axis))
        suite.add(
            "concat-plain",
            f"{name(dtype)} {shapes} on axis {axis}",
            net,
            OPSETS[index],
            expect=[np.concatenate(parts, axis)],
        )
    for index, (source_type, code, target) in enumerate(
        [
            (np.uint8, 1, np.float32),
            (np.int8, 1, np.float32),
            (np.uint8, 6, np.int32),
            (np.int8, 6, np.int32),
            (np.int8, 2, np.uint8),
            (np.uint8, 3, np.int8),
        ]
    ):
        x = whole(rng, (2, 17, 5), source_type)
        net = Net()
        net.y(net.op("Cast", [net.x(x)], to=code))
        suite.add("cast", f"{name(source_type)} to {name(target)}", net, OPSETS[index], expect=[x.astype(target)])


def build(suite):
    for family in (resize, pad, slice_, split, reshape_family, transpose, arg_max, concat_and_cast):
        family(suite)
