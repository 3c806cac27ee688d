#!/usr/bin/env python3
"""Curves of the scores that pluvia verify wrote: Brier skill by lead time with its intervals, reliability and ROC.

    plot_scores.py SCORES.json [--thresholds MM ...] [--lead H] [--uncalibrated SCORES.json] -o scores.png

Needs matplotlib."""
import argparse
import json
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError as error:
    sys.exit(f"plot_scores.py: {error}; install python3-matplotlib")

# Okabe and Ito's colours, which people with colour blindness tell apart.
COLOURS = ["#0072B2", "#000000", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442"]
NAMES = {"pluvia": "Pluvia", "climatology": "climatology", "persistence": "persistence",
         "calibrated_persistence": "calibrated persistence", "logistic_regression": "logistic regression"}
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("scores", help="scores.json of pluvia verify")
    parser.add_argument("--thresholds", type=float, nargs="+", help="mm; default: those with events, at most four")
    parser.add_argument("--lead", type=float, help="lead time of the reliability and ROC panels [h]; default: the first")
    parser.add_argument("--uncalibrated", metavar="SCORES.json",
                        help="of the same forecasts with forecast.calibrate=false: their reliability beside, dashed")
    parser.add_argument("-o", "--output", default="scores.png")
    args = parser.parse_args()
    with open(args.scores, encoding="utf-8") as file:
        data = json.load(file)
    raw = None
    if args.uncalibrated:
        with open(args.uncalibrated, encoding="utf-8") as file:
            raw = json.load(file)
    for path, content in ((args.scores, data), (args.uncalibrated, raw)):
        if content is not None and "curves" not in content:
            sys.exit(f"plot_scores.py: {path} is not a file of pluvia verify")
    if raw and (raw["thresholds_mm"], raw["leads_hours"]) != (data["thresholds_mm"], data["leads_hours"]):
        sys.exit(f"plot_scores.py: {args.uncalibrated} has other thresholds or lead times than {args.scores}")

    systems, leads = data["systems"], data["leads_hours"]
    value = {(s["system"], s["lead_hours"], s["threshold_mm"], s["score"]): s for s in data["scores"]}
    curves = {(c["system"], c["lead_hours"], c["threshold_mm"]): c for c in data["curves"]}
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(systems)}

    def score(system, lead, threshold, name):
        return value.get((system, lead, threshold, name), {"value": None, "lower": None, "upper": None})

    known = data["thresholds_mm"]
    for threshold in args.thresholds or []:
        if threshold not in known:
            sys.exit(f"plot_scores.py: no threshold of {threshold:g} mm (there are {', '.join(map(str, known))})")
    if args.lead is not None and args.lead not in leads:
        sys.exit(f"plot_scores.py: no lead time of {args.lead:g} h (there are {', '.join(map(str, leads))})")
    lead = leads[0] if args.lead is None else args.lead
    eventful = [t for t in known if (score(systems[0], lead, t, "BASER")["value"] or 0) > 0]
    thresholds = args.thresholds or eventful[:4] or known[:1]

    columns = len(thresholds)
    figure, axes = plt.subplots(3, columns, figsize=(3.6 * columns + 0.4, 10.8), squeeze=False, layout="constrained")
    for column, threshold in enumerate(thresholds):
        skill, reliability, roc = axes[:, column]
        draw_skill(skill, systems, leads, threshold, score, colour)
        draw_reliability(reliability, systems, lead, threshold, curves, score, colour)
        if raw:
            rows = reliability_rows(raw["curves"], systems[0], lead, threshold)
            reliability.plot([r["forecast"] for r in rows], [r["observed"] for r in rows], color=colour[systems[0]],
                             linestyle="--", linewidth=1.2, label="before calibration")
            reliability.legend(fontsize=8, frameon=False)
        draw_roc(roc, systems, lead, threshold, curves, score, colour)
    # One range of skill for all thresholds; persistence falls off the scale.
    shown = [score(s, h, t, "BSS")["value"] for s in systems[:1] + systems[3:] for h in leads for t in thresholds]
    shown += [score(systems[0], h, t, "BSS")[end] for h in leads for t in thresholds for end in ("lower", "upper")]
    shown = [v for v in shown if v is not None] or [0]
    low, high = min(shown + [-0.05]), max(shown + [0.05])
    floor = max(low - 0.05, -0.6)
    for panel in axes[0]:
        panel.set_ylim(floor, min(high + 0.05, 1))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    for i, system in enumerate(systems):
        values = [score(system, h, t, "BSS")["value"] for h in leads for t in thresholds]
        if system != "climatology" and all(v is None or v < floor for v in values):
            labels[labels.index(NAMES.get(system, system))] += " (skill below the scale)"
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=min(len(labels), columns + 1), frameon=False)
    # Of merged scores only the sums know all days.
    days = sorted(day["day"][:10] for day in data["sums"]["days"])
    what = f"{data['forecasts']} forecasts on {len(days)} day{'s' * (len(days) != 1)}, " + \
        " to ".join(dict.fromkeys((days[0], days[-1])))
    figure.suptitle(what + (": too few days for intervals" if len(days) < 4 else ""), fontsize=12)
    figure.savefig(args.output, dpi=130, bbox_inches="tight")
    print(f"{args.output}: {what}; thresholds {', '.join(f'{t:g}' for t in thresholds)} mm")


def draw_skill(axes, systems, leads, threshold, score, colour):
    axes.axhline(0, color=colour["climatology"] if "climatology" in systems else "black", linewidth=1,
                 label="climatology")
    for i, system in enumerate(systems):
        if system == "climatology":
            continue
        points = [(h, score(system, h, threshold, "BSS")) for h in leads]
        points = [(h, s) for h, s in points if s["value"] is not None]
        # A little apart, so that bars do not hide each other.
        x = [h + 0.25 * (i - len(systems) / 2) for h, _ in points]
        y = [s["value"] for _, s in points]
        axes.plot(x, y, marker=MARKERS[i % len(MARKERS)], color=colour[system], markersize=5, linewidth=1.4,
                  label=NAMES.get(system, system), zorder=4 if i == 0 else 3)
        for at, (_, s) in zip(x, points):
            if s["lower"] is not None:
                axes.plot([at, at], [s["lower"], s["upper"]], color=colour[system], linewidth=1.2, alpha=0.7)
    base = score(systems[0], leads[0], threshold, "BASER")["value"]
    axes.set_title(f"{threshold:g} mm or more" + (f"\nobserved in {100 * base:.3g} %" if base is not None else ""),
                   fontsize=10)
    axes.set_xticks(leads)
    axes.set_xlabel("lead time [h]")
    axes.set_ylabel("Brier skill score")
    axes.grid(alpha=0.25)


def reliability_rows(curves, system, lead, threshold):
    """Bins of forecasts that hold enough of them to be drawn."""
    for c in curves:
        if (c["system"], c["lead_hours"], c["threshold_mm"]) == (system, lead, threshold):
            return [r for r in c["reliability"] if r["share"] >= 1e-5]
    return []


def draw_reliability(axes, systems, lead, threshold, curves, score, colour):
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    base = score(systems[0], lead, threshold, "BASER")["value"]
    if base is not None:
        axes.axhline(base, color="0.6", linewidth=0.8, linestyle=":")
    top = 0.02
    for i, system in enumerate(systems):
        if system == "persistence":  # only says 0 or 1
            continue
        rows = reliability_rows(curves.values(), system, lead, threshold)
        if not rows:
            continue
        x, y = [r["forecast"] for r in rows], [r["observed"] for r in rows]
        top = max(top, *x, *y)
        axes.plot(x, y, color=colour[system], marker=MARKERS[i % len(MARKERS)], markersize=4, linewidth=1.2,
                  zorder=4 if i == 0 else 3)
    axes.set_xlim(0, min(1, 1.05 * top))
    axes.set_ylim(0, min(1, 1.05 * top))
    axes.set_aspect("equal")
    axes.set_title(f"reliability, {lead:g} h", fontsize=10)
    axes.set_xlabel("forecast probability")
    axes.set_ylabel("observed frequency")
    axes.grid(alpha=0.25)


def draw_roc(axes, systems, lead, threshold, curves, score, colour):
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    areas = []
    for i, system in enumerate(systems):
        rows = [r for r in curves[(system, lead, threshold)]["roc"] if r["pody"] is not None and r["pofd"] is not None]
        area = score(system, lead, threshold, "ROC_AUC")["value"]
        if not rows or area is None:
            continue
        axes.plot([r["pofd"] for r in rows], [r["pody"] for r in rows], color=colour[system], linewidth=1.4,
                  zorder=4 if i == 0 else 3)
        areas.append((system, area))
    for line, (system, area) in enumerate(areas):
        axes.text(0.97, 0.04 + 0.075 * (len(areas) - 1 - line), f"{NAMES.get(system, system)} {area:.3f}",
                  color=colour[system], fontsize=8, ha="right", transform=axes.transAxes)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.set_title(f"ROC and its area, {lead:g} h", fontsize=10)
    axes.set_xlabel("false alarm rate (POFD)")
    axes.set_ylabel("hit rate (PODY)")
    axes.grid(alpha=0.25)


if __name__ == "__main__":
    main()
