#!/usr/bin/env bash
# The job scripts on a real SLURM: training that is told to stop saves, is queued again and ends with the very numbers of
# an undisturbed run; told so while it starts it is queued again, too, and cancelled it stays away; forecasts of an array
# and the sum of their scores are those of one run, and shares that would leave some out are refused; the benchmark climbs
# its ladder. Where no cluster answers it starts one of its own, as root; else it skips. Needs PLUVIA and MPIEXEC, as
# ctest sets them; the cluster must see this file system. Draws the ladder where Python has matplotlib.
source "$(dirname "$0")/lib/opening.sh"
source "$here/lib/slurm.sh"
trap 'stop_cluster; rm -rf "$folder"' EXIT
require_slurm "$folder/cluster"
export PLUVIA PLUVIA_JOBS=$here/../../jobs
small_archive 37 42
sed -i 's/^train: {/train: {precision: f32, /' deck.yaml
train=(train.steps=60 train.validate_every=30 train.checkpoint_every=20)

run 2 train deck.yaml "${train[@]}" train.output=straight >/dev/null 2>err || { cat err; exit 1; }

job=$(submit --nodes=2 --ntasks=2 --output=slurm-train.out "$PLUVIA_JOBS/train.sbatch" deck.yaml "${train[@]}" train.output=queued)
for _ in $(seq 300); do grep -q '"step":10,' queued/log.jsonl 2>/dev/null && break; sleep 0.1; done
scancel --signal=USR1 --batch "$job"
for _ in $(seq 100); do grep -q 'queued again' slurm-train.out && break; sleep 0.1; done
grep -q 'queued again' slurm-train.out || { echo "not stopped:"; cat slurm-train.out; exit 1; }
queued_again "$job" 10
finished "$job"
grep -q 'going on from' slurm-train.out || { echo "not resumed:"; cat slurm-train.out; exit 1; }
diff <(grep '"loss"' straight/log.jsonl) <(grep '"loss"' queued/log.jsonl)
for name in straight queued; do run 1 export "$name/checkpoint_best.h5" "$name.safetensors" >/dev/null; done
python3 - <<'END'
weights = []
for name in ("straight", "queued"): # the headers hold the configurations, with their output folders
    data = open(f"{name}.safetensors", "rb").read()
    weights.append(data[8 + int.from_bytes(data[:8], "little"):])
assert len(weights[0]) > 100000 and weights[0] == weights[1]
END

job=$(submit --nodes=2 --ntasks=2 "$PLUVIA_JOBS/train.sbatch" deck.yaml "${train[@]}" train.steps=100000 train.output=cancelled)
for _ in $(seq 300); do squeue -h -s -j "$job" -o %i | grep -q '\.0$' && break; sleep 0.05; done
for _ in $(seq 100); do # from while ranks are being started, when srun may lose one
  scancel --signal=USR1 --batch "$job" 2>/dev/null || true # it is over already
  sleep 0.5
  grep -q 'queued again' "slurm-$job.out" && break
done
saved=$(grep -c 'saved cancelled' "slurm-$job.out" || true)
queued_again "$job" 20
running_again() { [ "$(state_of "$job")" = "RUNNING " ] && [ "$(grep -c 'saved cancelled' "slurm-$job.out")" -gt "$saved" ]; }
for _ in $(seq 600); do running_again && break; sleep 0.1; done
running_again || { echo "not running:"; cat "slurm-$job.out"; exit 1; }
scancel "$job"
ended "$job" CANCELLED
grep -q 'saved; the job is ending: not queued again' "slurm-$job.out" || { echo "not saved:"; cat "slurm-$job.out"; exit 1; }

job=$(submit --array=1-2 --ntasks=1 "$PLUVIA_JOBS/forecast.sbatch" deck.yaml out 2020-01-04T00:00 2020-01-04T08:00 2)
ended "$job" FAILED
job=$(submit --ntasks=1 "$PLUVIA_JOBS/forecast.sbatch" deck.yaml out 2020-01-04T0x 2020-01-04T08:00 2)
ended "$job" FAILED
[ ! -e out ]
job=$(submit --array=0-1 --ntasks=1 "$PLUVIA_JOBS/forecast.sbatch" deck.yaml out 2020-01-04T00:00 2020-01-04T08:00 2 \
  train.output=straight forecast.write_logits=false)
finished "$job"
job=$(submit "$PLUVIA_JOBS/verify.sbatch" deck.yaml out)
finished "$job"
run 2 forecast deck.yaml train.output=straight forecast.write_logits=false forecast.output=whole \
  forecast.init=2020-01-04T00:00/2020-01-04T08:00/PT2H >/dev/null 2>&1
run 1 verify deck.yaml verify.forecasts=whole verify.output=whole_scores >/dev/null 2>&1
[ "$(ls out/forecasts/part_*/*.nc | wc -l)" -eq 5 ]
cmp whole_scores/scores.csv out/scores/scores.csv

job=$(submit --nodes=2 --ntasks=3 "$PLUVIA_JOBS/bench.sbatch" deck.yaml bench.ny=24 bench.nx=20 bench.rounds=1)
finished "$job"
python3 -c 'import json; rows = json.load(open("bench.json"))["scaling"]; assert [r["ranks"] for r in rows] == 2 * [1, 2, 3], rows'
if find_python matplotlib >why; then
  "$python" "$here/../../tools/plot_bench.py" bench.json -o ladder.png | grep -q '1, 2, 3 ranks'
  [ "$(stat -c %s ladder.png)" -gt 10000 ]
else
  echo "no plot was drawn: $(cat why)"
fi
echo "stopped, queued again and resumed to the same weights; cancelled; array merged; ladder climbed"
