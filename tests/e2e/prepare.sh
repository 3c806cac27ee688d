#!/usr/bin/env bash
# One real day of raw MERGIR and IMERG files becomes the archive that another program made of it: on one rank
# within 20 s, the same on three, grown in two steps or stopped and gone on with as in one. Looks for the files
# in PLUVIA_REAL_DATA or in ../shared/data beside the repository and is skipped without them.
set -uo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
data=${PLUVIA_REAL_DATA:-$repository/../shared/data}/nwsa
raw=$data/raw pack=$data/mergir_imerg_nwsa_0p1deg_20191225_20191231.nc
if [ ! -d "$raw" ] || [ ! -f "$pack" ]; then
  echo "skipped: no real data in $data"
  exit 77
fi
source "$repository/tests/e2e/lib/python.sh"
find_python netCDF4 || exit 77
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
deck=$repository/inputs/nwsa_prepare.yaml
fail() { echo "FAILED: $*"; cat log; exit 1; }
ranks() { "${MPIEXEC:-mpirun}" --oversubscribe --bind-to none -np "$@"; }
ln -s "$raw" raw # where the deck looks

start=$(date +%s%N)
OMP_NUM_THREADS=1 "${PLUVIA:?the program}" prepare "$deck" prepare.output=one.nc >log 2>&1 || fail "the day"
milliseconds=$((($(date +%s%N) - start) / 1000000))
grep -q '^Used 48 of precip and 48 of tb frames from 72 files$' log || fail "not every frame was used"
grep -q 'one.nc holds 49 times from 2019-12-27T00:00:00Z to 2019-12-28T00:00:00Z: 0 missing, 1 without precip (as 2019-12-27T00:00:00Z), 1 without tb' log || fail "times"
echo "72 files in $milliseconds ms on one rank"
[ "$milliseconds" -lt 20000 ] || fail "a day took $milliseconds ms"

ranks 3 "$PLUVIA" prepare "$deck" prepare.output=three.nc >log 2>&1 || fail "three ranks"

# The afternoon first; a file that broke off in between does no harm and is named.
"$PLUVIA" prepare "$deck" prepare.output=grown.nc 'prepare.inputs=["raw/merg_20191227[12]*", "raw/3B-HHR*-S1*"]' \
  >log 2>&1 || fail "a part of the day"
head -c 500000 raw/merg_2019122703_4km-pixel.nc4.nc4 >torn.nc4
ranks 2 "$PLUVIA" prepare "$deck" prepare.output=grown.nc 'prepare.inputs=["raw/*.nc4", torn.nc4]' \
  >log 2>&1 || fail "the rest of the day"
grep -q '^warning: skipped: torn.nc4 ' log || fail "the broken file is not named"
grep -q 'frames that the archive has already' log || fail "frames were made twice"

# Asked to stop, it keeps what it has and goes on from there.
"$PLUVIA" prepare "$deck" prepare.output=stopped.nc >log 2>&1 &
until [ -f stopped.nc.part ] || ! kill -0 $! 2>/dev/null; do sleep 0.02; done
kill -USR1 $!
wait $!
status=$?
[ $status -eq 75 ] || fail "status $status after a request to stop"
grep -q 'asked to stop: [0-9]* times are still to be made' log || fail "nothing said of a stop"
"$PLUVIA" prepare "$deck" prepare.output=stopped.nc >log 2>&1 || fail "going on"
grep -q 'frames that the archive has already' log || fail "nothing was kept"

"$python" - "$pack" raw one.nc three.nc grown.nc stopped.nc <<'END' || fail "the comparison"
import glob
import sys

import netCDF4
import numpy as np

pack = netCDF4.Dataset(sys.argv[1])
archives = [netCDF4.Dataset(name) for name in sys.argv[3:]]
for other in archives[1:]:
    assert other.variables.keys() == archives[0].variables.keys()
    for name, variable in archives[0].variables.items():
        variable.set_auto_maskandscale(False)
        other[name].set_auto_maskandscale(False)
        assert np.array_equal(variable[...], other[name][...]), f"{name} differs in {other.filepath()}"
        variable.set_auto_maskandscale(True)

archive = archives[0]
position = {int(t): i for i, t in enumerate(archive["time"][:])}
pack_position = {int(t) * 60: i for i, t in enumerate(pack["time"][:])}
# The pack stores 0.5 K, 1 K and 0.01 mm/h and labels the start of a rain interval, we 0.01 and its end; each
# rounds by half of its step.
for name, shift, bound in (("tb_mean", 0, 0.25 + 0.005), ("tb_min", 0, 0.5 + 0.005), ("precip", 1800, 0.005 + 0.005)):
    cells, largest, total = 0, 0.0, 0.0
    for t, i in position.items():
        ours = np.ma.filled(archive[name][i].astype("f8"), np.nan)
        if np.isnan(ours).all():
            continue
        theirs = np.ma.filled(pack[name][pack_position[t - shift]].astype("f8"), np.nan)
        assert np.array_equal(np.isnan(ours), np.isnan(theirs)), f"{name}: other cells are missing at {t}"
        difference = np.abs(ours - theirs)[~np.isnan(ours)]
        cells, total, largest = cells + difference.size, total + difference.sum(), max(largest, difference.max())
    print(f"{name}: {cells} cells, differences from the pack: mean {total / cells:.3g}, largest {largest:.3g}")
    assert cells == 48 * 300 * 300 and largest <= bound + 1e-9, (cells, largest)
largest = 0.0
for name in sorted(glob.glob(sys.argv[2] + "/3B-HHR*")):
    file = netCDF4.Dataset(name)
    rain = archive["precip"][position[int(file["time"][0]) + 1800]].astype("f8")
    largest = max(largest, np.abs(rain - file["precipitationCal"][0].T.astype("f8")).max())
print(f"precip: largest difference from the raw files {largest:.4g}")
assert largest <= 0.005 + 1e-9
END

# It is an archive like any other.
"$PLUVIA" info one.nc >log 2>&1 || fail "info"
grep -q '^  frames  49, 0 missing$' log || fail "info"
echo "all checks passed"
