#!/usr/bin/env bash
# The benchmark of a small network on two ranks: every table is there, the arithmetic is that of the network, replicas have
# a sample each, stages a part of the network, and rank counts beyond those started are refused. Needs PLUVIA and
# MPIEXEC, as ctest sets them.
source "$(dirname "$0")/lib/opening.sh"
cat >deck.yaml <<'END'
simulate: {output: archive.nc, ny: 24, nx: 20}
data: {archive: archive.nc, predictors: [rain], target: rain}
target: {leads_hours: [6, 12], thresholds_mm: [0.2, 1, 5]}
model: {history: 3, channels: [16, 32], attention: {radius: 2}}
train: {precision: f32}
bench: {ny: 24, nx: 20, inputs: 5, rounds: 2, ranks: [1, 2]}
END
run() { "$MPIEXEC" --oversubscribe --bind-to none -np "$1" "$PLUVIA" bench deck.yaml "${@:2}"; }
run 1 bench.ranks=[] bench.output=one.json >one.txt 2>err || { cat err; exit 1; }
run 2 bench.output=two.json >two.txt 2>err || { cat err; exit 1; }
python3 - <<'END'
import json
one, two = json.load(open("one.json")), json.load(open("two.json"))
assert one["parameters"] == two["parameters"] > 10000
# Two tiles do the arithmetic of one, but for the lead embedding's queries, which every rank makes.
assert abs(two["flop"]["step"] / one["flop"]["step"] - 1) < 1e-3, (one["flop"], two["flop"])
# The stem alone: 3 x 24 x 20 cells, 27 taps, 5 to 16 channels; its input needs no gradient.
stem = next(row for row in one["operators"] if row["operator"] == "conv3d" and row["c_in"] == 5)
assert stem["flop"] == stem["backward_flop"] == 2 * 3 * 24 * 20 * 27 * 5 * 16, stem
for result in (one, two):
    for name in ("oneDNN convolution f32", "memory, a = b + s c", "training step f32", "forecast f32"):
        t = result["timings"][name]
        assert 0 < t["min_s"] <= t["median_s"] <= t["max_s"], (name, t)
    assert result["memory_bytes"]["peak"] > 0
    # Two moments and the average of the weights, shared out.
    assert result["memory_bytes"]["optimiser"] == 12 * -(-result["parameters"] // result["ranks"])
    for what, tensors in (("forecast", 30), ("step", 80)):
        taken = result["taken"][what]
        assert taken["tensors"] > tensors and taken["tensor_bytes"] > 2**20 and taken["page_faults"] < 1000, taken
assert one["halo"]["messages_sent"] == 0 and two["halo"]["messages_sent"] > 0
halos = {(row["operator"], row["level"], row["pass"]): row for row in two["halo_layers"]}
assert ("conv3d", 0, "forward") in halos and ("conv3d", 1, "backward") in halos and "halo_layers" not in one, halos
assert all(row["wait_s"] >= 0 and row["copy_s"] >= 0 for row in halos.values())
assert two["messages"]["latency_s"] > 0 and "messages" not in one
assert [(row["scaling"], row["ranks"]) for row in two["scaling"]] == [("strong", 1), ("strong", 2), ("weak", 1), ("weak", 2)]
assert two["scaling"][3]["ny"] * two["scaling"][3]["nx"] == 2 * 24 * 20
END
# Two replicas do the arithmetic of two samples.
run 2 bench.ranks=[] bench.output=replicas.json parallel.replicas=2 >/dev/null 2>err || { cat err; exit 1; }
python3 - <<'END'
import json
one, two = json.load(open("one.json")), json.load(open("replicas.json"))
assert two["replicas"] == 2 and two["flop"]["step"] == 2 * one["flop"]["step"], (one["flop"], two["flop"])
assert two["halo"]["messages_sent"] == 0
END
# Of two tiles each, in a step as many messages as planned.
halved=(parallel.replicas=2 parallel.rows=2 parallel.cols=1 train.batch=2)
"$PLUVIA" plan deck.yaml "${halved[@]}" >plan.txt 2>err || { cat err; exit 1; }
run 4 bench.ranks=[] bench.output=tiles.json "${halved[@]}" >/dev/null 2>err || { cat err; exit 1; }
python3 - <<'END'
import json
planned = [line.split() for line in open("plan.txt") if line.lstrip().startswith("0 ") and "x [0, 20)" in line]
assert len(planned) == 1, open("plan.txt").read()
assert int(planned[0][-2]) == json.load(open("tiles.json"))["halo"]["messages_sent"], planned
END
# Exact training beside training that sums as it likes; channels that are gathered in both passes.
run 2 bench.ranks=[] bench.output=exact.json train.exact=true parallel.tensor=2 >exact.txt 2>err || { cat err; exit 1; }
grep -q 'exact training takes .* times as long' exact.txt || { cat exact.txt; exit 1; }
python3 - <<'END'
import json
result = json.load(open("exact.json"))
t = result["timings"]
assert abs(result["exact_to_fast"] * t["training step f32"]["median_s"] / t["training step f32 exact"]["median_s"] - 1) < 1e-9
gathers = {row["pass"]: row["bytes_sent"] for row in result["halo_layers"] if row["operator"] == "gather"}
assert gathers.keys() == {"forward", "backward"} and min(gathers.values()) > 0, gathers
END
# Two stages do so on their way through the network, each its part; what they did is drawn.
run 2 bench.ranks=[] bench.output=stages.json parallel.stages=2 bench.samples=2 >stages.txt 2>err || { cat err; exit 1; }
grep -q '^stage 1  |.*F1.*B1' stages.txt || { cat stages.txt; exit 1; }
python3 - <<'END'
import json
one, two = json.load(open("one.json")), json.load(open("stages.json"))
assert two["samples"] == 2 and abs(two["flop"]["step"] / one["flop"]["step"] - 2) < 1e-9, (one["flop"], two["flop"])
report = two["stage_report"]
assert len(report["stages"]) == 2 and 0 < report["idle_share"] < 1 and 0 < report["idle_share_of_schedule"] < 1
assert all(stage[key] >= 0 for stage in report["stages"] for key in stage), report
# The first stage pulls gradients of weights back with those of its inputs, for which nobody waits.
assert report["stages"][1]["backward_weights_s"] > report["stages"][0]["backward_weights_s"], report
END
# Forecasts alone.
run 1 bench.ranks=[] bench.output=alone.json bench.training=false >/dev/null 2>err || { cat err; exit 1; }
python3 - <<'END'
import json
alone = json.load(open("alone.json"))
assert "forecast f32" in alone["timings"] and "training step f32" not in alone["timings"] and "phases_s" not in alone
END
fails 2 'bench.ranks holds 2' run 1
echo "tables complete, arithmetic as expected"
