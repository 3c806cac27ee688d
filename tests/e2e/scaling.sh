#!/usr/bin/env bash
# labels: full
# The scaling predictor on simulated ranks: 4 of them send the messages and bytes that 4 real ones do, and 1 takes the sum
# of its operators' times. Skips without SimGrid. Needs PLUVIA and MPIEXEC, as ctest sets them.
set -euo pipefail
command -v smpicxx >/dev/null && command -v smpirun >/dev/null || { echo "skipped: SimGrid is not installed"; exit 77; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(dirname "$PLUVIA")/scaling
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
{ cmake -S "$root/tools/scaling" -B "$build" -DCMAKE_CXX_COMPILER=smpicxx && cmake --build "$build" --parallel 2; } \
  >build.log 2>&1 || { cat build.log; exit 1; }
cat >deck.yaml <<'END'
target: {leads_hours: [6, 12], thresholds_mm: [0.2, 1, 5]}
model: {history: 3, channels: [16, 32], skip_radius: 1, attention: {radius: 2, global: linear}}
train: {precision: f32}
bench: {ny: 26, nx: 34, inputs: 5, rounds: 1}
END
for n in 1 4; do
  "$MPIEXEC" --oversubscribe --bind-to none -np $n "$PLUVIA" bench deck.yaml bench.output=$n.json >out 2>&1 || { cat out; exit 1; }
done
python3 - "$root" "$build" <<'END'
import json
import sys
from pathlib import Path
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1] + "/tools")
import scaling
scaling.BUILD = Path(sys.argv[2])
one, four = json.load(open("1.json")), json.load(open("4.json"))
simulator = scaling.Simulator(Path.cwd(), "deck.yaml", ["1.json"], [])
def step(ranks, platform, on_a_node):
    return simulator.step(platform, on_a_node, ranks, 26, 34)
alone, tiles = (step(n, scaling.machine_platform(4, {"bytes_per_s": 1e9, "latency_s": 1e-6}), 4) for n in (1, 4))
took = sum(row["forward_s"] + row["backward_s"] for row in one["operators"])
took += one["phases_s"]["loss"] + one["phases_s"]["optimiser"]
assert abs(alone["step_s"] / took - 1) < 1e-4, (alone, took)
assert tiles["halo"] == four["halo"], (tiles["halo"], four["halo"])
assert tiles["step_s"] > tiles["operators_most_s"] >= tiles["operators_s"]
# On a cluster the same messages, across two nodes; without latency sooner.
far = {**scaling.CLUSTERS["CPU"], "latency": 1e-3}
slow, fast = (step(4, scaling.cluster_platform(far, latency), 2) for latency in (True, False))
assert slow["halo"] == fast["halo"] == tiles["halo"] and fast["step_s"] < slow["step_s"]
print("messages as on real ranks, times add up")
END
