#!/usr/bin/env python3
"""Times the network in PyTorch: forward passes and training steps, one JSON line each.

    tools/reference/time_steps.py inputs/bench_reference.yaml [--work forward step] [--precision f32 bf16] [--batch 1 2]
    tools/reference/time_steps.py inputs/bench_reference.yaml --serve

A step is: zero the gradients, forward, loss, backward, Adam. Its operations count as three times the forward's. Input
is random, since the time does not depend on it. With --serve it reads lines "WORK PRECISION BATCH" ("step f32 2"),
repeats that work once, after a warm-up the first time, and answers with the seconds it took: so another program can be
timed in turn with it, and what else the machine does hits both alike.

PyTorch's linear layers run in the system's BLAS; install an optimised one (on Debian libopenblas0-pthread).
"""
import argparse
import json
import os
import statistics
import sys
import time


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config", help="configuration with all keys of model and target")
    parser.add_argument("--work", nargs="+", choices=("forward", "step"), default=["forward", "step"])
    parser.add_argument("--precision", nargs="+", choices=("f32", "bf16"), default=["f32", "bf16"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--layout", choices=("channels_last", "contiguous"), default="channels_last",
                        help="of the 3-D convolutions")
    parser.add_argument("--inputs", type=int, default=6, help="input channels")
    parser.add_argument("--cells", type=int, nargs=2, default=(128, 128), metavar=("NY", "NX"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="with torch.compile (PyTorch 2 or newer)")
    parser.add_argument("--serve", action="store_true", help="time what is asked for on standard input")
    return parser.parse_args()


class Bench:
    """The network with its optimiser, and inputs of every batch size asked for so far."""

    def __init__(self, args):
        with open(args.config, encoding="utf-8") as file:
            self.settings = read_settings(file.read())
        layout = torch.channels_last_3d if args.layout == "channels_last" else torch.contiguous_format
        self.device = args.device
        self.network = StUnet(self.settings, args.inputs, layout)
        self.operations = count(self.network, self.settings, args.inputs, *args.cells)[1]
        self.optimiser = torch.optim.Adam(self.network.parameters(), betas=(0.9, 0.98), eps=1e-9)
        if args.compile:
            self.network = torch.compile(self.network)
        self.inputs, self.cells, self.samples, self.warm = args.inputs, args.cells, {}, set()

    def sample(self, batch):
        """Input, base, classes and weights of rows."""
        if batch not in self.samples:
            outputs = (batch, len(self.settings.lead_hours), *self.cells)
            self.samples[batch] = (torch.randn(batch, self.settings.history, *self.cells, self.inputs),
                                   torch.randn(*outputs, self.settings.classes),
                                   torch.randint(self.settings.classes, outputs),
                                   torch.full(outputs[:3], 1 / (batch * outputs[1] * self.cells[0] * self.cells[1])))
        return self.samples[batch]

    def forward(self, x, base, *_):
        with torch.inference_mode():
            self.network(x, base)

    def step(self, x, base, classes, row_weights):
        self.optimiser.zero_grad(set_to_none=True)
        logits = self.network(x, base)
        with torch.autocast(self.device, enabled=False):
            ordinal_loss(logits.float(), classes, row_weights).backward()
        self.optimiser.step()

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work, precision, batch):
        """Of one repetition for the whole batch; the first of its kind is preceded by two that do not count."""
        sample, case = self.sample(batch), (work, precision, batch)
        repetitions = 1 if case in self.warm else 3
        self.warm.add(case)
        for _ in range(repetitions):
            self.wait()
            start = time.perf_counter()
            with torch.autocast(self.device, torch.bfloat16, enabled=precision == "bf16"):
                getattr(self, work)(*sample)
            self.wait()
            end = time.perf_counter()
        return end - start


def serve(bench):
    for line in sys.stdin:
        words = line.split()
        if (len(words) != 3 or words[0] not in ("forward", "step") or words[1] not in ("f32", "bf16")
                or not words[2].isdigit() or int(words[2]) < 1):
            sys.exit(f"time_steps.py: {line.strip()!r} is not WORK PRECISION BATCH, as in: step f32 2")
        print(f"{bench.seconds(words[0], words[1], int(words[2])):.6f}", flush=True)


def main(args):
    torch.set_num_threads(args.threads)
    if args.device == "cuda":
        torch.set_default_device("cuda")
    bench = Bench(args)
    if args.serve:
        serve(bench)
        return 0
    for work in args.work:
        operations = bench.operations * (3 if work == "step" else 1)
        for precision in args.precision:
            for batch in args.batch:
                seconds = [bench.seconds(work, precision, batch) / batch for _ in range(args.repetitions)]
                median = statistics.median(seconds)
                print(json.dumps({
                    "name": work, "batch": batch, "threads": args.threads, "precision": precision,
                    "layout": args.layout, "device": args.device, "compiled": args.compile, "torch": torch.__version__,
                    "seconds_per_sample": {"median": round(median, 4), "min": round(min(seconds), 4),
                                           "max": round(max(seconds), 4)},
                    "gflop_per_second": round(operations / median / 1e9, 1)}), flush=True)
    return 0


if __name__ == "__main__":
    arguments = parse_arguments()
    # OpenBLAS has threads of its own, whose number it reads when PyTorch is loaded.
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    from st_unet import StUnet, count, ordinal_loss, read_settings, torch

    if arguments.compile and int(torch.__version__.split(".")[0]) < 2:
        sys.exit(f"time_steps.py: --compile needs PyTorch 2 or newer (this is {torch.__version__})")
    sys.exit(main(arguments))
