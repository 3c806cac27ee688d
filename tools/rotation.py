#!/usr/bin/env python3
"""Scores a configuration on several test days in rotation: each day is forecast by models that were trained on the
others, and validated on the day before it.

    tools/rotation.py inputs/nwsa.yaml [KEY=VALUE ...] --days 2019-12-27 2019-12-28 ... [--seeds 1 2 3]
                      [--members model.base=climatology ...] [--output rotation] [--ranks 2]

Every (day, seed, member) is one training in OUTPUT/DAY/; what is there already is not done again, so that a stopped
rotation goes on where it was. A member is the key=value pairs, separated by commas, that distinguish it; members of a
seed are averaged into one forecast, and all of all seeds into another. Prints, over all days, the Brier skill of one
seed (least, mean and greatest) and of all together against the climatology of the training range, that of the pooled
logistic regression, and by how much they differ with a 95 % interval by bootstrap over days. Needs pluvia and mpirun
(--pluvia, --mpirun)."""
import argparse
import datetime
import json
import os
import random
import subprocess
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="given to every command")
    parser.add_argument("--days", nargs="+", required=True, metavar="YYYY-MM-DD", help="test days")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--members", nargs="+", default=["model.base=climatology"], metavar="KEY=VALUE[,...]",
                        help="models averaged into the forecast of a seed")
    parser.add_argument("--output", default="rotation")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--pluvia", default="pluvia")
    parser.add_argument("--mpirun", default="mpirun", help="with its options")
    args = parser.parse_intermixed_args()
    run = [*args.mpirun.split(), "-np", str(args.ranks), args.pluvia]
    folders = {seed: [] for seed in [*args.seeds, "all"]}
    for day in args.days:
        for folder, seed in rotate(run, args, day):
            folders[seed].append(folder)
    reports = {}
    for seed, parts in folders.items():
        merged = os.path.join(args.output, f"scores_{seed}")
        call([args.pluvia, "verify", args.config, *args.keys, f"verify.output={merged}",
              f"verify.merge=[{', '.join(f'{part}/scores.json' for part in parts)}]"], os.path.join(args.output, "log"))
        with open(os.path.join(merged, "scores.json"), encoding="utf-8") as file:
            reports[seed] = json.load(file)
    print_table(reports)


def rotate(run, args, day):
    """Trains, forecasts and verifies one day; returns the folders of scores with the seed of each."""
    folder = os.path.join(args.output, day)
    os.makedirs(folder, exist_ok=True)
    start = datetime.date.fromisoformat(day)
    one = datetime.timedelta(days=1)
    split = [f"data.validate.from={start - one}", f"data.validate.to={start}", f"data.test.from={start}",
             f"data.test.to={start + one}"]
    log = os.path.join(folder, "log")
    checkpoints = {seed: [] for seed in args.seeds}
    for seed in args.seeds:
        for number, member in enumerate(args.members):
            output = os.path.join(folder, f"seed{seed}_{number}")
            best = os.path.join(output, "checkpoint_best.h5")
            checkpoints[seed].append(best)
            if not os.path.exists(best):
                print(f"{day}: training seed {seed}, {member}", flush=True)
                call([*run, "train", args.config, *args.keys, *split, *member.split(","), f"train.seed={seed}",
                      f"train.output={output}", "train.from=latest"], log)
    checkpoints["all"] = [path for paths in checkpoints.values() for path in paths]
    out = []
    for seed, paths in checkpoints.items():
        scores = os.path.join(folder, f"scores_{seed}")
        out.append((scores, seed))
        if can_be_merged(os.path.join(scores, "scores.json")):
            continue
        forecasts = os.path.join(folder, f"forecasts_{seed}")
        call([*run, "forecast", args.config, *args.keys, *split, f"forecast.checkpoint=[{', '.join(paths)}]",
              f"forecast.output={forecasts}"], log)
        call([*run, "verify", args.config, *args.keys, *split, f"verify.forecasts={forecasts}",
              f"verify.output={scores}"], log)
    return out


def can_be_merged(file):
    """Are there scores, not of a program that did not note yet what they are of?"""
    if not os.path.exists(file):
        return False
    with open(file, encoding="utf-8") as scores:
        return "initial_times" in json.load(scores)["sums"]


def call(command, log):
    with open(log, "a", encoding="utf-8") as file:
        print("+", *command, file=file, flush=True)
        if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode != 0:
            with open(log, encoding="utf-8") as text:
                sys.exit("".join(text.readlines()[-15:]) + f"rotation.py: the last command in {log} failed")


def skills(sums, days, system, lead, threshold):
    """Brier skill of a system against climatology, of days that may repeat."""
    leads, thresholds = len(sums["leads_hours"]), len(sums["thresholds_mm"])

    def square(which):
        at = (sums["systems"].index(which) * leads + lead) * thresholds + threshold
        return sum(sums["days"][day]["counts"][at]["square"] for day in days)

    reference = square("climatology")
    return 1 - square(system) / reference if reference > 0 else float("nan")


def interval(values):
    values = sorted(values)
    return values[int(0.025 * len(values))], values[min(len(values) - 1, int(0.975 * len(values)))]


def print_table(reports):
    whole = reports["all"]["sums"]
    seeds = [report["sums"] for seed, report in reports.items() if seed != "all"]
    days = list(range(len(whole["days"])))
    draw = random.Random(1)
    resamples = [[draw.choice(days) for _ in days] for _ in range(2000)]
    print(f"Brier skill against climatology, {len(days)} days in rotation, {len(seeds)} seeds "
          "[95 % interval of the difference, over days]")
    print(f"{'lead':>5} {'threshold':>10}   {'one seed: least, mean, greatest':<33} {'all':>7} {'regression':>11}"
          "   all - regression")
    for lead, hours in enumerate(whole["leads_hours"]):
        gains = []
        for k, amount in enumerate(whole["thresholds_mm"]):
            single = [skills(sums, days, "pluvia", lead, k) for sums in seeds]
            ours, theirs = (skills(whole, days, system, lead, k) for system in ("pluvia", "logistic_regression"))
            gain = [skills(whole, d, "pluvia", lead, k) - skills(whole, d, "logistic_regression", lead, k)
                    for d in resamples]
            gains.append((ours - theirs, gain))
            low, high = interval(gain)
            print(f"{hours:>3g} h {amount:>7g} mm   {min(single):+.3f}  {sum(single) / len(single):+.3f}  "
                  f"{max(single):+.3f}{'':<12} {ours:+.3f} {theirs:+11.3f}   {ours - theirs:+.3f} [{low:+.3f}, {high:+.3f}]")
        mean = sum(value for value, _ in gains) / len(gains)
        low, high = interval([sum(gain[i] for _, gain in gains) / len(gains) for i in range(len(resamples))])
        print(f"{hours:>3g} h {'mean':>10}   {'':<54} {mean:+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
