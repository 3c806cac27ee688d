#!/usr/bin/env bash
# What forecast.write_attention asks for is written beside each forecast: the same bytes on 1, 3 and 4 ranks, weights
# that add up to one over their keys, cells and times that hold the point, probabilities that are the product's; of an
# ensemble one file per member; the plot draws it, on a projected grid too; points outside the grid are refused. Needs
# PLUVIA and MPIEXEC, as ctest sets them; Python with netCDF4 and xarray.
source "$(dirname "$0")/lib/opening.sh"
find_python netCDF4 numpy xarray || exit 77
small_archive 29 34
sed -i 's/{radius: 2}/{radius: 2, window: 5}/' deck.yaml
pluvia() { run "$1" "$2" deck.yaml forecast.write_logits=false "${@:3}" >/dev/null 2>err || { cat err; exit 1; }; }

# A corner, whose windows are clamped or cut short; a point off the centre of its cell; one just outside.
read -r south_west inside outside < <("$python" - <<'END'
import netCDF4

with netCDF4.Dataset("archive.nc") as file:
    lat, lon = file["lat"][...].data, file["lon"][...].data
print(f"{lat[0]},{lon[0]} {lat[17] + 0.05},{lon[20] - 0.05} {lat[0] - 0.52 * (lat[1] - lat[0])},{lon[0]}")
END
)
points="[[$south_west],[$inside]]"
forms=(neighbourhood windowed joint)
for form in "${forms[@]}"; do
  model=(model.attention.form="$form" train.output="$form")
  pluvia 2 train "${model[@]}"
  for n in 1 3 4; do
    pluvia $n forecast "${model[@]}" forecast.write_attention="$points" forecast.output="$form-on$n"
  done
  "$python" "$here/compare_forecasts.py" "$form-on1" "$form-on3"
  "$python" "$here/compare_forecasts.py" "$form-on1" "$form-on4"
done
pluvia 2 forecast train.output=neighbourhood forecast.output=without
pluvia 2 forecast forecast.checkpoint="[neighbourhood/checkpoint_best.h5, windowed/checkpoint_best.h5]" \
  forecast.write_attention="$inside" forecast.output=both
"$python" - "${forms[@]}" <<'END'
import pathlib
import sys

import netCDF4
import numpy
import xarray

stamps = ("20200103T2200Z", "20200104T0100Z")
archive = xarray.open_dataset("archive.nc")
asked = ((0, 0), (17, 20))
checked = 0
for form in sys.argv[1:]:
    for stamp in stamps:
        with xarray.open_dataset(f"{form}-on1/pluvia_attention_i{stamp}.nc", decode_timedelta=False) as file:
            kinds = {name for name in file if "_weight_" in name}
            blocks = ["joint"] if form == "joint" else ["spatial", "temporal"]
            wanted = {f"{kind}_weight_{by}level{level}" for by in ("", "by_head_") for kind, levels in
                      [("skip", (0, 1, 2))] + [(block, (1, 2)) for block in blocks] for level in levels}
            assert kinds == wanted, kinds ^ wanted
            for name in kinds:
                weights = file[name]
                keys = [d for d in weights.dims if d == "frame" or "_row_" in d or "_column_" in d]
                total = weights.sum(keys)
                assert abs(total - 1).max() < 1e-5, (name, total)
                assert weights.min() >= 0, name
                if weights.isnull().any():  # a block that the edge of the domain cuts short
                    assert form == "windowed", name
                if "by_head" in name:
                    mean = weights.mean([d for d in weights.dims if "_head_" in d], skipna=False)
                    assert abs(mean - file[name.replace("by_head_", "")]).max() < 1e-6, name
                checked += 1
            assert file["skip_weight_level0"].sizes["skip_row_level0"] == 3
            # The image times and the cells of each level: the finest are those of the archive.
            hours = (file["frame"] - file["forecast_reference_time"]) / numpy.timedelta64(1, "h")
            assert list(hours.values) == [-2, -1, 0], hours
            for i, (row, column) in enumerate(asked):
                for axis, at in (("lat", row), ("lon", column)):
                    centre = archive[axis].values[at]
                    assert abs(file[f"cell_{axis}"][i] - centre) < 1e-9
                    keys = file[f"skip_{axis}_level0"][i].values
                    assert (abs(keys - centre) < 1e-9).sum() == 1, keys
                    assert numpy.isin(keys.round(6), archive[axis].values.round(6)).all(), keys
                    for level in (1, 2):
                        width = 2 ** level
                        own = archive[axis].values[at // width * width:][:width]
                        keys = file[f"{blocks[0]}_{axis}_level{level}"][i].values
                        assert (abs(keys - own.mean()) < 1e-6).sum() == 1, (keys, own)
            for level in (1, 2):
                if form != "joint":
                    share = file[f"spatial_share_level{level}"].values
                    assert ((share > 0) & (share < 1)).all(), share
            with xarray.open_dataset(f"{form}-on1/pluvia_pop_i{stamp}.nc", decode_timedelta=False) as product:
                for i, (row, column) in enumerate(asked):
                    there = product["probability_of_precipitation"][:, :, row, column].values
                    assert (file["probability_of_precipitation"][i].values == there).all()

# The product is what it is without attention, and of two models each has a file, with its own digest and levels.
for path in sorted(pathlib.Path("without").glob("*")):
    a, b = netCDF4.Dataset(path), netCDF4.Dataset(pathlib.Path("neighbourhood-on1") / path.name)
    assert (a["probability_of_precipitation"][...] == b["probability_of_precipitation"][...]).all()
names = sorted(path.name for path in pathlib.Path("both").glob("pluvia_attention*"))
assert names == [f"pluvia_attention_i{s}_member{m}.nc" for s in stamps for m in (1, 2)], names
one, two, both = (netCDF4.Dataset(f"both/{name}") for name in
                  (*names[:2], f"pluvia_pop_i{stamps[0]}.nc"))
assert both.weights_digest == f"{one.weights_digest}, {two.weights_digest}"
alone = netCDF4.Dataset(f"windowed-on1/pluvia_attention_i{stamps[0]}.nc")
key = "skip_weight_by_head_level2"
assert (two[key][0] == alone[key][1]).all() and (one[key][0] != two[key][0]).any()
print(f"{checked} arrays of weights add up to one")
END

said=$(run 3 info "joint-on1/pluvia_attention_i20200103T2200Z.nc")
grep -q '^  joint_weight_level2(point, frame, joint_row_level2, joint_column_level2)$' <<<"$said" ||
  { echo "$said"; exit 1; }

# The same weather on a projected grid: y and x in metres, latitudes and longitudes of its cells turned against them.
there=$("$python" - <<'END'
import netCDF4
import numpy

with netCDF4.Dataset("archive.nc") as old, netCDF4.Dataset("projected.nc", "w") as new:
    y, x = (25e3 * numpy.arange(old.dimensions[name].size) for name in ("lat", "lon"))
    new.createDimension("time")
    for name, values in (("y", y), ("x", x)):
        new.createDimension(name, values.size)
        axis = new.createVariable(name, "f8", (name,))
        axis.setncatts({"standard_name": f"projection_{name}_coordinate", "units": "m"})
        axis[:] = values
    new.createVariable("crs", "i4").grid_mapping_name = "lambert_azimuthal_equal_area"
    for name, unit, start, values in (("lat", "degrees_north", 5, 0.9 * y[:, None] + 0.4 * x),
                                      ("lon", "degrees_east", 75, 0.9 * x - 0.4 * y[:, None])):
        field = new.createVariable(name, "f8", ("y", "x"))
        field.units = unit
        field[:] = start + values / 111e3
    new.createVariable("time", "f8", ("time",)).units = old["time"].units
    new["time"][:] = old["time"][:]
    for name in ("tb_window", "tb_vapour", "rain"):
        field = new.createVariable(name, "f4", ("time", "y", "x"), fill_value=numpy.nan)
        field.setncatts({"units": old[name].units, "grid_mapping": "crs", "coordinates": "lat lon"})
        field[:] = numpy.ma.filled(old[name][:], numpy.nan)
    print(new["lat"][17, 20], new["lon"][17, 20], sep=",")
END
)
projected=(data.archive=projected.nc train.output=projected)
pluvia 2 train "${projected[@]}"
pluvia 3 forecast "${projected[@]}" forecast.output=projected forecast.write_attention="$there"
"$python" - <<'END'
import xarray

file = xarray.open_dataset("projected/pluvia_attention_i20200103T2200Z.nc", decode_timedelta=False)
assert (file["cell_y"][0], file["cell_x"][0]) == (17 * 25e3, 20 * 25e3)
END

if "$python" -c 'import matplotlib' 2>/dev/null; then
  drawn() { # TEXT FOLDER OPTION ...
    "$python" "$here/../../tools/plot_attention.py" "$2/pluvia_attention_i20200103T2200Z.nc" --lead 12 -o plot.png \
      "${@:3}" >said || { cat said; exit 1; }
    grep -q "$1, lead 12 h" said && [ "$(stat -c %s plot.png)" -gt 20000 ]
  }
  for form in neighbourhood joint; do drawn 'point 2 of 2' "$form-on1" --archive archive.nc --point 2; done
  drawn 'point 1 of 1' projected --archive projected.nc
fi

refused() { # PATTERN POINTS
  fails 2 "$1" run 2 forecast deck.yaml train.output=neighbourhood forecast.output=refused forecast.write_attention="$2"
  [ ! -e refused ]
}
refused 'names \[89, 0\] \(it lies outside' '[89, 0]'
refused 'lies outside the archive' "[[$inside],[$outside]]"
refused 'must be \[latitude, longitude\]' '5.1'
