"""ResNet-50 and MobileNetV2 at 224 with seeded random weights: the architectures' work and shapes, for speed and
exactness. They recognise nothing."""

import numpy as np
import onnx

from . import card, golden, graph, packages, pictures, quantise

FOLDER = packages.CACHE / "twins"
COMMAND = "python3 models/recipe.py twins"
SIZE = 224
SHAPE = [1, 3, SIZE, SIZE]
MEAN, STD = [127.0] * 3, [128.0] * 3


class Maker(graph.Graph):
    """A graph builder that draws He-initialised weights and small biases, as a folded batch normalisation leaves."""

    def __init__(self, name, seed):
        super().__init__(name, "input", SHAPE)
        self.rng = np.random.default_rng(seed)

    def layer(self, name, x, cin, cout, kernel, stride=1, groups=1, gain=1.0):
        fan_in = cin // groups * kernel * kernel
        w = self.rng.standard_normal((cout, cin // groups, kernel, kernel)) * np.sqrt(2 / fan_in) * gain
        b = self.rng.uniform(-0.1, 0.1, cout)
        return self.conv(name, x, w.astype(np.float32), b.astype(np.float32), stride, [kernel // 2] * 4, groups)

    def classifier(self, x, cin):
        w = self.rng.standard_normal((1000, cin)) * np.sqrt(1 / cin)
        b = self.rng.uniform(-0.1, 0.1, 1000)
        return self.model(self.head(x, w.astype(np.float32), b.astype(np.float32), "logits"), [1, 1000])


def resnet50():
    """He et al. 2015 with the stride on the 3x3 convolution (v1.5)."""
    g = Maker("resnet50", 50)
    x = g.relu(g.layer("stem", "input", 3, 64, 7, 2))
    x = g.op("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for block in range(blocks):
            name, stride = f"stage{stage}.{block}", 2 if block == 0 and stage else 1
            y = g.relu(g.layer(name + ".a", x, channels, width, 1))
            y = g.relu(g.layer(name + ".b", y, width, width, 3, stride))
            # The branch adds little, so that activations stay in range over 16 sums without normalisation.
            y = g.layer(name + ".c", y, width, 4 * width, 1, gain=0.3)
            skip = x if block else g.layer(name + ".skip", x, channels, 4 * width, 1, stride, gain=0.7)
            x, channels = g.relu(g.add(name + ".add", y, skip)), 4 * width
    return g.classifier(x, channels)


def mobilenetv2():
    """Sandler et al. 2018, width 1."""
    g = Maker("mobilenetv2", 2)
    x, channels = g.relu6(g.layer("stem", "input", 3, 32, 3, 2)), 32
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for stage, (expand, out, repeats, stage_stride) in enumerate(stages):
        for repeat in range(repeats):
            name, stride, wide = f"stage{stage}.{repeat}", stage_stride if repeat == 0 else 1, channels * expand
            y = g.relu6(g.layer(name + ".expand", x, channels, wide, 1)) if expand > 1 else x
            y = g.relu6(g.layer(name + ".depthwise", y, wide, wide, 3, stride, wide))
            y = g.layer(name + ".project", y, wide, out, 1, gain=0.7)
            x = g.add(name + ".add", y, x) if stride == 1 and channels == out else y
            channels = out
    return g.classifier(g.relu6(g.layer("head", x, channels, 1280, 1)), 1280)


def build():
    """Writes both models, QDQ u8s8, with golden files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    samples = [pictures.normalise(i, MEAN, STD) for i in pictures.crops(SIZE, each=1, seed=0)]
    ranges = [(-1.0, 2.0), (-0.25, 0.5), (-3.0, 6.0)]
    cases = [golden.random_case(seed, *ranges[seed % 3], SHAPE) for seed in range(32)]
    for make in (resnet50, mobilenetv2):
        name, path = make.__name__, f"{make.__name__}.onnx"
        model = make()
        onnx.save(quantise.quantise(model, "qdq", samples), FOLDER / path)
        golden.write(FOLDER / "golden" / name, FOLDER / path, cases, COMMAND)
        print(f"twins/{path}: {graph.macs(model):,} multiply-accumulates, {card.describe(FOLDER / path)}")
