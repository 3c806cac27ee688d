#!/usr/bin/env bash
# The field's own tools open a forecast file with the right times, coordinates, values and coordinate system.
# Tools that are not installed are named and left out; without any of them the test is skipped.
set -u
build=$(dirname "${PLUVIA:?the program}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tools=0 failures=0

PLUVIA_TEST_OUTPUT=$folder "${MPIEXEC:-mpirun}" --oversubscribe --bind-to none -np 2 \
  "$build/tests/product_test" --gtest_filter=Product.ForOtherTools > "$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
product=$folder/pluvia_pop_i20191231T0600Z.nc
[ -f "$product" ] || { echo "FAILED: no product was written"; exit 1; }

# expect TOOL PATTERN TEXT: the text has a line that matches the extended regular expression.
expect() {
  if grep -qE -- "$2" <<< "$3"; then echo "ok: $1: $2"
  else echo "FAILED: $1: no line matches '$2' in:"; echo "$3"; failures=$((failures + 1)); fi
}
have() {
  if command -v "$1" > /dev/null; then tools=$((tools + 1)); else echo "skipped: $1 is not installed"; return 1; fi
}

if have cdo; then
  times=$(cdo -s showtimestamp "$product" 2> /dev/null)
  expect "cdo showtimestamp" '2019-12-31T12:00:00 +2019-12-31T18:00:00 +2020-01-01T06:00:00' "$times"
  info=$(cdo -s sinfon "$product" 2> /dev/null)
  expect "cdo sinfon" 'points=1961 \(53x37\)' "$info"
  expect "cdo sinfon" 'lon : -90 to -79.6 by 0.2 degrees_east' "$info"
  expect "cdo sinfon" 'lat : -10 to -2.8 by 0.2 degrees_north' "$info"
  expect "cdo sinfon" 'threshold : 0.2 to 25.4 mm' "$info"
  expect "cdo sinfon" 'ForecastRefTime = +2019-12-31T06:00:00' "$info"
fi

if have ncks; then
  # The value by coordinate and the value by index are the same cell: latitude -4.0 is row 30, longitude -85 column 25.
  by_value=$(ncks -C -H -s '%.4f\n' -v probability_of_precipitation -d threshold,1.0 -d time,0 -d lat,-4.0 -d lon,-85.0 "$product")
  by_index=$(ncks -C -H -s '%.4f\n' -v probability_of_precipitation -d threshold,1 -d time,0 -d lat,30 -d lon,25 "$product")
  expect "ncks" '^0\.[0-9]{3}0$' "$by_value"
  expect "ncks by value = by index" "^$(head -1 <<< "$by_index")\$" "$by_value"
fi

if have gdalinfo; then
  info=$(gdalinfo "NETCDF:$product:probability_of_precipitation" 2> /dev/null)
  expect "gdalinfo" 'ID\["EPSG",4326\]' "$info"
  expect "gdalinfo" '^Size is 53, 37' "$info"
  expect "gdalinfo" '^Origin = \(-90\.(1|0999)[0-9]*,-2\.(7|6999)[0-9]*\)' "$info"
  expect "gdalinfo, north up" '^Pixel Size = \(0\.2[0-9]*,-0\.2[0-9]*\)' "$info"
  expect "gdalinfo" '^Band 12 ' "$info"
fi

source "$(dirname "${BASH_SOURCE[0]}")/lib/python.sh"
if find_python xarray netCDF4 >/dev/null; then
  tools=$((tools + 1))
  text=$("$python" - "$product" 2>&1 << 'END'
import sys
import numpy as np
import xarray as xr

forecast = xr.open_dataset(sys.argv[1])
p = forecast.probability_of_precipitation
assert p.dims == ("time", "threshold", "lat", "lon"), p.dims
assert list(forecast.time.values) == [np.datetime64(t) for t in
                                      ("2019-12-31T12:00", "2019-12-31T18:00", "2020-01-01T06:00")]
assert forecast.forecast_reference_time.values == np.datetime64("2019-12-31T06:00")
assert forecast.time_bnds.values[0, 0] == np.datetime64("2019-12-31T06:00")
least = p.sel(threshold=0.2)
assert least.shape == (3, 37, 53), least.shape
assert np.isnan(least[0, 0, 0]) and float(least.max()) <= 1 and float(least.min()) >= 0
# The values are those of the formula that the writer was given, rounded to three decimals.
lead, k, y, x = 1, 2, 20, 31
wave = 0.5 + 0.5 * np.sin(0.31 * y + 0.17 * x * (lead + 1))
assert abs(float(p[lead, k, y, x]) - wave ** (1 + k)) <= 0.0005001
fall = np.diff(p.values, axis=1)
assert not (fall > 0).any(), "a probability rises with the threshold"
print("xarray read it")
END
  )
  expect "xarray" '^xarray read it$' "$text"
else
  echo "skipped: xarray with netCDF4 is not installed"
fi

[ "$tools" -gt 0 ] || { echo "none of the tools is installed"; exit 77; }
[ "$failures" -eq 0 ] || { echo "$failures checks failed"; exit 1; }
echo "all checks passed with $tools tools"
