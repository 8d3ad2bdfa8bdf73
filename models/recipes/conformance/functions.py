"""The float functions behind ONNX Runtime's tables: the formulas it evaluates, with its rounding.

Sigmoid and tanh are rational functions (Eigen's coefficients) evaluated with fused multiply-adds. A correctly
rounded sigmoid is not the same: it differs by up to 2e-7, which now and then moves a table entry by one step.
"""

import numpy as np

from .rules import fma

F = np.float32
LOGISTIC_P = [
    4.37031012579801e-11,
    1.15627324459942e-07,
    6.08574864600143e-05,
    8.51377133304701e-03,
    2.48287947061529e-01,
]
LOGISTIC_Q = [
    6.10247389755681e-13,
    5.76102136993427e-09,
    6.29106785017040e-06,
    1.70198817374094e-03,
    1.16817656904453e-01,
    9.93151921023180e-01,
]
TANH_P = [
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
]
TANH_Q = [1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03]


def _horner(coefficients, square):
    value = np.full(square.shape, coefficients[0], F)
    for c in coefficients[1:]:
        value = fma(value, square, F(c))
    return value


def sigmoid(x):
    x = np.clip(np.asarray(x, F), F(-18), F(18))
    square = x * x
    return np.clip(_horner(LOGISTIC_P, square) * x / _horner(LOGISTIC_Q, square) + F(0.5), F(0), F(1))


def tanh(x):
    x = np.clip(np.asarray(x, F), F(-9), F(9))
    square = x * x
    return _horner(TANH_P, square) * x / _horner(TANH_Q, square)


def leaky_relu(alpha):
    return lambda x: np.where(x >= 0, x, F(alpha) * x)


def softmax(x, x_scale, y_scale, y_zero, axis):
    """QLinearSoftmax over one axis: a table of f32 exponentials that puts the row's largest value at index 255, an
    f32 sum in order, and rint(e * floor(1 / y_scale) / sum) + y_zero. Clamped to the type."""
    rows = np.moveaxis(x.astype(np.int32), axis, -1)
    length = rows.shape[-1]
    shift = max(0.0, float(np.log(F(np.finfo(F).max) / F(length), dtype=np.float64)) - 5) / float(F(x_scale))
    table = np.exp((np.arange(256) - 255 + shift) * float(F(x_scale))).astype(F)
    e = table[rows + 255 - rows.max(axis=-1, keepdims=True)]
    total = np.zeros(e.shape[:-1], F)
    for i in range(length):
        total = total + e[..., i]
    levels = np.floor(F(1) / F(y_scale)).astype(F)
    value = np.rint(e * levels / total[..., None]).astype(np.int64) + y_zero
    info = np.iinfo(x.dtype)
    return np.moveaxis(np.clip(value, info.min, info.max).astype(x.dtype), -1, axis)
