#!/usr/bin/env python3
"""Times Pluvia and the same network in PyTorch in one run, by turns, on the same threads.

    tools/reference/side_by_side.py CONFIG [--pluvia build/release/pluvia] [--threads N] [--rounds 5] [--cells NY NX]
                                      [--device cpu|cuda] [--compile] [-o FILE.json]

In each round and precision, pluvia bench runs once (its own warm-up first), then PyTorch times one forward pass and one
training step at batch 1 and 2, after two that do not count the first time. Seconds are per sample, medians over the
rounds; the ratio is PyTorch's better batch size over Pluvia. Precisions that the machine lacks are left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CEILING = {"cpu": "oneDNN convolution f32", "cuda": "cuBLAS product f32"}  # as pluvia bench names them
WORK = {"forward": "forecast", "step": "training step"}  # PyTorch's name and pluvia bench's


def bench(args, precision, folder):
    """Seconds of one sample by work, and pluvia bench's own f32 ceiling [FLOP/s]; None without this precision."""
    output = Path(folder, "bench.json")
    run = subprocess.run([args.pluvia, "bench", args.config, f"train.precision={precision}", "bench.rounds=1",
                          f"parallel.threads={args.threads}", f"bench.output={output}",
                          *([f"bench.ny={args.cells[0]}", f"bench.nx={args.cells[1]}"] if args.cells else []),
                          f"parallel.device={'gpu' if args.device == 'cuda' else 'cpu'}"],
                         capture_output=True, text=True)
    if run.returncode == 2 and "train.precision is bf16" in run.stderr:
        return None
    if run.returncode != 0:
        sys.exit(f"side_by_side.py: {args.pluvia} bench failed: {run.stderr.strip()}")
    result = json.loads(output.read_text())
    timings = result["timings"]
    return ({work: timings[f"{name} {precision}"]["median_s"] for work, name in WORK.items()},
            timings[CEILING[args.device]]["flop_per_s"], result["flop"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("--pluvia", default=str(HERE.parent.parent / "build/release/pluvia"))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cells", type=int, nargs=2, metavar=("NY", "NX"), help="instead of the CONFIG's")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="PyTorch's side with torch.compile")
    parser.add_argument("-o", "--output", help="all seconds as JSON")
    args = parser.parse_args()

    seconds, ceilings, flop = {}, [], None
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(
            [sys.executable, HERE / "time_steps.py", args.config, "--serve", "--threads", str(args.threads),
             "--device", args.device, *(["--cells", *map(str, args.cells)] if args.cells else []),
             *(["--compile"] if args.compile else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        for _ in range(args.rounds):
            for precision in ("f32", "bf16"):
                ours = bench(args, precision, folder)
                if ours is None:
                    continue
                times, ceiling, flop = ours
                ceilings.append(ceiling)
                for work, taken in times.items():
                    seconds.setdefault((work, precision, "pluvia"), []).append(taken)
                    for batch in (1, 2):
                        peer.stdin.write(f"{work} {precision} {batch}\n")
                        peer.stdin.flush()
                        answer = peer.stdout.readline()
                        if not answer:
                            sys.exit("side_by_side.py: time_steps.py ended; run it by itself to see why")
                        seconds.setdefault((work, precision, f"PyTorch, batch {batch}"), []).append(float(answer) / batch)
        peer.stdin.close()

    ceiling = statistics.median(ceilings)
    median = {case: statistics.median(values) for case, values in seconds.items()}
    print(f"{args.threads} threads; f32 ceiling {ceiling / 1e9:.0f} GFLOP/s; seconds a sample [least to most]")
    for work in WORK:
        operations = flop["forward" if work == "forward" else "step"]
        for precision in ("f32", "bf16"):
            if (work, precision, "pluvia") not in median:
                print(f"{work:8} {precision:5} not on this machine")
                continue
            for who in ("pluvia", "PyTorch, batch 1", "PyTorch, batch 2"):
                values = seconds[work, precision, who]
                print(f"{work:8} {precision:5} {who:17} {median[work, precision, who]:.3f} "
                      f"[{min(values):.3f} to {max(values):.3f}]  {operations / median[work, precision, who] / 1e9:6.0f} GFLOP/s")
            best = min(median[work, precision, f"PyTorch, batch {batch}"] for batch in (1, 2))
            mine = median[work, precision, "pluvia"]
            print(f"{work:8} {precision:5} {best / mine:.2f} times PyTorch's better batch, "
                  f"{operations / mine / ceiling:.2f} of the f32 ceiling")
    if args.output:
        Path(args.output).write_text(json.dumps(
            {"threads": args.threads, "f32_ceiling_flop_per_s": ceiling,
             "seconds_a_sample": {", ".join(case): values for case, values in seconds.items()}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
