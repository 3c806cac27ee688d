#!/usr/bin/env bash
# labels: bits
# Training with train.exact, with global attention, dropout, outages and drift of the imager: losses, gradient norms,
# weights, averages and optimiser state are the same bytes on any process grid, with any number of threads, replicas,
# stages of the network, shares of the channels and parts of the frames, in f32 and in what the processor likes best; a run stopped on one grid and gone on with on
# another ends with the same bytes; without it they differ. Validation is not disturbed.
#   exact.sh          8 steps on 1, 2, 3, 4, 6 and 8 ranks
#   exact.sh --all    50 steps, every rows x cols
# Needs PLUVIA and MPIEXEC, as ctest sets them; Python with netCDF4.
source "$(dirname "$0")/lib/opening.sh"
find_python netCDF4 numpy || exit 77
steps=8 all=false
if [ "${1:-}" = --all ]; then steps=50 all=true; fi
small_archive 61 53

train() { # NAME RANKS KEY=VALUE ...
  run "$2" train deck.yaml train.exact=true parallel.block=8 parallel.block_frames=1 model.head_init=random \
    model.attention.global=linear train.batch=2 train.dropout=0.1 train.frame_dropout=0.1 \
    train.brightness_jitter_kelvin=1 train.steps="$steps" train.validate_every=4 train.checkpoint_every="$steps" \
    train.output="$1" "${@:3}" >/dev/null 2>err ||
    { cat err; exit 1; }
}
same() { "$python" "$here/compare_checkpoints.py" "$@"; }
last=$(printf 'checkpoint_%08d.h5' "$steps")
for precision in f32 auto; do
  train "$precision" 1 train.precision="$precision" parallel.threads=1
  if [ "$precision" = auto ] && ! grep -q bf16 err; then # f32 once more
    same "f32/$last" "auto/$last"
    echo "bf16 is not tested: this processor does not multiply it"
    break
  fi
  turn=0
  for ranks in 1 2 3 4 6 8; do
    for rows in $(seq "$ranks"); do
      [ $((ranks % rows)) -eq 0 ] && [ $((ranks / rows)) -le 7 ] || continue
      # All shapes of the grid, or the squarest alone.
      turn=$((turn + 1))
      $all || [ "$rows" -eq 1 ] && [ "$ranks" -lt 4 ] || [ "$rows" -eq 2 ] || continue
      train "many" "$ranks" train.precision="$precision" parallel.rows="$rows" parallel.cols=$((ranks / rows)) \
        parallel.threads=$((turn % 2 + 1))
      same "$precision/$last" "many/$last" || { echo "$precision on $rows x $((ranks / rows)) ranks"; exit 1; }
      same "$precision/checkpoint_best.h5" "many/checkpoint_best.h5"
      diff "$precision/log.jsonl" many/log.jsonl
      rm -rf many
    done
  done
done

# Replicas that share the samples of a step, stages of the network that these pass through, channels shared out, frames
# and leads cut over ranks, with and without tiles: the same bytes.
for shape in "2 1 1 1 1 1" "2 1 1 1 2 1" "2 1 1 1 1 3" "1 1 1 2 1 1" "1 1 1 2 1 2" "1 1 1 2 3 1" "2 1 1 2 1 2" \
  "1 2 1 2 1 2" "1 1 2 1 1 2"; do
  read -r replicas stages tensor parts rows cols <<<"$shape"
  train many $((replicas * stages * tensor * parts * rows * cols)) train.precision=f32 \
    parallel.replicas="$replicas" parallel.stages="$stages" parallel.tensor="$tensor" parallel.time="$parts" \
    parallel.rows="$rows" parallel.cols="$cols"
  named="$rows x $cols ranks"
  [ "$parts" -eq 1 ] || named="$parts parts of the frames x $named"
  [ "$tensor" -eq 1 ] || named="$tensor shares of the channels of $named"
  [ "$stages" -eq 1 ] || named="$stages stages of $named"
  [ "$replicas" -eq 1 ] || named="$replicas replicas of $named"
  grep -q "$named" err
  same "f32/$last" "many/$last" || { echo "$named"; exit 1; }
  same f32/checkpoint_best.h5 many/checkpoint_best.h5
  diff f32/log.jsonl many/log.jsonl
  rm -rf many
done

# Stopped on 2 ranks that share the frames, gone on with on 3 tiles, with blocks made anew: the same bytes.
train halves 2 train.precision=f32 train.checkpoint_every=$((steps / 2)) parallel.time=2
rm "halves/$last" halves/checkpoint_best.h5
train halves 3 train.precision=f32 train.from=latest train.keep=blocks
same "f32/$last" "halves/$last"

# What this is for: sums over whole tiles differ. And the loss is the same but for rounding.
train fast 1 train.precision=f32 train.exact=false
train fast2 2 train.precision=f32 train.exact=false
if same "fast/$last" "fast2/$last" >/dev/null; then echo "sums over other tiles came out the same"; exit 1; fi
"$python" - <<'END'
import json
losses = [[json.loads(line)["loss"] for line in open(f"{n}/log.jsonl") if '"loss"' in line] for n in ("f32", "fast")]
assert len(losses[0]) > 2 and max(abs(a - b) for a, b in zip(*losses, strict=True)) < 1e-4, losses
END

# Training samples alone are disturbed: the first validation is the same with and without.
train calm 1 train.precision=f32 train.frame_dropout=0 train.brightness_jitter_kelvin=0 train.steps=1
diff <(head -n 1 f32/log.jsonl) <(head -n 1 calm/log.jsonl)
first_loss() { sed -n 2p "$1/log.jsonl" | cut -d, -f2; }
[ "$(first_loss f32)" != "$(first_loss calm)" ] || { echo "nothing was disturbed"; exit 1; }

refused() { # PATTERN RANKS KEY=VALUE ...
  fails 2 "$1" run "$2" train deck.yaml train.output=no "${@:3}"
  [ ! -e no ]
}
# A process grid finer than the blocks, blocks that the levels do not divide, and samples that replicas do not.
refused 'smaller parallel.block' 4 train.exact=true parallel.rows=4 parallel.cols=1
refused 'multiple' 1 train.exact=true parallel.block=6
for replicas in 2 3; do refused 'replicas' 3 train.batch=2 parallel.replicas=$replicas; done
# More parts than frames, than leads, than ranks divide into, and blocks that no cut of the frames may pass.
refused '3 frames cannot be shared out' 4 parallel.time=4
refused '2 leads cannot be shared out' 3 parallel.time=3
refused '3 ranks cannot be shared out' 3 parallel.time=2
# Samples and blocks of the network that stages do not go into.
refused '2 stages cannot all work at once' 4 parallel.stages=2 parallel.replicas=2 train.batch=3
refused 'parallel.stages = 3' 3 parallel.stages=3 train.batch=3 model.channels=16 model.attention.levels=[]
# Ranks and channels that shares do not go into.
refused '3 ranks cannot be shared out over the shares of the channels' 3 parallel.tensor=2
refused 'parallel.tensor = 3' 3 parallel.tensor=3
refused 'parallel.block_frames' 2 parallel.time=2 train.exact=true parallel.block=8
