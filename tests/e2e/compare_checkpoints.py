#!/usr/bin/env python3
"""Compares two checkpoints: every dataset must hold the same bytes, but for the configuration.

    compare_checkpoints.py ONE OTHER
"""
import sys

import netCDF4


def datasets(group, path=""):
    """Name and bytes of all datasets below a group."""
    out = {}
    for name, variable in group.variables.items():
        variable.set_auto_maskandscale(False)
        value = variable[...]
        out[f"{path}/{name}"] = value.tobytes() if hasattr(value, "tobytes") else str(value).encode()
    for name, child in group.groups.items():
        out.update(datasets(child, f"{path}/{name}"))
    return out


one, other = (datasets(netCDF4.Dataset(path)) for path in sys.argv[1:3])
assert one.keys() == other.keys(), one.keys() ^ other.keys()
assert len(one) > 20, one.keys()
different = [name for name in one if one[name] != other[name] and "configuration" not in name]
if different:
    sys.exit(f"{sys.argv[1]} and {sys.argv[2]} differ in {len(different)} of {len(one)} datasets, first {different[0]}")
