#!/usr/bin/env bash
# Raw logits, probabilities and everything else in a forecast file are the same bytes on 1, 2, 3, 4, 5, 6 and 8 ranks,
# on every rows x cols, with 1 and 2 threads: shown with a randomly initialised head, whose logits vary.
#   bits.sh          a 61 x 53 grid, threads taking turns
#   bits.sh --all    150 x 150, 61 x 53 and 97 x 101, each with 1 and with 2 threads
# Needs PLUVIA and MPIEXEC, as ctest sets them; Python with netCDF4.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/lib/small_model.sh"
python=python3
"$python" -c 'import netCDF4, numpy' 2>/dev/null || python=/usr/bin/python3
"$python" -c 'import netCDF4, numpy' 2>/dev/null || { echo "skipped: no Python with netCDF4 and numpy"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export OMP_WAIT_POLICY=passive
grids="61x53" both=false
if [ "${1:-}" = --all ]; then grids="150x150 61x53 97x101" both=true; fi

compared=0
for grid in $grids; do
  mkdir "$grid" && cd "$grid"
  small_archive "${grid%x*}" "${grid#*x}"
  run 1 train deck.yaml model.head_init=random train.output=run >/dev/null 2>err || { cat err; exit 1; }
  run 1 forecast deck.yaml parallel.threads=1 train.output=run forecast.output=one >/dev/null 2>err || { cat err; exit 1; }
  "$python" "$here/compare_forecasts.py" --vary one
  turn=0
  for ranks in 1 2 3 4 5 6 8; do
    for rows in $(seq "$ranks"); do
      [ $((ranks % rows)) -eq 0 ] || continue
      turn=$((turn + 1))
      threads=$((turn % 2 + 1))
      if $both; then threads="1 2"; fi
      for n in $threads; do
        rm -rf many
        run "$ranks" forecast deck.yaml parallel.rows="$rows" parallel.cols=$((ranks / rows)) parallel.threads="$n" \
          train.output=run forecast.output=many >/dev/null 2>err || { cat err; exit 1; }
        "$python" "$here/compare_forecasts.py" one many || { echo "$grid: $rows x $((ranks / rows)), $n threads"; exit 1; }
        compared=$((compared + 1))
      done
    done
  done
  cd ..
done
echo "$compared process grids and thread counts: the same bytes"
