"""A small archive with gaps and a set of imperfect forecasts of it, for verify.sh: archive.nc and forecasts/."""
import os
import sys

import netCDF4
import numpy as np

ny, nx, frames, step = 20, 26, 24 * 9, 3600
leads, thresholds = [6, 12], [0.2, 2, 8]
epoch = 1577836800  # 2020-01-01
rng = np.random.default_rng(5)
lat, lon = np.linspace(52, 42.5, ny), np.linspace(3, 15.5, nx)

# Rain drifts east through a red-noise pattern; cold cloud comes an hour before it.
pattern = np.zeros((ny, nx + frames))
for _ in range(60):
    wy, wx, phase = rng.normal(0, 0.35), rng.normal(0, 0.18), rng.uniform(0, 2 * np.pi)
    pattern += np.cos(wy * np.arange(ny)[:, None] + wx * np.arange(nx + frames) + phase)
wetness = np.stack([pattern[:, frames - t : frames - t + nx] for t in range(frames)]) / 5.5
rain = np.maximum(wetness - 0.6, 0) * 3 + np.where(wetness > 0.6, rng.uniform(0, 0.5, wetness.shape), 0)
tb = 280 - 25 * wetness + rng.normal(0, 3, wetness.shape)
rain[rng.uniform(size=rain.shape) < 0.01] = np.nan
tb[rng.uniform(size=tb.shape) < 0.01] = np.nan
present = [t for t in range(frames) if t not in (100, 180, 181)]

folder = sys.argv[1]
os.makedirs(os.path.join(folder, "forecasts"), exist_ok=True)


def axes(file):
    for name, values, units in (("lat", lat, "degrees_north"), ("lon", lon, "degrees_east")):
        file.createDimension(name, len(values))
        variable = file.createVariable(name, "f8", (name,))
        variable.units = units
        variable[:] = values


with netCDF4.Dataset(os.path.join(folder, "archive.nc"), "w") as file:
    axes(file)
    file.createDimension("time", len(present))
    time = file.createVariable("time", "f8", ("time",))
    time.units = "seconds since 1970-01-01 00:00:00"
    time[:] = [epoch + step * t for t in present]
    for name, values, units in (("tb", tb, "K"), ("rain", rain, "mm h-1")):
        variable = file.createVariable(name, "f4", ("time", "lat", "lon"), fill_value=-999.0)
        variable.units = units
        variable[:] = np.ma.masked_invalid(values[present])

for t in range(24 * 5 - 6, 24 * 9 - 6, 5):
    probability = np.empty((len(leads), len(thresholds), ny, nx))
    for i, lead in enumerate(leads):
        window = np.nansum(rain[min(t + lead - 5, frames - 6) : t + lead + 1], axis=0)
        for k, threshold in enumerate(thresholds):
            signal = np.log((window + 0.1) / threshold) * (1.2 - 0.06 * lead) + rng.normal(0, 1, (ny, nx)) - 0.3
            probability[i, k] = 1 / (1 + np.exp(-signal))
    probability = np.minimum.accumulate(probability, axis=1).round(3)
    if t % 4 == 0:
        probability[:, :, 3:6, 4:8] = np.nan
    init = epoch + step * t
    stamp = np.datetime64(init, "s").astype(str)[:16].replace("-", "").replace(":", "")
    with netCDF4.Dataset(os.path.join(folder, "forecasts", f"pluvia_pop_i{stamp}Z.nc"), "w") as file:
        axes(file)
        for name, size in (("time", len(leads)), ("threshold", len(thresholds)), ("bnds", 2)):
            file.createDimension(name, size)
        for name, dims, values in (("time", ("time",), [init + 3600 * h for h in leads]),
                                   ("time_bnds", ("time", "bnds"), [[init + 3600 * (h - 6), init + 3600 * h] for h in leads]),
                                   ("forecast_reference_time", (), init)):
            variable = file.createVariable(name, "f8", dims)
            variable.units = "seconds since 1970-01-01 00:00:00"
            variable[...] = values
        file.variables["time"].bounds = "time_bnds"
        variable = file.createVariable("forecast_period", "f8", ("time",))
        variable.units = "hours"
        variable[:] = leads
        variable = file.createVariable("threshold", "f4", ("threshold",))
        variable.units = "mm"
        variable[:] = thresholds
        variable = file.createVariable("probability_of_precipitation", "f4", ("time", "threshold", "lat", "lon"), fill_value=9.96921e36)
        variable.units = "1"
        variable[:] = np.ma.masked_invalid(probability)
        file.configuration = "data: {target: rain, precip_label: end}"
