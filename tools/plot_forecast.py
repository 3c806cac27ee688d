#!/usr/bin/env python3
"""Maps of one forecast file: the probability at each lead time, beside the last image that went into it.

    plot_forecast.py FORECAST.nc [--archive ARCHIVE.nc] [--threshold MM] -o map.png

With --archive the last image is drawn, and where the archive holds the rain of a window, the edge of what was
observed to reach the threshold. Needs xarray, netCDF4, matplotlib; cartopy adds coastlines where its data lie on
this computer (nothing is fetched)."""
import argparse
import math
import os
import sys

import numpy as np

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import xarray as xr
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.lines import Line2D
except ImportError as error:
    sys.exit(f"plot_forecast.py: {error}; install python3-xarray python3-netcdf4 python3-matplotlib")

LEVELS = [0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]


def configuration(forecast):
    """data.target and data.precip_label the forecast was made with, as far as it says so."""
    try:
        import yaml

        data = (yaml.safe_load(forecast.attrs.get("configuration", "")) or {}).get("data", {})
    except Exception:
        data = {}
    return data.get("target"), data.get("precip_label", "end")


def image_variable(archive, target):
    """The brightness temperature (or, failing that, any field but rain) on (time, y, x)."""
    fields = [n for n in archive.data_vars if archive[n].ndim == 3 and n != target]
    for name in fields:
        if archive[name].attrs.get("standard_name", "").endswith("brightness_temperature"):
            return name
    for name in fields:
        if archive[name].attrs.get("units") in ("K", "kelvin"):
            return name
    return fields[0] if fields else None


def observed_sum(archive, target, label, begin, end):
    """Rain [mm] in (begin, end] as the scores see it: None when more than 1 of 12 frames are missing altogether."""
    times = archive["time"].values
    step = np.median(np.diff(times)) if len(times) > 1 else np.timedelta64(3600, "s")
    ends = times + step if label == "start" else times
    inside = np.flatnonzero((ends > begin + step / 2) & (ends <= end + step / 2))
    wanted = round((end - begin) / step)
    if wanted == 0 or len(inside) < math.ceil(wanted * 11 / 12):
        return None
    rate = archive[target].isel(time=inside).values
    known = np.isfinite(rate).sum(axis=0)
    hours = (end - begin) / np.timedelta64(3600, "s")
    with np.errstate(invalid="ignore"):
        mean = np.nansum(rate, axis=0) / np.maximum(known, 1)
    return np.where(known >= math.ceil(wanted * 11 / 12), mean * hours, np.nan)


def coastlines():
    """Geometries of the coast in the data that stand on this computer; empty when there are none."""
    try:
        import logging

        import cartopy
        from cartopy.io.shapereader import Reader
        logging.getLogger("shapefile").setLevel(logging.ERROR)  # odd rings of the coast are no news
    except ImportError:
        return []
    folders = [str(cartopy.config[key]) for key in ("data_dir", "pre_existing_data_dir", "repo_data_dir")]
    for folder in folders + ["/usr/share/cartopy/data"]:
        for name in ("natural_earth/physical/ne_50m_coastline", "natural_earth/physical/ne_110m_coastline",
                     "gshhs/l/GSHHS_l_L1", "gshhs/c/GSHHS_c_L1"):
            path = os.path.join(folder, "shapefiles", name + ".shp")
            if os.path.exists(path):
                return list(Reader(path).geometries())
    return []


def draw_coast(axes, x, y, geometries, colour):
    """Draws lines and rings that touch the map, keeping its limits."""
    for geometry in geometries:
        for part in getattr(geometry, "geoms", [geometry]):
            ring = part.exterior if hasattr(part, "exterior") else part
            west, south, east, north = ring.bounds
            for shift in (0, 360):
                if west + shift < x.max() and east + shift > x.min() and south < y.max() and north > y.min():
                    line = np.asarray(ring.coords)
                    axes.plot(line[:, 0] + shift, line[:, 1], color=colour, linewidth=0.6)
    axes.set_xlim(x.min(), x.max())
    axes.set_ylim(y.min(), y.max())


def meridian(degrees):
    east = (degrees + 180) % 360 - 180
    return f"{abs(east):g}°" + ("E" if east > 0 else "W" if east < 0 else "")


def stamp(time):
    return np.datetime_as_string(time.astype("datetime64[m]")).replace("T", " ") + " UTC"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("forecast", help="pluvia_pop_*.nc")
    parser.add_argument("--archive", nargs="+", help="archive file or files with the images and the rain")
    parser.add_argument("--threshold", type=float, help="mm; default: 1, or the one nearest to it")
    parser.add_argument("--image", help="variable of the archive to draw; default: the brightness temperature")
    parser.add_argument("-o", "--output", default="map.png")
    args = parser.parse_args()

    with xr.open_dataset(args.forecast, decode_timedelta=False) as forecast:
        if "probability_of_precipitation" not in forecast:
            sys.exit(f"plot_forecast.py: {args.forecast} holds no probability_of_precipitation (not a product of "
                     "pluvia forecast)")
        forecast.load()
    thresholds = forecast["threshold"].values.astype(float)
    wanted = 1.0 if args.threshold is None else args.threshold
    index = int(np.argmin(np.abs(thresholds - wanted)))
    if args.threshold is not None and abs(thresholds[index] - wanted) > 1e-3 * max(1, wanted):
        sys.exit(f"plot_forecast.py: no threshold of {wanted:g} mm (there are "
                 f"{', '.join(f'{t:g}' for t in thresholds)})")
    threshold = thresholds[index]
    field = forecast["probability_of_precipitation"].isel(threshold=index)
    y_name, x_name = field.dims[-2:]
    y, x = forecast[y_name].values, forecast[x_name].values
    init, valid = forecast["forecast_reference_time"].values, forecast["time"].values
    bounds = forecast["time_bnds"].values
    window = (bounds[0, 1] - bounds[0, 0]) / np.timedelta64(3600, "s")
    leads = forecast["forecast_period"].values.astype(float)
    degrees = y_name in ("lat", "latitude")
    target, label = configuration(forecast)

    archive = None
    if args.archive:
        archive = xr.open_mfdataset(args.archive, combine="by_coords") if len(args.archive) > 1 else \
            xr.open_dataset(args.archive[0])
        if target not in archive:
            rates = [n for n in archive.data_vars if archive[n].attrs.get("units") in ("mm h-1", "mm/h", "mm/hr")]
            target = rates[0] if rates else None
    image = None
    if archive is not None:
        name = args.image or image_variable(archive, target)
        if name is not None:
            if name not in archive:
                sys.exit(f"plot_forecast.py: the archive has no variable {name}")
            before = archive["time"].values <= init
            if before.any():
                image = archive[name].isel(time=int(np.flatnonzero(before)[-1])).load()
    land = archive["land_mask"].values if archive is not None and "land_mask" in archive else None
    # A simulated archive has its own land; the Earth's coast would be wrong on it.
    coast = coastlines() if degrees and land is None else []

    panels = len(leads) + (1 if image is not None else 0)
    columns = min(panels, 3)
    rows = math.ceil(panels / columns)
    shape = abs(y[-1] - y[0]) / abs(x[-1] - x[0]) / (math.cos(math.radians(np.mean(y))) if degrees else 1)
    width = 4.3
    height = min(max(width * 0.86 * shape, 2.2), 6)
    figure, grid = plt.subplots(rows, columns, figsize=(columns * width, rows * (height + 0.75) + 1.35),
                                squeeze=False, layout="constrained")
    axes = list(grid.flat)

    shades = plt.get_cmap("YlGnBu")(np.linspace(0, 1, len(LEVELS) - 1))
    shades[0] = 1  # white below 1 %
    colours = ListedColormap(shades)
    colours.set_bad("0.85")
    norm = BoundaryNorm(LEVELS, colours.N)
    grey = plt.get_cmap("gray_r").copy()
    grey.set_bad("tab:pink")

    pictures = []
    if image is not None:
        a = axes.pop(0)
        drawn = a.pcolormesh(x, y, np.ma.masked_invalid(image.values), cmap=grey, shading="nearest")
        figure.colorbar(drawn, ax=a, shrink=0.8, label=f"{image.name} [{image.attrs.get('units', '1')}]")
        a.set_title(f"last image, {stamp(image['time'].values)}", fontsize=10)
        pictures.append(a)
    observed_any = False
    maps = axes[:len(leads)]
    for lead, a in enumerate(maps):
        p = field.isel(time=lead).values
        drawn = a.pcolormesh(x, y, np.ma.masked_invalid(p), cmap=colours, norm=norm, shading="nearest")
        a.set_title(f"{bounds_text(bounds[lead])}\n+{leads[lead]:g} h", fontsize=10)
        if archive is not None and target is not None:
            rain = observed_sum(archive, target, label, bounds[lead, 0], bounds[lead, 1])
            if rain is not None:
                observed_any = True
                reached = np.where(np.isfinite(rain), rain >= np.float32(threshold), 0).astype(float)
                if 0 < reached.sum() < reached.size:
                    a.contour(x, y, reached, levels=[0.5], colors="tab:red", linewidths=0.9)
    for a in pictures + maps:
        line = "gold" if a in pictures else "0.25"
        if land is not None and 0 < np.sum(land == 1) < land.size:
            a.contour(x, y, (land == 1).astype(float), levels=[0.5], colors=line, linewidths=0.8)
        draw_coast(a, x, y, coast, line)
        if degrees:
            a.set_aspect(1 / max(math.cos(math.radians(float(np.mean(y)))), 0.1))
            a.xaxis.set_major_formatter(lambda v, _: meridian(v))
            a.yaxis.set_major_formatter(lambda v, _: f"{abs(v):g}°" + ("N" if v > 0 else "S" if v < 0 else ""))
        else:
            a.set_aspect("equal")
        a.tick_params(labelsize=8)
    for a in axes[len(leads):]:
        a.set_visible(False)
    bar = figure.colorbar(drawn, ax=grid.ravel().tolist(), orientation="horizontal", ticks=LEVELS,
                          shrink=0.7, aspect=45, pad=0.02)
    bar.ax.set_xticklabels([f"{100 * level:g}" for level in LEVELS], fontsize=8)
    bar.set_label(f"probability of {threshold:g} mm or more in {window:g} h [%]")
    if observed_any:
        maps[0].legend(handles=[Line2D([], [], color="tab:red", label=f"observed {threshold:g} mm or more")],
                       loc="lower left", fontsize=8, framealpha=0.85)
    figure.suptitle(f"Probability of {threshold:g} mm or more in {window:g} h, forecast of {stamp(init)}", fontsize=12)
    figure.savefig(args.output, dpi=130)
    print(f"{args.output}: {len(leads)} lead times, {threshold:g} mm" +
          (", observed edge drawn" if observed_any else ""))


def bounds_text(bounds):
    begin, end = (str(b.astype("datetime64[m]")).replace("T", " ") for b in bounds)
    return f"{begin} to {end[11:] if begin[:10] == end[:10] else end[5:]}"


if __name__ == "__main__":
    main()
