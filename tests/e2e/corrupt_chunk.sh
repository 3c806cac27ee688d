#!/usr/bin/env bash
# A damaged chunk of the archive that the last of three ranks reads, but not the first: whatever comes upon it, between
# whichever collectives, ends all ranks within 10 s with one message and exit code 3.
# Needs PLUVIA and MPIEXEC, as ctest sets them; Python with netCDF4; nccopy.
source "$(dirname "$0")/lib/opening.sh"
find_python netCDF4 numpy || exit 77
command -v nccopy >/dev/null || { echo "skipped: no nccopy"; exit 77; }
small_archive 37 42
run 2 train deck.yaml train.output=whole >/dev/null 2>err || { cat err; exit 1; }
nccopy -d 1 -s -c time/1,lat/4,lon/42 archive.nc chunks.nc
mkdir archives

# damage VARIABLE TIME: in rows 32 to 35 of the frame; the archive so damaged is archives/VARIABLE_TIME.nc.
damage() {
  cp chunks.nc "archives/$1_$2.nc"
  "$python" - "$1" "$2" <<'END_OF_DAMAGE'
import sys, zlib
import netCDF4, numpy
name, time = sys.argv[1:]
path = f"archives/{name}_{time}.nc"
with netCDF4.Dataset(path) as file:
    times = netCDF4.num2date(file["time"][:], file["time"].units)
    frame = [t.strftime("%Y-%m-%dT%H") for t in times].index(time)
    file.set_auto_maskandscale(False)
    values = numpy.ascontiguousarray(file[name][frame, 32:36])
# As the file holds it: the first bytes of all values, the second, ..., compressed.
stored = zlib.compress(values.view(numpy.uint8).reshape(-1, 4).T.tobytes(), 1)
content = bytearray(open(path, "rb").read())
assert content.count(stored) == 1, content.count(stored)
place = content.index(stored) + len(stored) // 2
content[place : place + 8] = bytes(8)
open(path, "wb").write(content)
END_OF_DAMAGE
}
# refused VARIABLE TIME ARGUMENTS...: by three ranks of which the last reads that frame's rows.
refused() {
  local start=$SECONDS archive=archives/$1_$2.nc
  damage "$1" "$2"
  fails 3 "$archive .*damaged" run 3 "${@:3}" data.archive="$archive" parallel.rows=3 parallel.cols=1
  echo "${*:3}: after $((SECONDS - start)) s"
  [ $((SECONDS - start)) -lt 10 ]
}
refused tb_window 2020-01-02T00 train deck.yaml train.output=measuring
refused rain 2020-01-02T00 train deck.yaml train.output=counting
refused tb_window 2020-01-03T06 train deck.yaml train.output=validating train.validate_samples=24
refused tb_vapour 2020-01-04T00 forecast deck.yaml train.output=whole
run 2 forecast deck.yaml train.output=whole >/dev/null 2>err || { cat err; exit 1; }
refused rain 2020-01-04T04 verify deck.yaml
