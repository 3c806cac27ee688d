#!/usr/bin/env bash
# Simulates an archive, trains on it, forecasts from it and scores the forecasts (inputs/demo.yaml), draws maps and
# score curves, and leaves everything in demo/.
#   tools/demo.sh [key=value ...]    replacements of single keys, as in train.steps=50
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ranks=2
logs=demo/logs
rm -rf demo
mkdir -p "$logs"
pluvia=(mpirun --oversubscribe --bind-to none -np "$ranks" "$build/pluvia")

# The plots need Debian's Python packages, which another Python on the path does not see.
python=python3
"$python" -c 'import xarray, netCDF4, matplotlib, cartopy' 2>/dev/null || python=/usr/bin/python3

for command in simulate train forecast verify; do
  stage "$command" "${pluvia[@]}" "$command" inputs/demo.yaml "$@"
done
forecasts=(demo/forecasts/pluvia_pop_*.nc)
stage "draw a forecast" "$python" tools/plot_forecast.py "${forecasts[0]}" --archive demo/archive.nc -o demo/map.png
stage "draw the scores" "$python" tools/plot_scores.py demo/scores/scores.json -o demo/scores.png

echo
echo "archive    demo/archive.nc"
echo "model      demo/run (checkpoints, log.jsonl, config.yaml)"
echo "forecasts  demo/forecasts (${#forecasts[@]} files), the first drawn in demo/map.png"
echo "scores     demo/scores, drawn in demo/scores.png:"
cat "$logs/verify.log"
