#!/usr/bin/env bash
# A loss that is not finite: training goes back once to what it saved last and on with half the learning rate, the same
# on 1 and 2 ranks and after a restart; when that does not help it fails with one message. The steps are as large as the
# configuration allows and nothing clips the gradients, so that the exact sums leave their range: not with every seed.
# Needs PLUVIA and MPIEXEC, as ctest sets them; Python with netCDF4.
source "$(dirname "$0")/lib/opening.sh"
find_python netCDF4 numpy || exit 77
small_archive 37 42
wild() { # NAME RANKS KEY=VALUE ...: sets status
  status=0
  run "$2" train deck.yaml train.exact=true parallel.block=8 train.precision=f32 model.head_init=random \
    train.learning_rate=1 train.warmup=1 train.clip_norm=1e9 train.weight_decay=0 train.steps=24 \
    train.validate_every=1000 train.seed="$seed" train.output="$1" "${@:3}" >/dev/null 2>err || status=$?
}
last=checkpoint_00000024.h5

# Nothing saved yet: back to the start, and through.
through() { [ "$status" -eq 0 ] && [ "$(grep -c 'diverged' err)" -eq 1 ] && grep -q 'back to step 0' err; }
for seed in $(seq 20); do
  rm -rf on1
  wild on1 1 train.checkpoint_every=20
  through && break
done
echo "seed $seed"
through || { echo "status $status, whatever the seed"; cat err; exit 1; }
wild on2 2 train.checkpoint_every=20
through || { echo "status $status"; cat err; exit 1; }
"$python" "$here/compare_checkpoints.py" on1/$last on2/$last
diff on1/log.jsonl on2/log.jsonl
python3 - <<'END'
import json
lines = [json.loads(line) for line in open("on1/log.jsonl")]
back = [i for i, line in enumerate(lines) if "rolled_back_to" in line]
assert len(back) == 1 and lines[back[0]]["rolled_back_to"] == 0, back
rates = [{line["step"]: line["learning_rate"] for line in part if "learning_rate" in line}
         for part in (lines[: back[0]], lines[back[0] :])]
both = rates[0].keys() & rates[1].keys()
assert len(both) > 2 and all(rates[1][step] == rates[0][step] / 2 for step in both), rates
assert lines[back[0]]["step"] in rates[1] and lines[back[0]]["step"] not in rates[0], "it must get past the step"
END

# The smaller steps outlive a restart.
mkdir again && cp on1/checkpoint_00000020.h5 again/
wild again 1 train.from=latest
[ "$status" -eq 0 ] && grep -q 'with 0.5 of the learning rate' err || { echo "status $status"; cat err; exit 1; }
"$python" "$here/compare_checkpoints.py" on1/$last again/$last

# A checkpoint whose weights are already beyond help, for the next step is lost: once back, then an end with one message.
lost=$(sed -n 's/.*"step":\([0-9]*\),"rolled_back_to".*/\1/p' on1/log.jsonl)
wild lost 2 train.checkpoint_every=$((lost - 1))
[ "$status" -eq 1 ] && [ "$(grep -c 'rolled_back_to' lost/log.jsonl)" -eq 1 ] && [ "$(grep -c 'pluvia: ' err)" -eq 1 ] &&
  grep -q 'pluvia: Training diverged at step .* too) Lower train.learning_rate' err || { echo "status $status"; cat err; exit 1; }
