"""A YOLOX-class detector at 416 (glyphs in captchas), quantised into the cache: for exactness and speed, not committed.

The float model comes with opset 11; per-channel QDQ needs 13, so it is converted to 17 first.
"""

import io

import onnx
from onnx import version_converter

from . import card, golden, graph, packages, pictures, quantise

FOLDER = packages.CACHE / "yolox"
FILES = {"qdq": "model.onnx", "qoperator": "model.qop.onnx"}
COMMAND = "python3 models/recipe.py yolox"
SIZE = 416
MEAN, STD = [0.0] * 3, [1.0] * 3
SHAPE = [1, 3, SIZE, SIZE]


def float_model():
    model = onnx.load(io.BytesIO(packages.read("ddddocr", "ddddocr/common_det.onnx")))
    model = version_converter.convert_version(model, graph.OPSET)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def build():
    """Writes both INT8 forms, golden files and the card."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = float_model()
    images = pictures.crops(SIZE, each=3, seed=0)
    samples = [pictures.normalise(i, MEAN, STD) for i in images]
    for form, path in FILES.items():
        onnx.save(quantise.quantise(model, form, samples), FOLDER / path)
    write_goldens()
    card.write(
        FOLDER,
        {
            "name": "yolox",
            "description": "YOLOX-class glyph detector, 416 x 416, INT8 (u8 activations, s8 per-channel weights), raw grid outputs",
            "licence": "MIT",
            "task": "detect",
            "macs": graph.macs(model),
            "origin": [
                card.origin("ddddocr", "float model", "MIT"),
                card.origin("scikit-image", "pictures for calibration and golden inputs", "CC0-1.0 or public domain"),
            ],
            "files": card.files(FOLDER, FILES),
            "input": {
                "name": "images",
                "dtype": "f32",
                "layout": "nchw",
                "shape": SHAPE,
                "channels": "rgb",
                "filter": "triangle",
                "mean": MEAN,
                "std": STD,
            },
            "output": {"name": "output", "dtype": "f32", "shape": [1, 3549, 6], "score": "none"},
        },
    )


def write_goldens():
    """10 real crops that calibration has not seen, 22 random inputs: some inside the range, some saturating."""
    folder = FOLDER / "golden"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    cases = []
    for i, image in enumerate(pictures.crops(SIZE, each=2, seed=1, names=pictures.NAMES[:5])):
        image.save(folder / "images" / f"{i:02}.png")
        cases.append(golden.image_case(f"../images/{i:02}.png", image, MEAN, STD))
    ranges = [(0.0, 255.0), (100.0, 50.0), (-100.0, 455.0)]
    cases += [golden.random_case(seed, *ranges[seed % 3], SHAPE) for seed in range(22)]
    for form, path in FILES.items():
        golden.write(folder / form, FOLDER / path, cases, COMMAND, {"mean": MEAN, "std": STD})
