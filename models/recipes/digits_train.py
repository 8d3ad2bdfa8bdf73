"""Trains the digits network with numpy alone: forward, backward and Adam for its six layer kinds.

Tensors are NHWC f32. Sums go through BLAS, whose order differs between machines, so another machine ends in
other weights of about the same accuracy; that is why the trained float model is committed.
"""

import numpy as np

EPOCHS, BATCH, RATE, DECAY = 80, 32, 2e-3, 1e-4
NARROW, WIDE, CLASSES = 12, 20, 10


def initial(rng):
    """He-initialised parameters: convolutions as [kernel taps * in, out], depthwise as [9, channels]."""

    def he(rows, columns, fan_in):
        return (rng.standard_normal((rows, columns)) * np.sqrt(2 / fan_in)).astype(np.float32)

    params = {
        "conv1": he(9, NARROW, 9),
        "depthwise": he(9, NARROW, 9),
        "point": he(NARROW, NARROW, NARROW),
        "conv2": he(9 * NARROW, WIDE, 9 * NARROW),
        "fc": he(WIDE, CLASSES, WIDE),
    }
    return params | {k + ".bias": np.zeros(v.shape[1], np.float32) for k, v in params.items()}


def patches(x):
    """[n, h, w, 9, c]: the 3x3 neighbourhood of each pixel, zero outside."""
    n, h, w, c = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return np.stack(taps, axis=3)


def unpatch(grad):
    """The adjoint of `patches`."""
    n, h, w, _, c = grad.shape
    padded = np.zeros((n, h + 2, w + 2, c), np.float32)
    for tap in range(9):
        i, j = divmod(tap, 3)
        padded[:, i : i + h, j : j + w] += grad[:, :, :, tap]
    return padded[:, 1:-1, 1:-1]


def forward(p, x):
    """Logits of the images x [n, 8, 8, 1], and what the backward pass needs."""
    n = len(x)
    p1 = patches(x).reshape(n, 8, 8, 9)
    a1 = np.maximum(p1 @ p["conv1"] + p["conv1.bias"], 0)
    p2 = patches(a1)
    a2 = np.maximum((p2 * p["depthwise"]).sum(axis=3) + p["depthwise.bias"], 0)
    a3 = a1 + a2 @ p["point"] + p["point.bias"]
    windows = a3.reshape(n, 4, 2, 4, 2, NARROW).transpose(0, 1, 3, 2, 4, 5).reshape(n, 4, 4, 4, NARROW)
    pick = windows.argmax(axis=3)
    a4 = windows.max(axis=3)
    p5 = patches(a4).reshape(n, 4, 4, 9 * NARROW)
    a5 = np.maximum(p5 @ p["conv2"] + p["conv2.bias"], 0)
    pooled = a5.mean(axis=(1, 2))
    return pooled @ p["fc"] + p["fc.bias"], (p1, a1, p2, a2, pick, p5, a5, pooled)


def gradients(p, x, labels):
    """Gradients of the mean cross-entropy."""
    logits, (p1, a1, p2, a2, pick, p5, a5, pooled) = forward(p, x)
    n, g = len(x), {}

    def linear(name, inputs, grad):
        flat = grad.reshape(-1, grad.shape[-1])
        g[name] = inputs.reshape(-1, inputs.shape[-1]).T @ flat
        g[name + ".bias"] = flat.sum(axis=0)
        return grad @ p[name].T

    d = np.exp(logits - logits.max(axis=1, keepdims=True))
    d /= d.sum(axis=1, keepdims=True)
    d[np.arange(n), labels] -= 1
    d = linear("fc", pooled, d / n)
    d = np.broadcast_to(d[:, None, None, :] / 16, a5.shape) * (a5 > 0)
    d = unpatch(linear("conv2", p5, d).reshape(n, 4, 4, 9, NARROW))
    windows = np.zeros((n, 4, 4, 4, NARROW), np.float32)
    np.put_along_axis(windows, pick[:, :, :, None], d[:, :, :, None], axis=3)
    d3 = windows.reshape(n, 4, 4, 2, 2, NARROW).transpose(0, 1, 3, 2, 4, 5).reshape(n, 8, 8, NARROW)
    d = linear("point", a2, d3) * (a2 > 0)
    g["depthwise"] = (p2 * d[:, :, :, None]).sum(axis=(0, 1, 2))
    g["depthwise.bias"] = d.sum(axis=(0, 1, 2))
    d = (d3 + unpatch(d[:, :, :, None] * p["depthwise"])) * (a1 > 0)
    linear("conv1", p1, d)
    return g


def train(images, labels, seed=0):
    """Parameters after Adam with a cosine rate; images are [n, 8, 8, 1], shifted by up to one pixel."""
    rng = np.random.default_rng(seed)
    p = initial(rng)
    first = {k: np.zeros_like(v) for k, v in p.items()}
    second = {k: np.zeros_like(v) for k, v in p.items()}
    steps = EPOCHS * (len(images) // BATCH)
    step = 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(images))
        for at in range(0, len(order) - BATCH + 1, BATCH):
            index = order[at : at + BATCH]
            shift = rng.integers(-1, 2, 2)
            moved = np.pad(images[index], ((0, 0), (1, 1), (1, 1), (0, 0)))
            x = moved[:, 1 + shift[0] : 9 + shift[0], 1 + shift[1] : 9 + shift[1]]
            step += 1
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            for k, grad in gradients(p, x, labels[index]).items():
                first[k] = 0.9 * first[k] + 0.1 * grad
                second[k] = 0.999 * second[k] + 0.001 * grad * grad
                update = (first[k] / (1 - 0.9**step)) / (np.sqrt(second[k] / (1 - 0.999**step)) + 1e-8)
                p[k] = (p[k] - rate * (update + DECAY * p[k])).astype(np.float32)
    return p
