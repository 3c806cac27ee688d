#!/usr/bin/env bash
# The forecast of several checkpoints is the mean of their own forecasts, the same bytes on any number of ranks, also
# where the members differ in base and depth; what cannot be averaged is refused. Needs PLUVIA and MPIEXEC, as ctest
# sets them; Python with netCDF4.
source "$(dirname "$0")/lib/opening.sh"
find_python netCDF4 numpy || exit 77
small_archive 29 34
pluvia() { run "$1" "$2" deck.yaml forecast.write_logits=false "${@:3}" >/dev/null 2>err || { cat err; exit 1; }; }

shallow=(model.base=regression 'model.channels=[16, 16]')
pluvia 2 train train.output=a model.head_init=random
pluvia 2 train train.output=b model.head_init=random train.seed=2
pluvia 2 train train.output=c "${shallow[@]}"
pluvia 2 train train.output=other 'target.thresholds_mm=[0.2, 1, 8]'

# The calibration of a network that has learnt nothing may pull it back to climatology, the same for every member: two
# of those averaged are of the last step, before calibration, and one is calibrated.
a=a/checkpoint_00000002.h5 b=b/checkpoint_00000002.h5 c=c/checkpoint_best.h5
pluvia 1 forecast forecast.checkpoint=$a forecast.output=a_alone
pluvia 1 forecast forecast.checkpoint=$b forecast.output=b_alone
pluvia 1 forecast forecast.checkpoint=$c forecast.output=c_alone "${shallow[@]}"
for n in 1 2 3; do pluvia $n forecast forecast.checkpoint="[$a, $b]" forecast.output=ab_on$n; done
pluvia 3 forecast forecast.checkpoint="[$c, $a, $b]" forecast.output=cab_on3 "${shallow[@]}"
"$python" "$here/compare_forecasts.py" ab_on1 ab_on2
"$python" "$here/compare_forecasts.py" ab_on1 ab_on3
"$python" - <<'END'
import pathlib

import netCDF4
import numpy


def read(folder):
    files = [netCDF4.Dataset(path) for path in sorted(pathlib.Path(folder).glob("*.nc"))]
    return (numpy.stack([file["probability_of_precipitation"][...].filled(numpy.nan) for file in files]),
            numpy.stack([file["quality_flag"][...] for file in files]), files[0].weights_digest)


a, b, c = (read(name + "_alone") for name in "abc")
assert not numpy.isnan(a[0]).any()
for other in (b, c):
    difference = abs(a[0] - other[0]).max()
    assert difference > 0.02, difference
for members, folder in (((a, b), "ab_on1"), ((c, a, b), "cab_on3")):
    probability, flags, digest = read(folder)
    worst = abs(probability - sum(m[0] for m in members) / len(members)).max()
    print(f"{folder}: within {worst:.5f} of the mean of its members")
    assert worst < 0.00101, worst  # half of the last decimal, in the members and in their mean
    assert (flags == a[1]).all()
    assert digest == ", ".join(m[2] for m in members), digest
END

refused() { # PATTERN KEY=VALUE ...
  fails 2 "$1" run 2 forecast deck.yaml forecast.output=refused "${@:2}"
  [ ! -e refused ]
}
o=other/checkpoint_best.h5
refused "$a and $o cannot be averaged .*target.thresholds_mm" forecast.checkpoint="[$a, $o]" forecast.write_logits=false
refused 'write_logits needs a single model' forecast.checkpoint="[$a, $b]"
refused "model is not what $c was trained with" forecast.checkpoint=$c 'model.channels=[16, 16]'
