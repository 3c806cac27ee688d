#!/usr/bin/env bash
# The paths of a GPU, walked on the pretend accelerator: forecasts are the same bytes, logits included, as the
# processor's on several process grids; training follows the processor's loss, and is the same to the byte when its
# steps are recorded and replayed; a GPU that is not there, and exact training on one, are refused.
# Needs PLUVIA and MPIEXEC, as ctest sets them; Python with netCDF4.
source "$(dirname "$0")/lib/opening.sh"
find_python netCDF4 numpy || exit 77
if "$PLUVIA" --version | grep -q CUDA; then
  echo "skipped: this program has no pretend accelerator"
  exit 77
fi

small_archive 33 29
model=(model.head_init=random model.attention.global=linear)
for device in cpu pretend; do
  run 2 train deck.yaml "${model[@]}" parallel.device=$device train.output=$device >log 2>&1 || { cat log; exit 1; }
done
"$python" - <<'END'
import json

def losses(run):
    lines = [json.loads(line) for line in open(f"{run}/log.jsonl")]
    return [line["loss"] for line in lines if "loss" in line]

cpu, accelerator = losses("cpu"), losses("pretend")
worst = max(abs(a - b) / abs(a) for a, b in zip(cpu, accelerator))
print(f"{len(cpu)} steps: losses {cpu[0]:.4f} to {cpu[-1]:.4f}, at most {worst:.1e} apart")
assert len(cpu) == len(accelerator) >= 2 and worst < 2e-3 and cpu[0] != cpu[-1]
END

for what in 'halos travel' 'gradients are summed'; do
  grep -q "$what from accelerator to accelerator" log || { echo "not said how $what"; cat log; exit 1; }
done
# A validation in between, which takes memory of its own and other weights.
for graph in false true; do
  run 1 train deck.yaml model.head_init=random model.channels=[16,32] train.steps=5 train.dropout=0.3 train.validate_every=4 \
    parallel.device=pretend train.graph=$graph train.output=graph_$graph >log 2>&1 || { cat log; exit 1; }
done
grep -q 'steps are recorded once and replayed' log
cmp graph_false/log.jsonl graph_true/log.jsonl
run 2 train deck.yaml model.channels=[16,32] train.steps=1 parallel.device=pretend train.graph=true train.output=unrecorded >log 2>&1 || { cat log; exit 1; }
[ "$(grep -c 'steps cannot be recorded: messages of pretend' log)" -eq 1 ]

forecast() { # FOLDER RANKS KEY=VALUE ...
  run "$2" forecast deck.yaml "${model[@]}" "${@:3}" train.output=cpu forecast.output="$1" >log 2>&1 || { cat log; exit 1; }
}
forecast cpu_forecast 1 parallel.device=cpu
"$python" "$here/compare_forecasts.py" --vary cpu_forecast
for way in "1" "3" "2 parallel.time=2"; do
  rm -rf pretended
  # shellcheck disable=SC2086
  forecast pretended $way parallel.device=pretend
  "$python" "$here/compare_forecasts.py" cpu_forecast pretended
done

refused() { fails 2 "$2" run 2 "$1" deck.yaml "${@:3}" train.output=refused; } # COMMAND PATTERN KEY=VALUE ...
refused train "built without CUDA" parallel.device=gpu
refused train "train.exact is not for GPUs" parallel.device=pretend train.exact=true
refused bench "train.exact is not for GPUs" parallel.device=pretend train.exact=true
echo "the accelerator's forecasts are the processor's"
