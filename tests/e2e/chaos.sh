#!/usr/bin/env bash
# labels: full
# One training through up to KILLS kills (50), at least half as many: SIGKILL to a random rank at a random time, before
# the first step, between steps or while a checkpoint is written; each time it goes on with train.from=latest, on 1 to 3
# ranks, and ends with the bytes of an undisturbed run.
#   chaos.sh [KILLS]
# Needs PLUVIA and MPIEXEC, as ctest sets them; Python with netCDF4.
source "$(dirname "$0")/lib/opening.sh"
source "$here/lib/kill_rank.sh"
find_python netCDF4 numpy || exit 77
kills=${1:-50}
small_archive 37 42
steps=$((10 * kills))
last=$(printf 'checkpoint_%08d.h5' "$steps")
train() { # RANKS KEY=VALUE ...
  run "$1" train deck.yaml train.exact=true parallel.block=8 train.precision=f32 train.steps="$steps" \
    train.validate_every=10 "${@:2}" >/dev/null 2>err
}
train 2 train.output=straight train.checkpoint_every="$steps" || { cat err; exit 1; }

newest() { { ls chaos 2>/dev/null || true; } | sed -n 's/^checkpoint_0*\([0-9]*\)\.h5$/\1/p' | tail -n 1; }
killed=0
while [ "$killed" -lt "$kills" ] && [ ! -e "chaos/$last" ]; do
  ranks=$((RANDOM % 3 + 1)) wanted=$(($(newest) + RANDOM % 8))
  train "$ranks" train.output=chaos train.from=latest train.checkpoint_every=1 &
  job=$!
  # So many steps on, or none, and then at any moment.
  while [ "$(($(newest)))" -lt "$wanted" ] && kill -0 "$job" 2>/dev/null; do sleep 0.1; done
  sleep "0.$((RANDOM % 5))"
  # The job may be at its beginning, without ranks yet, or at its end.
  victim=$((RANDOM % ranks)) hit=false
  until $hit || ! kill -0 "$job" 2>/dev/null; do
    if kill_rank "$victim" "train.output=chaos" >/dev/null; then hit=true; else sleep 0.1; fi
  done
  if $hit; then
    killed=$((killed + 1))
    if wait "$job"; then echo "a job of which a rank was killed ended well"; exit 1; fi
  else
    wait "$job" || { cat err; exit 1; }
  fi
done
train 3 train.output=chaos train.from=latest train.checkpoint_every=1 || { cat err; exit 1; }
for name in "$last" checkpoint_best.h5; do "$python" "$here/compare_checkpoints.py" "straight/$name" "chaos/$name"; done
echo "$killed kills, the same bytes after $steps steps"
[ $((2 * killed)) -ge "$kills" ]
