#!/usr/bin/env python3
"""Exits 1 unless the forecasts in folder B hold the same bytes as those in folder A, variable by variable.

    compare_forecasts.py A B
    compare_forecasts.py --vary A      exits 1 unless the logits in A vary
"""

import pathlib
import sys

import netCDF4
import numpy


def variables(path):
    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        file.set_auto_scale(False)
        return {name: numpy.asarray(v[...]) for name, v in file.variables.items()}


def main():
    if sys.argv[1] == "--vary":
        for path in sorted(pathlib.Path(sys.argv[2]).glob("*.nc")):
            logits = variables(path)["logits"]
            spread = logits.std(axis=(-1, -2)).min()
            if not spread > 0.05:
                sys.exit(f"{path}: logits hardly vary over the cells (standard deviation {spread})")
        return
    a, b = (sorted(pathlib.Path(folder).glob("*.nc")) for folder in sys.argv[1:3])
    if not a or [p.name for p in a] != [p.name for p in b]:
        sys.exit(f"not the same files: {a} and {b}")
    for left, right in zip(a, b):
        x, y = variables(left), variables(right)
        if x.keys() != y.keys():
            sys.exit(f"{right}: other variables than {left}")
        for name in x:
            if x[name].tobytes() != y[name].tobytes():
                different = int((x[name] != y[name]).sum())
                sys.exit(f"{right}: {different} of {x[name].size} values of {name} differ from {left}")


main()
