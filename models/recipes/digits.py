"""A digit classifier at 8 x 8: every layer kind of a small residual network, with labelled test data.

`build` starts from the committed float model, so that it gives the same bytes everywhere; `train` makes that
float model anew.
"""

import gzip

import numpy as np
import onnx

from . import card, digits_train, golden, graph, packages, quantise, reference

FOLDER = packages.MODELS / "digits"
FILES = {"qdq": "model.onnx", "qoperator": "model.qop.onnx"}
COMMAND = "python3 models/recipe.py digits"
MEAN, STD = [0.0], [16.0]
TEST = 360


def split():
    """(train images, train labels, test images, test labels): u8 [n, 8, 8] with values 0..16, and u8 [n]."""
    text = gzip.decompress(packages.read("scikit-learn", "sklearn/datasets/data/digits.csv.gz"))
    rows = np.array([[int(v) for v in line.split(b",")] for line in text.split()], np.uint8)
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    images, labels = rows[:, :64].reshape(-1, 8, 8), rows[:, 64]
    return images[TEST:], labels[TEST:], images[:TEST], labels[:TEST]


def tensor(images):
    """The model's input [n, 1, 8, 8] for u8 images: (pixel - 0) / 16."""
    return ((images.astype(np.float32) - np.float32(MEAN[0])) / np.float32(STD[0]))[:, None]


def float_model(p):
    """The ONNX graph of trained parameters."""
    g = graph.Graph("digits", "image", [1, 1, 8, 8])
    around = (1, 1, 1, 1)

    def weight(name, inputs):
        return p[name].reshape(3, 3, inputs, -1).transpose(3, 2, 0, 1)

    x = g.relu(g.conv("conv1", "image", weight("conv1", 1), p["conv1.bias"], pads=around))
    y = g.conv("depthwise", x, weight("depthwise", 1), p["depthwise.bias"], pads=around, groups=digits_train.NARROW)
    y = g.conv("point", g.relu(y), p["point"].T[:, :, None, None], p["point.bias"])
    x = g.op("MaxPool", [g.add("residual", x, y)], "shrink", kernel_shape=[2, 2], strides=[2, 2])
    x = g.relu(g.conv("conv2", x, weight("conv2", digits_train.NARROW), p["conv2.bias"], pads=around))
    return g.model(g.head(x, p["fc"].T, p["fc.bias"], "logits"), [1, 10])


def train():
    """Trains on all but the test split and writes float.onnx."""
    images, labels, _, _ = split()
    parameters = digits_train.train(tensor(images).transpose(0, 2, 3, 1), labels)
    FOLDER.mkdir(exist_ok=True)
    onnx.save(float_model(parameters), FOLDER / "float.onnx")
    build()


def logits(path, tensors):
    session = reference.session(path)
    return np.concatenate([session.run(None, {"image": t[None]})[0] for t in tensors])


def build():
    """Writes both INT8 forms, the test split, golden files and the card from float.onnx."""
    train_images, _, test_images, test_labels = split()
    model = onnx.load(FOLDER / "float.onnx")
    samples = [t[None] for t in tensor(train_images[:200])]
    for form, path in FILES.items():
        onnx.save(quantise.quantise(model, form, samples), FOLDER / path)
    test = FOLDER / "test"
    test.mkdir(exist_ok=True)
    np.save(test / "images.npy", test_images)
    np.save(test / "labels.npy", test_labels)
    np.save(test / "float_logits.npy", logits(FOLDER / "float.onnx", tensor(test_images)))
    (FOLDER / "labels.txt").write_text("".join(f"{i}\n" for i in range(10)))

    write_goldens(tensor(test_images[:40]))
    write_card()


def accuracies():
    """{form: per cent of the test split that ONNX Runtime gets right}; stops if INT8 falls 0.5 points behind."""
    images, labels = np.load(FOLDER / "test/images.npy"), np.load(FOLDER / "test/labels.npy")
    out = {}
    for form, path in {"float": "float.onnx", **FILES}.items():
        right = (logits(FOLDER / path, tensor(images)).argmax(axis=1) == labels).sum()
        out[form] = round(100 * float(right) / TEST, 2)
        print(f"digits/{path}: {right} of {TEST} test images right ({out[form]} %)")
    if min(out.values()) < out["float"] - 0.5:
        raise SystemExit("INT8 accuracy is more than 0.5 points below float")
    return out


def write_goldens(tensors):
    """40 test images and 24 random inputs."""
    shape = [1, 1, 8, 8]
    folder = FOLDER / "golden"
    folder.mkdir(exist_ok=True)
    np.save(folder / "inputs.npy", tensors[:, None])
    cases = golden.npy_cases("../inputs.npy", tensors[:, None])
    ranges = [(0.0, 1.0), (-0.5, 2.0), (0.25, 0.5)]
    cases += [golden.random_case(seed, *ranges[seed % 3], shape) for seed in range(24)]
    for form, path in FILES.items():
        golden.write(folder / form, FOLDER / path, cases, COMMAND)


def write_card():
    """Writes model.toml from the files that are there."""
    accuracy = accuracies()
    files = card.files(FOLDER, FILES) + [card.file_entry(FOLDER, "float.onnx", "float")]
    card.write(
        FOLDER,
        {
            "name": "digits",
            "description": "handwritten digits, 8 x 8 grey, INT8 (u8 activations, s8 per-channel weights)",
            "licence": "MIT OR Apache-2.0",
            "task": "classify",
            "labels": "labels.txt",
            "macs": graph.macs(onnx.load(FOLDER / "float.onnx")),
            "origin": [
                card.origin(
                    "scikit-learn",
                    "digits data (UCI optical recognition of handwritten digits)",
                    "BSD-3-Clause AND CC-BY-4.0",
                    "E. Alpaydin, C. Kaynak (1998), doi:10.24432/C50P49",
                )
            ],
            "files": files,
            "input": {
                "name": "image",
                "dtype": "f32",
                "layout": "nchw",
                "shape": [1, 1, 8, 8],
                "channels": "grey",
                "mean": MEAN,
                "std": STD,
            },
            "output": {"name": "logits", "dtype": "f32", "shape": [1, 10], "score": "softmax"},
            "test": {
                "images": "test/images.npy",
                "labels": "test/labels.npy",
                "float_logits": "test/float_logits.npy",
                "count": TEST,
                "accuracy_float_percent": accuracy["float"],
                "accuracy_qdq_percent": accuracy["qdq"],
                "accuracy_qoperator_percent": accuracy["qoperator"],
            },
        },
    )
