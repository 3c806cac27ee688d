#!/usr/bin/env bash
# pluvia export writes the weights of a checkpoint, the same bytes on any number of ranks, and leaves nothing behind
# when it fails. Needs PLUVIA and MPIEXEC, as ctest sets them.
source "$(dirname "$0")/lib/opening.sh"
build=$(dirname "${PLUVIA:?the program}")
ranks() { "$MPIEXEC" --oversubscribe --bind-to none -np "$@"; }

PLUVIA_TEST_OUTPUT=$folder ranks 2 "$build/tests/checkpoint_test" --gtest_filter=CheckpointFile.ForTheProgram >log 2>&1 ||
  { cat log; exit 1; }
ranks 1 "$PLUVIA" export checkpoint.h5 one.safetensors
ranks 3 "$PLUVIA" export checkpoint.h5 three.safetensors
cmp one.safetensors three.safetensors
digest=$("$PLUVIA" info checkpoint.h5 | sed -n 's/^digest *//p')
python3 - "$digest" <<'END_OF_PYTHON'
import json, math, struct, sys
with open("one.safetensors", "rb") as file:
    header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    data = file.read()
texts = header.pop("__metadata__")
assert texts["configuration"] == "model:\n  history: 6\n", texts
assert texts["checkpoint_digest"] == sys.argv[1].strip(), texts
assert texts["program"].startswith("pluvia "), texts
assert {name: entry["shape"] for name, entry in header.items()} == {"encoder/0/conv": [3, 2, 5], "head": [2]}, header
assert sum(b - a for a, b in (entry["data_offsets"] for entry in header.values())) == len(data)
values = struct.unpack_from("<30f", data, header["encoder/0/conv"]["data_offsets"][0])
assert all(abs(v / math.exp(0.1 * i) - 1) < 1e-6 for i, v in enumerate(values)), values
END_OF_PYTHON

refused() { fails "$1" "$2" ranks 2 "$PLUVIA" export "${@:3}"; } # STATUS PATTERN ARGUMENT ...
head -c 6000 checkpoint.h5 >torn.h5
mkdir taken
refused 3 'one.safetensors cannot be used' one.safetensors new.safetensors
refused 3 'torn.h5 cannot be used' torn.h5 new.safetensors
refused 3 'nosuch.h5 cannot be used .No such file' nosuch.h5 new.safetensors
refused 1 'Cannot write nowhere/new.safetensors .No such file' checkpoint.h5 nowhere/new.safetensors
refused 1 'taken .Is a directory' checkpoint.h5 taken
refused 2 'OUTPUT' checkpoint.h5
if compgen -G '*.part' || compgen -G 'new*'; then echo "FAILED: left behind"; exit 1; fi
