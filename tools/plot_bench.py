#!/usr/bin/env python3
"""Draws the scaling tables that pluvia bench wrote: training steps of one grid on more and more ranks, and of as much
grid for each rank, with the spread of their rounds, beside what they would be if ranks cost nothing.

    plot_bench.py bench.json -o bench.png

Needs matplotlib."""
import argparse
import json
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogFormatter, NullLocator
except ImportError as error:
    sys.exit(f"plot_bench.py: {error}; install python3-matplotlib")

COLOURS = {"strong": "#0072B2", "weak": "#D55E00"}  # which people with colour blindness tell apart
MARKERS = {"strong": "o", "weak": "s"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("timings", help="what pluvia bench wrote with bench.ranks (jobs/bench.sbatch sets it)")
    parser.add_argument("-o", "--output", default="bench.png")
    args = parser.parse_args()
    with open(args.timings, encoding="utf-8") as file:
        data = json.load(file)
    if not data.get("scaling"):
        sys.exit(f"plot_bench.py: {args.timings} holds no scaling tables; run pluvia bench with bench.ranks=[1,2,...]")

    ny, nx = data["grid_ny_nx"]
    figure, (time, efficiency) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for kind in COLOURS:
        rows = [r for r in data["scaling"] if r["scaling"] == kind]
        ranks = [r["ranks"] for r in rows]
        median = [r["median_s"] for r in rows]
        spread = [[m - r["min_s"] for m, r in zip(median, rows)], [r["max_s"] - m for m, r in zip(median, rows)]]
        ideal = [median[0] * (ranks[0] / n if kind == "strong" else 1) for n in ranks]
        label = {"strong": f"one grid, {ny} x {nx}", "weak": f"{ny} x {nx} for every rank"}[kind]
        style = {"color": COLOURS[kind], "marker": MARKERS[kind], "markersize": 5, "linewidth": 1.4}
        time.errorbar(ranks, median, yerr=spread, capsize=3, label=label, **style)
        time.plot(ranks, ideal, color=COLOURS[kind], linestyle=":", linewidth=1)
        efficiency.plot(ranks, [100 * r["efficiency"] for r in rows], label=label, **style)
    time.set_yscale("log")
    time.yaxis.set_major_formatter(LogFormatter())
    time.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    time.set_ylabel("training step [s]")
    time.set_title("dotted: if ranks cost nothing", fontsize=10)
    efficiency.set_ylim(bottom=0)
    efficiency.set_ylabel("efficiency [%]")
    for axes in (time, efficiency):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ranks, [str(n) for n in ranks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("ranks")
        axes.grid(alpha=0.25)
    efficiency.legend(fontsize=9, frameon=False)
    figure.savefig(args.output, dpi=130)
    print(f"{args.output}: steps on {', '.join(map(str, ranks))} ranks")


if __name__ == "__main__":
    main()
