#!/usr/bin/env python3
"""Where and when the network looked for one forecast at one point: bars of its weights over the input images, and its
weights over the cells around, drawn over the last image.

    plot_attention.py ATTENTION.nc --archive ARCHIVE.nc [--point N] [--lead H] [--threshold MM] -o attention.png

ATTENTION.nc is written by pluvia forecast with forecast.write_attention. Weights are means over heads. Needs xarray,
netCDF4, matplotlib; cartopy adds coastlines where its data lie on this computer (nothing is fetched)."""
import argparse
import math
import re
import sys

import numpy as np

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import xarray as xr
    from matplotlib.colors import ListedColormap
    from plot_forecast import bounds_text, coastlines, configuration, draw_coast, image_variable, meridian, stamp
except ImportError as error:
    sys.exit(f"plot_attention.py: {error}; install python3-xarray python3-netcdf4 python3-matplotlib")

COLOURS = ["#0072b2", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#d55e00"]


def parallel(degrees):
    return f"{abs(degrees):g}°" + ("N" if degrees > 0 else "S" if degrees < 0 else "")


def title_of(kind, hours):
    return f"skip to +{hours:g} h" if kind == "skip" else "space-time block"


def maps_of(attention, point, lead):
    """(kind, level, weights [frames, rows, columns] or [frames] or [rows, columns]) of one point and lead."""
    found = []
    for name in attention.data_vars:
        match = re.fullmatch(r"(skip|spatial|temporal|joint)_weight_level(\d+)", name)
        if match:
            weights = attention[name].isel(point=point)
            found.append((match[1], int(match[2]), weights.isel(time=lead) if match[1] == "skip" else weights))
    return sorted(found, key=lambda item: (item[0] != "skip", item[1], item[0]))


def over_cells(weights):
    """Weights [rows, columns], summed over frames; None where a single cell was looked at."""
    field = weights.sum("frame", skipna=False) if "frame" in weights.dims else weights
    return field.values if field.ndim == 2 and field.size > 1 else None


class View:
    """The part of the grid that is drawn, the same in every panel."""

    def __init__(self, image, attention, point, windows):
        self.y_name, self.x_name = image.dims[-2:]
        self.y, self.x = image[self.y_name].values.astype(float), image[self.x_name].values.astype(float)
        self.at = (float(attention[f"cell_{self.y_name}"][point]), float(attention[f"cell_{self.x_name}"][point]))
        units = image[self.y_name].attrs.get("units", "")
        self.degrees, self.metres = units.startswith("degree"), units in ("m", "metre", "meter")
        self.turns = (-360, 0, 360) if self.degrees else (0,)
        self.cell = cell = max(abs(np.diff(self.y)).mean(), abs(np.diff(self.x)).mean())
        reach = 10 * cell
        for kind, level in windows:
            for axis, centre in zip((self.y_name, self.x_name), self.at):
                edges = attention[f"{kind}_{axis}_level{level}_bnds"].isel(point=point).values
                reach = max(reach, 1.15 * np.nanmax(abs(edges - centre)))
        self.limits = []
        for centres, centre, closes in ((self.y, self.at[0], False), (self.x, self.at[1], self.degrees)):
            low, high = centres.min() - cell / 2, centres.max() + cell / 2
            closed = closes and abs(high - low - 360) < cell
            width = min(2 * reach, high - low)
            start = centre - width / 2 if closed else min(max(centre - width / 2, low), high - width)
            self.limits.append((start, start + width))

    def draw(self, axes, values):
        grey = plt.get_cmap("gray_r").copy()
        grey.set_bad("tab:pink")
        (south, north), (west, east) = self.limits
        margin = 1.5 * self.cell  # so that cells at the edge have a neighbour
        rows = (self.y > south - margin) & (self.y < north + margin)
        drawn = None
        for turn in self.turns:
            columns = (self.x + turn > west - margin) & (self.x + turn < east + margin)
            if columns.sum() > 1 and rows.sum() > 1:
                part = np.ma.masked_invalid(values[np.ix_(rows, columns)])
                drawn = axes.pcolormesh(self.x[columns] + turn, self.y[rows], part, cmap=grey, shading="nearest",
                                        vmin=self.shades[0], vmax=self.shades[1])
        return drawn

    def finish(self, axes, land, coast, colour, labels):
        if land is not None and 0 < np.sum(land == 1) < land.size:
            axes.contour(self.x, self.y, (land == 1).astype(float), levels=[0.5], colors=colour, linewidths=0.8)
        if coast:
            draw_coast(axes, np.asarray(self.limits[1]), np.asarray(self.limits[0]), coast, colour)
        axes.plot(self.at[1], self.at[0], marker="+", color="red", markersize=9, markeredgewidth=1.6)
        axes.set_ylim(self.limits[0])
        axes.set_xlim(self.limits[1])
        if self.degrees:
            axes.set_aspect(1 / max(math.cos(math.radians(self.at[0])), 0.1))
            axes.xaxis.set_major_formatter(lambda v, _: meridian(v))
            axes.yaxis.set_major_formatter(lambda v, _: parallel(v))
        else:
            axes.set_aspect("equal")
        if self.metres:
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(lambda v, _: f"{v / 1000:g}")
            axes.set_xlabel("km" if labels else None, fontsize=7)
        axes.locator_params(nbins=4)
        axes.tick_params(labelsize=7, labelbottom=labels, labelleft=labels)


def draw_bars(axes, maps, times, hours):
    """Weights over frames, a bar for each attention that has several; the even share as a line."""
    bars = [(kind, level, weights) for kind, level, weights in maps if "frame" in weights.dims]
    width = 0.84 / len(bars)
    for number, (kind, level, weights) in enumerate(bars):
        share = weights.sum([d for d in weights.dims if d != "frame"]).values
        left = np.arange(len(share)) - 0.42 + number * width
        axes.bar(left, share, width * 0.92, align="edge", color=COLOURS[level % len(COLOURS)],
                 hatch=None if kind == "skip" else "////", edgecolor="white", linewidth=0,
                 label=f"{title_of(kind, hours)}, level {level}")
    axes.axhline(1 / len(times), color="0.3", linewidth=0.8, linestyle="--", label="even share")
    axes.set_xlim(-0.5, len(times) - 0.5)
    axes.set_xticks([])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("weight of the image", fontsize=8)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.08), fontsize=8, frameon=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("attention", help="pluvia_attention_*.nc")
    parser.add_argument("--archive", nargs="+", required=True, help="archive file or files with the images")
    parser.add_argument("--point", type=int, default=1, help="number of the point in forecast.write_attention, from 1")
    parser.add_argument("--lead", type=float, help="lead time [h]; default: the first")
    parser.add_argument("--threshold", type=float, default=1.0, help="mm, the one nearest to it; default: 1")
    parser.add_argument("--image", help="variable of the archive to draw; default: the brightness temperature")
    parser.add_argument("-o", "--output", default="attention.png")
    args = parser.parse_args()

    with xr.open_dataset(args.attention, decode_timedelta=False) as attention:
        if "skip_weight_level0" not in attention:
            sys.exit(f"plot_attention.py: {args.attention} holds no attention weights (pluvia forecast writes them "
                     "with forecast.write_attention)")
        attention.load()
    points, leads = attention.sizes["point"], attention["forecast_period"].values.astype(float)
    if not 1 <= args.point <= points:
        sys.exit(f"plot_attention.py: no point {args.point} (there are {points}, counted from 1)")
    point = args.point - 1
    lead = 0 if args.lead is None else int(np.argmin(abs(leads - args.lead)))
    if args.lead is not None and abs(leads[lead] - args.lead) > 1e-6:
        sys.exit(f"plot_attention.py: no lead of {args.lead:g} h (there are {', '.join(f'{h:g}' for h in leads)})")
    thresholds = attention["threshold"].values.astype(float)
    k = int(np.argmin(abs(thresholds - args.threshold)))

    archive = xr.open_mfdataset(args.archive, combine="by_coords") if len(args.archive) > 1 else \
        xr.open_dataset(args.archive[0])
    name = args.image or image_variable(archive, configuration(attention)[0])
    if name is None or name not in archive:
        sys.exit(f"plot_attention.py: the archive has no variable {name or 'to draw'}")
    images = archive[name]
    land = archive["land_mask"].values if "land_mask" in archive else None

    maps = maps_of(attention, point, lead)
    windows = [(kind, level, over_cells(weights)) for kind, level, weights in maps]
    windows = [window for window in windows if window[2] is not None]
    view = View(images, attention, point, [window[:2] for window in windows])
    # A simulated archive has its own land; the Earth's coast would be wrong on it.
    coast = coastlines() if view.degrees and land is None else []

    times = attention["frame"].values.astype("datetime64[s]")
    step = times[1] - times[0] if len(times) > 1 else np.timedelta64(3600, "s")
    frames = []
    for time in times:
        nearest = images.sel(time=time, method="nearest")
        near = abs(nearest["time"].values.astype("datetime64[s]") - time) * 2 < step
        frames.append(nearest.values if near else None)
    seen = [f for f in frames if f is not None]
    view.shades = (np.nanpercentile(seen, 0.5), np.nanpercentile(seen, 99.5)) if seen else (0, 1)

    # Laid out in inches, so that every image stands above its bars.
    shape = min((view.limits[0][1] - view.limits[0][0]) / (view.limits[1][1] - view.limits[1][0]) /
                (math.cos(math.radians(view.at[0])) if view.degrees else 1), 2.0)
    columns, panels, left, right, gap = len(times), len(windows), 0.75, 2.1, 0.12
    side = min(max(9.0 / columns, 1.5), 3.0)
    wide = columns * side
    large = min((wide - 0.6 * (panels - 1)) / panels, 3.6) if windows else 0
    bars, heading = 1.4, 1.1
    below = large * shape + 1.1 if windows else 0
    tall = heading + (side - gap) * shape + 0.35 + bars + below + 0.35
    figure = plt.figure(figsize=(left + wide + right, tall))

    def box(x, y, width, height):
        """Axes with their corner x inches from the left and y inches from the top."""
        return figure.add_axes([x / (left + wide + right), 1 - (y + height) / tall, width / (left + wide + right),
                                height / tall])

    strip = [box(left + i * side + gap / 2, heading, side - gap, (side - gap) * shape) for i in range(columns)]
    for a, values, time in zip(strip, frames, times):
        if values is None:
            a.set_facecolor("0.9")
            a.text(0.5, 0.6, "missing", ha="center", transform=a.transAxes, fontsize=9)
        else:
            drawn = view.draw(a, values)
        view.finish(a, land, coast, "gold", a is strip[0])
        hours_back = (times[-1] - time) / np.timedelta64(1, "h")
        a.set_title(f"{str(time)[11:16]} UTC\n" + (f"{hours_back:g} h before" if hours_back else "last image"),
                    fontsize=9)
    if seen:
        bar = figure.colorbar(drawn, cax=box(left + wide + 0.1, heading, 0.12, (side - gap) * shape))
        missing = any(np.isnan(values).any() for values in seen)
        bar.set_label(f"{name} [{images.attrs.get('units', '1')}]" + ("\npink: missing" if missing else ""), fontsize=8)
        bar.ax.tick_params(labelsize=7)
    down = heading + (side - gap) * shape + 0.35
    draw_bars(box(left, down, wide, bars), maps, times, leads[lead])

    if windows:
        # Weights as multiples of an even share over the window, so that windows of different sizes compare; what is
        # below half of it stays clear.
        ratios = [values * np.isfinite(values).sum() for _, _, values in windows]
        top = max(2.0, max(float(np.nanmax(r)) for r in ratios))
        shades = plt.get_cmap("autumn_r")(np.linspace(0, 1, 256))
        shades[:, 3] = np.clip((np.linspace(0, top, 256) - 0.5) / (top - 0.5), 0, 1) ** 0.7 * 0.8
        overlay = ListedColormap(shades)
        down += bars + 0.75
        pitch = wide / panels
        for number, ((kind, level, _), ratio) in enumerate(zip(windows, ratios)):
            a = box(left + number * pitch + (pitch - large) / 2, down, large, large * shape)
            if frames[-1] is not None:
                view.draw(a, frames[-1])
            edges = [attention[f"{kind}_{axis}_level{level}_bnds"].isel(point=point).values
                     for axis in (view.y_name, view.x_name)]
            for i, (y0, y1) in enumerate(edges[0]):
                for j, (x0, x1) in enumerate(edges[1]):
                    if np.isfinite(ratio[i, j]):
                        a.add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor=overlay(ratio[i, j] / top),
                                                  edgecolor=(1, 1, 1, 0.35), linewidth=0.4))
            view.finish(a, land, coast, "gold", True)
            width = int(attention[f"{kind}_weight_level{level}"].attrs["cell_width"])
            text = f"{title_of(kind, leads[lead])}\nlevel {level}: " + \
                (f"cells of {width} x {width}" if width > 1 else "single cells")
            share = f"spatial_share_level{level}"
            if kind == "spatial" and share in attention:
                gate = float(attention[share][point])
                text += f"\ngate: space {100 * gate:.0f} %, time {100 - 100 * gate:.0f} %"
            elif "frame" in attention[f"{kind}_weight_level{level}"].dims:
                text += "\nall images together"
            a.set_title(text, fontsize=8)
        scale = plt.cm.ScalarMappable(cmap=overlay, norm=plt.Normalize(0, top))
        bar = figure.colorbar(scale, cax=box(left + wide + 0.1, down, 0.12, large * shape))
        bar.ax.set_facecolor("0.5")
        bar.set_label("weight of the cell, multiple of an even share", fontsize=8)
        bar.ax.tick_params(labelsize=7)

    init = attention["forecast_reference_time"].values
    bounds = attention["time_bnds"].values[lead]
    hours = (bounds[1] - bounds[0]) / np.timedelta64(3600, "s")
    p = float(attention["probability_of_precipitation"][point, lead, k])
    lat, lon = float(attention["lat"][point]), float(attention["lon"][point])
    figure.suptitle(f"Probability of {thresholds[k]:g} mm or more in {hours:g} h at {parallel(lat)} {meridian(lon)}: "
                    f"{'missing' if np.isnan(p) else f'{100 * p:.0f} %'}\n{bounds_text(bounds)} UTC "
                    f"(+{leads[lead]:g} h), forecast of {stamp(init)}", fontsize=12,
                    x=(left + wide / 2) / (left + wide + right), y=1 - 0.12 / tall)
    figure.savefig(args.output, dpi=110)
    print(f"{args.output}: point {args.point} of {points}, lead {leads[lead]:g} h, {len(maps)} attentions")


if __name__ == "__main__":
    main()
