#!/usr/bin/env bash
# Training: many ranks follow one, a stopped run goes on as if it had not stopped, a signal saves and asks to be
# queued again, and what belongs to another run or model is refused. Needs PLUVIA and MPIEXEC, as ctest sets them.
source "$(dirname "$0")/lib/opening.sh"
small_archive 37 42
train() { run "$1" train deck.yaml "${@:2}" >/dev/null 2>err || { cat err; exit 1; }; }

# 50 steps on 1, 2 and 4 ranks in f32: the loss of every step within 1e-4.
for ranks in 1 2 4; do train "$ranks" train.precision=f32 train.steps=50 train.validate_every=25 train.output="on$ranks"; done
python3 - <<'END'
import json
losses = {n: [json.loads(line)["loss"] for line in open(f"on{n}/log.jsonl") if '"loss"' in line] for n in (1, 2, 4)}
# A batch whose windows all miss frames has no loss.
assert len(losses[1]) >= 35, len(losses[1])
assert max(losses[1]) - min(losses[1]) > 0.01, "the loss must move"
for n in (2, 4):
    worst = max(abs(a - b) for a, b in zip(losses[1], losses[n], strict=True))
    print(f"{n} ranks: loss within {worst:.1e} of one rank over 50 steps")
    assert worst < 1e-4, worst
END

# In bf16, where the processor has it, gradients that were summed in another order are rounded to other values, and steps
# part ways; but the forward pass is the same on every process grid: so is the loss of the first step.
for ranks in 1 2 4; do train "$ranks" train.steps=4 train.output="auto$ranks"; done
python3 - <<'END'
import json
first = [json.loads(next(line for line in open(f"auto{n}/log.jsonl") if '"loss"' in line))["loss"] for n in (1, 2, 4)]
assert max(first) - min(first) < 1e-9 * first[0], first
END

# A field without time, in a file of its own, is a predictor like the others: the network's input grows by its value and
# its validity, and forecasts see it.
if command -v ncap2 >/dev/null; then
  ncap2 -O -v -s 'height[$lat,$lon]=float(lat+2.0*lon)' archive.nc terrain.nc
  train 2 train.steps=4 train.output=plain
  train 2 train.steps=4 train.output=hilly 'data.archive=[terrain.nc, archive.nc]' \
    'data.predictors=[tb_window, tb_vapour, rain, height]'
  run 3 forecast deck.yaml train.output=hilly forecast.output=hilly 'data.archive=[terrain.nc, archive.nc]' \
    'data.predictors=[tb_window, tb_vapour, rain, height]' >/dev/null 2>err || { cat err; exit 1; }
  ls hilly/pluvia_pop_*.nc >/dev/null
  inputs() { run 1 info "$1/checkpoint_best.h5" | sed -n 's/^network *\([0-9]*\) parameters.*/\1/p'; }
  [ $(($(inputs hilly) - $(inputs plain))) -eq $((2 * 27 * 16)) ] # two more channels into a 3 x 3 x 3 stem of 16
else
  echo "not tested: fields without time (no ncap2)"
fi

# 3 steps, then 3 more from the checkpoint: the very numbers of 6 steps in one go.
train 2 train.steps=6 train.validate_every=3 train.checkpoint_every=3 train.output=straight
mkdir halves && cp straight/checkpoint_00000003.h5 halves/
train 2 train.steps=6 train.validate_every=3 train.checkpoint_every=3 train.output=halves train.from=latest
diff <(grep '"step":[456],' straight/log.jsonl) <(grep '"step":[456],' halves/log.jsonl)

# SIGUSR1 to every rank: saved, and status 75 asks to be queued again.
run 2 train deck.yaml train.steps=100000 train.output=stopped >/dev/null 2>err &
job=$!
for _ in $(seq 200); do [ -s stopped/log.jsonl ] && grep -q '"step":1,' stopped/log.jsonl && break; sleep 0.1; done
# Meanwhile its folder is its own.
fails 2 'Another job writes into stopped \(process [0-9]+ on ' run 2 train deck.yaml train.output=stopped train.from=latest
pkill -USR1 -P "$job" -f "train.output=stopped" || true
status=0
wait "$job" || status=$?
[ "$status" -eq 75 ] || { echo "status $status after SIGUSR1"; cat err; exit 1; }
ls stopped/checkpoint_*.h5 >/dev/null

# The same while MPI starts, as the second thread of every rank tells, and when one step is all: it is calibrated later.
OMP_NUM_THREADS=1 run 2 train deck.yaml train.steps=1 train.output=early >/dev/null 2>err &
job=$!
ranks() { pgrep -f "^$PLUVIA .*train.output=early"; }
for _ in $(seq 1000); do [ "$(ranks | xargs -r ps -o nlwp= -p | awk '$1 > 1' | wc -l)" -eq 2 ] && break; sleep 0.01; done
ranks | xargs kill -USR1
status=0
wait "$job" || status=$?
[ "$status" -eq 75 ] && [ "$(cd early && echo *.h5)" = checkpoint_00000001.h5 ] ||
  { echo "status $status after SIGUSR1 at the start"; cat err; exit 1; }
train 2 train.steps=1 train.output=early train.from=latest
ls early/checkpoint_best.h5 >/dev/null

# A folder that holds another run, whole or to an earlier step, and a checkpoint of another model: refused with one
# message, and nothing in the folder is touched.
before=$(cd straight && sha256sum *)
refused() { fails 2 "$1" run 2 train deck.yaml "${@:2}"; } # PATTERN KEY=VALUE ...
refused 'another run \(the newest is checkpoint_00000006.h5\) Go on with train.from=latest' train.output=straight
refused 'another run' train.output=straight train.from=straight/checkpoint_00000003.h5
refused 'another run' train.output=straight train.from=halves/checkpoint_00000006.h5
refused 'model is not what .* was trained with' train.output=straight train.from=latest 'model.channels=[16, 16, 32]'
refused 'model is not' train.output=straight train.from=latest model.base=regression
refused 'target is not' train.output=straight train.from=latest 'target.leads_hours=[6, 18]'
refused 'data.predictors is not' train.output=other train.from=straight/checkpoint_00000006.h5 \
  'data.predictors=[tb_vapour, tb_window, rain]'
[ "$(cd straight && sha256sum *)" = "$before" ]
# Nor is there training without its log.
mkdir -p blocked/log.jsonl
refused 'Cannot write blocked/log.jsonl .Is a directory' train.output=blocked
[ ! -e blocked/config.yaml ]
fails 2 'trained with' run 2 forecast deck.yaml train.output=straight 'target.leads_hours=[6, 18]'
