"""Real pictures for calibration and golden inputs: crops of scikit-image's sample photos.

Only pictures that their authors gave to the public (CC0 or public domain, stated in the docstrings of
`skimage/data/_fetchers.py`) are used, since some crops are committed.
"""

import io

import numpy as np
from PIL import Image

from . import packages

NAMES = [
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
    "brick.png",
    "grass.png",
    "gravel.png",
    "moon.png",
    "cell.png",
    "retina.jpg",
]


def picture(name):
    """The named sample as an RGB image."""
    data = packages.read("scikit-image", f"skimage/data/{name}")
    return Image.open(io.BytesIO(data)).convert("RGB")


def centre(image, size, crop):
    """The centred square of `crop` times the shorter side, scaled to size x size."""
    width, height = image.size
    side = int(crop * min(width, height))
    x, y = (width - side) // 2, (height - side) // 2
    return image.crop((x, y, x + side, y + side)).resize((size, size), Image.Resampling.BILINEAR)


def crops(size, each, seed, names=None):
    """Yields `each` random square crops of every sample, scaled to size x size."""
    rng = np.random.default_rng(seed)
    for name in names or NAMES:
        image = picture(name)
        width, height = image.size
        for _ in range(each):
            side = int(rng.uniform(0.4, 1) * min(width, height))
            x, y = int(rng.uniform(0, width - side)), int(rng.uniform(0, height - side))
            yield image.crop((x, y, x + side, y + side)).resize((size, size), Image.Resampling.BILINEAR)


def normalise(image, mean, std):
    """The NCHW f32 tensor (pixel - mean) / std of an RGB image: one f32 subtraction, one f32 division."""
    pixels = np.asarray(image, np.float32)
    value = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(value.transpose(2, 0, 1)[None])
