"""Prints where CuTe, CUTLASS's layout library, says that each value of a fragment lies.

The tables are read out of CUTLASS's own headers (cute/atom) and evaluated by its own layout algebra (pycute):
lines of `name thread value place`. Usage: layouts.py INCLUDE_FOLDER
"""

import re
import sys
from pathlib import Path

from pycute import Layout


def numbers(text):
    """A C++ tuple type such as `Shape<Shape<_4,_8>,_2>` as nested Python tuples."""
    text = re.sub(r"\b(Shape|Stride)\s*<", "(", text).replace(">", ",)")
    return eval(re.sub(r"_(\d+)", r"\1", text), {"__builtins__": {}})  # digits, commas and brackets only


def layout(source, struct, name):
    """The layout `name` of the struct template specialised for `struct`, aliases followed."""
    body = re.search(r"struct \w+_Traits<" + struct + r">[^;{]*\{(.*?)\n\};", source, re.S)
    if body is None:
        raise SystemExit(f"{struct} is not in the header")
    value = re.search(r"using " + name + r"\s*=\s*(.*?);", body.group(1), re.S).group(1)
    if not value.startswith("Layout"):
        alias = value.strip()
        value = re.search(r"using " + alias + r"\s*=\s*(.*?);", source, re.S).group(1)
    inner = re.sub(r"\s+", "", value)
    both = re.fullmatch(r"Layout<(Shape<.*?>),(Stride<.*>)>", inner)
    # Checked above all: what is evaluated is made of these characters alone.
    for part in both.groups():
        if re.sub(r"Shape|Stride|[_\d<>,]", "", part):
            raise SystemExit(f"unexpected text in {struct}::{name}: {part}")
    return Layout(numbers(both.group(1)), numbers(both.group(2)))


def show(name, table):
    threads = 32
    for thread in range(threads):
        for value in range(table.size() // threads):
            print(name, thread, value, table(thread, value))


def main():
    atoms = Path(sys.argv[1]) / "cute" / "atom"
    mma = (atoms / "mma_traits_sm80.hpp").read_text()
    for shape, struct in [("m16n8k32", "SM80_16x8x32_S32S8S8S32_TN"), ("m16n8k16", "SM80_16x8x16_S32S8S8S32_TN")]:
        for operand in "ABC":
            show(f"{shape}.{operand}", layout(mma, struct, operand + "Layout"))
    copy = (atoms / "copy_traits_sm75.hpp").read_text()
    show("ldmatrix.x4", layout(copy, "SM75_U32x4_LDSM_N", "DstLayout"))


main()
