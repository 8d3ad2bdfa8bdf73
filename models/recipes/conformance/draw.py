"""Draws tensors and quantisation parameters."""

import numpy as np

F = np.float32
INT8 = [np.uint8, np.int8]


def whole(rng, shape, dtype):
    """Uniform over the whole range of `dtype`."""
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape, dtype)


def by_channel(rng, shape, dtype, axis=1):
    """Values around a centre of each channel's own, so that the channels' means spread over the whole range."""
    info = np.iinfo(dtype)
    count = [n if i in (0, axis) else 1 for i, n in enumerate(shape)]
    values = rng.uniform(info.min, info.max, count) + rng.normal(0, 40, shape)
    return np.clip(np.rint(values), info.min, info.max).astype(dtype)


def every_value(rng, dtype):
    """A tensor in which each of the 256 values occurs."""
    x = whole(rng, (1, 3, 16, 16), dtype)
    x.ravel()[:256] = np.arange(256, dtype=np.uint8).view(dtype)
    return x


def zero_point(rng, dtype):
    """The middle, an end or anything."""
    info = np.iinfo(dtype)
    middle = 128 if dtype == np.uint8 else 0
    return int(rng.choice([middle, info.min, info.max, rng.integers(info.min, info.max + 1)]))


def fit(values, dtype):
    """A scale and zero point that hold `values` and 0, as a quantiser would choose them."""
    info = np.iinfo(dtype)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    scale = F(max(high - low, 1e-3) / 255)
    return scale, int(np.clip(round(info.min - low / float(scale)), info.min, info.max))


def centre(values, scale, dtype):
    """The zero point that puts the median of `values` in the middle of the range at `scale`."""
    info = np.iinfo(dtype)
    return int(np.clip(round((info.min + info.max) / 2 - float(np.median(values)) / float(scale)), info.min, info.max))


def real(q, scale, zero):
    """What quantised values stand for, in f64."""
    return (q.astype(np.float64) - zero) * float(scale)


def pair(rng, dtype, kind, shapes):
    """Two tensors for Add, Sub or Mul, each with scale and zero point, then those of the result, then what is special."""
    what = ["spread", "ties", "saturating", "tiny", "unlike"][rng.integers(5)]
    a, b = (np.asarray(whole(rng, s, dtype)) for s in shapes)
    za, zb = zero_point(rng, dtype), zero_point(rng, dtype)
    sa, sb = (F(0.25), F(0.5)) if what == "ties" else (F(rng.uniform(0.01, 0.1)), F(rng.uniform(0.01, 0.1)))
    if what == "unlike":
        sb = F(sb * 37)
    result = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}[kind](real(a, sa, za), real(b, sb, zb))
    sc, zc = fit(result, dtype)
    if what == "ties":  # sums are multiples of 1/4 and steps 1/2; products are multiples of 1/8 and steps 16
        sc = F(16) if kind == "Mul" else F(0.5)
        zc = centre(result, sc, dtype)
    elif what == "saturating":
        sc = F(sc * 0.3)
    elif what == "tiny":
        sc, zc = F(sc * 60), zero_point(rng, dtype)
    return (a, sa, za), (b, sb, zb), (sc, zc), what
