"""The integer rules of every INT8 operator in numpy: slow, plain, and compared with ONNX Runtime in each case.

Arithmetic is f32 and each operation rounds on its own; `rint` rounds half to even.
"""

import numpy as np

F = np.float32


def bounds(dtype):
    info = np.iinfo(dtype)
    return F(info.min), F(info.max)


def saturate(value, zero, dtype):
    """rint(value) + zero, clamped to `dtype`; the clamp comes first, so nothing can overflow."""
    low, high = bounds(dtype)
    clamped = np.clip(value.astype(F), low - F(zero), high - F(zero))
    return (np.rint(clamped).astype(np.int32) + np.int32(zero)).astype(dtype)


def quantize(x, scale, zero, dtype):
    return saturate(np.asarray(x, F) / F(scale), zero, dtype)


def dequantize(q, scale, zero):
    return (q.astype(np.int32) - np.int32(zero)).astype(F) * F(scale)


def requantize(acc, in_scale, weight_scale, out_scale, zero, dtype, axis=1):
    """f32(acc) * f32(f32(in * weight) / out), rounded and clamped; a vector weight scale lies along `axis`."""
    scale = np.asarray((F(in_scale) * np.asarray(weight_scale, F)).astype(F) / F(out_scale), F)
    if scale.ndim:
        scale = scale.reshape([-1 if i == axis % acc.ndim else 1 for i in range(acc.ndim)])
    return saturate(acc.astype(np.int32).astype(F) * scale, zero, dtype)


def same_pads(shape, kernel, strides, dilations, upper):
    """ONNX's auto_pad SAME as [begins..., ends...]."""
    begins, ends = [], []
    for size, k, s, d in zip(shape, kernel, strides, dilations):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small = total // 2
        begins.append(small if upper else total - small)
        ends.append(total - small if upper else small)
    return begins + ends


def conv(x, x_zero, w, w_zero, bias, strides, pads, dilations, group):
    """The i32 accumulators of a 2-D convolution; padding counts as the input zero point."""
    n, channels, height, width = x.shape
    out_channels, per_group, kh, kw = w.shape
    xs = np.pad(x.astype(np.int64) - x_zero, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    ws = w.astype(np.int64) - w_zero
    oh = (xs.shape[2] - (kh - 1) * dilations[0] - 1) // strides[0] + 1
    ow = (xs.shape[3] - (kw - 1) * dilations[1] - 1) // strides[1] + 1
    acc = np.zeros((n, out_channels, oh, ow), np.int64)
    each = out_channels // group
    for g in range(group):
        inputs = xs[:, g * per_group : (g + 1) * per_group]
        for i in range(kh):
            for j in range(kw):
                y, z = i * dilations[0], j * dilations[1]
                view = inputs[
                    :, :, y : y + (oh - 1) * strides[0] + 1 : strides[0], z : z + (ow - 1) * strides[1] + 1 : strides[1]
                ]
                acc[:, g * each : (g + 1) * each] += np.einsum(
                    "nchw,oc->nohw", view, ws[g * each : (g + 1) * each, :, i, j]
                )
    if bias is not None:
        acc += bias.reshape(1, -1, 1, 1)
    return acc


def fma(a, b, c):
    """a * b + c rounded once to f32. The product is exact in the 64-bit mantissa of a long double, and so is nearly
    every sum; rounding the rest twice has not been seen to matter."""
    wide = np.longdouble
    return (np.asarray(a).astype(wide) * np.asarray(b).astype(wide) + np.asarray(c).astype(wide)).astype(F)


def one_value_inside(a, b):
    """Whether `a` has a single value along the innermost axis on which `b` has several."""
    rank = max(a.ndim, b.ndim)
    shapes = [(1,) * (rank - t.ndim) + t.shape for t in (a, b)]
    for size_a, size_b in zip(*(s[::-1] for s in shapes)):
        if (size_a, size_b) != (1, 1):
            return size_a == 1
    return False


def add(a, a_scale, a_zero, b, b_scale, b_zero, c_scale, c_zero):
    """QLinearAdd. The operand that holds one value along the inner axis takes the part of b."""
    if one_value_inside(a, b):
        a, a_scale, a_zero, b, b_scale, b_zero = b, b_scale, b_zero, a, a_scale, a_zero
    return ordered_add(a, a_scale, a_zero, b, b_scale, b_zero, c_scale, c_zero)


def ordered_add(a, a_scale, a_zero, b, b_scale, b_zero, c_scale, c_zero):
    """rint(fma(a, ra, fma(b, rb, fix))) with fix = c_zero - fma(ra, a_zero, rb * b_zero)."""
    ra, rb = F(a_scale) / F(c_scale), F(b_scale) / F(c_scale)
    fix = F(c_zero) - fma(ra, F(a_zero), rb * F(b_zero))
    low, high = bounds(a.dtype)
    return np.rint(np.clip(fma(a, ra, fma(b, rb, fix)), low, high)).astype(a.dtype)


def mul(a, a_scale, a_zero, b, b_scale, b_zero, c_scale, c_zero):
    """QLinearMul: the zero point is added in float before rounding."""
    r = F(F(a_scale) * F(b_scale)) / F(c_scale)
    product = (a.astype(np.int32) - a_zero) * (b.astype(np.int32) - b_zero)
    low, high = bounds(a.dtype)
    return np.rint(np.clip(product.astype(F) * r + F(c_zero), low, high)).astype(a.dtype)


def global_average_pool(x, x_scale, x_zero, y_scale, y_zero, axes=(2, 3)):
    """QLinearGlobalAveragePool: f32(sum(x - zero)) * f32(x_scale / (y_scale * n)), rounded, then the zero point."""
    count = np.prod([x.shape[a] for a in axes])
    total = (x.astype(np.int64) - x_zero).sum(axis=axes, keepdims=True)
    scale = F(x_scale) / (F(y_scale) * F(count))
    return saturate(total.astype(F) * scale, y_zero, x.dtype)


def windows(shape, kernel, strides, pads, dilations=(1, 1), ceil=False):
    """Yields (output position, rows, columns) with only the taps that lie inside the picture."""
    sizes = []
    for i in range(2):
        span = shape[i] + pads[i] + pads[i + 2] - (kernel[i] - 1) * dilations[i] - 1
        count = (-(-span // strides[i]) if ceil else span // strides[i]) + 1
        if ceil and (count - 1) * strides[i] >= shape[i] + pads[i]:
            count -= 1  # a window must start inside the picture or its leading pad
        sizes.append(count)
    for oy in range(sizes[0]):
        rows = [oy * strides[0] - pads[0] + k * dilations[0] for k in range(kernel[0])]
        for ox in range(sizes[1]):
            columns = [ox * strides[1] - pads[1] + k * dilations[1] for k in range(kernel[1])]
            yield (oy, ox), [r for r in rows if 0 <= r < shape[0]], [c for c in columns if 0 <= c < shape[1]], sizes


def max_pool(x, kernel, strides, pads, dilations, ceil):
    out = None
    for (oy, ox), rows, columns, sizes in windows(x.shape[2:], kernel, strides, pads, dilations, ceil):
        if out is None:
            out = np.zeros((*x.shape[:2], *sizes), x.dtype)
        out[:, :, oy, ox] = x[:, :, rows][:, :, :, columns].max(axis=(2, 3))
    return out


def average_pool(x, x_scale, x_zero, y_scale, y_zero, kernel, strides, pads, include_pad, ceil):
    """QLinearAveragePool: dequantise, f32 sum in window order, divide by the count, round(y / scale + zero)."""
    values = dequantize(x, x_scale, x_zero)
    out, low_high = None, bounds(x.dtype)
    for (oy, ox), rows, columns, sizes in windows(x.shape[2:], kernel, strides, pads, ceil=ceil):
        if out is None:
            out = np.zeros((*x.shape[:2], *sizes), x.dtype)
        total = np.zeros(x.shape[:2], F)
        for r in rows:
            for c in columns:
                total = total + values[:, :, r, c]
        count = kernel[0] * kernel[1] if include_pad else len(rows) * len(columns)
        mean = total / F(count)
        out[:, :, oy, ox] = np.clip(np.rint(mean / F(y_scale) + F(y_zero)), *low_high).astype(x.dtype)
    return out


def table(function, x_scale, x_zero, y_scale, y_zero, dtype):
    """The 256 outputs of a unary f32 function between dequantise and quantise, in the order of the u8 bit pattern."""
    values = np.arange(256, dtype=np.uint8).view(dtype)
    return quantize(function(dequantize(values, x_scale, x_zero)), y_scale, y_zero, dtype)


def through(lut, q):
    """The outputs of table `lut` for the tensor q."""
    return lut[q.view(np.uint8)]
