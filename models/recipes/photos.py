"""The sample photos, and the class that ONNX Runtime gives each with the preprocessing of the card."""

import hashlib
import io

import numpy as np
from PIL import Image

from . import packages, pictures, reference, toml

FOLDER = packages.MODELS / "photos"
# Sample, author and licence as scikit-image's docstrings state them, and the right ImageNet classes.
PHOTOS = [
    ("coffee.png", "Rachel Michetti", "CC0-1.0", [967], "a cup of espresso"),
    ("camera.png", "Lav Varshney", "CC0-1.0", [872], "a man with a camera on a tripod"),
    # ImageNet has no launch vehicle; its nearest classes are the two missiles.
    ("rocket.jpg", "SpaceX", "public domain", [657, 744], "a rocket lifting off"),
]


def build(models, labels, size, crop, mean, std):
    """Writes the photos and photos.toml; stops if a form of the model does not name a photo's class first."""
    FOLDER.mkdir(exist_ok=True)
    sessions = {form: reference.session(path) for form, path in models.items()}
    source = f"scikit-image {packages.pinned()['scikit-image'].version}"
    entries = []
    for sample, author, licence, right, shows in PHOTOS:
        path = sample.replace(".png", ".jpg")
        pictures.picture(sample).save(FOLDER / path, quality=90, optimize=True)
        data = (FOLDER / path).read_bytes()
        image = Image.open(io.BytesIO(data)).convert("RGB")
        tensor = pictures.normalise(pictures.centre(image, size, crop), mean, std)
        scores = {}
        for form, session in sessions.items():
            logits = session.run(None, {session.get_inputs()[0].name: tensor})[0][0].astype(np.float64)
            softmax = np.exp(logits - logits.max())
            softmax /= softmax.sum()
            top = int(softmax.argmax())
            if top not in right:
                raise SystemExit(f"{path}: {form} says {labels[top]!r}, expected one of {[labels[i] for i in right]}")
            scores[f"score_{form}"] = round(float(softmax[top]), 4)
            second = int(softmax.argsort()[-2])
            print(
                f"photos/{path}: {form} says {labels[top]!r} {softmax[top]:.3f}, then {labels[second]!r} {softmax[second]:.3f}"
            )
        entries.append(
            {
                "path": path,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "shows": shows,
                "author": author,
                "licence": licence,
                "origin": f"{source}, skimage/data/{sample}, re-encoded as JPEG",
                "index": top,
                "label": labels[top],
            }
            | scores
        )
    (FOLDER / "photos.toml").write_text(
        toml.dump(
            {"schema": 1, "model": "../efficientnet-lite0", "provenance": reference.provenance(), "photos": entries},
            "Sample photos; the format is in models/README.md.",
        )
    )
