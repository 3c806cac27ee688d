"""Recomputes scores.csv from the archive and the forecasts with numpy alone, by other algorithms than the program's:
ROC by comparing ranks, climatology by direct two-dimensional convolution, the partition by sums over cells."""
import csv
import glob
import json
import os
import sys

import netCDF4
import numpy as np

folder = sys.argv[1]
leads, thresholds = [6, 12], [0.2, 2, 8]
epoch, hour = 1577836800, 3600
train = (epoch, epoch + 5 * 24 * hour)
test = (epoch + 5 * 24 * hour, epoch + 9 * 24 * hour)

with netCDF4.Dataset(os.path.join(folder, "archive.nc")) as file:
    times = file["time"][:].astype(int)
    rain = {int(t): frame for t, frame in zip(times, np.ma.filled(file["rain"][:].astype("f4"), np.nan))}
    lat = file["lat"][:].data
ny, nx = next(iter(rain.values())).shape
area = np.maximum(1, np.rint(np.cos(np.radians(lat)) * 4096))[:, None] * np.ones((ny, nx))
empty = np.full((ny, nx), np.nan, "f4")


def amount(end):
    frames = np.stack([rain.get(end - hour * i, empty) for i in range(6)]).astype("f8")
    known = np.isfinite(frames).sum(axis=0)
    total = np.nansum(frames, axis=0)
    # At most 1 of 12 missing: of six slots none.
    return np.where(known == 6, total, np.nan).astype("f4")


def classes(end):
    mm = amount(end)
    k = sum((mm >= np.float32(t)).astype(int) for t in thresholds)
    return np.where(np.isfinite(mm), k, -1)


# Climatology, as its formula stands.
counts, domain = np.zeros((24, 4, ny, nx)), np.zeros(4)
for end in range(train[0] + 6 * hour, train[1], hour):
    seen = classes(end)
    for k in range(4):
        counts[end // hour % 24, k] += seen == k
        domain[k] += (seen == k).sum()
offsets = np.arange(-12, 13)
kernel = np.exp(-0.5 * (offsets / 4) ** 2)
kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
with open(os.path.join(folder, "scores", "scores.json"), encoding="utf-8") as file:
    alpha = json.load(file)["climatology_alpha"]
pibar = (domain + 0.5) / (domain.sum() + 2)


def climatology(end):
    summed = sum(counts[(end // hour + d) % 24] for d in (-1, 0, 1))
    padded = np.pad(summed, ((0, 0), (12, 12), (12, 12)))
    n = np.zeros_like(summed)
    for i in range(25):
        for j in range(25):
            n += kernel[i, j] * padded[:, i : i + ny, j : j + nx]
    p = (n + alpha * pibar[:, None, None]) / (n.sum(axis=0) + alpha)
    return np.stack([p[k + 1 :].sum(axis=0) for k in range(3)])


def box(field, width):
    half = width // 2
    known = np.isfinite(field)
    total, number = np.zeros((ny, nx)), np.zeros((ny, nx))
    padded = np.pad(np.where(known, field, 0), half)
    padded_known = np.pad(known.astype(float), half)
    for i in range(width):
        for j in range(width):
            total += padded[i : i + ny, j : j + nx]
            number += padded_known[i : i + ny, j : j + nx]
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


fractions = {}
rows = {(s, h, k): [] for s in ("pluvia", "climatology", "persistence") for h in leads for k in range(3)}
for path in sorted(glob.glob(os.path.join(folder, "forecasts", "*.nc"))):
    with netCDF4.Dataset(path) as file:
        init = int(file["forecast_reference_time"][...])
        forecast = np.ma.filled(file["probability_of_precipitation"][:].astype("f8"), np.nan)
    before = classes(init)
    for i, lead in enumerate(leads):
        end = init + lead * hour
        if end - 6 * hour < test[0] or end >= test[1]:
            continue
        seen, climate = classes(end), climatology(end)
        valid = (seen >= 0) & np.isfinite(forecast[i]).all(axis=0)
        for k in range(3):
            known = (seen >= 0) & np.isfinite(forecast[i, k])
            for width in (5, 13, 25):
                f, o = (box(np.where(known, field, np.nan), width) for field in (forecast[i, k], (seen > k).astype(float)))
                a = np.cos(np.radians(lat))[:, None] * np.isfinite(f)
                sums = [np.nansum(a * part) for part in ((f - o) ** 2, f**2, o**2)]
                fractions[lead, k, width] = np.add(fractions.get((lead, k, width), 0), sums)
            outcome = (seen > k)[valid].astype(float)
            last = np.where(before >= 0, (before > k).astype(float), climate[k])
            for system, p in (("pluvia", forecast[i, k]), ("climatology", climate[k]), ("persistence", last)):
                rows[system, lead, k].append((np.rint(p[valid] * 1000) / 1000, outcome, area[valid]))

with open(os.path.join(folder, "scores", "scores.csv"), encoding="utf-8", newline="") as file:
    told = {(r["system"], float(r["lead_hours"]), float(r["threshold_mm"] or "nan"), r["score"]): r
            for r in csv.DictReader(file) if r["threshold_mm"]}
    file.seek(0)
    overall = {(r["system"], float(r["lead_hours"]), r["score"]): r for r in csv.DictReader(file) if not r["threshold_mm"]}

wrong = checked = 0


def compare(name, got, expected, tolerance=1e-8):
    global wrong, checked
    checked += 1
    if not abs(float(got) - expected) <= tolerance:
        wrong += 1
        print(f"{name}: the program says {got}, numpy {expected:.10g}")


brier = {}
for (system, lead, k), parts in rows.items():
    p, o, w = (np.concatenate(column) for column in zip(*parts))
    w = w / w.sum()
    tag = (system, float(lead), float(thresholds[k]))
    # A climatological probability on the edge of a thousandth may round either way in f32.
    loose = 1e-8 if system == "pluvia" else 2e-5

    def check(score, expected, tolerance=loose):
        compare(f"{tag} {score}", told[tag + (score,)]["value"], expected, tolerance)

    assert int(told[tag + ("BRIER",)]["n_valid"]) == p.size, (tag, p.size)
    brier[system, lead, k] = (w * (p - o) ** 2).sum()
    base = (w * o).sum()
    check("BRIER", brier[system, lead, k])
    check("BASER", base)
    bins = np.minimum((np.rint(p * 1000) // 100).astype(int), 9)
    middle = (bins + 0.5) / 10
    frequency = np.array([(w * o)[bins == b].sum() / max(w[bins == b].sum(), 1e-300) for b in range(10)])[bins]
    if system == "pluvia":
        check("BRIER_MET", (w * (middle - o) ** 2).sum())
        check("RELIABILITY", (w * (middle - frequency) ** 2).sum())
        check("RESOLUTION", (w * (frequency - base) ** 2).sum())
        check("UNCERTAINTY", base * (1 - base))
        above = p[o == 1][:, None] - p[o == 0]
        pairs = w[o == 1][:, None] * w[o == 0]
        check("ROC_AUC", (pairs * ((above > 0) + 0.5 * (above == 0))).sum() / pairs.sum())
        yes = p >= 0.5
        hits, alarms, misses = ((w * c).sum() for c in (yes * o, yes * (1 - o), ~yes * o))
        check("CSI_P050", hits / (hits + alarms + misses))
        check("FBIAS_P050", (hits + alarms) / (hits + misses))
        chance = (hits + alarms) * (hits + misses)
        check("GSS_P050", (hits - chance) / (hits + alarms + misses - chance))
        best = max((w * (p >= v) * o).sum() / ((w * (p >= v)).sum() + (w * (p < v) * o).sum()) for v in np.unique(p))
        check("CSI_PBEST", best)
        acts = p >= 0.2
        expense = 0.2 * (w * acts).sum() + (w * ~acts * o).sum()
        check("ECLV_A200", (min(0.2, base) - expense) / (min(0.2, base) - 0.2 * base))
for (lead, k, width), (miss, f, o) in fractions.items():
    name = f"FSS_W{width:02d}"
    compare(f"{lead} {k} {name}", told["pluvia", float(lead), float(thresholds[k]), name]["value"], 1 - miss / (f + o), 1e-6)
for lead in leads:
    for k in range(3):
        tag = ("pluvia", float(lead), float(thresholds[k]))
        for name, reference in (("BSS", "climatology"), ("BSS_PERSISTENCE", "persistence")):
            compare(f"{tag} {name}", told[tag + (name,)]["value"],
                    1 - brier["pluvia", lead, k] / brier[reference, lead, k], 1e-3)
        skill = told[tag + ("BSS",)]
        if not float(skill["lower"]) < float(skill["value"]) < float(skill["upper"]):
            wrong += 1
            print(f"{tag}: the interval {skill['lower']} to {skill['upper']} does not hold {skill['value']}")
    # Trapezoids of the Brier score over 0, 0.2, 2, 8 mm.
    curve = [0] + [brier["pluvia", lead, k] for k in range(3)]
    compare(f"CRPS {lead}", overall["pluvia", float(lead), "CRPS"]["value"], np.trapz(curve, [0] + thresholds), 1e-8)
    # The regression knows what climatology knows and more.
    tag = ("logistic_regression", float(lead), 2.0)
    if not float(told[tag + ("BRIER",)]["value"]) < brier["climatology", lead, 1]:
        wrong += 1
        print(f"{tag}: no better than climatology")

print(f"{checked} numbers compared, {wrong} wrong")
sys.exit(1 if wrong else 0)
