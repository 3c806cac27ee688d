#!/usr/bin/env bash
# The scores of pluvia verify are those of an independent computation, the same on any number of ranks, and the
# plots can be drawn. Needs PLUVIA (the program) and MPIEXEC, as ctest sets them; Python with netCDF4.
source "$(dirname "$0")/lib/opening.sh"
find_python netCDF4 numpy || exit 77
"$python" "$here/make_verification_case.py" .
cat >deck.yaml <<'END'
data:
  archive: archive.nc
  predictors: [tb, rain]
  target: rain
  train: {from: 2020-01-01, to: 2020-01-06}
  test: {from: 2020-01-06, to: 2020-01-10}
target: {leads_hours: [6, 12], window_hours: 6, thresholds_mm: [0.2, 2, 8]}
verify: {forecasts: forecasts, output: scores}
END
"$PLUVIA" verify deck.yaml
"$MPIEXEC" --oversubscribe --bind-to none -np 3 "$PLUVIA" verify deck.yaml verify.output=scores_3 >/dev/null
cmp scores/scores.csv scores_3/scores.csv
"$python" "$here/check_scores.py" .

# Parts, as array jobs make them, add up to the whole.
"$PLUVIA" verify deck.yaml verify.output=early data.test.to=2020-01-08T06:00 >/dev/null
"$PLUVIA" verify deck.yaml verify.output=late data.test.from=2020-01-08T00:00 >/dev/null # windows overlap, ends do not
"$PLUVIA" verify deck.yaml verify.output=merged data.test.from=2020-01-09 \
  'verify.merge=[early/scores.json, late/*.json]' >/dev/null
cmp scores/scores.csv merged/scores.csv

# What cannot be verified is refused with status 3, and nothing is left half-written.
refused() { # PATTERN KEY=VALUE ...
  fails 3 "$1" "$PLUVIA" verify deck.yaml verify.output=refused "${@:2}"
  [ ! -e refused ]
}
mkdir none
refused 'no forecasts to verify' verify.forecasts=none
refused 'leads_hours differ' 'target.leads_hours=[6, 18]'
refused 'thresholds_mm differ' 'target.thresholds_mm=[0.2, 2, 9]'
refused 'no file absent.json' 'verify.merge=[absent.json]'
echo '{"forecasts": 1}' >foreign.json
refused 'foreign.json cannot be merged' 'verify.merge=[foreign.json]'
refused 'two of them hold the forecast of' 'verify.merge=[early/scores.json, scores/scores.json]'
refused 'nothing to verify' data.test.from=2021-01-01 data.test.to=2021-01-10

if "$python" -c 'import xarray, matplotlib' 2>/dev/null; then
  # All days are named, also those of parts; a forecast whose windows end in two parts counts once.
  for drawn in scores merged; do
    "$python" "$here/../../tools/plot_scores.py" "$drawn/scores.json" -o scores.png | tee said
    grep -q "20 forecasts on 4 days, 2020-01-06 to 2020-01-09;" said
  done
  first=$(ls forecasts/*.nc | head -1)
  "$python" "$here/../../tools/plot_forecast.py" "$first" --archive archive.nc --threshold 2 -o map.png
  for picture in scores.png map.png; do
    [ "$(head -c 4 "$picture" | tail -c 3)" = PNG ] || { echo "$picture is no picture"; exit 1; }
  done
fi
