#!/usr/bin/env python3
"""Checks who includes whom, and reports how large the source files are.

    tools/check_layers.py [ROOT]       check include/ and src/ under ROOT (default: the repository)
    tools/check_layers.py --self-test  check that every kind of violation is found

Prints one line per violation, "FILE:LINE: ..." and ends with status 1 when there is one.
"""

import re
import sys
import tempfile
from pathlib import Path

# From the ground up: a folder may include the layers below its own and its siblings named in SIBLINGS.
LAYERS = [
    {"core"},
    {"comm", "ad"},
    {"ops", "io", "parallel"},
    {"nn", "data"},
    {"model", "physics"},
    {"train", "forecast", "verify", "bench"},
    {"apps"},
]
SIBLINGS = {
    ("parallel", "ops"),  # a stencil is a local operator between two exchanges
    ("bench", "train"),  # a timed step ends with the optimiser
}
FORBIDDEN = {
    ("ops", "comm"),  # local operators never see MPI
}
# Third-party headers and the only folders (or files) that may include them.
OWNERS = {
    r"mpi\.h": ["comm", "apps/main.cpp", "io/netcdf_writer.cpp"],  # parallel NetCDF is opened with MPI's types
    r"netcdf.*|nc(?!cl).*\.h": ["io"],
    r"hdf5.*|H5.*": ["io"],
    r"petsc.*": ["physics"],
    r"(dnnl|oneapi/dnnl).*": ["bench"],
    r"cuda_runtime\.h": ["core/cuda.hpp"],
    r"(cudnn|cublas.*|cuda_bf16)\.h": ["ops", "bench"],
    r"nccl\.h": ["comm"],
    r"yaml-cpp/.*": ["core/config.cpp"],
    r"CLI/.*": ["apps/main.cpp"],
}
LARGE = 500  # lines

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def level(folder):
    for number, folders in enumerate(LAYERS):
        if folder in folders:
            return number
    return None


def may_include(folder, other):
    if folder == other:
        return True
    if (folder, other) in FORBIDDEN:
        return False
    return level(other) < level(folder) or (folder, other) in SIBLINGS


def sources(root):
    """(path, path below its tree) of every source file, e.g. (src/io/grid.cpp, io/grid.cpp)."""
    for tree in (root / "include" / "pluvia", root / "src"):
        for path in sorted(tree.rglob("*")):
            if path.suffix in {".hpp", ".cpp", ".h", ".cu"}:
                yield path, path.relative_to(tree)


def check(root):
    """All violations under root as (path, line, text), and the number of lines of each file."""
    violations, sizes = [], {}
    for path, below in sources(root):
        folder = below.parts[0]
        lines = path.read_text(encoding="utf-8").splitlines()
        sizes[path] = len(lines)
        if level(folder) is None:
            violations.append((path, 1, f"folder {folder} has no layer (name it in LAYERS)"))
            continue
        for number, line in enumerate(lines, 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            header = match.group(2)
            if header.startswith("pluvia/"):
                other = header.split("/")[1]
                if level(other) is None:
                    violations.append((path, number, f"{header} lies in no layer"))
                elif not may_include(folder, other):
                    violations.append((path, number, f"{folder} may not include {header}"))
            elif match.group(1) == '"' and ".." in Path(header).parts:
                violations.append((path, number, f"{header} leaves its folder (include pluvia/...)"))
            else:
                for pattern, owners in OWNERS.items():
                    if re.fullmatch(pattern, header) and folder not in owners and str(below) not in owners:
                        violations.append((path, number, f"only {', '.join(owners)} may include <{header}>"))
    return violations, sizes


def self_test():
    """Writes one file per kind of violation, and lawful ones, and checks that exactly the former are found."""
    wrong = {
        "src/core/upwards.cpp": '#include "pluvia/comm/tiling.hpp"',
        "src/ops/sees_ranks.cpp": '#include "pluvia/comm/communicator.hpp"',
        "src/ad/sideways.cpp": '#include "pluvia/comm/tiling.hpp"',
        "include/pluvia/data/upwards.hpp": '#  include "pluvia/train/trainer.hpp"',
        "src/train/calls_mpi.cpp": "#include <mpi.h>",
        "src/apps/calls_mpi.cpp": "#include <mpi.h>",
        "src/forecast/netcdf.cpp": "#include <netcdf_par.h>",
        "src/model/hdf5.cpp": "#include <hdf5.h>",
        "src/verify/petsc.cpp": "#include <petscdmda.h>",
        "src/train/yaml.cpp": "#include <yaml-cpp/yaml.h>",
        "src/nn/climbs.cpp": '#include "../ops/kernels.hpp"',
        "src/misc/homeless.cpp": "",
        "src/train/unknown.cpp": '#include "pluvia/misc/homeless.hpp"',
    }
    lawful = {
        "src/comm/communicator.cpp": "#include <mpi.h>",
        "src/apps/main.cpp": "#include <mpi.h>\n#include <CLI/CLI.hpp>",
        "src/io/netcdf.cpp": '#include <netcdf_par.h>\n#include "pluvia/comm/communicator.hpp"',
        "src/parallel/stencil.cpp": '#include "pluvia/ops/conv3d.hpp"',
        "src/train/trainer.cpp": '#include <vector>\n#include "pluvia/core/error.hpp"\n// #include <mpi.h>',
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, text in {**wrong, **lawful}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")
        found = sorted(str(path.relative_to(root)) for path, _, _ in check(root)[0])
    if found != sorted(wrong):
        print("missed:", sorted(set(wrong) - set(found)), "wrongly accused:", sorted(set(found) - set(wrong)))
        return 1
    print(f"{len(wrong)} kinds of violation found, {len(lawful)} lawful files passed")
    return 0


def main():
    arguments = sys.argv[1:]
    if arguments == ["--self-test"]:
        return self_test()
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    violations, sizes = check(root)
    if not sizes:
        print(f"{root}: no source files found")
        return 1
    for path, number, text in violations:
        print(f"{path.relative_to(root)}:{number}: {text}")
    for path, lines in sorted(sizes.items(), key=lambda item: -item[1]):
        if lines > LARGE:
            print(f"note: {path.relative_to(root)} has {lines} lines (more than {LARGE})")
    print(f"{len(sizes)} files, {sum(sizes.values())} lines, {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
