#!/usr/bin/env bash
# labels: full
# The scaling predictor on simulated ranks: however 4 of them share the work, they send the messages and bytes that 4
# real ones do, and 1 takes the sum of its operators' times. Skips without SimGrid. Needs PLUVIA and MPIEXEC, as ctest
# sets them.
source "$(dirname "$0")/lib/opening.sh"
command -v smpicxx >/dev/null && command -v smpirun >/dev/null || { echo "skipped: SimGrid is not installed"; exit 77; }
root=$here/../..
build=$(dirname "$PLUVIA")/scaling
{ cmake -S "$root/tools/scaling" -B "$build" -DCMAKE_CXX_COMPILER=smpicxx && cmake --build "$build" --parallel 2; } \
  >build.log 2>&1 || { cat build.log; exit 1; }
cat >deck.yaml <<'END'
target: {leads_hours: [6, 12], thresholds_mm: [0.2, 1, 5]}
model: {history: 3, channels: [16, 32], skip_radius: 1, attention: {radius: 2, global: linear}}
train: {precision: f32}
bench: {ny: 26, nx: 34, inputs: 5, rounds: 1}
END
bench() {
  "$MPIEXEC" --oversubscribe --bind-to none -np "$1" "$PLUVIA" bench deck.yaml "${@:2}" >out 2>&1 || { cat out; exit 1; }
}
bench 1 bench.output=alone.json
axes=(parallel.time=1 parallel.time=2 parallel.tensor=2 "parallel.stages=2 bench.samples=2" parallel.replicas=2)
for axis in "${axes[@]}"; do
  read -ra settings <<<"$axis"
  bench 4 "${settings[@]}" bench.output="${settings[0]}.json"
done
python3 - "$root" "$build" "${axes[@]}" <<'END'
import json
import sys
from pathlib import Path
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1] + "/tools")
import scaling
scaling.BUILD = Path(sys.argv[2])
simulator = scaling.Simulator(Path.cwd(), "deck.yaml", ["alone.json"], [])
here = scaling.machine_platform(4, {"bytes_per_s": 1e9, "latency_s": 1e-6})
def step(ranks, platform, on_a_node, axis=""):
    return simulator.step(platform, on_a_node, ranks, 26, 34, axis.split())
one, alone = json.load(open("alone.json")), step(1, here, 4)
took = sum(row["forward_s"] + row["backward_s"] for row in one["operators"] if row["operator"] != "lead embedding")
took += one["phases_s"]["loss"] + one["phases_s"]["optimiser"]
assert abs(alone["step_s"] / took - 1) < 1e-4, (alone, took)
steps = {axis: step(4, here, 4, axis) for axis in sys.argv[3:]}
for axis, four in steps.items():
    real = json.load(open(axis.split()[0] + ".json"))
    assert four["halo"] == real["halo"], (axis, four["halo"], real["halo"])
    assert four["step_s"] > four["operators_most_s"] >= four["operators_s"], (axis, four)
    assert (four["gather_wait_s"] > 0) == ("tensor" in axis), (axis, four)
    assert (four["stage_wait_s"] > 0) == ("stages" in axis), (axis, four)
    assert four["sums_least_s"] > 0, (axis, four)
# On a cluster the same messages, across two nodes; without latency sooner.
slow, fast = (step(4, scaling.cluster_platform({**scaling.CLUSTERS["CPU"], "latency": latency}), 2)
              for latency in (1e-3, 0))
assert slow["halo"] == fast["halo"] == steps["parallel.time=1"]["halo"] and fast["step_s"] < slow["step_s"]
print("messages as on real ranks, times add up")
END
