#!/usr/bin/env bash
# labels: bits
# Raw logits, probabilities and everything else in a forecast file are the same bytes on 1, 2, 3, 4, 5, 6 and 8 ranks,
# on every rows x cols, with 1 and 2 threads: shown with a randomly initialised head, whose logits vary. The same with
# frames and leads cut over ranks, with channels shared out over them, with the regression as base, whose box means look
# beyond the tile, with global attention and with a memory for temporal attention, on a few process grids.
#   bits.sh          a 61 x 53 grid, threads taking turns
#   bits.sh --all    150 x 150, 61 x 53 and 97 x 101, each with 1 and with 2 threads
# Needs PLUVIA and MPIEXEC, as ctest sets them; Python with netCDF4.
source "$(dirname "$0")/lib/opening.sh"
find_python netCDF4 numpy || exit 77
grids="61x53" both=false
if [ "${1:-}" = --all ]; then grids="150x150 61x53 97x101" both=true; fi

compared=0
# train NAME KEY=VALUE ...: a model, and its forecasts on one rank with one thread in the folder one.
train() {
  keys=("${@:2}")
  run 1 train deck.yaml model.head_init=random "${keys[@]}" train.output="$1" >/dev/null 2>err || { cat err; exit 1; }
  rm -rf one
  run 1 forecast deck.yaml "${keys[@]}" parallel.threads=1 train.output="$1" forecast.output=one >/dev/null 2>err ||
    { cat err; exit 1; }
  "$python" "$here/compare_forecasts.py" --vary one
}
# same NAME RANKS ROWS THREADS [PARTS [TENSOR]]: the same bytes as those.
same() {
  rm -rf many
  local parts=${5:-1} tensor=${6:-1}
  local cols=$(($2 / $3 / parts / tensor))
  run "$2" forecast deck.yaml "${keys[@]}" parallel.time="$parts" parallel.tensor="$tensor" parallel.rows="$3" \
    parallel.cols="$cols" parallel.threads="$4" train.output="$1" forecast.output=many >/dev/null 2>err || { cat err; exit 1; }
  "$python" "$here/compare_forecasts.py" one many || { echo "$grid, $1: $parts x $tensor x $3 x $cols, $4 threads"; exit 1; }
  compared=$((compared + 1))
}
for grid in $grids; do
  mkdir "$grid" && cd "$grid"
  small_archive "${grid%x*}" "${grid#*x}"
  train climatology
  turn=0
  for ranks in 1 2 3 4 5 6 8; do
    for rows in $(seq "$ranks"); do
      [ $((ranks % rows)) -eq 0 ] || continue
      turn=$((turn + 1))
      threads=$((turn % 2 + 1))
      if $both; then threads="1 2"; fi
      for n in $threads; do same climatology "$ranks" "$rows" "$n"; done
    done
  done
  same climatology 2 1 2 2
  same climatology 4 2 1 2
  same climatology 6 1 1 2
  same climatology 4 1 2 1 2
  train regression model.base=regression
  same regression 2 1 2
  same regression 4 2 1
  same regression 4 1 1 2
  train global model.attention.global=linear model.temporal_core=recurrent
  same global 3 1 2
  same global 6 2 1
  same global 4 2 1 2
  same global 4 1 1 2 2
  cd ..
done
echo "$compared process grids and thread counts: the same bytes"
